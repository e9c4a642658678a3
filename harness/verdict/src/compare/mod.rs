//! A verdict per cell and metric: every planned cell, and every cell the reference has, ends in exactly one place. Nothing is
//! green that was not compared.

mod canary;
mod cause;
mod decide;
mod effect;
mod estimate;
mod machine;
mod words;

use stepwatch_record::CellId;
use stepwatch_record::comparison::{Change, Verdict};
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::run::{Better, End, Metric, Run};

pub use canary::{Canary, Shift};
pub use decide::{Decision, POWER, decide};
pub use effect::{Effect, Scale, Shared};
pub use estimate::effects;

use self::cause::{Ends, Spent};
use crate::figures::{CHECKED_ONCE, Omission, omissions};
use crate::looks::Looks;
use crate::pairs::Sides;
use crate::stats;
use crate::wording::is_speed;
use crate::{compatible, pairs, work};

/// The reason code of a cell of which planned rounds have no record.
pub(crate) const ROUNDS_MISSING: &str = "rounds-missing";
/// The same of the other side of a pair.
pub(crate) const OTHER_SIDE_MISSING: &str = "other-side-missing";

/// A run beside the reference runs it may be compared with.
pub struct Comparison<'data> {
    /// The run.
    pub run: &'data Run,
    /// Its figures.
    pub summary: &'data Summary,
    /// The reference runs given, newest first.
    pub given: &'data [Summary],
    /// Those of them that may be compared with, at most as many as the policy asks for.
    pub usable: Vec<&'data Summary>,
    /// Why the newest may not be compared with; empty if it may.
    pub obstacles: Vec<String>,
    /// Whether the reference is the other side of the same run, judged by pairs of rounds.
    pub paired: bool,
    omissions: Vec<Omission>,
    canary: Option<Canary>,
}

impl<'data> Comparison<'data> {
    /// Sorts the reference runs into those that may be compared with and the others.
    #[must_use]
    pub fn new(run: &'data Run, summary: &'data Summary, given: &'data [Summary]) -> Self {
        let policy = &run.manifest.policy;
        let obstacles = |that: &Summary| compatible::obstacles(summary, that, &policy.reference_same);
        let fits = given.iter().filter(|that| obstacles(that).is_empty());
        let usable: Vec<&Summary> = fits.take(policy.reference_runs.max(1) as usize).collect();
        Self {
            run,
            summary,
            given,
            canary: Canary::read(summary, &usable),
            usable,
            obstacles: given.first().map(obstacles).unwrap_or_default(),
            paired: false,
            omissions: omissions(run),
        }
    }

    /// The two sides of one run: nothing that differs between them forbids comparing, since it is what was asked for.
    #[must_use]
    pub fn of_sides(run: &'data Run, sides: &'data Sides) -> Self {
        Self {
            run,
            summary: &sides.own,
            given: &sides.other,
            usable: sides.other.iter().collect(),
            obstacles: Vec::new(),
            paired: true,
            omissions: omissions(run),
            // Rounds of a pair share the machine already.
            canary: None,
        }
    }

    /// The change of `metric` for each cell of this run: by pairs of rounds where both sides are of one run.
    #[must_use]
    pub fn effects(&self, metric: &str) -> Vec<Option<Effect>> {
        if self.paired {
            pairs::effects(metric, self.run, self.summary)
        } else {
            effects(metric, self.summary, &self.usable)
        }
    }

    /// How many comparisons can turn the run red: gated metrics of cells that have figures on both sides, at least 1.
    #[must_use]
    pub fn family(&self) -> usize {
        let metrics = self.run.manifest.metrics.iter().filter(|metric| self.gated(&metric.name));
        let both = |cell: &CellFigures, metric: &Metric| {
            let there = |that: &&Summary| that.cell(&cell.cell.id).is_some_and(|c| c.figure(&metric.name).is_some());
            cell.figure(&metric.name).is_some() && self.usable.iter().any(there)
        };
        let pairs = metrics.map(|metric| self.summary.cells.iter().filter(|cell| both(cell, metric)).count());
        pairs.sum::<usize>().max(1)
    }

    /// Confidence of every interval: the policy's false alarms shared equally among the family (Bonferroni). Only a change for
    /// the worse is a false red, so each end of an interval has the whole share: improvements are judged as strictly, on a
    /// budget of their own.
    #[must_use]
    pub fn confidence(&self) -> f64 {
        1.0 - 2.0 * self.run.manifest.policy.false_alarms.clamp(1e-9, 0.25) / self.family() as f64
    }

    /// How far the canary is from what it was in the reference runs; `None` if no canary was compared.
    #[must_use]
    pub fn canary_shift(&self) -> Option<Shift> {
        self.canary.as_ref()?.shift(1.0 - self.run.manifest.policy.false_alarms.clamp(1e-9, 0.5))
    }

    /// The same where it moved beyond its noise.
    #[must_use]
    pub fn machine_shift(&self) -> Option<Shift> {
        self.canary_shift().filter(Shift::is_shown)
    }

    /// Confidence of one cell's intervals: with a budget for extra rounds, what its look has of [`Self::confidence`].
    #[must_use]
    pub fn confidence_of(&self, cell: &CellFigures) -> f64 {
        let Some(looks) = Looks::of(&self.run.manifest) else { return self.confidence() };
        let other = self.usable.iter().filter(|_| self.paired).filter_map(|other| other.cell(&cell.cell.id));
        let rounds = other.map(|other| other.rounds).chain([cell.rounds]).max().unwrap_or(cell.rounds);
        1.0 - (1.0 - self.confidence()) * looks.share(looks.at(rounds))
    }

    /// Every change: planned cells in the order of the manifest with gated metrics first, then cells only the reference has.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let (gated, informing): (Vec<&Metric>, Vec<&Metric>) =
            self.run.manifest.metrics.iter().partition(|metric| self.gated(&metric.name));
        let metrics: Vec<&Metric> = gated.into_iter().chain(informing).collect();
        let effects: Vec<Vec<Option<Effect>>> = metrics.iter().map(|metric| self.effects(&metric.name)).collect();
        let mut changes = Vec::new();
        for (index, cell) in self.summary.cells.iter().enumerate() {
            if let Some(change) = self.of_whole_cell(cell) {
                changes.push(change);
                continue;
            }
            if self.given.is_empty() {
                continue;
            }
            let before = changes.len();
            let of = |name: &str| metrics.iter().zip(&effects).find(|(m, _)| m.name == name)?.1[index].as_ref();
            let spent =
                Spent { joules: of("joules_per_token"), clock: of("sm_clock_hz"), cycles: of("cycles_per_step") };
            let confidence = self.confidence_of(cell);
            let of_metric = |(metric, effects): (&&Metric, &Vec<Option<Effect>>)| {
                let effect = effects[index].as_ref();
                let mut change = self.of_metric(cell, metric, effect, confidence)?;
                if let Some(effect) = effect.filter(|_| change.effect.is_some()) {
                    self.doubt(&mut change, cell);
                    let ends = Ends { low: of("step_seconds_low"), tail: of("step_seconds_tail") };
                    cause::tell_which_moved(&mut change, effect, ends, &self.run.manifest.policy, confidence);
                    cause::attribute(&mut change, effect, cell, spent, &self.run.manifest.policy, confidence);
                    change.false_discovery = effect.probability();
                }
                Some(change)
            };
            changes.extend(metrics.iter().zip(&effects).filter_map(of_metric));
            if !changes[before..].iter().any(|change| change.gated) {
                changes.push(self.nothing_gated(&cell.cell.id));
            }
        }
        changes.extend(self.gone());
        if self.paired {
            pairs::told_of_ends(&mut changes, self.given);
        }
        rank(&mut changes);
        changes
    }

    /// The newest reference run that may be compared with; where none may, the newest.
    fn newest(&self) -> Option<&'data Summary> {
        self.usable.first().copied().or(self.given.first())
    }

    fn gated(&self, metric: &str) -> bool {
        self.run.manifest.policy.gate.iter().any(|name| name == metric)
    }

    /// The verdict of a cell that has no figures to compare: its end, or that the reference has or lacks it.
    fn of_whole_cell(&self, cell: &CellFigures) -> Option<Change> {
        let id = &cell.cell.id;
        let newest = self.newest().and_then(|summary| summary.cell(id));
        let older = || self.usable.iter().filter_map(|summary| summary.cell(id)).find(|cell| completed(cell));
        let reference = newest.filter(|cell| completed(cell)).or_else(older);
        let (verdict, reason, why) = match &cell.end {
            Some(End::Completed) if self.given.is_empty() => return None,
            Some(End::Completed) if !self.obstacles.is_empty() && self.usable.is_empty() => {
                (Verdict::Incomparable, "machine-differs", self.obstacles.join("; "))
            }
            Some(End::Completed) if reference.is_some() => return None,
            Some(End::Completed) => match newest.and_then(|cell| cell.end.as_ref()) {
                Some(end) => {
                    (Verdict::New, "reference-not-completed", format!("in the reference it ended {}", words::end(end)))
                }
                None => (Verdict::New, "not-in-reference", "the reference does not have this cell".to_owned()),
            },
            Some(End::NumbersWrong { message }) => (Verdict::NumbersWrong, "numbers-wrong", message.clone()),
            Some(End::Skipped { .. }) if self.given.is_empty() => return None,
            Some(End::Skipped { reason }) if reference.is_some() => {
                (Verdict::Failed, "skipped-reference-has-it", format!("skipped, though the reference has it: {reason}"))
            }
            Some(End::Skipped { reason }) => (Verdict::Skipped, "skipped", reason.clone()),
            Some(end) => (Verdict::Failed, end.word(), words::end(end)),
            None => (Verdict::Missing, ROUNDS_MISSING, self.missing_rounds(cell)),
        };
        let mut change = self.bare(id, verdict, reason, why);
        if verdict == Verdict::Missing {
            change.value = cell.figure(&change.metric.name).map(|figure| figure.estimate.point);
        }
        Some(change)
    }

    fn missing_rounds(&self, cell: &CellFigures) -> String {
        format!("{} of {} planned rounds are recorded", cell.rounds, self.run.manifest.rounds)
    }

    /// The verdict of one metric of a cell that completed on both sides.
    fn of_metric(
        &self,
        cell: &CellFigures,
        metric: &Metric,
        effect: Option<&Effect>,
        confidence: f64,
    ) -> Option<Change> {
        let gated = self.gated(&metric.name);
        let Some(effect) = effect else { return self.one_sided(cell, metric, gated) };
        let mut change = self.bare(&cell.cell.id, Verdict::Undecided, "", String::new());
        change.metric = metric.clone();
        change.gated = gated;
        change.value = Some(effect.value);
        change.reference_value = Some(effect.reference_value);
        if effect.reference_value == 0.0 && effect.value != 0.0 {
            change.reason = "reference-is-zero".to_owned();
            change.why = words::from_zero(metric, effect);
            change.blind = gated;
            return Some(change);
        }
        let policy = &self.run.manifest.policy;
        let decision = decide(effect, metric.better, policy, confidence);
        change.verdict = decision.verdict;
        change.reason = decision.reason.to_owned();
        change.effect = Some(decision.effect);
        change.low = decision.interval.map(|interval| interval.0);
        change.high = decision.interval.map(|interval| interval.1);
        change.confidence = decision.interval.map(|_| confidence);
        change.detectable = decision.detectable;
        change.rounds_to_decide = decision.rounds_to_decide;
        // Rounding must not make a cell blind whose detectable change is exactly what is asked for.
        change.blind = gated && decision.detectable.is_none_or(|share| share > policy.detect * (1.0 + 1e-9));
        change.why = words::why(metric, effect, &decision, policy, change.blind);
        if metric.name == CHECKED_ONCE && effect.difference == 0.0 && decision.interval.is_none() {
            // Made once a run, from the same seed: no rounds could show more than that it is the same.
            change.verdict = Verdict::Unchanged;
            change.reason = "same-number".to_owned();
            "the check of the numbers gave the very same number".clone_into(&mut change.why);
            (change.blind, change.rounds_to_decide) = (false, None);
        }
        Some(change)
    }

    /// What differs in a cell's work from the newest usable reference run that has it, one line each.
    pub(crate) fn other_work(&self, cell: &CellFigures) -> Vec<String> {
        let there = self.usable.iter().find_map(|summary| summary.cell(&cell.cell.id)?.work.as_ref());
        cell.work.as_ref().zip(there).map(|(here, there)| work::differences(here, there)).unwrap_or_default()
    }

    /// Faster because it does other work is no improvement: numbers are wrong where FLOPs, parameters or losses differ, and
    /// nothing is decided where another plan is timed, unless two builds were asked for.
    fn doubt(&self, change: &mut Change, cell: &CellFigures) {
        if change.verdict != Verdict::Improved || !is_speed(&change.metric) {
            return;
        }
        let differences = self.other_work(cell);
        let plan = |cell: &CellFigures| cell.plan_hash.clone();
        let there = self.usable.iter().find_map(|summary| plan(summary.cell(&cell.cell.id)?));
        if !differences.is_empty() {
            change.verdict = Verdict::NumbersWrong;
            change.reason = "other-work".to_owned();
            change.why.push_str(&format!("; but it did other work: {}", differences.join("; ")));
        } else if let Some((here, there)) = plan(cell).zip(there).filter(|(here, there)| here != there && !self.paired)
        {
            change.verdict = Verdict::Undecided;
            change.reason = "algorithm-changed".to_owned();
            change.why.push_str(&format!(
                "; but its plan is {here} and was {there}: other work is timed, accept a run of it if that is meant"
            ));
        }
    }

    /// A metric with a figure on one side only. Without one on either side there is nothing to say of it.
    fn one_sided(&self, cell: &CellFigures, metric: &Metric, gated: bool) -> Option<Change> {
        let id = &cell.cell.id;
        let here = cell.figure(&metric.name);
        let there = self.usable.iter().find_map(|summary| summary.cell(id)?.figure(&metric.name));
        let (verdict, reason, why) = match (here, there) {
            (Some(_), None) => {
                (Verdict::New, "metric-not-in-reference", "the reference has no figure for it".to_owned())
            }
            (None, Some(_)) => {
                let left_out = self.omissions.iter().find(|o| &o.cell == id && o.metric == metric.name);
                let why = left_out.map_or_else(
                    || "the reference has this figure and the run has not".to_owned(),
                    |left_out| left_out.why.clone(),
                );
                (Verdict::Missing, "metric-missing", why)
            }
            _ => return None,
        };
        let mut change = self.bare(id, verdict, reason, why);
        change.metric = metric.clone();
        change.gated = gated;
        change.value = here.map(|figure| figure.estimate.point);
        change.reference_value = there.map(|figure| figure.estimate.point);
        Some(change)
    }

    fn nothing_gated(&self, id: &CellId) -> Change {
        let gate = self.run.manifest.policy.gate.join(", ");
        let why = format!("it completed, but neither run has a figure of a gated metric ({gate})");
        Change { blind: true, ..self.bare(id, Verdict::Undecided, "nothing-gated", why) }
    }

    /// Cells of the newest reference run that are not planned here; none where the user asked for a part of the matrix.
    fn gone(&self) -> Vec<Change> {
        let asked = &self.run.manifest.asked;
        if asked.filter.is_some() || asked.shard.is_some() {
            return Vec::new();
        }
        let cells = self.newest().map(|summary| summary.cells.as_slice()).unwrap_or_default();
        let gone = cells.iter().filter(|cell| completed(cell) && self.summary.cell(&cell.cell.id).is_none());
        let why = "the reference has this cell and the run did not plan it";
        gone.map(|cell| self.bare(&cell.cell.id, Verdict::Missing, "not-planned", why.to_owned())).collect()
    }

    /// A change that speaks of the whole cell, under the name of the first gated metric.
    fn bare(&self, cell: &CellId, verdict: Verdict, reason: &str, why: String) -> Change {
        let metrics = &self.run.manifest.metrics;
        let named = |name: &String| metrics.iter().find(|metric| &metric.name == name);
        let first = self.run.manifest.policy.gate.iter().find_map(named).or(metrics.first());
        let unknown = || Metric { name: "tokens_per_second".into(), unit: "1/s".into(), better: Better::Higher };
        Change {
            cell: cell.clone(),
            metric: first.cloned().unwrap_or_else(unknown),
            gated: true,
            verdict,
            reason: reason.to_owned(),
            why,
            effect: None,
            low: None,
            high: None,
            confidence: None,
            detectable: None,
            rounds_to_decide: None,
            blind: false,
            value: None,
            reference_value: None,
            machine: None,
            cause: None,
            false_discovery: None,
        }
    }
}

/// Turns the changes' p values into shares of false discoveries, over all that were compared.
fn rank(changes: &mut [Change]) {
    let p: Vec<f64> = changes.iter().filter_map(|change| change.false_discovery).collect();
    let mut rates = stats::false_discovery_rates(&p).into_iter();
    for change in changes.iter_mut().filter(|change| change.false_discovery.is_some()) {
        change.false_discovery = rates.next();
    }
}

fn completed(cell: &CellFigures) -> bool {
    cell.end == Some(End::Completed)
}
