//! The verdict of a run in one sentence: the worst first, with its numbers.

use stepwatch_record::CellId;
use stepwatch_record::cell::BUILTIN;
use stepwatch_record::comparison::{Change, ClaimVerdict, JudgedClaim, Verdict};
use stepwatch_record::name::Names;
use stepwatch_record::run::{Round, Run};

use crate::claims::emulated;
use crate::compare::{Comparison, OTHER_SIDE_MISSING, ROUNDS_MISSING};
use crate::contest::{self, SPEED};
use crate::findings::Crowd;
use crate::ratio::{Ratio, Ratios};
use crate::wording::{self, change, count, percent, ratio, ratio_range};

/// One sentence without a full stop.
pub(crate) fn headline(
    comparison: &Comparison<'_>,
    changes: &[Change],
    claims: &[JudgedClaim],
    names: &Names,
) -> String {
    let total = comparison.summary.cells.len();
    if total == 0 && changes.is_empty() {
        return "no cells were planned".to_owned();
    }
    bad(comparison, changes, claims, names).unwrap_or_else(|| {
        if comparison.given.is_empty() {
            first_run(comparison, claims, total)
        } else {
            compared(comparison, changes, names)
        }
    })
}

/// What makes the exit code 4, 5 or 3, in that order.
fn bad(comparison: &Comparison<'_>, changes: &[Change], claims: &[JudgedClaim], names: &Names) -> Option<String> {
    let total = comparison.summary.cells.len();
    let wrong: Vec<&Change> = changes.iter().filter(|change| change.verdict == Verdict::NumbersWrong).collect();
    if let Some(first) = wrong.first() {
        return Some(format!(
            "the numbers of {} are wrong: {}: {}",
            of(cells(&wrong).len(), total),
            names.get(&first.cell),
            first.why
        ));
    }
    let regressed = gated(changes, Verdict::Regressed);
    if let Some(worst) = regressed.iter().max_by(|a, b| size(a).total_cmp(&size(b))) {
        let mut text = format!("{} regressed: {}", of(cells(&regressed).len(), total), told(worst, names));
        if let Some(crowd) = Crowd::of(changes, &worst.metric.name, &[Verdict::Regressed]) {
            let together = format!(" regressed together ({} in the middle, one event), most of all ", {
                change(&worst.metric, crowd.middle())
            });
            text = text.replacen(" regressed: ", &together, 1);
        } else if cells(&regressed).len() > 1 {
            text = text.replacen(" regressed: ", " regressed, most of all ", 1);
        }
        return Some(text);
    }
    if let Some(claim) = claims.iter().find(|claim| claim.gate && claim.verdict == ClaimVerdict::Refuted) {
        return Some(format!("a claim that gates is refuted: “{}”{}", claim.text, measured(claim)));
    }
    let lost: Vec<&Change> = changes
        .iter()
        .filter(|change| change.gated && matches!(change.verdict, Verdict::Failed | Verdict::Missing))
        .collect();
    lost_cells(comparison, changes, &lost, names)
}

/// What makes the exit code 3: cells that failed or are missing; or a run that was not finished, where that is all.
fn lost_cells(comparison: &Comparison<'_>, changes: &[Change], lost: &[&Change], names: &Names) -> Option<String> {
    let first = lost.first()?;
    let planned =
        comparison.summary.cells.len() + changes.iter().filter(|change| change.reason == "not-planned").count();
    let word =
        if lost.iter().all(|change| change.verdict == Verdict::Missing) { "missing" } else { "failed or missing" };
    let word = if lost.iter().all(|change| change.verdict == Verdict::Failed) { "failed" } else { word };
    let lost_of = of(cells(lost).len(), planned);
    let verb = if cells(lost).len() == 1 { "is" } else { "are" };
    let verb = if word == "failed" { String::new() } else { format!("{verb} ") };
    let rest = match comparison.given.is_empty() {
        true => "",
        // Of no other cell there is anything to say.
        false if cells(lost).len() == planned => "",
        false if gated(changes, Verdict::KnownRegressed).is_empty() => "; no regression in the others",
        false => "; no new regression in the others",
    };
    if lost.iter().all(|change| [ROUNDS_MISSING, OTHER_SIDE_MISSING].contains(&change.reason.as_str())) {
        let rounds = recorded_of_planned(comparison.run);
        return Some(format!("the run was not finished: {rounds} ({lost_of} {verb}missing rounds){rest}"));
    }
    Some(format!("{lost_of} {verb}{word}: {}: {}{rest}", names.get(&first.cell), first.why))
}

/// `27 of 120 planned rounds are recorded`: of all cells, both sides of a run that has two; extra rounds are none of the plan.
fn recorded_of_planned(run: &Run) -> String {
    let planned = run.manifest.cells.len() * run.manifest.rounds as usize;
    let is_planned = |round: &&Round| round.record.round.is_some_and(|number| number < run.manifest.rounds);
    let recorded = run.rounds.iter().filter(is_planned).count();
    format!("{recorded} of {} {} recorded", count(planned, "planned round"), if planned == 1 { "is" } else { "are" })
}

/// A run without a reference: what it showed by itself, and what to do next.
fn first_run(comparison: &Comparison<'_>, claims: &[JudgedClaim], total: usize) -> String {
    let mut parts: Vec<String> = fp8_at_best(comparison).into_iter().collect();
    parts.push(format!("{} measured", count(total, "cell")));
    let of_verdict = |verdict| claims.iter().filter(|claim| claim.verdict == verdict).collect::<Vec<_>>();
    let refuted = of_verdict(ClaimVerdict::Refuted);
    if let [claim] = refuted[..] {
        parts.push(format!("“{}” is refuted{}", claim.text, measured(claim)));
    } else if !refuted.is_empty() {
        parts.push(format!("{} refuted", count(refuted.len(), "claim")));
    }
    for (verdict, word) in [(ClaimVerdict::Confirmed, "confirmed"), (ClaimVerdict::Undecided, "undecided")] {
        let claims = of_verdict(verdict).len();
        if claims > 0 {
            parts.push(if refuted.len() > 1 {
                format!("{claims} {word}")
            } else {
                format!("{} {word}", count(claims, "claim"))
            });
        }
    }
    if comparison.summary.cells.iter().any(|cell| emulated(comparison.run, &cell.cell.id)) {
        parts.push("FP8 is emulated on this CPU, so no speed claim is drawn".to_owned());
    }
    parts.push("no reference yet".to_owned());
    parts.join("; ")
}

/// What people ask of a study: the fastest FP8 over the fastest BF16, by program; over how many models and batches, if several.
fn fp8_at_best(comparison: &Comparison<'_>) -> Option<String> {
    let ratios = Ratios::new(comparison.summary, SPEED);
    let mut programs: Vec<(&str, Vec<Ratio>)> = Vec::new();
    for contest in &contest::all(comparison.run, comparison.summary) {
        let Some(ratio) = contest.fp8_over_bf16(&ratios) else { continue };
        match programs.iter_mut().find(|(program, _)| *program == contest.workload()) {
            Some((_, found)) => found.push(ratio),
            None => programs.push((contest.workload(), vec![ratio])),
        }
    }
    let said = |(program, found): &(&str, Vec<Ratio>)| {
        let with = if *program == BUILTIN { String::new() } else { format!(" with {program}") };
        match found[..] {
            [Ratio { point, low, high }] => {
                format!("{} × BF16{with} ({})", ratio(point), ratio_range(low, high))
            }
            _ => {
                let (low, high) = found
                    .iter()
                    .fold((f64::INFINITY, 0.0_f64), |(low, high), ratio| (low.min(ratio.point), high.max(ratio.point)));
                format!("{} × BF16{with} over {} models and batches", ratio_range(low, high), found.len())
            }
        }
    };
    let said: Vec<String> = programs.iter().map(said).collect();
    (!said.is_empty()).then(|| format!("FP8 is at best {}", said.join(", ")))
}

/// A run that was compared and has nothing red.
fn compared(comparison: &Comparison<'_>, changes: &[Change], names: &Names) -> String {
    let total = comparison.summary.cells.len();
    let of_verdict = |verdict| cells(&gated(changes, verdict)).len();
    let incomparable = of_verdict(Verdict::Incomparable);
    if incomparable > 0 && incomparable == total {
        return format!("not compared: {}", comparison.obstacles.join("; "));
    }
    let unchanged = of_verdict(Verdict::Unchanged);
    // What is waived is no news, and still no absence of a regression.
    let new = if of_verdict(Verdict::KnownRegressed) > 0 { "new " } else { "" };
    let blind: Vec<&Change> = changes.iter().filter(|change| change.gated && change.blind).collect();
    if !blind.is_empty() {
        let detect = percent(comparison.run.manifest.policy.detect);
        return format!(
            "no {new}regression was seen, but {} could not have shown one of {detect}: measure {}",
            of(cells(&blind).len(), total),
            if comparison.paired { "more pairs of rounds" } else { "more rounds or accept more runs" }
        );
    }
    let others = [
        Verdict::Improved,
        Verdict::KnownRegressed,
        Verdict::Undecided,
        Verdict::Incomparable,
        Verdict::New,
        Verdict::Skipped,
    ];
    let mut parts: Vec<String> = others
        .into_iter()
        .filter(|verdict| of_verdict(*verdict) > 0)
        .map(|verdict| format!("{} {}", of_verdict(verdict), verdict.word()))
        .collect();
    if parts.is_empty() {
        return if total == 1 { "the cell is unchanged".to_owned() } else { format!("all {total} cells unchanged") };
    }
    let improved = gated(changes, Verdict::Improved);
    if let Some(best) = improved.iter().max_by(|a, b| size(a).total_cmp(&size(b))) {
        parts[0] = format!("{} improved: {}", of(cells(&improved).len(), total), told(best, names));
    }
    // A cell whose metrics differ in verdict is named under each; only whole cells are called unchanged.
    let other_cells: Vec<&Change> = changes.iter().filter(|c| c.gated && others.contains(&c.verdict)).collect();
    let wholly = total.saturating_sub(cells(&other_cells).len()).min(unchanged);
    if wholly > 0 {
        parts.push(format!("{wholly} unchanged"));
    }
    format!("no {new}regression: {}", parts.join(", "))
}

fn gated(changes: &[Change], verdict: Verdict) -> Vec<&Change> {
    changes.iter().filter(|change| change.gated && change.verdict == verdict).collect()
}

/// The distinct cells of some changes, in order.
fn cells<'change>(changes: &[&'change Change]) -> Vec<&'change CellId> {
    let mut ids: Vec<&CellId> = Vec::new();
    for change in changes {
        if !ids.contains(&&change.cell) {
            ids.push(&change.cell);
        }
    }
    ids
}

fn of(part: usize, total: usize) -> String {
    format!("{part} of {}", count(total, "cell"))
}

fn size(change: &Change) -> f64 {
    change.effect.map_or(0.0, f64::abs)
}

/// `X is 2.3 % slower (1.9…2.7 %)`; `X takes 5.0 % more peak memory (…)`.
fn told(shift: &Change, names: &Names) -> String {
    let words = change(&shift.metric, shift.effect.unwrap_or(0.0));
    let verb = if words.ends_with("slower") || words.ends_with("faster") { "is" } else { "has" };
    format!("{} {verb} {}", names.get(&shift.cell), wording::told(shift).unwrap_or(words))
}

/// `, measured 1.18 × instead of ≥ 1.7 ×` for a claim with one refuted pair; the first where there are several.
fn measured(claim: &JudgedClaim) -> String {
    let pair = claim.pairs.iter().find(|pair| pair.verdict == ClaimVerdict::Refuted);
    let ratio = pair.and_then(|pair| pair.ratio);
    ratio.map_or_else(String::new, |ratio| {
        format!(", measured {} × where it says {}", wording::ratio(ratio), claim.asserts)
    })
}
