//! Whether a change of speed is the code's or the machine's, in a word and in words: by the canary first, then by joules,
//! clock and cycles, since code that burns more power lowers its own clock.

use stepwatch_record::comparison::{Cause, Change, Verdict};
use stepwatch_record::figure::CellFigures;
use stepwatch_record::run::{Better, Policy};

use super::decide::decide;
use super::effect::Effect;
use crate::stats;
use crate::wording::{change as told, percent};

/// From this share of samples on, a cell ran at its power cap.
const CAPPED: f64 = 0.1;

/// What the GPU spent on one cell, each against the reference.
#[derive(Clone, Copy, Default)]
pub(super) struct Spent<'data> {
    pub(super) joules: Option<&'data Effect>,
    pub(super) clock: Option<&'data Effect>,
    pub(super) cycles: Option<&'data Effect>,
}

/// The step's fast and slow ends in one cell, each against the reference.
#[derive(Clone, Copy, Default)]
pub(super) struct Ends<'data> {
    /// Its 5th percentile.
    pub(super) low: Option<&'data Effect>,
    /// Its 95th percentile.
    pub(super) tail: Option<&'data Effect>,
}

/// Which part of the steps moved with a mean that changed. Delivered throughput is the mean; whether the code itself is slower is
/// asked of the fast steps, which the host's jitter does not reach.
pub(super) fn tell_which_moved(change: &mut Change, effect: &Effect, ends: Ends<'_>, policy: &Policy, confidence: f64) {
    let changed = matches!(change.verdict, Verdict::Regressed | Verdict::Improved);
    let mean =
        matches!(change.metric.name.as_str(), "tokens_per_second" | "tokens_per_second_per_device" | "step_seconds");
    let (true, Some(low)) = (changed && mean, ends.low) else { return };
    let Some((from, to)) = decide(low, Better::Lower, policy, confidence).interval else { return };
    let size = effect.scale.relative(effect.difference).abs();
    let fast = low.scale.relative(low.difference).abs();
    let moved = |effect: &&Effect| {
        decide(effect, Better::Lower, policy, confidence).interval.is_some_and(|(low, high)| low > 0.0 || high < 0.0)
    };
    change.why.push_str(if from > 0.0 || to < 0.0 {
        if fast >= size / 2.0 {
            "; the fast steps moved with the mean: every step is another"
        } else {
            "; the mean moved more than the fast steps: part of it is jitter of the host"
        }
    } else if fast >= size / 2.0 {
        "; whether the fast steps moved too is not shown"
    } else if ends.tail.filter(moved).is_some() {
        "; the mean moved but the fast steps did not, and the slow ones did: host jitter, or stalls in some steps"
    } else {
        "; the mean moved but the fast steps did not: host jitter"
    });
}

/// Says of a judged change of speed whose it is; leaves alone what no canary was compared for.
pub(super) fn attribute(
    change: &mut Change,
    effect: &Effect,
    cell: &CellFigures,
    spent: Spent<'_>,
    policy: &Policy,
    confidence: f64,
) {
    let Some(taken) = effect.machine else { return };
    let measured = effect.scale.relative(effect.difference + taken);
    let machine = effect.scale.relative(taken);
    change.machine = Some(machine);
    let changed = matches!(change.verdict, Verdict::Regressed | Verdict::Improved);
    // What the canary explains is said where a reader of the figures would miss it.
    if machine.abs() >= policy.margin / 2.0 {
        change.why.push_str(&format!(
            "; as measured it is {}, of which the machine explains {}: its canary moved too",
            told(&change.metric, measured),
            told(&change.metric, machine)
        ));
    }
    if changed {
        change.cause = Some(Cause::Code);
        change.why.push_str("; code, the canary does not explain it");
        change.why.push_str(&burns_more(cell, spent, policy, confidence).unwrap_or_default());
    } else if measured.abs() >= policy.margin && effect.scale.relative(effect.difference).abs() < policy.margin {
        change.cause = Some(Cause::Machine);
    }
}

/// Code that takes more joules a token at a clock that fell: no fault of the machine although its cycles may be the same.
fn burns_more(cell: &CellFigures, spent: Spent<'_>, policy: &Policy, confidence: f64) -> Option<String> {
    let ends = |effect: &Effect| decide(effect, Better::Lower, policy, confidence).interval;
    let (joules, clock) = (spent.joules?, spent.clock?);
    if ends(joules)?.0 <= 0.0 || ends(clock)?.1 >= 0.0 {
        return None;
    }
    let held: Vec<f64> = cell.conditions.as_ref()?.held_down.iter().flatten().copied().collect();
    let capped = stats::mean(&held).is_some_and(|share| share >= CAPPED);
    let same = |effect: &&Effect| ends(effect).is_some_and(|(low, high)| low <= 0.0 && 0.0 <= high);
    Some(format!(
        ": it burns {} more joules a token and so lowers its own clock by {}{}{}",
        percent(joules.scale.relative(joules.difference)),
        percent(clock.scale.relative(clock.difference).abs()),
        if capped { " at the power cap" } else { "" },
        if spent.cycles.filter(same).is_some() { ", in as many cycles as before" } else { "" },
    ))
}
