//! Why a comparison came out as it did, in one or two sentences with its numbers.

use stepwatch_record::comparison::Verdict;
use stepwatch_record::run::{End, Metric, Policy};

use super::decide::Decision;
use super::effect::Effect;
use crate::wording::{change, count, percent, value};

/// The end of a cell in words: `timed-out: ran past its limit of 300 s`.
pub(super) fn end(end: &End) -> String {
    let reason = end.reason();
    if reason.is_empty() { end.word().to_owned() } else { format!("{}: {reason}", end.word()) }
}

pub(super) fn from_zero(metric: &Metric, effect: &Effect) -> String {
    format!("the reference is 0 and this run is {}: a relative change does not exist", value(metric, effect.value))
}

/// Why a verdict is what it is; the change and its interval stand beside it ([`crate::wording::told`]).
pub(super) fn why(metric: &Metric, effect: &Effect, decision: &Decision, policy: &Policy, blind: bool) -> String {
    let Some((low, high)) = decision.interval else {
        return format!(
            "{} by the estimate, but {} and {} show nothing of how rounds differ: measure at least 2 rounds",
            change(metric, decision.effect),
            count(effect.rounds as usize, "round"),
            count(effect.runs as usize, "reference run")
        );
    };
    let mut text = match decision.verdict {
        Verdict::Regressed | Verdict::Improved => {
            format!("the interval excludes no change and the estimate passes the margin of {}", percent(policy.margin))
        }
        Verdict::Unchanged if low > 0.0 || high < 0.0 => format!(
            "shown to differ, but by less than the margin of {}, and wholly within ± {}",
            percent(policy.margin),
            percent(policy.equal_within)
        ),
        Verdict::Unchanged => {
            format!("the whole interval lies within ± {}", percent(policy.equal_within))
        }
        _ => undecided(effect, decision, policy),
    };
    if effect.alone {
        text.push_str("; its rounds scatter far more than those of the other cells");
    }
    if blind {
        let detectable = decision.detectable.map_or_else(|| "nothing".to_owned(), percent);
        text.push_str(&format!(
            "; a change for the worse under {detectable} would not have been seen reliably, {} is asked for",
            percent(policy.detect)
        ));
        // An undecided cell was told already.
        if few_nights(effect) && (decision.verdict != Verdict::Undecided || decision.rounds_to_decide.is_some()) {
            text.push_str(&format!("; {}", told_by_few(effect)));
        }
    }
    text
}

/// Under so many degrees of freedom the quantiles of Student's t are far out.
const FEW: f64 = 4.0;

/// Whether too few reference runs tell what all cells of a run share.
fn few_nights(effect: &Effect) -> bool {
    effect.shared.is_some_and(|shared| shared.df < FEW)
}

fn told_by_few(effect: &Effect) -> String {
    format!(
        "{} tell little of what a night does to all cells: accept more",
        count(effect.runs as usize, "reference run")
    )
}

fn undecided(effect: &Effect, decision: &Decision, policy: &Policy) -> String {
    let remedy = match decision.rounds_to_decide {
        Some(rounds) => format!("about {} in all would decide", count(rounds as usize, "round")),
        None if few_nights(effect) => format!("more rounds would not decide it, {}", told_by_few(effect)),
        None if effect.runs > 1 => {
            "more rounds would not decide it, the reference runs differ too much among themselves".to_owned()
        }
        None => "more rounds of this run alone would not decide it, more accepted reference runs would".to_owned(),
    };
    format!("neither shown to differ nor to lie within ± {}; {remedy}", percent(policy.equal_within))
}
