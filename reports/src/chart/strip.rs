//! The strip of a cell: every sample of every round in the order taken, the value of each round as a line, behind them the
//! interval of the estimate and where the reference lies. Warm-up is drawn faint and may run out of the frame. Below it, on the same axis,
//! what the GPU did meanwhile ([`super::track`]).

use serde::Serialize;
use stepwatch_record::Run;
use stepwatch_record::figure::{CellFigures, Estimate};
use stepwatch_record::run::Round;

use super::track::{Track, tracks};
use super::{Axis, dots, range};
use crate::clean;
use crate::format::{Hint, Scale};
use crate::view::cell::Parts;
use crate::view::change::ChangeView;

/// Width of all rounds together, pixels.
const WIDTH: i32 = 640;
/// Height of the frame, pixels.
const HEIGHT: i32 = 88;
/// Free pixels between two rounds.
const GAP: i32 = 8;
/// Free pixels above and below the extreme samples.
const MARGIN: i32 = 6;

/// The samples of one cell as geometry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Strip {
    /// What is drawn, such as `step time`.
    pub what: String,
    /// Its unit.
    pub unit: String,
    /// The whole width, pixels.
    pub width: i32,
    /// The whole height, pixels.
    pub height: i32,
    /// Text at the top of the frame.
    pub high: String,
    /// Text at the bottom.
    pub low: String,
    /// The interval's band: top and height, pixels.
    pub band: Option<[i32; 2]>,
    /// Where the reference lies, pixels from the top, with the band of the adjusted interval of the change around it.
    pub reference: Option<[i32; 3]>,
    /// Clock, power and temperature, each if it is known.
    pub tracks: Vec<Track>,
    /// The rounds.
    pub rounds: Vec<StripRound>,
    /// What the drawing shows, in one sentence.
    pub caption: String,
}

/// One round of a strip.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StripRound {
    /// Its left edge, pixels.
    pub x: i32,
    /// Its width, pixels.
    pub width: i32,
    /// Samples that count, as a path of dots.
    pub path: String,
    /// Samples of the warm-up.
    pub warmup: String,
    /// Height of the round's value, pixels from the top.
    pub value_y: Option<i32>,
}

/// What a strip is drawn from: per round, each sample with whether it counts.
struct Series<'a> {
    what: String,
    hint: Hint,
    unit: String,
    metric: &'a str,
    rounds: Vec<Vec<(bool, f64)>>,
    estimate: Option<&'a Estimate>,
}

/// The reference's value of a metric, and it times the ends of the adjusted interval of the change: where this run lies against
/// it. The reference's line is inside that band unless the two differ.
fn reference(changes: &[ChangeView], metric: &str) -> Option<[f64; 3]> {
    let change = &changes.iter().find(|change| change.raw.metric.name == metric)?.raw;
    let (value, low, high) = (change.reference_value?, change.low?, change.high?);
    Some([value, value * (1.0 + low), value * (1.0 + high)])
}

/// The power limit that all GPUs of a run share.
pub(crate) fn cap(run: &Run) -> Option<f64> {
    let gpus = || run.manifest.machines.iter().flat_map(|machine| &machine.gpus);
    let first = gpus().next()?.power_limit_w?;
    gpus().all(|gpu| gpu.power_limit_w == Some(first)).then_some(first)
}

/// The strip of a cell, without tracks where it is `brief`; `None` if the cell has no samples.
pub(crate) fn strip(parts: &Parts<'_>, brief: bool) -> Option<Strip> {
    let (rounds, figures) = (&parts.rounds, parts.figures);
    let series = step_times(rounds, figures).or_else(|| own_metric(rounds, figures))?;
    let counted = || series.rounds.iter().flatten().filter(|(measured, _)| *measured).map(|(_, value)| *value);
    let estimate = series.estimate.filter(|estimate| estimate.rounds.len() > 1);
    let ends = estimate.map(|estimate| [estimate.low, estimate.high]).into_iter().flatten();
    let reference = reference(&parts.changes, series.metric);
    let (low, high) = range(counted().chain(ends).chain(reference.into_iter().flatten()))?;
    let scale = Scale::new(series.hint, &series.unit, high);
    let axis = Axis::new(low, high, HEIGHT - 2 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - axis.at(value);

    let n = i32::try_from(series.rounds.len()).unwrap_or(1).max(1);
    let width = ((WIDTH - GAP * (n - 1)) / n).max(6);
    let drawn = series.rounds.iter().zip(0..).map(|(samples, index)| {
        let x = index * (width + GAP);
        // Samples of a round are spread evenly over its width, in the order taken.
        let last = (samples.len().max(2) - 1) as f64;
        let across = Axis::new(0.0, last, width - 1);
        let points = |wanted: bool| -> Vec<(i32, i32)> {
            let of_kind = samples.iter().enumerate().filter(|(_, (measured, _))| *measured == wanted);
            of_kind.filter(|(_, (_, v))| v.is_finite()).map(|(i, (_, v))| (x + across.at(i as f64), y(*v))).collect()
        };
        let value_y = usize::try_from(index).ok().and_then(|i| series.estimate?.rounds.get(i)).map(|v| y(*v));
        StripRound { x, width, path: dots(&points(true)), warmup: dots(&points(false)), value_y }
    });
    let rounds: Vec<StripRound> = drawn.collect();
    let band = estimate.map(|estimate| [y(estimate.high), (y(estimate.low) - y(estimate.high)).max(1)]);
    let samples = counted().count();
    let places: Vec<(i32, i32)> = rounds.iter().map(|round| (round.x, round.width)).collect();
    Some(Strip {
        reference: reference.map(|[value, low, high]| [y(value), y(high), (y(low) - y(high)).max(1)]),
        tracks: if brief { Vec::new() } else { tracks(&parts.rounds, &places, cap(parts.run)) },
        caption: format!(
            "{} of {samples} samples in {} rounds, from {} to {}{}{}",
            series.what,
            rounds.len(),
            scale.number(low),
            scale.with_unit(high),
            if band.is_some() { "; the band is the interval of the estimate" } else { "" },
            reference.map_or_else(String::new, |r| format!("; the reference is {}", scale.with_unit(r[0]))),
        ),
        what: series.what,
        width: n * width + (n - 1) * GAP,
        height: HEIGHT,
        high: scale.number(high),
        low: scale.number(low),
        unit: scale.unit,
        band,
        rounds,
    })
}

/// Step times in seconds, as the device saw them.
fn step_times<'a>(rounds: &[&Round], figures: Option<&'a CellFigures>) -> Option<Series<'a>> {
    let of_round = |round: &&Round| -> Vec<(bool, f64)> {
        round.samples.iter().filter(|s| s.gpu_ns > 0).map(|s| (s.measured, s.gpu_ns as f64 * 1e-9)).collect()
    };
    let rounds: Vec<_> = rounds.iter().map(of_round).collect();
    rounds.iter().any(|round| !round.is_empty()).then(|| Series {
        what: "step time".into(),
        hint: Hint::Duration,
        unit: "s".into(),
        metric: "step_seconds",
        rounds,
        estimate: figures.and_then(|cell| cell.figure("step_seconds")).map(|figure| &figure.estimate),
    })
}

/// The first of a command workload's own metrics.
fn own_metric<'a>(rounds: &[&Round], figures: Option<&'a CellFigures>) -> Option<Series<'a>> {
    let measured = |name: &str| rounds.iter().any(|round| round.record.metrics.contains_key(name));
    let figure = figures?.figures.iter().find(|figure| measured(&figure.metric.name))?;
    let (name, unit) = (&figure.metric.name, clean::line(&figure.metric.unit));
    let of_round = |round: &&Round| -> Vec<(bool, f64)> {
        round.record.metrics.get(name).into_iter().flatten().map(|value| (true, *value)).collect()
    };
    Some(Series {
        what: clean::line(name).replace('_', " "),
        hint: Hint::of(name, &unit),
        unit,
        metric: name,
        rounds: rounds.iter().map(of_round).collect(),
        estimate: Some(&figure.estimate),
    })
}
