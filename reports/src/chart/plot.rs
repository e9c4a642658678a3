//! The frame of a chart over two axes: scales, ticks with their texts, and what each axis holds.

use serde::Serialize;

use super::Axis;
use crate::format::Scale;

/// One tick of an axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tick {
    /// Its place, pixels from the left or the top.
    pub at: i32,
    /// Its number.
    pub text: String,
}

/// An empty frame: what is drawn into it lies at `0…width` and `0…height`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plot {
    /// Pixels.
    pub width: i32,
    /// Pixels.
    pub height: i32,
    /// What runs across, with its unit.
    pub across: String,
    /// What runs upward, with its unit.
    pub upward: String,
    /// Ticks across.
    pub x: Vec<Tick>,
    /// Ticks upward.
    pub y: Vec<Tick>,
}

/// Numbers onto pixels, evenly or by their logarithm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ruler {
    axis: Axis,
    log: bool,
    ends: [f64; 2],
    pixels: i32,
}

impl Ruler {
    /// From `low` to `high` and a little more.
    pub(crate) fn even(low: f64, high: f64, pixels: i32) -> Self {
        let high = if high > low { high + (high - low) * 0.06 } else { low + 1.0 };
        Self { axis: Axis::new(low, high, pixels), log: false, ends: [low, high], pixels }
    }

    /// By the logarithm, a third beyond both ends; both ends are above zero.
    pub(crate) fn log(low: f64, high: f64, pixels: i32) -> Self {
        let (low, high) = (low.max(f64::MIN_POSITIVE) / 1.3, high.max(f64::MIN_POSITIVE) * 1.3);
        Self { axis: Axis::new(low.ln(), high.ln(), pixels), log: true, ends: [low, high], pixels }
    }

    /// Pixels from the low end.
    pub(crate) fn at(&self, value: f64) -> i32 {
        self.axis.at(if self.log { value.max(f64::MIN_POSITIVE).ln() } else { value })
    }

    /// Pixels from the top, for an axis that runs upward.
    pub(crate) fn down(&self, value: f64) -> i32 {
        self.pixels - self.at(value)
    }

    /// The ends of what is shown.
    pub(crate) fn ends(&self) -> [f64; 2] {
        self.ends
    }

    /// Round numbers within the ends, few enough to be read, in the scale of a column.
    pub(crate) fn ticks(&self, scale: &Scale, upward: bool) -> Vec<Tick> {
        let values = if self.log { decades(self.ends) } else { steps(self.ends.map(|end| end * scale.factor)) };
        let factor = if self.log { 1.0 } else { scale.factor };
        values
            .into_iter()
            .map(|shown| shown / factor)
            .map(|value| Tick {
                at: if upward { self.down(value) } else { self.at(value) },
                text: short(value * scale.factor),
            })
            .collect()
    }
}

/// A tick's number: as few digits as say it.
fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" || text.is_empty() { "0".to_owned() } else { text.replace('-', "−") }
}

/// Four to eight even steps of 1, 2 or 5 times a power of ten.
fn steps([low, high]: [f64; 2]) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    if !(rough > 0.0 && rough.is_finite()) {
        return Vec::new();
    }
    let power = 10_f64.powi(rough.log10().floor() as i32);
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(rough);
    let first = (low / step).ceil();
    (0..12).map(|index| (first + f64::from(index)) * step).take_while(|value| *value <= high * (1.0 + 1e-12)).collect()
}

/// Powers of ten; with 2 and 5 times them where there are fewer than three.
fn decades([low, high]: [f64; 2]) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = |factors: &[f64]| -> Vec<f64> {
        let values = (first..=last).flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)));
        values.filter(|value| (low..=high).contains(value)).collect()
    };
    let powers = all(&[1.0]);
    if powers.len() < 3 { all(&[1.0, 2.0, 5.0]) } else { powers }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(ruler: Ruler, factor: f64) -> Vec<String> {
        ruler.ticks(&Scale { factor, unit: String::new() }, false).into_iter().map(|tick| tick.text).collect()
    }

    #[test]
    fn ticks_are_round_in_the_unit_that_is_shown() {
        assert_eq!(texts(Ruler::even(0.0, 194_000.0, 500), 1e-3), ["0", "50", "100", "150", "200"]);
        assert_eq!(texts(Ruler::log(12.0, 4000.0, 500), 1.0), ["10", "100", "1000"]);
        assert_eq!(texts(Ruler::log(1.1e12, 4e12, 500), 1e-12), ["1", "2", "5"]);
        assert!(texts(Ruler::even(3.0, 3.0, 500), 1.0).len() > 2, "one value alone still has an axis");
    }

    #[test]
    fn upward_axes_begin_at_the_bottom() {
        let ruler = Ruler::even(0.0, 100.0, 106);
        assert_eq!((ruler.down(0.0), ruler.down(100.0), ruler.at(100.0)), (106, 6, 100));
    }
}
