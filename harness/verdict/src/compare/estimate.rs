//! The change of one metric from the reference runs to this run, per cell, with its standard error. No policy here.
//!
//! Model, on the log scale: round j of run r has y = μ + b(r) + e(r, j), where b is what differs between runs of the same
//! code (variance τ²) and e what differs between rounds of a run (variance σ²). The change is this run's mean minus the mean
//! of the reference runs' means, with variance τ²(1 + 1/R) + σ²/n + σ²·Σ(1/n_r)/R². Part of b is the same for all cells of a run
//! and part is each cell's own; the two are known from so different numbers of observations that they are kept apart. Where a
//! canary was measured on both sides, what it explains is taken out of speeds first ([`super::machine`]).

use stepwatch_record::figure::{CellFigures, Summary};

use super::canary::Canary;
use super::effect::{Effect, Scale, Shared};
use super::machine::{self, Share};
use crate::figures::{FLOOR_SD_LOG, group};
use crate::stats::{self, Between, Explained, Group, Shape, Spread};

/// The level at which it is asked what unlike cells do to the level of each; at other levels it is nearly the same.
const USUAL_LEVEL: f64 = 0.01;

/// Round values of one cell in this run and in each reference run that has it, on one scale.
pub(super) struct Sides {
    scale: Scale,
    pub(super) run: Vec<f64>,
    pub(super) reference: Vec<Vec<f64>>,
    /// Which of the reference runs those are.
    pub(super) runs: Vec<usize>,
    /// The canary beside every value, around its level in the run.
    pub(super) canary: Option<Readings>,
    value: f64,
    reference_value: f64,
}

/// Deviations of the canary's readings, one beside every round value.
pub(super) struct Readings {
    pub(super) run: Vec<f64>,
    pub(super) reference: Vec<Vec<f64>>,
}

/// Speeds that the machine sets together with the code, and how they go with the canary's rate: 1 for a rate, −1 for a time.
fn follows_the_machine(metric: &str) -> Option<f64> {
    match metric {
        "tokens_per_second" | "tokens_per_second_per_device" | "model_flops_per_second" | "mfu" => Some(1.0),
        "step_seconds" | "step_seconds_low" | "step_seconds_tail" => Some(-1.0),
        _ => None,
    }
}

/// The change of `metric` for each cell of `run`; `None` where either side has no figure.
#[must_use]
pub fn effects(metric: &str, run: &Summary, reference: &[&Summary]) -> Vec<Option<Effect>> {
    let follows = follows_the_machine(metric).and_then(|sign| Some((sign, Canary::read(run, reference)?)));
    let canary = follows.as_ref().map(|(_, canary)| canary);
    let sides: Vec<Option<Sides>> = run.cells.iter().map(|cell| sides(metric, cell, reference, canary)).collect();
    let mut effects: Vec<Option<Effect>> = sides.iter().map(|_| None).collect();
    let (mut together, mut apart) = (Vec::new(), Vec::new());
    for (i, sides) in sides.into_iter().enumerate() {
        let Some(sides) = sides else { continue };
        if sides.scale == Scale::Log { &mut together } else { &mut apart }.push((i, sides));
    }
    let (places, mut pool): (Vec<usize>, Vec<Sides>) = together.into_iter().unzip();
    let shares = follows.map(|(sign, canary)| machine::take_out(&mut pool, &canary.moved(), sign));
    for (i, effect) in places.into_iter().zip(estimate(&pool, shares.as_deref())) {
        effects[i] = effect;
    }
    // A relative scale neither lends nor borrows: around zero it has no common unit with anything.
    for (i, sides) in apart {
        effects[i] = estimate(&[sides], None).pop().flatten();
    }
    effects
}

fn sides(metric: &str, cell: &CellFigures, reference: &[&Summary], canary: Option<&Canary>) -> Option<Sides> {
    let rounds = |cell: &CellFigures| -> Option<Vec<f64>> {
        let rounds = &cell.figure(metric)?.estimate.rounds;
        (!rounds.is_empty() && rounds.iter().all(|value| value.is_finite())).then(|| rounds.clone())
    };
    let run = rounds(cell)?;
    let there = |summary: &Summary| summary.cell(&cell.cell.id).and_then(rounds);
    let (runs, values): (Vec<usize>, Vec<Vec<f64>>) =
        reference.iter().enumerate().filter_map(|(i, summary)| Some((i, there(summary)?))).unzip();
    if values.is_empty() {
        return None;
    }
    let logs = stats::logs(&run).zip(values.iter().map(|run| stats::logs(run)).collect::<Option<Vec<_>>>());
    if let Some((run_logs, reference_logs)) = logs {
        let (value, reference_value) = (stats::mean(&run_logs)?.exp(), mean_of_means(&reference_logs)?.exp());
        let before: Vec<(usize, &CellFigures)> =
            runs.iter().filter_map(|i| Some((i + 1, reference[*i].cell(&cell.cell.id)?))).collect();
        return Some(Sides {
            scale: Scale::Log,
            canary: canary.and_then(|canary| readings(canary, cell, &before, &run_logs, &reference_logs)),
            run: run_logs,
            reference: reference_logs,
            runs,
            value,
            reference_value,
        });
    }
    relative(&run, &values, runs)
}

/// The canary beside the values; `None` if a round has the one without the other.
fn readings(
    canary: &Canary,
    cell: &CellFigures,
    before: &[(usize, &CellFigures)],
    run: &[f64],
    reference: &[Vec<f64>],
) -> Option<Readings> {
    let beside = |number: usize, cell: &CellFigures, values: &[f64]| {
        canary.deviations(number, cell).filter(|readings| readings.len() == values.len())
    };
    let there = before.iter().zip(reference).map(|((number, cell), values)| beside(*number, cell, values));
    Some(Readings { run: beside(0, cell, run)?, reference: there.collect::<Option<_>>()? })
}

/// Both sides in units of the reference's absolute mean.
///
/// A reference that is zero to rounding, beside the largest value compared, has no relative change: zero against zero is none
/// (in units of that largest value), anything else is infinite and said so later. Values are divided by the largest first, so
/// that neither a sum nor a square leaves the range of the numbers.
fn relative(run: &[f64], reference: &[Vec<f64>], runs: Vec<usize>) -> Option<Sides> {
    let largest = run.iter().chain(reference.iter().flatten()).fold(0.0_f64, |most, value| most.max(value.abs()));
    let in_units = |values: &[f64], unit: f64| values.iter().map(|value| value / unit).collect::<Vec<f64>>();
    let largest = if largest == 0.0 { 1.0 } else { largest };
    let run = in_units(run, largest);
    let reference: Vec<Vec<f64>> = reference.iter().map(|values| in_units(values, largest)).collect();
    let none = |share: &f64| share.abs() <= f64::EPSILON;
    let (mut value, mut reference_value, mut unit) = (stats::mean(&run)?, mean_of_means(&reference)?, 1.0);
    if none(&reference_value) {
        reference_value = 0.0;
        value = if none(&value) { 0.0 } else { value };
    } else {
        unit = reference_value.abs();
    }
    Some(Sides {
        scale: Scale::Relative,
        run: in_units(&run, unit),
        reference: reference.iter().map(|values| in_units(values, unit)).collect(),
        runs,
        canary: None,
        value: value * largest,
        reference_value: reference_value * largest,
    })
}

fn mean_of_means(runs: &[Vec<f64>]) -> Option<f64> {
    stats::mean(&runs.iter().filter_map(|run| stats::mean(run)).collect::<Vec<f64>>())
}

/// Estimates cells that lend one another their spread; `shares` are what was taken out of them as the machine's.
fn estimate(sides: &[Sides], shares: Option<&[Share]>) -> Vec<Option<Effect>> {
    let floor = FLOOR_SD_LOG * FLOOR_SD_LOG;
    let share = |i: usize| shares.map(|shares| shares[i]);
    let spent = |i: usize| share(i).unwrap_or_default();
    let within: Vec<Group> = sides.iter().enumerate().map(|(i, sides)| within(sides, spent(i).round_df)).collect();
    let means: Vec<Vec<f64>> =
        sides.iter().map(|sides| sides.reference.iter().filter_map(|run| stats::mean(run)).collect()).collect();
    let rounds = stats::moderate(&within, floor);
    let run_df = (0..sides.len()).map(|i| spent(i).run_df).fold(0.0, f64::max);
    let explained = |((sides, within), rounds): ((&Sides, &Group), &Option<Spread>)| {
        let spread = rounds.map(|rounds| Spread { variance: rounds.variance * share_in_means(sides), ..rounds })?;
        Some(Explained { spread, own_df: within.df })
    };
    let explained: Vec<Option<Explained>> = sides.iter().zip(&within).zip(&rounds).map(explained).collect();
    let runs = stats::between_runs(&means, &explained, run_df, floor);
    let groups: Vec<Vec<&[f64]>> =
        sides.iter().map(|sides| sides.reference.iter().chain([&sides.run]).map(Vec::as_slice).collect()).collect();
    let variances: Vec<f64> = within.iter().map(|group| group.variance).collect();
    let shape = stats::common_shape(&groups, &variances);
    let of_cell = |((i, sides), (rounds, runs))| effect(sides, rounds, runs, shape, share(i));
    let mut effects: Vec<Option<Effect>> =
        sides.iter().enumerate().zip(rounds.into_iter().zip(runs)).map(of_cell).collect();
    share_level(&mut effects);
    effects
}

/// Says of cells that share a part of their error at which share of a level each is judged, since they are unlike in the rest.
fn share_level(effects: &mut [Option<Effect>]) {
    let parts = |effect: &Effect| {
        let shared = effect.shared?;
        let common = Group { variance: shared.variance, df: shared.df };
        Some((common, Group { variance: effect.own_variance(effect.rounds)?, df: shared.own_df }))
    };
    let (common, own): (Vec<Group>, Vec<Group>) = effects.iter().flatten().filter_map(parts).unzip();
    let Some(common) = common.first() else { return };
    let share = stats::share_of_level(*common, &own, USUAL_LEVEL);
    for shared in effects.iter_mut().flatten().filter_map(|effect| effect.shared.as_mut()) {
        shared.level_share = share;
    }
}

/// The variance between rounds of one cell, over this run and its reference runs, each around its own mean; `spent` degrees of
/// freedom went into what was taken out of them.
fn within(sides: &Sides, spent: f64) -> Group {
    let groups: Vec<Group> = sides.reference.iter().chain([&sides.run]).map(|run| group(run)).collect();
    let df: f64 = groups.iter().map(|group| group.df).sum();
    let squares: f64 = groups.iter().map(|group| group.df * group.variance).sum();
    let left = if df > spent { df - spent } else { df };
    Group { variance: if left > 0.0 { squares / left } else { 0.0 }, df: left }
}

/// Σ(1/n_r)/R: the share of σ² in the variance of one reference run's mean.
fn share_in_means(sides: &Sides) -> f64 {
    sides.reference.iter().map(|run| 1.0 / run.len() as f64).sum::<f64>() / sides.reference.len() as f64
}

fn effect(
    sides: &Sides,
    rounds: Option<Spread>,
    between: Option<Between>,
    shape: Shape,
    taken: Option<Share>,
) -> Option<Effect> {
    let machine = taken.unwrap_or_default();
    let difference = stats::mean(&sides.run)? - mean_of_means(&sides.reference)?;
    let count = sides.reference.len() as f64;
    let parts = |power: i32| {
        sides.reference.iter().map(|run| (run.len() as f64).powi(-power)).sum::<f64>() / count.powi(power + 1)
    };
    let sigma2 = rounds.map(|spread| spread.variance);
    let explained = sigma2.unwrap_or(0.0) * share_in_means(sides);
    // Of runs whose means scatter no more than their rounds explain, nothing more is assumed than the rounds say.
    let own = between.map(|between| between.own).filter(|own| own.variance > explained);
    let own_df = own.or(rounds).map_or(0.0, |spread| spread.df);
    let shared = between.and_then(|between| between.common).map(|common| Shared {
        variance: common.variance * (1.0 + 1.0 / count),
        df: common.df,
        own_df,
        cells: common.series,
        own_share: 1.0 - common.weight,
        level_share: 1.0,
    });
    let own_share = shared.map_or(1.0, |shared| shared.own_share);
    let tau2 = own.map_or(0.0, |own| own.variance - explained) * own_share;
    let mut effect = Effect {
        scale: sides.scale,
        difference,
        // One round a run: what differs between runs holds what differs between rounds.
        round_variance: sigma2.or(own.map(|_| 0.0)),
        round_df: rounds.map_or(0.0, |rounds| rounds.df),
        fixed_variance: tau2 * (1.0 + 1.0 / count)
            + sigma2.unwrap_or(0.0) * own_share * parts(1)
            + machine.variance
            + shared.map_or(0.0, |shared| shared.variance),
        machine: taken.map(|taken| taken.shift),
        machine_variance: machine.variance,
        df: own_df,
        shared,
        shape,
        reference_parts: (parts(2), parts(3)),
        rounds: sides.run.len() as u32,
        runs: sides.reference.len() as u32,
        alone: rounds.is_some_and(|rounds| rounds.alone),
        value: sides.value,
        reference_value: sides.reference_value,
    };
    if let (Some(shared), Some(own)) = (shared, effect.own_variance(effect.rounds)) {
        effect.df = stats::welch_df(&[(shared.variance, shared.df), (own, own_df)]).unwrap_or(own_df);
    }
    Some(effect)
}
