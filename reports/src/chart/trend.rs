//! A metric of a cell over earlier runs as a line, broken where a run has no value, with its lasting changes marked.

use serde::Serialize;
use stepwatch_record::trend::Trend;

use super::{Axis, range};
use crate::clean;
use crate::format::{self, Scale};
use crate::view::Links;
use crate::view::change::Link;
use crate::view::column::Column;

const WIDTH: i32 = 240;
const HEIGHT: i32 = 48;
const MARGIN: i32 = 4;

/// A trend as geometry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrendView {
    /// The cell.
    pub cell: Link,
    /// The metric's name.
    pub metric: String,
    /// The unit of the texts.
    pub unit: String,
    /// Size, pixels.
    pub width: i32,
    /// Size, pixels.
    pub height: i32,
    /// The line.
    pub path: String,
    /// The lasting changes.
    pub changes: Vec<TrendChange>,
    /// How many runs it spans.
    pub runs: usize,
    /// The first and the last day.
    pub days: [String; 2],
    /// The smallest and the largest value.
    pub ends: [String; 2],
    /// The newest value.
    pub newest: String,
}

/// A lasting change in a trend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrendChange {
    /// Its place, pixels from the left.
    pub x: i32,
    /// The first run after it.
    pub run: String,
    /// When that run began.
    pub started: String,
    /// The change of the level with its sign.
    pub effect: String,
    /// The same as a number.
    pub relative: f64,
}

/// `None` if no run has a value.
pub(crate) fn trend(trend: &Trend, columns: &[Column], links: &Links) -> Option<TrendView> {
    let (low, high) = range(trend.points.iter().filter_map(|point| point.value))?;
    let column = columns.iter().find(|column| column.name == trend.metric);
    let scale =
        column.map_or_else(|| Scale::new(format::Hint::of(&trend.metric, ""), "", high), |column| column.scale.clone());
    let last = (trend.points.len().max(2) - 1) as f64;
    let (across, upward) = (Axis::new(0.0, last, WIDTH), Axis::new(low, high, HEIGHT - 2 * MARGIN));
    let x = |index: usize| across.at(index as f64);
    let place = |run: &str| trend.points.iter().position(|point| point.run == run);
    let changes = trend.changes.iter().filter_map(|change| {
        let index = place(&change.run)?;
        Some(TrendChange {
            x: x(index),
            run: clean::line(&change.run),
            started: format::minute(&clean::line(&trend.points[index].started)),
            effect: format::change(change.effect),
            relative: change.effect,
        })
    });
    let day = |index: usize| trend.points.get(index).map_or_else(String::new, |p| p.started.chars().take(10).collect());
    let newest = trend.points.iter().rev().find_map(|point| point.value);
    Some(TrendView {
        cell: links.link(&trend.cell),
        metric: clean::line(&trend.metric),
        width: WIDTH,
        height: HEIGHT,
        path: line(trend, |index, value| (x(index), HEIGHT - MARGIN - upward.at(value))),
        changes: changes.collect(),
        runs: trend.points.len(),
        days: [clean::line(&day(0)), clean::line(&day(trend.points.len() - 1))],
        ends: [scale.number(low), scale.number(high)],
        newest: newest.map_or_else(|| "–".into(), |value| scale.with_unit(value)),
        unit: scale.unit,
    })
}

fn line(trend: &Trend, at: impl Fn(usize, f64) -> (i32, i32)) -> String {
    use std::fmt::Write as _;
    let mut path = String::new();
    let mut pen_down = false;
    for (index, point) in trend.points.iter().enumerate() {
        let Some(value) = point.value.filter(|value| value.is_finite()) else {
            pen_down = false;
            continue;
        };
        let (x, y) = at(index, value);
        // Writing to a string cannot fail. `h0` makes a lone point visible under round caps.
        let _ = if pen_down { write!(path, "L{x} {y}") } else { write!(path, "M{x} {y}h0") };
        pen_down = true;
    }
    path
}
