//! Joules a token against tokens a second, a dot a cell with both intervals. Their product is watts, so that the power cap is
//! a curve that no cell passes.

use serde::Serialize;
use stepwatch_record::Run;

use super::plot::{Plot, Ruler};
use super::range;
use super::strip::cap;
use crate::format::Hint;
use crate::view::cell::{CellView, FigureView};
use crate::view::column::Column;

const WIDTH: i32 = 560;
const HEIGHT: i32 = 300;
/// Points of the curve.
const CURVE: i32 = 28;

/// The chart as geometry, with its table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Energy {
    /// The frame.
    pub plot: Plot,
    /// The curve of the power cap, if it is known.
    pub cap: Option<String>,
    /// The cap in words.
    pub cap_label: String,
    /// Units of the table: of the speed and of the energy.
    pub units: [String; 2],
    /// The cells, fastest first.
    pub cells: Vec<Spender>,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spender {
    /// What people call it.
    pub cell: String,
    /// Its anchor.
    pub anchor: String,
    /// Its place.
    pub x: i32,
    /// Its place.
    pub y: i32,
    /// Where its number stands; `None` where no place beside it is free.
    pub label: Option<[i32; 2]>,
    /// The cross of its intervals.
    pub cross: String,
    /// Speed, its interval, energy, its interval.
    pub texts: [String; 4],
    /// Their product with its unit.
    pub watts: String,
}

/// `None` unless two cells have both figures.
pub(crate) fn energy(run: &Run, cells: &[CellView], columns: &[Column]) -> Option<Energy> {
    let column = |name: &str| columns.iter().position(|column| column.name == name);
    let (speed, joules) = (column("tokens_per_second")?, column("joules_per_token")?);
    let both = |cell: &'_ CellView| {
        let of = |column: usize| cell.figures.iter().position(|figure| figure.column == column);
        Some((of(speed)?, of(joules)?))
    };
    let mut found: Vec<(&CellView, &FigureView, &FigureView)> =
        cells.iter().filter_map(|cell| both(cell).map(|(s, j)| (cell, &cell.figures[s], &cell.figures[j]))).collect();
    if found.len() < 2 {
        return None;
    }
    found.sort_by(|a, b| b.1.point.total_cmp(&a.1.point));
    let largest = |pick: fn(&(&CellView, &FigureView, &FigureView)) -> f64| range(found.iter().map(pick)).map(|r| r.1);
    // From zero on both axes: distances from the origin are compared.
    let (x, y) = (Ruler::even(0.0, largest(|f| f.1.high)?, WIDTH), Ruler::even(0.0, largest(|f| f.2.high)?, HEIGHT));
    let spender = |(cell, s, j): &(&CellView, &FigureView, &FigureView)| {
        let (at_x, at_y) = (x.at(s.point), y.down(j.point));
        Spender {
            cell: cell.name.clone(),
            anchor: cell.anchor.clone(),
            x: at_x,
            y: at_y,
            label: None,
            cross: format!("M{} {at_y}H{}M{at_x} {}V{}", x.at(s.low), x.at(s.high), y.down(j.low), y.down(j.high)),
            texts: [&s.text, &s.interval, &j.text, &j.interval].map(Clone::clone),
            watts: crate::format::quantity(Hint::Plain, "W", s.point * j.point),
        }
    };
    let (speed, joules) = (&columns[speed], &columns[joules]);
    let watts = cap(run);
    Some(Energy {
        plot: Plot {
            width: WIDTH,
            height: HEIGHT,
            across: format!("{} ({})", speed.label, speed.scale.unit),
            upward: joules.scale.unit.clone(),
            x: x.ticks(&speed.scale, false),
            y: y.ticks(&joules.scale, true),
        },
        cap: watts.map(|watts| curve(watts, &x, &y)),
        cap_label: watts.map_or_else(String::new, |watts| format!("power cap {watts} W")),
        units: [speed.scale.unit.clone(), joules.scale.unit.clone()],
        cells: labelled(found.iter().map(spender).collect()),
    })
}

/// Puts each cell's number at a free place beside its dot; where there is none the table alone has it.
fn labelled(mut cells: Vec<Spender>) -> Vec<Spender> {
    /// From the dot to the foot of a number, the best place first.
    const PLACES: [[i32; 2]; 8] = [[7, -5], [-20, -5], [7, 15], [-20, 15], [-6, -9], [-6, 20], [-6, -22], [-6, 33]];
    /// What a number of two digits takes, and a dot.
    const LABEL: [i32; 2] = [15, 11];
    const DOT: i32 = 5;
    let dots: Vec<[i32; 2]> = cells.iter().map(|cell| [cell.x, cell.y]).collect();
    let mut taken: Vec<[i32; 2]> = Vec::new();
    for cell in &mut cells {
        let free = |at: &[i32; 2]| {
            let clear = |other: &[i32; 2]| (at[0] - other[0]).abs() >= LABEL[0] || (at[1] - other[1]).abs() >= LABEL[1];
            let beside = |dot: &[i32; 2]| {
                let (right, left) = (dot[0] + DOT <= at[0], dot[0] - DOT >= at[0] + LABEL[0]);
                right || left || dot[1] + DOT <= at[1] - LABEL[1] || dot[1] - DOT >= at[1]
            };
            taken.iter().all(clear) && dots.iter().all(beside)
        };
        cell.label = PLACES.iter().map(|[x, y]| [cell.x + x, cell.y + y]).find(free);
        taken.extend(cell.label);
    }
    cells
}

/// Watts over tokens a second, where it lies within the frame.
fn curve(watts: f64, x: &Ruler, y: &Ruler) -> String {
    let (right, top) = (x.ends()[1], y.ends()[1]);
    let left = (watts / top).min(right);
    let points = (0..=CURVE).map(|index| {
        let speed = left + (right - left) * f64::from(index) / f64::from(CURVE);
        format!("{}{} {}", if index == 0 { 'M' } else { 'L' }, x.at(speed), y.down(watts / speed))
    });
    points.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: i32, y: i32) -> Spender {
        let (cross, watts) = (String::new(), String::new());
        Spender {
            cell: String::new(),
            anchor: String::new(),
            x,
            y,
            label: None,
            cross,
            texts: Default::default(),
            watts,
        }
    }

    #[test]
    fn numbers_stand_beside_their_dots_and_on_nothing_else() {
        let labels = |dots: &[[i32; 2]]| -> Vec<Option<[i32; 2]>> {
            labelled(dots.iter().map(|[x, y]| at(*x, *y)).collect()).iter().map(|cell| cell.label).collect()
        };
        assert_eq!(labels(&[[100, 100], [200, 100]]), [Some([107, 95]), Some([207, 95])]);
        // At its best place the second's number would stand on the first's.
        assert_eq!(labels(&[[100, 100], [103, 100]]), [Some([107, 95]), Some([83, 95])]);
        // In a crowd some have none, and no two are one on the other.
        let crowd: Vec<[i32; 2]> = (0..40).map(|i| [100 + i % 7, 100 + i / 7]).collect();
        let found: Vec<[i32; 2]> = labels(&crowd).into_iter().flatten().collect();
        assert!(!found.is_empty() && found.len() < crowd.len(), "{} of {}", found.len(), crowd.len());
        for (i, one) in found.iter().enumerate() {
            let apart = |other: &[i32; 2]| (one[0] - other[0]).abs() >= 15 || (one[1] - other[1]).abs() >= 11;
            assert!(found[..i].iter().all(apart), "{found:?}");
        }
    }
}
