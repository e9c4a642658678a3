//! A run whose two sides were alternated round by round (`--against`): the observation is the pair of rounds, what both
//! rounds of a pair share is in no difference, and both sides' cells are told apart here.
//!
//! Model, on the log scale: round j of this side minus round j of the other is δ + e(j). What the machine does to both rounds
//! of a pair cancels, whatever it is; the variance of e is moderated over the pairs of cells like that of rounds elsewhere. There
//! is no variance between runs: both sides are of one run.

use std::collections::BTreeMap;

use stepwatch_record::CellId;
use stepwatch_record::against::{Against, BUILD};
use stepwatch_record::comparison::{Change, Verdict};
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::run::{End, Run};

use crate::compare::{Effect, OTHER_SIDE_MISSING, Scale};
use crate::figures::{FLOOR_SD_LOG, group, values_by_round};
use crate::stats::{self, Group, Spread};

/// The two sides of a run, each with the figures of its cells; the other side's cells carry the ids of this side's.
#[derive(Debug, Clone, PartialEq)]
pub struct Sides {
    /// This side.
    pub own: Summary,
    /// The other side, named as a reader knows it.
    pub other: Vec<Summary>,
}

/// Parts the figures of a run into its sides; `None` where it has one side only.
#[must_use]
pub fn sides(run: &Run, summary: &Summary) -> Option<Sides> {
    let against = run.manifest.asked.against.as_ref()?;
    let own = |cell: &&CellFigures| against.other(&cell.cell.id).is_some();
    let other = |own: &CellFigures| {
        let mut figures = summary.cell(against.other(&own.cell.id)?)?.clone();
        figures.cell = own.cell.clone();
        Some(figures)
    };
    let own: Vec<CellFigures> = summary.cells.iter().filter(own).cloned().collect();
    let mut beside = Summary { run: named(against), cells: own.iter().filter_map(other).collect(), ..summary.clone() };
    if let Some(binary) = &against.binary {
        // `--version` says the program's name before it.
        beside.build.version = binary.version.rsplit(' ').next().unwrap_or_default().to_owned();
        beside.build.binary.clone_from(&binary.hash);
    }
    Some(Sides { own: Summary { cells: own, ..summary.clone() }, other: vec![beside] })
}

/// A run without its other side, as if it had been made alone; any other run as it is.
#[must_use]
pub fn own_side(mut run: Run) -> Run {
    let Some(against) = run.manifest.asked.against.take() else { return run };
    let own = |cell: &CellId| !against.is_other(cell);
    run.manifest.cells.retain(|cell| own(&cell.id));
    if against.binary.is_some() {
        for cell in &mut run.manifest.cells {
            cell.parameters.remove(BUILD);
            cell.axes.retain(|axis| axis != BUILD);
        }
    }
    run.manifest.peaks.retain(|peak| own(&peak.cell));
    run.plans.retain(|plan| own(&plan.cell));
    run.prepared.retain(|record| own(&record.cell));
    run.rounds.retain(|round| own(&round.record.cell));
    run.profiles.retain(|profile| own(&profile.cell));
    run
}

/// The other side as a reader knows it.
#[must_use]
pub fn named(against: &Against) -> String {
    match &against.binary {
        Some(binary) => format!("{} ({}, {})", against.name, binary.version, binary.hash),
        None => format!("workload {}", against.name),
    }
}

/// What the other side is, as the origin of a comparison.
#[must_use]
pub fn origin(against: &Against) -> String {
    let alternated = "the other side of this run, alternated round by round";
    match &against.binary {
        Some(binary) if binary.same => {
            format!("{alternated}; it is the very same file, so that a difference would be none of the code's")
        }
        _ => alternated.to_owned(),
    }
}

/// The change of `metric` for each cell of this side by its pairs of rounds; `None` where there is no pair.
#[must_use]
pub fn effects(metric: &str, run: &Run, own: &Summary) -> Vec<Option<Effect>> {
    let pairs: Vec<Option<Pairs>> = own.cells.iter().map(|cell| pairs(metric, run, &cell.cell.id)).collect();
    let mut effects: Vec<Option<Effect>> = pairs.iter().map(|_| None).collect();
    let on_log = |i: &usize| pairs[*i].as_ref().is_some_and(|pairs| pairs.scale == Scale::Log);
    let (together, apart): (Vec<usize>, Vec<usize>) = (0..pairs.len()).partition(on_log);
    let pool: Vec<&Pairs> = together.iter().filter_map(|&i| pairs[i].as_ref()).collect();
    for (i, effect) in together.into_iter().zip(estimate(&pool)) {
        effects[i] = effect;
    }
    // A relative scale neither lends nor borrows: around zero it has no common unit with anything.
    for i in apart {
        effects[i] = pairs[i].as_ref().and_then(|pairs| estimate(&[pairs]).pop().flatten());
    }
    effects
}

/// What became of cells whose other side has no figures: an end of the other side is an end of the pair.
pub(crate) fn told_of_ends(changes: &mut [Change], other: &[Summary]) {
    for change in changes {
        let figures = other.iter().find_map(|summary| summary.cell(&change.cell));
        let told = |end: &End| format!("the other side ended {}: {}", end.word(), end.reason());
        let (verdict, reason, why) = match (change.reason.as_str(), figures.and_then(|figures| figures.end.as_ref())) {
            ("reference-not-completed", Some(end @ End::NumbersWrong { .. })) => {
                (Verdict::NumbersWrong, "other-side-numbers-wrong", told(end))
            }
            ("reference-not-completed", Some(end @ End::Skipped { .. })) => {
                (Verdict::Incomparable, "other-side-skipped", told(end))
            }
            ("reference-not-completed", Some(end)) => (Verdict::Failed, "other-side-failed", told(end)),
            ("not-in-reference", None) => {
                let recorded = figures.map_or(0, |figures| figures.rounds);
                let why = format!("the other side has rounds without a record: {recorded} are there");
                (Verdict::Missing, OTHER_SIDE_MISSING, why)
            }
            _ => continue,
        };
        change.verdict = verdict;
        reason.clone_into(&mut change.reason);
        change.why = why;
    }
}

/// The pairs of one cell, on one scale.
struct Pairs {
    scale: Scale,
    /// This side minus the other, by pair.
    differences: Vec<f64>,
    value: f64,
    reference_value: f64,
}

/// The rounds that both sides of a cell have, round by round.
fn pairs(metric: &str, run: &Run, cell: &CellId) -> Option<Pairs> {
    let other = run.manifest.asked.against.as_ref()?.other(cell)?;
    let metric = run.manifest.metrics.iter().find(|known| known.name == metric)?;
    let values = |id: &CellId| -> Option<BTreeMap<u32, f64>> {
        values_by_round(run, run.manifest.cells.iter().find(|cell| &cell.id == id)?, metric).ok()
    };
    let (own, other) = (values(cell)?, values(other)?);
    let both = || own.iter().filter_map(|(round, own)| Some((*own, *other.get(round)?)));
    let (own, other): (Vec<f64>, Vec<f64>) = both().unzip();
    if own.is_empty() {
        return None;
    }
    if let Some((own, other)) = stats::logs(&own).zip(stats::logs(&other)) {
        let differences = own.iter().zip(&other).map(|(own, other)| own - other).collect();
        let (value, reference_value) = (stats::mean(&own)?.exp(), stats::mean(&other)?.exp());
        return Some(Pairs { scale: Scale::Log, differences, value, reference_value });
    }
    let largest = own.iter().chain(&other).fold(0.0_f64, |most, value| most.max(value.abs()));
    let (value, reference_value) = (stats::mean(&own)?, stats::mean(&other)?);
    // A side that is zero to rounding has no relative change: the verdict says so by its value.
    let none = reference_value.abs() <= largest * f64::EPSILON;
    let unit = if none { largest.max(f64::MIN_POSITIVE) } else { reference_value.abs() };
    let differences = own.iter().zip(&other).map(|(own, other)| (own - other) / unit).collect();
    let reference_value = if none { 0.0 } else { reference_value };
    Some(Pairs { scale: Scale::Relative, differences, value, reference_value })
}

/// Estimates cells that lend one another their spread.
fn estimate(pairs: &[&Pairs]) -> Vec<Option<Effect>> {
    let within: Vec<Group> = pairs.iter().map(|pairs| group(&pairs.differences)).collect();
    // A difference of two rounds has the floors of both.
    let spreads = stats::moderate(&within, 2.0 * FLOOR_SD_LOG * FLOOR_SD_LOG);
    let series: Vec<Vec<&[f64]>> = pairs.iter().map(|pairs| vec![pairs.differences.as_slice()]).collect();
    let variances: Vec<f64> = within.iter().map(|group| group.variance).collect();
    let shape = stats::common_shape(&series, &variances);
    let effect = |(pairs, spread): (&&Pairs, Option<Spread>)| {
        Some(Effect {
            scale: pairs.scale,
            difference: stats::mean(&pairs.differences)?,
            round_variance: spread.map(|spread| spread.variance),
            round_df: spread.map_or(0.0, |spread| spread.df),
            fixed_variance: 0.0,
            // Rounds of a pair share the machine: nothing of it is left to take out.
            machine: None,
            machine_variance: 0.0,
            df: spread.map_or(0.0, |spread| spread.df),
            shared: None,
            shape,
            reference_parts: (0.0, 0.0),
            rounds: pairs.differences.len() as u32,
            runs: 1,
            alone: spread.is_some_and(|spread| spread.alone),
            value: pairs.value,
            reference_value: pairs.reference_value,
        })
    };
    pairs.iter().zip(spreads).map(effect).collect()
}
