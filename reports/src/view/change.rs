//! Changes, claims and findings as rows of text beside the raw numbers they were made from.

use std::collections::BTreeMap;

use serde::Serialize;
use stepwatch_record::comparison::{Change, JudgedClaim, Verdict};
use stepwatch_record::finding::{Finding, Kind};

use super::Links;
use super::column::Column;
use super::mark::{Mark, Tone};
use crate::clean;
use crate::format::{self, Hint, Scale};

/// The change of one metric of one cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChangeView {
    /// The cell's id.
    pub cell: String,
    /// What people call it.
    pub name: String,
    /// Where the page shows that cell; empty if this run does not have it.
    pub anchor: String,
    /// The metric's name.
    pub metric: String,
    /// Other metrics of which the very same can be said, since they are multiples of this one.
    pub so_too: Vec<String>,
    /// All cells that miss the very same for the very same reason, itself among them; empty if it is the only one.
    pub together: Vec<Measured>,
    /// Whether another row says the very same, of another metric of the cell or of other cells: lists for people leave it out.
    pub repeats: bool,
    /// Whether it can fail the run.
    pub gated: bool,
    /// The verdict.
    pub mark: Mark,
    /// The reason code.
    pub reason: String,
    /// The reason in words.
    pub why: String,
    /// Relative change, or `–`.
    pub effect: String,
    /// Its adjusted interval, or empty.
    pub interval: String,
    /// The confidence of that interval, or empty.
    pub confidence: String,
    /// The smallest worsening it could have seen, or empty.
    pub detectable: String,
    /// Whether it could not have seen what the policy must detect.
    pub blind: bool,
    /// Rounds in total that would decide, where undecided.
    pub rounds_to_decide: Option<u32>,
    /// The figure of this run with its unit, or `–`.
    pub value: String,
    /// The figure of the reference with its unit, or `–`.
    pub reference_value: String,
    /// The verdict itself, for sorting and counting.
    #[serde(skip)]
    pub verdict: Verdict,
    /// The numbers behind the texts.
    #[serde(skip)]
    pub raw: Change,
}

/// A cell that is named in the row of another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The cell.
    pub cell: Link,
    /// What it measured so far with its unit, or `–`.
    pub value: String,
}

impl ChangeView {
    /// Whether it is said of another metric too, to all digits that numbers have. What fails a run is said by itself.
    fn says_the_same_as(&self, other: &Self) -> bool {
        /// Of numbers made on the log scale from multiples.
        const SAME: f64 = 1e-9;
        let numbers = |view: &Self| Some([view.raw.effect?, view.raw.low?, view.raw.high?]);
        let (Some(own), Some(others)) = (numbers(self), numbers(other)) else { return false };
        !self.gated
            && (self.verdict, self.blind, &self.reason) == (other.verdict, other.blind, &other.reason)
            && own.iter().zip(others).all(|(one, two)| (one - two).abs() < SAME)
    }

    /// What people call the cell; of several that share the row, how many they are.
    #[must_use]
    pub fn cells(&self) -> String {
        match self.together.len() {
            0 => self.name.clone(),
            cells => format::count(cells, "cell", "cells"),
        }
    }

    /// The names of the cells that share the row; empty if it has one cell.
    #[must_use]
    pub fn named(&self) -> String {
        format::some_of(self.together.iter().map(|measured| measured.cell.name.as_str()))
    }

    /// The metric, with those of which the same is said.
    #[must_use]
    pub fn metrics(&self) -> String {
        if self.so_too.is_empty() {
            return self.metric.clone();
        }
        format!("{} (so too {})", self.metric, self.so_too.join(", "))
    }

    /// Whether it is for every reader: it speaks of a gated metric, or it is more than a doubt.
    #[must_use]
    fn concerns_all(&self) -> bool {
        self.gated || self.blind || self.verdict != Verdict::Undecided
    }

    /// One line for people: the effect with its interval, or the reason where there is no effect.
    #[must_use]
    pub fn in_short(&self) -> String {
        if self.raw.effect.is_none() {
            return self.why.clone();
        }
        if self.interval.is_empty() { self.effect.clone() } else { format!("{} ({})", self.effect, self.interval) }
    }
}

/// What of the changes is worth a line where lines are few, and one for all doubts about metrics that only inform: the page has each.
pub(crate) fn loud(changes: &[ChangeView]) -> (Vec<&ChangeView>, Option<String>) {
    let loud = changes.iter().filter(|change| (change.mark.tone <= Tone::Good || change.blind) && !change.repeats);
    let (shown, doubts): (Vec<_>, Vec<_>) = loud.partition(|change| change.concerns_all());
    let mut metrics: Vec<&str> = doubts.iter().map(|change| change.metric.as_str()).collect();
    metrics.sort_unstable();
    metrics.dedup();
    let rest = (!doubts.is_empty()).then(|| {
        let what = format::count(doubts.len(), "change", "changes");
        format!("{what} of metrics that inform: {}", metrics.join(", "))
    });
    (shown, rest)
}

/// Changes, most important first: by verdict, gated before others, blind before seeing, then the largest effect.
pub(crate) fn changes(changes: &[Change], columns: &[Column], links: &Links) -> Vec<ChangeView> {
    let mut views: Vec<ChangeView> = changes.iter().map(|change| change_view(change, columns, links)).collect();
    let size = |view: &ChangeView| view.raw.effect.map_or(0.0, f64::abs);
    views.sort_by(|a, b| {
        let rank = |view: &ChangeView| (view.verdict, !view.gated, !view.blind);
        rank(a).cmp(&rank(b)).then_with(|| size(b).total_cmp(&size(a)))
    });
    note_repeats(&mut views);
    fold_missing(&mut views);
    views
}

/// Cells that miss the same for the same reason, such as those that a run did not come to, are said in one row.
fn fold_missing(views: &mut [ChangeView]) {
    let mut alike: BTreeMap<(String, String, String), Vec<usize>> = BTreeMap::new();
    for (at, view) in views.iter().enumerate().filter(|(_, view)| view.verdict == Verdict::Missing && !view.repeats) {
        alike.entry((view.metric.clone(), view.reason.clone(), view.why.clone())).or_default().push(at);
    }
    for group in alike.into_values().filter(|group| group.len() > 1) {
        let measured = |at: &usize| {
            let view = &views[*at];
            let cell = Link { cell: view.cell.clone(), name: view.name.clone(), anchor: view.anchor.clone() };
            Measured { cell, value: view.value.clone() }
        };
        let together = group.iter().map(measured).collect();
        group[1..].iter().for_each(|at| views[*at].repeats = true);
        views[group[0]].together = together;
    }
}

/// Metrics that are multiples of each other, such as tokens a second and `mfu`, are said once.
fn note_repeats(views: &mut [ChangeView]) {
    let mut of_cell: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for at in 0..views.len() {
        let before = of_cell.entry(views[at].cell.clone()).or_default();
        match before.iter().find(|first| views[at].says_the_same_as(&views[**first])) {
            Some(&first) => {
                let metric = views[at].metric.clone();
                views[first].so_too.push(metric);
                views[at].repeats = true;
            }
            None => before.push(at),
        }
    }
}

fn change_view(change: &Change, columns: &[Column], links: &Links) -> ChangeView {
    let unit = clean::line(&change.metric.unit);
    let hint = Hint::of(&change.metric.name, &unit);
    let column = columns.iter().find(|column| column.name == change.metric.name);
    let value = |value: Option<f64>| match (value, column) {
        (None, _) => "–".to_owned(),
        (Some(value), Some(column)) => column.scale.with_unit(value),
        (Some(value), None) => Scale::new(hint, &unit, value).with_unit(value),
    };
    ChangeView {
        cell: clean::line(&change.cell.0),
        name: links.name(&change.cell),
        anchor: links.anchor(&change.cell),
        metric: clean::line(&change.metric.name),
        so_too: Vec::new(),
        together: Vec::new(),
        repeats: false,
        gated: change.gated,
        mark: Mark::of_verdict(change.verdict),
        reason: clean::line(&change.reason),
        why: clean::line(&change.why),
        effect: change.effect.map_or_else(|| "–".into(), format::change),
        interval: change.low.zip(change.high).map_or_else(String::new, |(l, h)| format::change_interval(l, h)),
        confidence: change.confidence.map_or_else(String::new, format::confidence),
        detectable: change.detectable.map_or_else(String::new, format::share),
        blind: change.blind,
        rounds_to_decide: change.rounds_to_decide,
        value: value(change.value),
        reference_value: value(change.reference_value),
        verdict: change.verdict,
        raw: change.clone(),
    }
}

/// A pair of cells that a claim was judged on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairView {
    /// The first side's id and where the page shows it.
    pub of: Link,
    /// The second side's.
    pub over: Link,
    /// The verdict on this pair.
    pub mark: Mark,
    /// The ratio, or `–`.
    pub ratio: String,
    /// Its interval, or empty.
    pub interval: String,
    /// Ratio with the ends of its interval, where there are any.
    pub numbers: Option<[f64; 3]>,
    /// Why, in words.
    pub why: String,
}

/// A cell's id and name with the anchor of its place in the page (empty if it has none).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Link {
    /// The cell's id.
    pub cell: String,
    /// What people call it.
    pub name: String,
    /// The anchor.
    pub anchor: String,
}

/// A claim with its verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClaimView {
    /// The claim in words.
    pub text: String,
    /// The metric it speaks of.
    pub metric: String,
    /// What it asserts.
    pub asserts: String,
    /// Whether refuting it fails the run.
    pub gate: bool,
    /// The verdict.
    pub mark: Mark,
    /// The pairs.
    pub pairs: Vec<PairView>,
}

pub(crate) fn claims(claims: &[JudgedClaim], links: &Links) -> Vec<ClaimView> {
    let pair = |pair: &stepwatch_record::comparison::JudgedPair, gate| PairView {
        of: links.link(&pair.of),
        over: links.link(&pair.over),
        mark: Mark::of_claim(pair.verdict, gate),
        ratio: pair.ratio.map_or_else(|| "–".into(), format::ratio),
        interval: pair.low.zip(pair.high).map_or_else(String::new, |(l, h)| format::ratio_interval(l, h)),
        numbers: pair.ratio.zip(pair.low.zip(pair.high)).map(|(ratio, (low, high))| [ratio, low, high]),
        why: clean::line(&pair.why),
    };
    claims
        .iter()
        .map(|claim| ClaimView {
            text: clean::line(&claim.text),
            metric: clean::line(&claim.metric),
            asserts: clean::line(&claim.asserts),
            gate: claim.gate,
            mark: Mark::of_claim(claim.verdict, claim.gate),
            pairs: claim.pairs.iter().map(|p| pair(p, claim.gate)).collect(),
        })
        .collect()
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FindingView {
    /// Its kind, as in the contract.
    pub kind: String,
    /// How much it matters.
    pub severity: Mark,
    /// The conclusion.
    pub sentence: String,
    /// The numbers behind it.
    pub evidence: Vec<String>,
    /// What to do next; empty if nothing.
    pub next_step: String,
    /// The command that does it; empty where it takes more than a command.
    pub command: String,
    /// The cells it speaks of.
    pub cells: Vec<Link>,
    /// Whether it speaks of the machine rather than of the code.
    pub machine: bool,
}

pub(crate) fn findings(findings: &[Finding], links: &Links) -> Vec<FindingView> {
    findings
        .iter()
        .map(|finding| FindingView {
            kind: kind_word(finding.kind),
            severity: Mark::of_severity(finding.severity),
            sentence: clean::line(&finding.sentence),
            evidence: finding.evidence.iter().map(|line| clean::line(line)).collect(),
            next_step: clean::line(&finding.next_step),
            command: clean::line(&finding.command),
            cells: finding.cells.iter().map(|cell| links.link(cell)).collect(),
            machine: speaks_of_the_machine(finding.kind),
        })
        .collect()
}

/// The kind's word as the contract spells it: its serialised form.
fn kind_word(kind: Kind) -> String {
    serde_json::to_value(kind).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn speaks_of_the_machine(kind: Kind) -> bool {
    match kind {
        Kind::PowerCapped
        | Kind::ThermalThrottle
        | Kind::ForeignProcess
        | Kind::GpuErrors
        | Kind::MachineDrift
        | Kind::MachineShift
        | Kind::TwoLibraryVersions
        | Kind::NotSteady
        | Kind::Noisy => true,
        Kind::Fp8SlowerThanBf16
        | Kind::ClaimRefuted
        | Kind::UnequalComparison
        | Kind::SizeLabelWrong
        | Kind::NoFp8Linears
        | Kind::LaunchBound
        | Kind::CommonShift
        | Kind::AlgorithmChanged
        | Kind::Emulated
        | Kind::NotApplied
        | Kind::WhatPassesBring
        | Kind::Fastest => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::view::View;

    #[test]
    fn a_metric_that_is_a_multiple_of_another_is_said_with_it() {
        let (run, summary, mut conclusion) = example::study();
        let regressed = conclusion.changes.iter().position(|change| change.verdict == Verdict::Regressed).unwrap();
        let more = |name: &str, effect: f64| {
            let mut change = conclusion.changes[regressed].clone();
            change.metric.name = name.into();
            (change.gated, change.effect) = (false, Some(effect));
            change
        };
        let effect = conclusion.changes[regressed].effect.unwrap();
        let added = [more("mfu", effect), more("step_seconds_tail", effect - 0.001)];
        conclusion.changes.extend(added);
        let view = View::new(&run, &summary, &conclusion);
        let of =
            |metric: &str| view.changes.iter().find(|c| c.metric == metric && c.verdict == Verdict::Regressed).unwrap();
        assert!(of("mfu").repeats && !of("step_seconds_tail").repeats);
        let first = view.changes.iter().find(|change| change.so_too == ["mfu"]).unwrap();
        assert!(first.gated && first.metrics().ends_with(" (so too mfu)"), "{}", first.metrics());
        // What fails the run is never folded away, and another cell's equal change is its own.
        assert!(view.changes.iter().filter(|change| change.gated).all(|change| !change.repeats));
        assert_eq!(view.changes.iter().filter(|change| change.repeats).count(), 1);
    }

    #[test]
    fn doubts_about_metrics_that_inform_share_a_line() {
        let (run, summary, mut conclusion) = example::study();
        let told = |conclusion: &_| {
            let view = View::new(&run, &summary, conclusion);
            let (shown, doubts) = loud(&view.changes);
            (shown.iter().filter(|change| change.verdict == Verdict::Undecided).count(), doubts)
        };
        let (gated, none) = told(&conclusion);
        assert!(gated > 0 && none.is_none(), "{none:?}");
        let undecided = conclusion.changes.iter_mut().find(|change| change.verdict == Verdict::Undecided).unwrap();
        (undecided.gated, undecided.blind) = (false, false);
        let doubts = format!("1 change of metrics that inform: {}", undecided.metric.name);
        assert_eq!(told(&conclusion), (gated - 1, Some(doubts.clone())));
        let view = View::new(&run, &summary, &conclusion);
        for page in [crate::text::render(&view, false), crate::markdown::render(&view)] {
            assert!(page.replace('\\', "").contains(&doubts), "{page}");
        }
    }
}
