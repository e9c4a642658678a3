//! One cell in full: figures, rounds, numbers checked, plan, how it ended and the command that runs it again.

use serde::Serialize;
use stepwatch_record::Cell;
use stepwatch_record::ceiling::CellBound;
use stepwatch_record::figure::{CellFigures, Figure};
use stepwatch_record::message::Ready;
use stepwatch_record::plan::{Plan, PlanFile, Verification};
use stepwatch_record::profile::Profile;
use stepwatch_record::run::{End, Round, RoundRecord, Run};

use super::bound;
use super::change::ChangeView;
use super::column::Column;
use super::mark::{MEASURED, MISSING, Mark, Tone};
use crate::chart::roofline::{ClassView, classes};
use crate::chart::strip::{Strip, strip};
use crate::clean;
use crate::format::{self, Hint};

/// Cells beyond which a sweep is large.
const LARGE: usize = 100;

/// A named text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fact {
    /// The name.
    pub name: String,
    /// The value as text.
    pub value: String,
}

/// A fact from a name of ours and a value that may be anybody's.
pub(crate) fn fact(name: &str, value: impl AsRef<str>) -> Fact {
    Fact { name: clean::line(name), value: clean::line(value.as_ref()) }
}

/// How a cell ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndView {
    /// The end.
    pub mark: Mark,
    /// Why, one line; empty for `completed`.
    pub reason: String,
    /// The last lines of the output of the worker that ended badly.
    pub output_tail: Vec<String>,
}

/// One figure of a cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FigureView {
    /// Index of the metric in `View::columns`.
    pub column: usize,
    /// The estimate in the metric's own unit.
    pub point: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Confidence of the interval.
    pub confidence: f64,
    /// How many samples are behind it.
    pub samples: u64,
    /// One value per round.
    pub rounds: Vec<f64>,
    /// The estimate in the column's scale.
    pub text: String,
    /// The interval in the column's scale; empty with fewer than two rounds.
    pub interval: String,
    /// The round values in the column's scale.
    pub round_texts: Vec<String>,
}

impl FigureView {
    /// Interval and counts in words: `151…153 k/s at 95 %, 5 rounds, 150 samples`.
    #[must_use]
    pub fn detail(&self, unit: &str) -> String {
        let counts = format!(
            "{}, {}",
            format::count(self.rounds.len(), "round", "rounds"),
            if self.samples == 1 { "1 sample".into() } else { format!("{} samples", self.samples) }
        );
        if self.interval.is_empty() {
            return format!("no interval, {counts}");
        }
        let space = if unit.is_empty() { "" } else { " " };
        format!("{}{space}{unit} at {}, {counts}", self.interval, format::confidence(self.confidence))
    }
}

/// One round of a cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoundView {
    /// Its number, from 0.
    pub round: u32,
    /// The attempt that counts, from 0.
    pub attempt: u32,
    /// How it ended.
    pub mark: Mark,
    /// Samples that count.
    pub samples: u32,
    /// Steps of warm-up before them.
    pub warmup_steps: u64,
    /// Whether warm-up reached a steady state.
    pub steady: bool,
    /// Process start to the end of the first step.
    pub setup: String,
    /// Wall time of the worker.
    pub wall: String,
}

/// What `prepare` settled.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanView {
    /// The plan's hash.
    pub hash: String,
    /// The passes applied.
    pub passes: Vec<String>,
    /// Passes asked for and not applied, with the reason.
    pub skipped: Vec<Fact>,
    /// Ops, FLOPs, bytes, memory, compile time.
    pub facts: Vec<Fact>,
}

/// Whether the numbers are right.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerificationView {
    /// Whether every check held.
    pub ok: bool,
    /// SQNR, loss, gradient norm, casts.
    pub facts: Vec<Fact>,
    /// Which checks failed.
    pub failures: Vec<String>,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellView {
    /// Its id.
    pub id: String,
    /// What people call it: short, and unlike any other of the run.
    pub name: String,
    /// Its fragment in the page, stable between runs.
    pub anchor: String,
    /// `builtin` or the workload's name.
    pub workload: String,
    /// Every parameter, the workload first if it is not built in.
    pub parameters: Vec<Fact>,
    /// Names of the axes it was given a value on.
    pub axes: Vec<String>,
    /// The worst verdict over its gated metrics, or how it ended.
    pub mark: Mark,
    /// Whether a gated metric of it is blind.
    pub blind: bool,
    /// Whether the page leaves out what the GPU did meanwhile and the like: a cell without news in a large sweep.
    pub brief: bool,
    /// How it ended.
    pub end: EndView,
    /// Its figures.
    pub figures: Vec<FigureView>,
    /// Its changes.
    #[serde(skip)]
    pub changes: Vec<ChangeView>,
    /// Rounds that completed, of those planned.
    pub rounds_done: String,
    /// Its rounds.
    pub rounds: Vec<RoundView>,
    /// Samples of each round, if there are any.
    pub strip: Option<Strip>,
    /// Time, work and traffic by op class, the most time first; empty without a profile.
    pub ops: Vec<ClassView>,
    /// What `prepare` settled, if it did.
    pub plan: Option<PlanView>,
    /// The check of its numbers, if there was one.
    pub verification: Option<VerificationView>,
    /// What its step could take at the least on its chip; empty where that is not known.
    pub bound: Vec<Fact>,
    /// What the worker said of itself.
    pub device: Vec<Fact>,
    /// The command that runs just this cell again.
    pub command: String,
}

/// What stands for a parameter that a cell does not have.
pub(crate) const ABSENT: &str = "–";

impl CellView {
    /// The value of a parameter as text; `–` if the cell does not have it.
    #[must_use]
    pub fn value(&self, parameter: &str) -> &str {
        self.parameters.iter().find(|fact| fact.name == parameter).map_or(ABSENT, |fact| fact.value.as_str())
    }
}

/// All that is known of one cell, gathered from the run's parts.
pub(crate) struct Parts<'a> {
    pub(crate) run: &'a Run,
    pub(crate) cell: &'a Cell,
    pub(crate) figures: Option<&'a CellFigures>,
    pub(crate) plan: Option<&'a PlanFile>,
    pub(crate) profile: Option<&'a Profile>,
    pub(crate) prepared: Option<&'a RoundRecord>,
    pub(crate) rounds: Vec<&'a Round>,
    pub(crate) changes: Vec<ChangeView>,
    pub(crate) bound: Option<&'a CellBound>,
    pub(crate) anchor: String,
    pub(crate) name: String,
}

pub(crate) fn cell_view(parts: Parts<'_>, columns: &[Column]) -> CellView {
    let end = parts.run.cell_end(&parts.cell.id);
    let ops = parts.profile.map_or_else(Vec::new, classes);
    let in_profile = |class: &str| ops.iter().any(|op| op.class == class);
    let bound = parts.bound.map_or_else(Vec::new, |bound| bound::facts(bound, in_profile));
    let figures: Vec<FigureView> = parts.figures.map_or_else(Vec::new, |cell| figure_views(&cell.figures, columns));
    let completed = parts.rounds.iter().filter(|round| round.record.end == End::Completed).count();
    let mark = overall(&parts.changes, end.as_ref());
    let blind = parts.changes.iter().any(|change| change.gated && change.blind);
    let brief = parts.run.manifest.cells.len() > LARGE && mark.tone >= Tone::Calm && !blind;
    CellView {
        id: clean::line(&parts.cell.id.0),
        workload: clean::line(&parts.cell.workload),
        parameters: parameters(parts.cell),
        axes: parts.cell.axes.iter().map(|axis| clean::line(axis)).collect(),
        mark,
        blind,
        brief,
        end: EndView {
            mark: Mark::of_end(end.as_ref()),
            reason: end.as_ref().map_or_else(|| hole(completed, parts.run), |end| clean::line(&end.reason())),
            output_tail: output_tail(&parts),
        },
        strip: strip(&parts, brief),
        ops: ops.into_iter().map(|class| class.bounded(parts.bound)).collect(),
        rounds_done: format!("{completed} of {}", parts.run.manifest.rounds),
        rounds: parts.rounds.iter().map(|round| round_view(&round.record)).collect(),
        plan: parts.plan.and_then(|file| file.plan.as_ref()).map(plan_view),
        verification: parts.plan.and_then(|file| file.verification.as_ref()).map(verification_view),
        bound,
        device: device(&parts),
        command: String::new(),
        changes: parts.changes,
        anchor: parts.anchor,
        name: parts.name,
        figures,
    }
}

/// The worst verdict over gated metrics; a bad end is worse than any of them.
fn overall(changes: &[ChangeView], end: Option<&End>) -> Mark {
    let ended = Mark::of_end(end);
    if ended.tone == Tone::Bad {
        return ended;
    }
    let worst = changes.iter().filter(|change| change.gated).map(|change| change.verdict).min();
    match worst {
        Some(verdict) => Mark::of_verdict(verdict),
        None if end == Some(&End::Completed) => MEASURED,
        None => ended,
    }
}

/// Cells of which the same is told: how they ended, unless they completed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ended {
    /// How.
    pub mark: Mark,
    /// Why, in words.
    pub reason: String,
    /// Their names, in the order of the scenario.
    pub names: Vec<String>,
}

impl Ended {
    /// What people call the cell; of several, how many they are.
    #[must_use]
    pub fn cells(&self) -> String {
        match &self.names[..] {
            [name] => name.clone(),
            names => format::count(names.len(), "cell", "cells"),
        }
    }

    /// The names of several cells; empty if it is one.
    #[must_use]
    pub fn named(&self) -> String {
        format::some_of(self.names.iter().map(String::as_str).filter(|_| self.names.len() > 1))
    }
}

/// Cells that did not complete, in the order of the scenario; those that lack as many rounds together, the others one by one.
pub(crate) fn ended(cells: &[CellView]) -> Vec<Ended> {
    let mut all: Vec<Ended> = Vec::new();
    for cell in cells.iter().filter(|cell| cell.end.mark.word != "completed") {
        let (mark, reason) = (cell.end.mark, &cell.end.reason);
        match all.iter_mut().find(|ended| mark == MISSING && ended.mark == MISSING && ended.reason == *reason) {
            Some(ended) => ended.names.push(cell.name.clone()),
            None => all.push(Ended { mark, reason: reason.clone(), names: vec![cell.name.clone()] }),
        }
    }
    all
}

fn hole(completed: usize, run: &Run) -> String {
    format!("{completed} of {} planned rounds have a record", run.manifest.rounds)
}

fn output_tail(parts: &Parts<'_>) -> Vec<String> {
    let records = parts.prepared.into_iter().chain(parts.rounds.iter().map(|round| &round.record));
    let bad = records.filter(|record| record.end != End::Completed).find(|record| !record.output_tail.is_empty());
    bad.map_or_else(Vec::new, |record| record.output_tail.iter().map(|line| clean::line(line)).collect())
}

fn parameters(cell: &Cell) -> Vec<Fact> {
    let given = cell.parameters.iter().map(|(name, value)| fact(name, value.to_string()));
    let workload = (!cell.parameters.contains_key("workload")).then(|| fact("workload", &cell.workload));
    workload.into_iter().chain(given).collect()
}

fn figure_views(figures: &[Figure], columns: &[Column]) -> Vec<FigureView> {
    let view = |figure: &Figure| {
        let name = clean::line(&figure.metric.name);
        let (index, column) = columns.iter().enumerate().find(|(_, column)| column.name == name)?;
        let estimate = &figure.estimate;
        let known = estimate.rounds.len() > 1 && estimate.low.is_finite() && estimate.high.is_finite();
        Some(FigureView {
            column: index,
            point: estimate.point,
            low: estimate.low,
            high: estimate.high,
            confidence: estimate.confidence,
            samples: estimate.samples,
            text: column.scale.number(estimate.point),
            interval: if known { column.scale.interval(estimate.low, estimate.high) } else { String::new() },
            round_texts: estimate.rounds.iter().map(|value| column.scale.number(*value)).collect(),
            rounds: estimate.rounds.clone(),
        })
    };
    figures.iter().filter_map(view).collect()
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format::quantity(Hint::Duration, "s", value))
}

fn round_view(record: &RoundRecord) -> RoundView {
    RoundView {
        round: record.round.unwrap_or_default(),
        attempt: record.attempt,
        mark: Mark::of_end(Some(&record.end)),
        samples: record.samples,
        warmup_steps: record.warmup_steps,
        steady: record.steady,
        setup: seconds(record.setup_seconds),
        wall: seconds(Some(record.wall_seconds)),
    }
}

fn plan_view(plan: &Plan) -> PlanView {
    let counts = [
        ("ops", Hint::Plain, "", plan.ops as f64),
        ("work a step", Hint::Plain, "FLOP", plan.flops),
        ("least traffic a step", Hint::Bytes, "bytes", plan.bytes),
        ("memory placed", Hint::Bytes, "bytes", plan.memory_bytes as f64),
        ("time to settle", Hint::Duration, "s", plan.compile_seconds),
    ];
    PlanView {
        hash: clean::line(&plan.hash),
        passes: plan.passes.iter().map(|pass| clean::line(pass)).collect(),
        skipped: plan.skipped_passes.iter().map(|pass| fact(&pass.name, &pass.reason)).collect(),
        facts: counts
            .into_iter()
            .filter(|(.., value)| *value > 0.0)
            .map(|(name, hint, unit, value)| fact(name, format::quantity(hint, unit, value)))
            .collect(),
    }
}

fn verification_view(verification: &Verification) -> VerificationView {
    let mut sqnr = format!("{} dB against {}", format::number(verification.worst_sqnr_db), verification.against);
    if let Some(fp32) = verification.sqnr_fp32_db.filter(|_| verification.against != "fp32") {
        sqnr.push_str(&format!(", {} against fp32", format::number(fp32)));
    }
    let (loss, norm) = (format::number(verification.loss), format::number(verification.grad_norm));
    let mut facts =
        vec![fact("worst gradient SQNR", sqnr), fact("step 0", format!("loss {loss} nats, gradient norm {norm}"))];
    if let (Some(over), Some(under), true) =
        (verification.cast_overflows, verification.cast_underflows, verification.casts.is_empty())
    {
        facts.push(fact("FP8 casts", format!("{over} saturated, {under} flushed to zero")));
    }
    facts.extend(verification.casts.iter().map(|cast| {
        let values = format::quantity(Hint::Plain, "", cast.values as f64);
        let counts = format!("{} saturated, {} to zero, of {values}", cast.overflows, cast.underflows);
        fact(&format!("FP8 {}s, step {}", clean::line(&cast.class), cast.step), counts)
    }));
    if let Some(twin) = &verification.twin {
        let pair = |own, fp32| format!("{} ({})", format::number(own), format::number(fp32));
        let (loss, norm) = (pair(twin.loss, twin.fp32_loss), pair(twin.grad_norm, twin.fp32_grad_norm));
        let shape = format!("{} blocks, {} × {}", twin.layers, twin.batch_size, twin.seq_len);
        facts.push(fact("beside fp32", format!("loss {loss}, norm {norm}; {shape}")));
    }
    if let Some(worst) = verification.operations.iter().max_by(|a, b| a.worst_error.total_cmp(&b.worst_error)) {
        let elements: u64 = verification.operations.iter().map(|op| op.elements).sum();
        let share = format::number(worst.worst_error * 100.0);
        facts.push(fact("against fp64", format!("{elements} elements, {share} % of tolerance")));
    }
    VerificationView {
        ok: verification.ok,
        facts,
        failures: verification.failures.iter().map(|line| clean::line(line)).collect(),
    }
}

/// What a worker says it runs on, in one line.
fn versions(ready: &Ready) -> Option<String> {
    let all: Vec<String> = ready.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    (!all.is_empty()).then(|| clean::line(&all.join(", ")))
}

/// What the worker said when it was ready: in `prepare`, else in the first round that said it.
fn device(parts: &Parts<'_>) -> Vec<Fact> {
    let of_rounds = parts.rounds.iter().find_map(|round| round.record.ready.as_ref());
    let Some(ready) = parts.plan.and_then(|file| file.ready.as_ref()).or(of_rounds) else { return Vec::new() };
    let count = ready.parameters_count.map(|n| format::quantity(Hint::Plain, "", n as f64));
    let all = [
        ("device", ready.device.clone()),
        ("attention that runs", ready.attention.clone()),
        ("model parameters", count),
        ("linears in FP8", ready.fp8_linears.map(|n| n.to_string())),
        ("model work a token", ready.flops_per_token.map(|flops| format::quantity(Hint::Plain, "FLOP", flops))),
        ("compilation alone", ready.compile_seconds.map(|seconds| format::quantity(Hint::Duration, "s", seconds))),
        ("graph breaks", ready.graph_breaks.map(|n| n.to_string())),
        // Of the built-in step it stands with the verification.
        (
            "loss of step 0",
            ready.loss.filter(|_| parts.plan.is_none()).map(|loss| format!("{} nats", format::number(loss))),
        ),
        ("versions", versions(ready)),
    ];
    all.into_iter().filter_map(|(name, value)| value.map(|value| fact(name, value))).collect()
}
