//! Charts as geometry: whole-pixel coordinates and texts that the templates put into SVG. Knows scales and positions; what
//! is drawn was estimated elsewhere, and every chart has its numbers in a table beside it.

pub mod energy;
pub mod gain;
pub mod ladder;
pub mod plot;
pub mod roofline;
pub mod strip;
pub mod track;
pub mod trend;
pub mod waterfall;

/// Maps values onto whole pixels, `low` at the bottom (or left) of a span of `pixels`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    pixels: i32,
}

impl Axis {
    /// An axis over `low..high`; equal ends are widened so that one value lies in the middle.
    pub(crate) fn new(low: f64, high: f64, pixels: i32) -> Self {
        let pad = if high > low { 0.0 } else { (low.abs() * 0.01).max(f64::MIN_POSITIVE) };
        Self { low: low - pad, high: high + pad, pixels }
    }

    /// Distance from the low end, clamped to the span. What is not finite lies at the low end.
    pub(crate) fn at(&self, value: f64) -> i32 {
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        // Clamped to 0…pixels, so the cast cannot wrap; NaN casts to 0.
        (share * f64::from(self.pixels)).round() as i32
    }
}

/// The smallest and largest of the finite values; `None` if there is none.
pub(crate) fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    })
}

/// Dots at whole pixels as one SVG path of zero-length subpaths (round caps make them dots), equal dots drawn once.
pub(crate) fn dots(points: &[(i32, i32)]) -> String {
    use std::fmt::Write as _;
    let mut path = String::new();
    let (mut x, mut y) = (0, 0);
    let mut drawn: Option<(i32, i32)> = None;
    for &(px, py) in points {
        if drawn == Some((px, py)) {
            continue;
        }
        let (dx, dy) = (px - x, py - y);
        // A minus sign parts two numbers as well as a space does. Writing to a string cannot fail.
        let space = if dy < 0 { "" } else { " " };
        let _ = match drawn {
            None => write!(path, "M{px} {py}z"),
            Some(_) => write!(path, "m{dx}{space}{dy}z"),
        };
        (x, y) = (px, py);
        drawn = Some((px, py));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_on_whole_pixels_and_stay_inside() {
        let axis = Axis::new(10.0, 20.0, 100);
        assert_eq!([10.0, 15.0, 20.0, 5.0, 99.0, f64::NAN].map(|v| axis.at(v)), [0, 50, 100, 0, 100, 0]);
        assert_eq!(Axis::new(3.0, 3.0, 80).at(3.0), 40);
    }

    #[test]
    fn a_path_of_dots_is_relative_and_skips_repeats() {
        assert_eq!(dots(&[(1, 5), (1, 5), (4, 2), (6, 2)]), "M1 5zm3-3zm2 0z");
        assert_eq!(dots(&[]), "");
    }

    #[test]
    fn a_range_ignores_what_is_not_finite() {
        assert_eq!(range([2.0, f64::NAN, 1.0].into_iter()), Some((1.0, 2.0)));
        assert_eq!(range([f64::NAN].into_iter()), None);
    }
}
