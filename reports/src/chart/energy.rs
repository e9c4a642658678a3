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
    /// Its id.
    pub cell: String,
    /// Its anchor.
    pub anchor: String,
    /// Its place.
    pub x: i32,
    /// Its place.
    pub y: i32,
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
            cell: cell.id.clone(),
            anchor: cell.anchor.clone(),
            x: at_x,
            y: at_y,
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
        cells: found.iter().map(spender).collect(),
    })
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
