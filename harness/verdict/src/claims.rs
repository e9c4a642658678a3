//! Claims judged: a scenario says that one side is so many times the other, and every pair of cells answers.

use stepwatch_record::CellId;
use stepwatch_record::comparison::{ClaimVerdict, JudgedClaim, JudgedPair};
use stepwatch_record::figure::Summary;
use stepwatch_record::run::{Claim, ClaimPair, End, Run};

use crate::looks::Looks;
use crate::ratio::{Ratio, Ratios};
use crate::wording::{fine_percent, is_speed, number};

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
    let builtin = planned.is_some_and(|cell| cell.workload == "builtin");
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
    let judged = |verdict, ratio: Option<Ratio>, why| JudgedPair {
        of: pair.of.clone(),
        over: pair.over.clone(),
        verdict,
        ratio: ratio.map(|ratio| ratio.point),
        low: ratio.map(|ratio| ratio.low),
        high: ratio.map(|ratio| ratio.high),
        why,
    };
    let undecided = |ratio, why| judged(ClaimVerdict::Undecided, ratio, why);
    let rounds = |cell: &CellId| summary.cell(cell).map_or(0, |figures| figures.rounds);
    let looks = Looks::of(&run.manifest).map_or(1.0, |looks| looks.share_of_pair(rounds(&pair.of), rounds(&pair.over)));
    let confidence = 1.0 - (1.0 - confidence) * looks;
    if let Some(why) = not_completed(summary, &pair.of).or_else(|| not_completed(summary, &pair.over)) {
        return undecided(None, why);
    }
    let ratio = ratios.of(&pair.of, &pair.over, confidence);
    if !pair.unequal.is_empty() {
        let why = format!("{UNEQUAL}: {}", pair.unequal.join("; "));
        return undecided(ratio.ok(), why);
    }
    let metric = run.manifest.metrics.iter().find(|metric| metric.name == claim.metric);
    if metric.is_none_or(is_speed) && (emulated(run, &pair.of) || emulated(run, &pair.over)) {
        return undecided(ratio.ok(), "FP8 is emulated on this CPU: its speed says nothing of a GPU".to_owned());
    }
    let ratio = match ratio {
        Ok(ratio) => ratio,
        Err(why) => return undecided(None, why),
    };
    let measured = format!(
        "{} × ({}…{} at {})",
        number(ratio.point),
        number(ratio.low),
        number(ratio.high),
        fine_percent(confidence)
    );
    let (at_least, at_most) = (claim.at_least.unwrap_or(0.0), claim.at_most.unwrap_or(f64::INFINITY));
    if ratio.high < at_least || ratio.low > at_most {
        let why = format!("measured {measured}: the whole interval contradicts {}", asserts(claim));
        judged(ClaimVerdict::Refuted, Some(ratio), why)
    } else if ratio.low >= at_least && ratio.high <= at_most {
        let why = format!("measured {measured}: the whole interval satisfies {}", asserts(claim));
        judged(ClaimVerdict::Confirmed, Some(ratio), why)
    } else {
        undecided(Some(ratio), format!("measured {measured}: the interval holds {} and its opposite", asserts(claim)))
    }
}

fn not_completed(summary: &Summary, cell: &CellId) -> Option<String> {
    match summary.cell(cell) {
        None => Some(format!("{cell} is not in this run")),
        Some(figures) => match &figures.end {
            Some(End::Completed) => None,
            Some(end) => Some(format!("{cell} ended {}", end.word())),
            None => Some(format!("{cell} lacks rounds")),
        },
    }
}
