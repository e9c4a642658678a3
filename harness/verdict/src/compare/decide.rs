//! From a change with its error to a verdict: the decision table, pure arithmetic on one comparison.

use stepwatch_record::comparison::Verdict;
use stepwatch_record::run::{Better, Policy};

use super::effect::Effect;
use crate::stats;

/// With which probability a slowdown of the detectable size is found.
pub const POWER: f64 = 0.8;

/// More rounds than this are not proposed: another remedy is needed.
const MOST_ROUNDS: u32 = 1000;

/// What one comparison says. Shares are relative changes in the metric's own direction, run over reference − 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Regressed, improved, unchanged or undecided.
    pub verdict: Verdict,
    /// The reason as a code.
    pub reason: &'static str,
    /// The estimate.
    pub effect: f64,
    /// The interval, where one exists.
    pub interval: Option<(f64, f64)>,
    /// The smallest worsening that would have been found with probability [`POWER`], as a positive share.
    pub detectable: Option<f64>,
    /// Rounds of this run that would decide, if the estimate stayed where it is.
    pub rounds_to_decide: Option<u32>,
}

/// Judges one change at a two-sided `confidence` that is already adjusted for the number of comparisons.
#[must_use]
pub fn decide(effect: &Effect, better: Better, policy: &Policy, confidence: f64) -> Decision {
    let relative = effect.scale.relative(effect.difference);
    let error = effect.standard_error(effect.rounds);
    let reach = effect.reach(effect.rounds, confidence);
    let (Some(error), Some((below, above))) = (error, reach) else {
        return Decision {
            verdict: Verdict::Undecided,
            reason: "too-few-rounds",
            effect: relative,
            interval: None,
            detectable: None,
            rounds_to_decide: Some(effect.rounds.max(1) + 1),
        };
    };
    let low = effect.scale.relative(effect.difference - below);
    let high = effect.scale.relative(effect.difference + above);
    // What must be passed for the worse: no change lies beyond that end of the interval.
    let worse = match better {
        Better::Higher => above,
        Better::Lower => below,
    };
    let (verdict, reason) = judged(relative, low, high, better, policy);
    let undecided = verdict == Verdict::Undecided;
    Decision {
        verdict,
        reason,
        effect: relative,
        interval: Some((low, high)),
        detectable: detectable(effect, better, policy, error, worse),
        rounds_to_decide: if undecided { rounds_to_decide(effect, policy, confidence) } else { None },
    }
}

fn judged(effect: f64, low: f64, high: f64, better: Better, policy: &Policy) -> (Verdict, &'static str) {
    let (down, up) = match better {
        Better::Higher => (Verdict::Regressed, Verdict::Improved),
        Better::Lower => (Verdict::Improved, Verdict::Regressed),
    };
    if high < 0.0 && effect <= -policy.margin {
        (down, "interval-beyond-margin")
    } else if low > 0.0 && effect >= policy.margin {
        (up, "interval-beyond-margin")
    } else if low >= -policy.equal_within && high <= policy.equal_within {
        (Verdict::Unchanged, "interval-within-equal")
    } else {
        (Verdict::Undecided, "interval-too-wide")
    }
}

/// The worsening whose estimate passes both the interval and the margin with probability [`POWER`].
///
/// The estimate of a true change d is d plus a t-distributed error, so d is the larger of the two thresholds plus the error's
/// quantile at [`POWER`]: the usual shifted-t approximation of the noncentral t, within 2 % of it from 4 degrees of freedom on.
fn detectable(effect: &Effect, better: Better, policy: &Policy, error: f64, reach: f64) -> Option<f64> {
    let towards = |share: f64| match better {
        Better::Higher => -effect.scale.relative(-share),
        Better::Lower => effect.scale.relative(share),
    };
    let margin = match better {
        Better::Higher => -effect.scale.difference(-policy.margin),
        Better::Lower => effect.scale.difference(policy.margin),
    };
    let threshold = margin.max(reach);
    Some(towards(threshold + stats::t_quantile(POWER, effect.df)? * error))
}

/// The fewest rounds of this run at which the same estimate would have been decided either way; `None` if none up to 1000 do.
fn rounds_to_decide(effect: &Effect, policy: &Policy, confidence: f64) -> Option<u32> {
    let decided = |rounds: u32| -> bool {
        let (below, above) = effect.reach(rounds, confidence).unwrap_or((f64::INFINITY, f64::INFINITY));
        let (low, high) = (effect.difference - below, effect.difference + above);
        let (low, high) = (effect.scale.relative(low), effect.scale.relative(high));
        let estimate = effect.scale.relative(effect.difference);
        judged(estimate, low, high, Better::Higher, policy).0 != Verdict::Undecided
    };
    if effect.rounds >= MOST_ROUNDS || !decided(MOST_ROUNDS) {
        return None;
    }
    let (mut undecided, mut enough) = (effect.rounds, MOST_ROUNDS);
    while enough - undecided > 1 {
        let middle = u32::midpoint(undecided, enough);
        if decided(middle) { enough = middle } else { undecided = middle }
    }
    Some(enough)
}
