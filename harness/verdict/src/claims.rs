//! Claims judged: a scenario says that one side is so many times the other, and every pair of cells answers.

use stepwatch_record::CellId;
use stepwatch_record::cell::BUILTIN;
use stepwatch_record::comparison::{ClaimVerdict, JudgedClaim, JudgedPair};
use stepwatch_record::figure::Summary;
use stepwatch_record::run::{Claim, ClaimPair, End, Run};

use crate::looks::Looks;
use crate::ratio::{Ratio, Ratios};
use crate::wording::{count, fine_percent, is_speed, number};

/// How the reason of a pair ends that more rounds can decide.
pub(crate) const OPPOSITE: &str = "and its opposite";

/// How the reason of an unequal pair begins.
pub(crate) const UNEQUAL: &str = "the two differ in more than the claim names";

/// Judges every claim of the run. All intervals hold at once with 1 − `false_alarms`, over the pairs of all claims.
#[must_use]
pub fn judge(run: &Run, summary: &Summary) -> Vec<JudgedClaim> {
    let confidence = confidence(run);
    run.manifest.claims.iter().map(|claim| judge_claim(run, summary, claim, confidence)).collect()
}

/// Confidence of each pair's interval.
#[must_use]
pub fn confidence(run: &Run) -> f64 {
    let pairs: usize = run.manifest.claims.iter().map(|claim| claim.pairs.len()).sum();
    1.0 - run.manifest.policy.false_alarms.clamp(1e-9, 0.5) / pairs.max(1) as f64
}

/// Whether a cell's FP8 arithmetic is emulated: on a CPU its numbers are real and its speed says nothing of a GPU.
#[must_use]
pub fn emulated(run: &Run, cell: &CellId) -> bool {
    let planned = run.manifest.cells.iter().find(|planned| &planned.id == cell);
    let fp8 = |name: &str| {
        planned.and_then(|cell| cell.parameters.get(name)).is_some_and(|value| value.to_string().starts_with("fp8"))
    };
    // A program of the user's own may well run on a GPU while the built-in step does not.
    let builtin = planned.is_some_and(|cell| cell.workload == BUILTIN);
    builtin && run.manifest.backend == "cpu" && (fp8("precision") || fp8("head"))
}

fn judge_claim(run: &Run, summary: &Summary, claim: &Claim, confidence: f64) -> JudgedClaim {
    let ratios = Ratios::new(summary, &claim.metric);
    let pairs: Vec<JudgedPair> =
        claim.pairs.iter().map(|pair| judge_pair(run, summary, claim, pair, &ratios, confidence)).collect();
    let verdict = if pairs.iter().any(|pair| pair.verdict == ClaimVerdict::Refuted) {
        ClaimVerdict::Refuted
    } else if !pairs.is_empty() && pairs.iter().all(|pair| pair.verdict == ClaimVerdict::Confirmed) {
        ClaimVerdict::Confirmed
    } else {
        ClaimVerdict::Undecided
    };
    JudgedClaim {
        text: claim.text.clone(),
        metric: claim.metric.clone(),
        asserts: asserts(claim),
        gate: claim.gate,
        verdict,
        pairs,
    }
}

/// What a claim asserts: `≥ 1.7 ×`, `≤ 0.8 ×`, or both.
fn asserts(claim: &Claim) -> String {
    let bound = |sign: &str, bound: Option<f64>| bound.map(|bound| format!("{sign} {} ×", number(bound)));
    let bounds: Vec<String> = [bound("≥", claim.at_least), bound("≤", claim.at_most)].into_iter().flatten().collect();
    bounds.join(" and ")
}

fn judge_pair(
    run: &Run,
    summary: &Summary,
    claim: &Claim,
    pair: &ClaimPair,
    ratios: &Ratios<'_>,
    confidence: f64,
) -> JudgedPair {
    let judged = |verdict, ratio: Option<Ratio>, why| judged_pair(pair, verdict, ratio, why);
    let undecided = |ratio, why| judged(ClaimVerdict::Undecided, ratio, why);
    let rounds = rounds_of_pair(summary, pair);
    let looks = Looks::of(&run.manifest).map_or(1.0, |looks| looks.share_of_pair(rounds.0, rounds.1));
    let confidence = 1.0 - (1.0 - confidence) * looks;
    if let Some(why) = ended_badly(summary, &pair.of).or_else(|| ended_badly(summary, &pair.over)) {
        return undecided(None, why);
    }
    let ratio = ratios.of(&pair.of, &pair.over, confidence);
    let speaks_against = speaks_against(run, claim, pair);
    if unfinished(summary, &pair.of) || unfinished(summary, &pair.over) {
        let so_far = SoFar { rounds, planned: run.manifest.rounds, confidence };
        return so_far.judge(pair, ratio, ratios, speaks_against);
    }
    if let Some(why) = speaks_against {
        return undecided(ratio.ok(), why);
    }
    let ratio = match ratio {
        Ok(ratio) => ratio,
        Err(why) => return undecided(None, why),
    };
    let at = fine_percent(confidence);
    let (at_least, at_most) = (claim.at_least.unwrap_or(0.0), claim.at_most.unwrap_or(f64::INFINITY));
    if ratio.high < at_least || ratio.low > at_most {
        let why = format!("at {at} the whole interval contradicts {}", asserts(claim));
        judged(ClaimVerdict::Refuted, Some(ratio), why)
    } else if ratio.low >= at_least && ratio.high <= at_most {
        let why = format!("at {at} the whole interval satisfies {}", asserts(claim));
        judged(ClaimVerdict::Confirmed, Some(ratio), why)
    } else {
        undecided(Some(ratio), format!("at {at} the interval holds {} {OPPOSITE}", asserts(claim)))
    }
}

fn judged_pair(pair: &ClaimPair, verdict: ClaimVerdict, ratio: Option<Ratio>, why: String) -> JudgedPair {
    JudgedPair {
        of: pair.of.clone(),
        over: pair.over.clone(),
        verdict,
        ratio: ratio.map(|ratio| ratio.point),
        low: ratio.map(|ratio| ratio.low),
        high: ratio.map(|ratio| ratio.high),
        why,
    }
}

/// Why no number of rounds would decide a pair.
fn speaks_against(run: &Run, claim: &Claim, pair: &ClaimPair) -> Option<String> {
    if !pair.unequal.is_empty() {
        return Some(format!("{UNEQUAL}: {}", pair.unequal.join("; ")));
    }
    let metric = run.manifest.metrics.iter().find(|metric| metric.name == claim.metric);
    let no_speed = metric.is_none_or(is_speed) && (emulated(run, &pair.of) || emulated(run, &pair.over));
    no_speed.then(|| "FP8 is emulated on this CPU: its speed says nothing of a GPU".to_owned())
}

fn rounds_of_pair(summary: &Summary, pair: &ClaimPair) -> (u32, u32) {
    let rounds = |cell: &CellId| summary.cell(cell).map_or(0, |figures| figures.rounds);
    (rounds(&pair.of), rounds(&pair.over))
}

fn ended_badly(summary: &Summary, cell: &CellId) -> Option<String> {
    match summary.cell(cell) {
        None => Some(format!("{cell} is not in this run")),
        Some(figures) => match &figures.end {
            Some(End::Completed) | None => None,
            Some(end) => Some(format!("{cell} ended {}", end.word())),
        },
    }
}

fn unfinished(summary: &Summary, cell: &CellId) -> bool {
    summary.cell(cell).is_some_and(|figures| figures.end.is_none())
}

/// A pair of which planned rounds have no record: undecided whatever its rounds show, since who stops a run after a look at it must
/// not win a claim by that.
struct SoFar {
    /// Completed rounds of the two sides.
    rounds: (u32, u32),
    planned: u32,
    confidence: f64,
}

impl SoFar {
    /// The ratio so far, with its interval where each side has two rounds.
    fn judge(
        &self,
        pair: &ClaimPair,
        ratio: Result<Ratio, String>,
        ratios: &Ratios<'_>,
        speaks_against: Option<String>,
    ) -> JudgedPair {
        let fewest = self.rounds.0.min(self.rounds.1);
        let ratio = ratio.ok().filter(|_| fewest > 1);
        let point = ratios.point(&pair.of, &pair.over);
        let why = speaks_against.unwrap_or_else(|| {
            let rounds = self.rounds();
            match (point, ratio) {
                (Some(_), Some(_)) => format!("so far, at {} ({rounds})", fine_percent(self.confidence)),
                (Some(_), None) if fewest == 1 => format!("so far ({rounds}; no interval from one)"),
                (Some(_), None) => format!("so far ({rounds})"),
                (None, _) => format!("no ratio yet ({rounds})"),
            }
        });
        JudgedPair { ratio: point, ..judged_pair(pair, ClaimVerdict::Undecided, ratio, why) }
    }

    /// `1 of 5 rounds`, `2 and 1 of 5 rounds`.
    fn rounds(&self) -> String {
        let planned = count(self.planned as usize, "round");
        match self.rounds {
            (of, over) if of == over => format!("{of} of {planned}"),
            (of, over) => format!("{of} and {over} of {planned}"),
        }
    }
}
