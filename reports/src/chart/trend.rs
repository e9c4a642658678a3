//! A metric of a cell over the nights as a line with its intervals, broken where a night has no value, its lasting changes,
//! bad nights and what people noted marked. Every chart of a page shares one time axis.

use std::fmt::Write as _;

use serde::Serialize;
use stepwatch_record::trend::{ChangePoint, History, Trend, Value};

use super::{Axis, range};
use crate::clean;
use crate::format::{self, Hint, Scale};
use crate::view::Links;
use crate::view::change::Link;
use crate::view::column::Column;

const WIDTH: i32 = 730;
const HEIGHT: i32 = 160;
const MARGIN: i32 = 12;
/// More intervals than this do not fit beside each other.
const MOST_STROKES: usize = 185;
/// The frame spans at least this share of the level, so that noise does not look like news.
const LEAST_SPAN: f64 = 0.04;

/// A trend as geometry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrendView {
    /// The cell.
    pub cell: Link,
    /// The metric's name.
    pub metric: String,
    /// The unit of the texts.
    pub unit: String,
    /// Size of the drawing, units.
    pub width: i32,
    /// Size of the drawing, units.
    pub height: i32,
    /// The estimates as a line.
    pub path: String,
    /// Their intervals, one upright stroke each.
    pub band: String,
    /// Bad nights as places of rings.
    pub outliers: Vec<Outlier>,
    /// The lasting changes.
    pub changes: Vec<TrendChange>,
    /// The lowest and the highest end of the axis.
    pub ends: [String; 2],
    /// The newest value with its unit.
    pub newest: String,
    /// How many nights have a value.
    pub nights: usize,
    /// What is waived of it, in one sentence each.
    pub waivers: Vec<String>,
    /// The values: per night none, or estimate, low and high end in the metric's unit.
    #[serde(skip)]
    pub values: Vec<Option<Value>>,
}

/// A night that did not last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outlier {
    /// Its place.
    pub x: i32,
    /// Its place.
    pub y: i32,
    /// Its day.
    pub day: String,
    /// Its run.
    pub run: String,
    /// Its value.
    pub value: String,
}

/// A lasting change in a trend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrendChange {
    /// Its place, and the first and last place that the values allow.
    pub x: [i32; 3],
    /// One character: up or down, step or drift.
    pub glyph: &'static str,
    /// `worse` or `better`.
    pub word: &'static str,
    /// `step` or `drift`.
    pub shape: &'static str,
    /// The first run after it.
    pub run: String,
    /// The first and the last run that it may have begun in; empty if they are that run.
    pub between: Vec<String>,
    /// When that run began.
    pub started: String,
    /// The change of the level with its sign.
    pub effect: String,
    /// The same as a number.
    pub relative: f64,
    /// Whether most cells have it too.
    pub shared: bool,
    /// What differs between that run and the one before it.
    pub differs: Vec<String>,
}

/// The time axis of all trends of a page.
pub(crate) struct Times {
    at: Vec<i32>,
}

impl Times {
    /// Nights by their time; one after the other where a time cannot be read.
    pub(crate) fn new(history: &History) -> Self {
        let seconds: Option<Vec<f64>> = history.nights.iter().map(|night| seconds(&night.started)).collect();
        let places: Vec<f64> = seconds.unwrap_or_else(|| (0..history.nights.len()).map(|i| i as f64).collect());
        let (low, high) = range(places.iter().copied()).unwrap_or((0.0, 1.0));
        let axis = Axis::new(low, high, WIDTH);
        Self { at: places.into_iter().map(|place| axis.at(place)).collect() }
    }

    /// Where something of a day lies: at the first night of that day or later; `None` after the last.
    pub(crate) fn of_day(&self, history: &History, day: &str) -> Option<i32> {
        let night = history.nights.iter().position(|night| night.started.get(..10).is_some_and(|d| d >= day))?;
        Some(self.at[night])
    }

    fn of(&self, night: usize) -> i32 {
        self.at.get(night).copied().unwrap_or(WIDTH)
    }
}

/// Seconds of an RFC 3339 time in UTC since some day long ago; `None` if it is none.
fn seconds(time: &str) -> Option<f64> {
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Days by the civil calendar, with years that begin in March so that leap days come last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = days + (153 * month + 2) / 5 + day;
    let of_day = 3600 * number(11, 13)? + 60 * number(14, 16)? + number(17, 19)?;
    Some((86_400 * days + of_day) as f64)
}

/// `None` if no night has a value.
pub(crate) fn trend(
    history: &History,
    trend: &Trend,
    columns: &[Column],
    links: &Links,
    times: &Times,
) -> Option<TrendView> {
    let values = || trend.values.iter().flatten();
    let (low, high) = range(values().flat_map(|value| [value.low, value.point, value.high]))?;
    let column = columns.iter().find(|column| column.name == trend.metric);
    let scale = column.map_or_else(|| Scale::new(Hint::of(&trend.metric, ""), "", high), |column| column.scale.clone());
    let middle = f64::midpoint(low, high);
    let least = middle.abs() * LEAST_SPAN / 2.0;
    let (low, high) = (low.min(middle - least), high.max(middle + least));
    let upward = Axis::new(low, high, HEIGHT - 2 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - upward.at(value);
    let more_is_better = column.is_none_or(|column| column.better.starts_with("more"));
    let outlier = |night: &usize| {
        let value = trend.values.get(*night).copied().flatten()?;
        let (run, day) = named(history, *night);
        Some(Outlier { x: times.of(*night), y: y(value.point), day, run, value: scale.with_unit(value.point) })
    };
    Some(TrendView {
        cell: links.link(&trend.cell),
        metric: clean::line(&trend.metric),
        width: WIDTH,
        height: HEIGHT,
        path: line(trend, times, &y),
        band: strokes(trend, times, &y),
        outliers: trend.outliers.iter().filter_map(outlier).collect(),
        changes: trend.changes.iter().map(|c| change(history, trend, c, times, more_is_better)).collect(),
        ends: [scale.number(low), scale.number(high)],
        newest: values().last().map_or_else(|| "–".into(), |value| scale.with_unit(value.point)),
        nights: values().count(),
        waivers: Vec::new(),
        values: trend.values.clone(),
        unit: scale.unit,
    })
}

/// A night's run and day.
fn named(history: &History, night: usize) -> (String, String) {
    history.nights.get(night).map_or_else(Default::default, |night| {
        (clean::line(&night.run), clean::line(night.started.get(..10).unwrap_or(&night.started)))
    })
}

fn change(history: &History, trend: &Trend, change: &ChangePoint, times: &Times, more_is_better: bool) -> TrendChange {
    let up = change.effect > 0.0;
    let run = |night: usize| named(history, night).0;
    let before = trend.values.iter().take(change.night).rposition(Option::is_some);
    let between =
        if change.earliest == change.latest { Vec::new() } else { vec![run(change.earliest), run(change.latest)] };
    TrendChange {
        x: [times.of(change.night), times.of(change.earliest), times.of(change.latest)],
        glyph: match (change.shape.word(), up) {
            ("step", true) => "▲",
            ("step", false) => "▼",
            (_, true) => "↗",
            (_, false) => "↘",
        },
        word: if up == more_is_better { "better" } else { "worse" },
        shape: change.shape.word(),
        run: run(change.night),
        between,
        started: history
            .nights
            .get(change.night)
            .map_or_else(String::new, |n| format::minute(&clean::line(&n.started))),
        effect: format::change(change.effect),
        relative: change.effect,
        shared: change.shared,
        differs: before.map_or_else(Vec::new, |before| differences(history, before, change.night)),
    }
}

/// What two nights differ in, one line each.
pub(crate) fn differences(history: &History, before: usize, after: usize) -> Vec<String> {
    let (Some(before), Some(after)) = (history.nights.get(before), history.nights.get(after)) else {
        return Vec::new();
    };
    let of = |facts: &std::collections::BTreeMap<String, String>, name: &str| {
        facts.get(name).map_or_else(|| "none".to_owned(), |value| clean::line(value))
    };
    let mut names: Vec<&String> = before.facts.keys().chain(after.facts.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .filter(|name| before.facts.get(*name) != after.facts.get(*name))
        .map(|name| format!("{}: {} → {}", clean::line(name), of(&before.facts, name), of(&after.facts, name)))
        .collect()
}

/// The estimates as a line in steps relative to the one before, lifted where a night has none.
fn line(trend: &Trend, times: &Times, y: &impl Fn(f64) -> i32) -> String {
    let (mut path, mut pen) = (String::new(), None::<(i32, i32)>);
    for (night, value) in trend.values.iter().enumerate() {
        let Some(value) = value.filter(|value| value.point.is_finite()) else {
            pen = None;
            continue;
        };
        let (to_x, to_y) = (times.of(night), y(value.point));
        // Writing to a string cannot fail. `h0` makes a lone point visible under round caps.
        let _ = match pen {
            None => write!(path, "M{to_x} {to_y}h0"),
            Some((x, y)) if y == to_y => write!(path, "h{}", to_x - x),
            Some((x, y)) => write!(path, "l{}{}", to_x - x, signed(to_y - y)),
        };
        pen = Some((to_x, to_y));
    }
    path
}

/// The intervals as upright strokes; nights without one have none, and of more nights than can be told apart every second to
/// fourth is drawn.
fn strokes(trend: &Trend, times: &Times, y: &impl Fn(f64) -> i32) -> String {
    let most = if trend.changes.is_empty() && trend.outliers.is_empty() { MOST_STROKES / 2 } else { MOST_STROKES };
    let every = trend.values.len().div_ceil(most).max(1);
    let (mut path, mut pen) = (String::new(), (0, 0));
    for (night, value) in trend.values.iter().enumerate().step_by(every) {
        let Some(value) = value.filter(|value| value.low < value.high) else { continue };
        let (x, top, bottom) = (times.of(night), y(value.high), y(value.low));
        let _ = write!(path, "m{}{}v{}", x - pen.0, signed(top - pen.1), (bottom - top).max(1));
        pen = (x, top + (bottom - top).max(1));
    }
    path
}

/// A number that follows another: a minus sign parts the two as well as a space does.
fn signed(number: i32) -> String {
    if number < 0 { number.to_string() } else { format!(" {number}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_over_leap_days_and_new_years() {
        let day = |time: &str| seconds(time).unwrap() / 86_400.0;
        assert_eq!(day("2024-03-01T00:00:00Z") - day("2024-02-28T00:00:00Z"), 2.0);
        assert_eq!(day("2026-01-01T12:00:00Z") - day("2025-12-31T00:00:00Z"), 1.5);
        assert_eq!(day("2100-03-01T00:00:00Z") - day("2100-02-28T00:00:00Z"), 1.0);
        assert_eq!(seconds("yesterday"), None);
    }
}
