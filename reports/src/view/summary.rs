//! The top of the report: the verdict, how many cells have which, what was compared with, and what to do now.

use serde::Serialize;
use stepwatch_record::RunManifest;
use stepwatch_record::comparison::{Conclusion, Verdict};
use stepwatch_record::finding::Kind;

use super::cell::CellView;
use super::change::{ChangeView, FindingView};
use super::mark::{BLIND, MISSING, Mark, Tone};
use crate::clean;
use crate::format;

/// The verdict of the run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// One sentence.
    pub headline: String,
    /// How loud it is.
    pub tone: Tone,
    /// The glyph before it.
    pub glyph: &'static str,
    /// The exit code it asks for.
    pub exit_code: i32,
    /// What that exit code means.
    pub exit: &'static str,
}

/// How many cells have a verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Count {
    /// The verdict.
    pub mark: Mark,
    /// How many cells.
    pub cells: usize,
}

/// What the run was compared with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReferenceView {
    /// One sentence: how many runs, and where they came from; or that there are none.
    pub sentence: String,
    /// The reference runs' ids, newest first.
    pub runs: Vec<String>,
    /// What differs, one line each.
    pub differences: Vec<String>,
    /// The command that makes this run a reference; empty if there is one already.
    pub accept: String,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NextStep {
    /// What and why.
    pub text: String,
    /// The command that does it; empty if it takes more than a command.
    pub command: String,
}

pub(crate) fn outcome(conclusion: &Conclusion) -> Outcome {
    let compared = !conclusion.reference.runs.is_empty();
    let (tone, glyph, exit) = match conclusion.exit_code {
        0 if compared => (Tone::Good, "●", "nothing is worse"),
        0 => (Tone::Calm, "●", "measured; nothing was compared"),
        3 => (Tone::Bad, "✕", "cells failed or are missing"),
        4 => (Tone::Bad, "✕", "numbers are wrong"),
        5 => (Tone::Bad, "▼", "a regression, or a gating claim refuted"),
        6 => (Tone::Warn, "◌", "a gated cell is blind or incomparable"),
        _ => (Tone::Warn, "!", "the run did not end as planned"),
    };
    Outcome { headline: clean::line(&conclusion.headline), tone, glyph, exit_code: conclusion.exit_code, exit }
}

/// Cells by mark, loudest first; `missing` and `blind` are said even when they are 0.
pub(crate) fn counts(cells: &[CellView], changes: &[ChangeView]) -> Vec<Count> {
    let mut counts: Vec<Count> = Vec::new();
    let mut add = |mark: Mark| match counts.iter_mut().find(|count| count.mark == mark) {
        Some(count) => count.cells += 1,
        None => counts.push(Count { mark, cells: 1 }),
    };
    cells.iter().for_each(|cell| add(cell.mark));
    // Cells that only the reference has: one each, however many metrics they miss.
    let mut gone: Vec<&str> = changes.iter().filter(|c| c.anchor.is_empty()).map(|c| c.cell.as_str()).collect();
    gone.sort_unstable();
    gone.dedup();
    gone.iter().for_each(|_| add(Mark::of_verdict(Verdict::Missing)));
    if !counts.iter().any(|count| count.mark.word == MISSING.word) {
        counts.push(Count { mark: Mark { tone: Tone::Mute, ..MISSING }, cells: 0 });
    }
    counts.sort_by_key(|count| (count.mark.tone, count.mark.word));
    let blind = cells.iter().filter(|cell| cell.blind).count();
    let mark = if blind == 0 { Mark { tone: Tone::Mute, ..BLIND } } else { BLIND };
    counts.push(Count { mark, cells: blind });
    counts
}

/// Whether the conclusion found FP8 cells that were emulated.
pub(crate) fn emulated(conclusion: &Conclusion) -> Option<String> {
    conclusion.findings.iter().any(|finding| finding.kind == Kind::Emulated).then(|| {
        "FP8 is emulated here: numbers are real, speed says nothing; no speed conclusion is drawn about FP8.".into()
    })
}

pub(crate) fn reference(manifest: &RunManifest, conclusion: &Conclusion) -> ReferenceView {
    let reference = &conclusion.reference;
    let origin = clean::line(&reference.origin);
    let runs: Vec<String> = reference.runs.iter().map(|run| clean::line(run)).collect();
    let sentence = match (runs.len(), origin.as_str()) {
        (0, "") => "There is no accepted run to compare with yet.".to_owned(),
        (0, origin) => format!("Nothing to compare with ({origin})."),
        (n, "") => format!("Compared with {}.", format::count(n, "run", "runs")),
        (n, origin) => format!("Compared with {} ({origin}).", format::count(n, "run", "runs")),
    };
    ReferenceView {
        // A run with holes, failures or wrong numbers is no reference.
        accept: if runs.is_empty() && acceptable(conclusion) { accept(manifest) } else { String::new() },
        sentence,
        runs,
        differences: reference.differences.iter().map(|line| clean::line(line)).collect(),
    }
}

fn run_path(manifest: &RunManifest) -> String {
    clean::shell_word(&format!("runs/{}/{}", clean::line(&manifest.scenario), clean::line(&manifest.id)))
}

/// Whether nothing stands against making the run a reference.
const fn acceptable(conclusion: &Conclusion) -> bool {
    matches!(conclusion.exit_code, 0 | 6)
}

fn accept(manifest: &RunManifest) -> String {
    format!("stepwatch baseline accept {} --reason 'first reference'", run_path(manifest))
}

/// What findings ask for, each thing once: the most severe first, and among equals what to train with.
fn steps_of(findings: &[FindingView]) -> Vec<NextStep> {
    let mut asking: Vec<&FindingView> = findings.iter().filter(|finding| !finding.next_step.is_empty()).collect();
    asking.sort_by_key(|finding| (finding.severity.tone, finding.kind != "fastest"));
    let mut steps: Vec<NextStep> = Vec::new();
    for finding in asking {
        if !steps.iter().any(|step| step.text == finding.next_step) {
            steps.push(NextStep { text: finding.next_step.clone(), command: finding.command.clone() });
        }
    }
    steps
}

/// The command that makes the run again with so many rounds: of the same cells, and against the same other side.
fn again(manifest: &RunManifest, rounds: u32) -> String {
    let asked = &manifest.asked;
    let other = asked.against.as_ref().map(|against| &against.name);
    let options = [("--filter", asked.filter.as_ref()), ("--backend", asked.backend.as_ref()), ("--against", other)];
    let mut command = format!("stepwatch run {}", clean::shell_word(&clean::line(&manifest.scenario_file)));
    for (option, value) in options {
        if let Some(value) = value {
            command.push_str(&format!(" {option} {}", clean::shell_word(&clean::line(value))));
        }
    }
    format!("{command} --rounds {rounds}")
}

/// Holes first, then what findings ask for, then what would settle doubt, then the baseline.
pub(crate) fn next_steps(
    manifest: &RunManifest,
    conclusion: &Conclusion,
    cells: &[CellView],
    changes: &[ChangeView],
    findings: &[FindingView],
) -> Vec<NextStep> {
    let mut steps = Vec::new();
    let missing = cells.iter().filter(|cell| cell.mark.word == MISSING.word).count();
    if missing > 0 {
        steps.push(NextStep {
            text: format!("Measure what is missing: {}.", format::count(missing, "cell", "cells")),
            command: format!("stepwatch run --resume {}", run_path(manifest)),
        });
    }
    let broken = cells.iter().filter(|cell| cell.mark.tone == Tone::Bad && cell.end.mark.tone == Tone::Bad);
    for cell in broken.filter(|cell| cell.mark.word != MISSING.word).take(3) {
        let text = format!("{} {}: {}", cell.name, cell.end.mark.word, cell.end.reason);
        steps.push(NextStep { text, command: cell.command.clone() });
    }
    let regressed = changes.iter().filter(|change| change.gated && change.verdict == Verdict::Regressed);
    for change in regressed.take(3) {
        let (run, cell) = (run_path(manifest), clean::shell_word(&change.cell));
        let text = format!("See why {} regressed by {}.", change.name, change.in_short());
        steps.push(NextStep { text, command: format!("stepwatch explain {run} {cell}") });
    }
    steps.extend(steps_of(findings).into_iter().take(4));
    let undecided = changes.iter().filter(|change| change.gated && change.verdict == Verdict::Undecided);
    if let Some(rounds) = undecided.filter_map(|change| change.rounds_to_decide).max() {
        steps.push(NextStep {
            text: format!("Settle what is undecided with {rounds} rounds."),
            command: again(manifest, rounds),
        });
    }
    if acceptable(conclusion) && conclusion.reference.runs.is_empty() && steps.len() < 6 {
        steps.push(NextStep {
            text: "Accept this run as the reference, so that the next one is compared with it.".into(),
            command: accept(manifest),
        });
    }
    steps
}

#[cfg(test)]
mod tests {
    use stepwatch_record::against::Against;

    use super::*;

    #[test]
    fn what_settles_doubt_measures_the_same_cells_against_the_same_side() {
        let (mut run, ..) = crate::example::study();
        assert_eq!(again(&run.manifest, 9), "stepwatch run scenarios/fp8-study.toml --rounds 9");
        run.manifest.asked.filter = Some("precision=bf16|fp8-delayed".into());
        run.manifest.asked.backend = Some("cuda".into());
        run.manifest.asked.against = Some(Against { name: "old build".into(), binary: None, pairs: Vec::new() });
        let told = "stepwatch run scenarios/fp8-study.toml --filter 'precision=bf16|fp8-delayed' --backend cuda --against \
                    'old build' --rounds 7";
        assert_eq!(again(&run.manifest, 7), told);
    }
}
