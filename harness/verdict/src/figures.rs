//! Figures of a run: per cell and metric one estimate over its rounds, with its interval. This is `summary.json`.
//!
//! Positive metrics are estimated on the log scale: the point is the geometric mean of the rounds, the interval is Student's t
//! with a spread moderated over the cells of the run ([`stats::moderate`]). A metric with a value that is zero or negative is
//! estimated by its arithmetic mean with its own spread.

use std::collections::BTreeMap;

use stepwatch_record::figure::{CellFigures, Conditions, Estimate, Figure, Summary};
use stepwatch_record::message::{Canary, Ready};
use stepwatch_record::run::{Better, End, Metric, Round, Run};
use stepwatch_record::{Cell, CellId};

use crate::findings::is_held_down;
use crate::round::{self, RoundValue};
use crate::stats::{self, Group, Spread};
use crate::work;

/// Confidence of the intervals of single figures. Comparisons have their own, adjusted for their number.
pub const CONFIDENCE: f64 = 0.95;

/// No standard deviation between rounds is taken to be smaller than this (0.01 %, on the log scale): a figure that is equal in
/// every round, such as peak memory, has an interval that is narrow and not empty.
pub const FLOOR_SD_LOG: f64 = 1e-4;

/// A figure that cannot be given although there is data for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Omission {
    /// Which cell.
    pub cell: CellId,
    /// Which metric.
    pub metric: String,
    /// Why, in words.
    pub why: String,
}

/// The metrics that Stepwatch measures itself, with units and directions, in the order of a report.
#[must_use]
pub fn standard_metrics() -> Vec<Metric> {
    use Better::{Higher, Lower};
    [
        ("tokens_per_second", "1/s", Higher),
        ("tokens_per_second_per_device", "1/s", Higher),
        ("step_seconds", "s", Lower),
        ("step_seconds_low", "s", Lower),
        ("step_seconds_tail", "s", Lower),
        ("setup_seconds", "s", Lower),
        ("first_step_seconds", "s", Lower),
        ("peak_memory_bytes", "bytes", Lower),
        ("joules_per_token", "J", Lower),
        ("model_flops_per_second", "1/s", Higher),
        ("mfu", "", Higher),
        ("sm_clock_hz", "Hz", Higher),
        ("cycles_per_step", "", Lower),
        ("worst_sqnr_db", "dB", Higher),
        ("loss", "nats", Lower),
    ]
    .into_iter()
    .map(|(name, unit, better)| Metric { name: name.to_owned(), unit: unit.to_owned(), better })
    .collect()
}

/// Estimates every metric of the manifest for every planned cell, over the rounds that completed.
#[must_use]
pub fn summarise(run: &Run) -> Summary {
    let mut cells: Vec<CellFigures> = run.manifest.cells.iter().map(|cell| without_figures(run, cell)).collect();
    for metric in &run.manifest.metrics {
        let measured: Vec<Option<Vec<RoundValue>>> =
            run.manifest.cells.iter().map(|cell| usable(run, cell, metric).ok().flatten().map(in_order)).collect();
        for (cell, estimate) in cells.iter_mut().zip(estimates(&measured)) {
            if let Some(estimate) = estimate {
                cell.figures.push(Figure { metric: metric.clone(), estimate });
            }
        }
    }
    let manifest = &run.manifest;
    Summary {
        format: manifest.format,
        run: manifest.id.clone(),
        scenario: manifest.scenario.clone(),
        started: manifest.started.clone(),
        backend: manifest.backend.clone(),
        machines: manifest.machines.clone(),
        build: manifest.build.clone(),
        cells,
    }
}

/// What [`summarise`] left out although there was data, and why.
#[must_use]
pub fn omissions(run: &Run) -> Vec<Omission> {
    let of_cell = |cell: &Cell, metric: &Metric| {
        let why = usable(run, cell, metric).err()?;
        Some(Omission { cell: cell.id.clone(), metric: metric.name.clone(), why })
    };
    let pairs = run.manifest.cells.iter().flat_map(|cell| run.manifest.metrics.iter().map(move |m| (cell, m)));
    pairs.filter_map(|(cell, metric)| of_cell(cell, metric)).collect()
}

/// How a cell ended, its verification included: numbers that failed a check are wrong although every worker completed.
#[must_use]
pub fn end(run: &Run, cell: &CellId) -> Option<End> {
    let mut checks = run.plans.iter().filter(|plan| &plan.cell == cell).filter_map(|plan| plan.verification.as_ref());
    match checks.rfind(|verification| !verification.ok) {
        Some(verification) => Some(End::NumbersWrong {
            message: if verification.failures.is_empty() {
                "verification failed".to_owned()
            } else {
                verification.failures.join("; ")
            },
        }),
        None => run.cell_end(cell),
    }
}

fn without_figures(run: &Run, cell: &Cell) -> CellFigures {
    let plan = run.plans.iter().rfind(|plan| plan.cell == cell.id).and_then(|plan| plan.plan.as_ref());
    CellFigures {
        cell: cell.clone(),
        end: end(run, &cell.id),
        figures: Vec::new(),
        plan_hash: plan.map(|plan| plan.hash.clone()).filter(|hash| !hash.is_empty()),
        rounds: completed(run, &cell.id).len() as u32,
        conditions: conditions(&completed(run, &cell.id)),
        work: work::of(run, &cell.id),
    }
}

/// What the machine did in these rounds; `None` if neither a canary nor a GPU was watched in any.
fn conditions(rounds: &[&Round]) -> Option<Conditions> {
    let reading = |rate: fn(&Canary) -> f64| -> Vec<Option<f64>> {
        let first =
            |round: &&Round| round.record.canaries.first().map(rate).filter(|rate| *rate > 0.0 && rate.is_finite());
        rounds.iter().map(first).collect()
    };
    let measured = |round: &Round| round.samples.iter().filter(|sample| sample.measured).copied().collect::<Vec<_>>();
    let held_down = |round: &&Round| {
        let samples = measured(round);
        let held = samples.iter().filter(|sample| is_held_down(sample)).count();
        // Where power was not sampled, neither were the reasons.
        samples.iter().any(|sample| sample.power_w.is_finite()).then(|| held as f64 / samples.len() as f64)
    };
    let conditions = Conditions {
        canary_flops_per_second: reading(|canary| canary.flops_per_second),
        canary_bytes_per_second: reading(|canary| canary.bytes_per_second),
        held_down: rounds.iter().map(held_down).collect(),
        throttle: rounds.iter().map(|round| measured(round).iter().fold(0, |bits, s| bits | s.throttle)).collect(),
    };
    let any = |values: &[Option<f64>]| values.iter().any(Option::is_some);
    let Conditions { canary_flops_per_second: product, canary_bytes_per_second: copy, held_down, .. } = &conditions;
    (any(product) || any(copy) || any(held_down)).then_some(conditions)
}

/// The completed rounds of a cell, in order.
fn completed<'run>(run: &'run Run, cell: &CellId) -> Vec<&'run Round> {
    let mut rounds: BTreeMap<u32, &Round> = BTreeMap::new();
    for round in &run.rounds {
        if let Some(number) = round.record.round
            && &round.record.cell == cell
            && round.record.end == End::Completed
        {
            rounds.insert(number, round);
        }
    }
    rounds.into_values().collect()
}

/// The value of a metric in each completed round of a cell that has one, by the round's number.
///
/// # Errors
/// In words, if a value is not finite.
pub(crate) fn values_by_round(run: &Run, cell: &Cell, metric: &Metric) -> Result<BTreeMap<u32, f64>, String> {
    let values = usable(run, cell, metric)?.unwrap_or_default();
    Ok(values.into_iter().map(|(round, value)| (round, value.value)).collect())
}

fn in_order(values: BTreeMap<u32, RoundValue>) -> Vec<RoundValue> {
    values.into_values().collect()
}

/// The values of a metric over a cell's rounds: `Ok(None)` without data, an error in words if a value is not finite.
fn usable(run: &Run, cell: &Cell, metric: &Metric) -> Result<Option<BTreeMap<u32, RoundValue>>, String> {
    let prepared = run.prepared.iter().rfind(|record| record.cell == cell.id).and_then(|record| record.ready.as_ref());
    let planned = run.plans.iter().rfind(|plan| plan.cell == cell.id).and_then(|plan| plan.ready.as_ref());
    let ready: Option<&Ready> = prepared.or(planned);
    if metric.name == CHECKED_ONCE {
        return verified(run, cell);
    }
    let peak = run.manifest.peaks.iter().find(|peak| peak.cell == cell.id).map(|peak| peak.flops_per_second);
    let mut values = BTreeMap::new();
    for round in completed(run, &cell.id) {
        let number = round.record.round.unwrap_or_default();
        if let Some(value) = round::value(&metric.name, round, ready, peak) {
            if !value.value.is_finite() {
                return Err(format!("{} of round {number} is {}, which is no finite number", metric.name, value.value));
            }
            values.insert(number, value);
        }
    }
    Ok((!values.is_empty()).then_some(values))
}

/// The metric that `prepare` gives once a run, from the run's seed: no rounds stand behind it.
pub(crate) const CHECKED_ONCE: &str = "worst_sqnr_db";

/// The lowest gradient SQNR that `prepare` found, dB: one observation, since no round verifies again.
fn verified(run: &Run, cell: &Cell) -> Result<Option<BTreeMap<u32, RoundValue>>, String> {
    let plans = run.plans.iter().filter(|plan| plan.cell == cell.id);
    let Some(found) = plans.filter_map(|plan| plan.verification.as_ref()).next_back() else { return Ok(None) };
    let value = found.worst_sqnr_db;
    if value.is_finite() { Ok(Some(BTreeMap::from([(0, RoundValue::single(value))]))) } else { Ok(None) }
}

/// Estimates one metric for all cells together, since they lend one another their spread.
fn estimates(measured: &[Option<Vec<RoundValue>>]) -> Vec<Option<Estimate>> {
    let plain = |values: &Vec<RoundValue>| values.iter().map(|value| value.value).collect::<Vec<f64>>();
    let on_log: Vec<Option<Vec<f64>>> =
        measured.iter().map(|values| values.as_ref().and_then(|values| stats::logs(&plain(values)))).collect();
    let groups: Vec<Group> = on_log.iter().map(|logs| group(logs.as_deref().unwrap_or_default())).collect();
    let spreads = stats::moderate(&groups, FLOOR_SD_LOG * FLOOR_SD_LOG);
    let of_cell = |(index, spread): (usize, Option<Spread>)| {
        let values = measured[index].as_ref()?;
        let rounds = plain(values);
        let (point, low, high, round_sd_log) = match &on_log[index] {
            Some(logs) => logarithmic(logs, spread)?,
            None => arithmetic(&rounds)?,
        };
        let steps: Vec<f64> = values.iter().filter_map(|value| value.step_sd_log).collect();
        Some(Estimate {
            point,
            low,
            high,
            confidence: CONFIDENCE,
            rounds,
            samples: values.iter().map(|value| value.samples).sum(),
            round_sd_log,
            step_sd_log: stats::median(&steps).unwrap_or(0.0),
        })
    };
    spreads.into_iter().enumerate().map(of_cell).collect()
}

/// The variance of one group and its degrees of freedom.
pub(crate) fn group(values: &[f64]) -> Group {
    match stats::sd(values) {
        Some(sd) => Group { variance: sd * sd, df: values.len() as f64 - 1.0 },
        None => Group { variance: 0.0, df: 0.0 },
    }
}

fn logarithmic(logs: &[f64], spread: Option<Spread>) -> Option<(f64, f64, f64, f64)> {
    let centre = stats::mean(logs)?;
    let own = stats::sd(logs).unwrap_or(0.0);
    // One round of a cell shows nothing of its spread: no interval is drawn, whatever the other cells did.
    let spread = spread.filter(|_| logs.len() > 1);
    let (low, high) = spread
        .and_then(|spread| stats::interval(centre, (spread.variance / logs.len() as f64).sqrt(), spread.df, CONFIDENCE))
        .unwrap_or((centre, centre));
    Some((centre.exp(), low.exp(), high.exp(), own))
}

fn arithmetic(values: &[f64]) -> Option<(f64, f64, f64, f64)> {
    let centre = stats::mean(values)?;
    let sd = stats::sd(values).unwrap_or(0.0);
    let (low, high) = stats::interval(centre, sd / (values.len() as f64).sqrt(), values.len() as f64 - 1.0, CONFIDENCE)
        .unwrap_or((centre, centre));
    // Relative to the mean, which is what a spread of logs is for small spreads.
    let relative = if centre == 0.0 { 0.0 } else { sd / centre.abs() };
    Some((centre, low, high, relative))
}
