//! The sweep: `prepare` for every cell, what the GPU sustains, then round by round every cell once in a fresh order, every end recorded.
//!
//! The parent side: it starts workers, decides, and stores. It never opens a GPU and computes no statistics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use stepwatch_record::CellId;
use stepwatch_record::against::Against;
use stepwatch_record::message::Mode;
use stepwatch_record::plan::{Plan, PlanFile};
use stepwatch_record::profile::Profile;
use stepwatch_record::run::{End, RoundRecord, Run};

use crate::exit::Exit;
use crate::progress::{Doing, Progress};
use crate::scenario::{Measure, PlannedCell, Work};
use crate::store::{RunWriter, StoreError};

pub mod attempt;
pub mod conversation;
pub(crate) mod launch;
pub mod order;
pub mod output;
pub mod process;
pub mod resting;
pub mod scanner;
pub mod tree;

use attempt::{Attempted, Interrupted, Task};
use resting::Resting;

/// A cell that failed so often in one sweep is given up: its cell is red anyway, and a hang costs its whole timeout.
const FAILURES: u32 = 2;

/// What is to be run.
#[derive(Debug)]
pub struct Sweep<'a> {
    /// The cells of the ledger.
    pub cells: &'a [PlannedCell],
    /// Cells that run next to one another in every round, by their places: the two sides of a pair, or each cell alone.
    pub groups: Vec<Vec<usize>>,
    /// How they are measured.
    pub measure: &'a Measure,
    /// Rounds of each.
    pub rounds: u32,
    /// Seeds weights, tokens and the order of rounds.
    pub seed: u64,
    /// `cpu`, `cuda` or `null`.
    pub backend: &'a str,
    /// The only GPU that workers may see, by UUID.
    pub device: Option<&'a str>,
    /// The GPU that they will use, by UUID, if it is known.
    pub gpu: Option<&'a str>,
    /// Whether profiles are taken at the end.
    pub profile: bool,
}

/// What the ledger knows of a cell so far.
#[derive(Debug, Clone, Default)]
struct Known {
    prepared: Option<(End, u32)>,
    plan: Option<Plan>,
    rounds: BTreeMap<u32, (End, u32)>,
    failures: u32,
    last_failure: Option<End>,
    profiled: bool,
}

/// Why a sweep stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// A signal came.
    #[error("interrupted")]
    Interrupted(Exit),
    /// The run folder cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Interrupted> for Stopped {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted.0)
    }
}

/// Runs what is not completed yet; `before` is what an earlier sweep of the same ledger left.
///
/// # Errors
/// [`Stopped`]; everything recorded until then is kept.
pub fn run(
    sweep: &Sweep<'_>,
    writer: &mut RunWriter,
    before: Option<&Run>,
    show: &mut Progress,
) -> Result<(), Stopped> {
    let mut known: Vec<Known> = sweep.cells.iter().map(|planned| remember(planned, before)).collect();
    let ceilings = wants_ceilings(sweep, before);
    let [prepares, rounds, profiles] = remaining(sweep, &known);
    show.begin(&[prepares + u64::from(ceilings), rounds, profiles]);
    prepare_all(sweep, writer, &mut known, show)?;
    if ceilings {
        find_ceilings(sweep, writer, show)?;
    }
    let mut resting = Resting::default();
    for round in 0..sweep.rounds {
        for index in order::of_groups(sweep.seed, round, &sweep.groups) {
            run_round(sweep, round, index, writer, &mut known[index], &mut resting, show)?;
        }
    }
    drop(resting);
    if sweep.profile {
        profile_all(sweep, writer, &mut known, show)?;
    }
    Ok(())
}

/// Extra rounds of one cell: from the first of these numbers up to the second, which is none of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extra {
    /// The cell's place.
    pub cell: usize,
    /// The first.
    pub from: u32,
    /// Behind the last.
    pub to: u32,
    /// What one is expected to take, seconds.
    pub seconds: f64,
}

/// Runs extra rounds of some cells, interleaved like all rounds, while what each group is expected to take ends before
/// `until`; says whether all were run. `before` is the run so far.
///
/// # Errors
/// As [`run`].
pub fn extend(
    sweep: &Sweep<'_>,
    extra: &[Extra],
    until: Instant,
    writer: &mut RunWriter,
    before: &Run,
    show: &mut Progress,
) -> Result<bool, Stopped> {
    let mut known: Vec<Known> = sweep.cells.iter().map(|planned| remember(planned, Some(before))).collect();
    let of = |cell: usize| extra.iter().find(|extra| extra.cell == cell);
    let chosen = |group: &Vec<usize>| group.iter().copied().filter(|cell| of(*cell).is_some()).collect::<Vec<usize>>();
    let groups: Vec<Vec<usize>> = sweep.groups.iter().map(chosen).filter(|group| !group.is_empty()).collect();
    let rounds = extra.iter().map(|extra| extra.to).max().unwrap_or(0);
    let longer = Sweep { groups, rounds, profile: false, ..*sweep };
    show.begin(&[0, u64::from(extra.iter().map(|extra| extra.to - extra.from).sum::<u32>()), 0]);
    let mut resting = Resting::default();
    for round in extra.iter().map(|extra| extra.from).min().unwrap_or(rounds)..rounds {
        for group in order::grouped(sweep.seed, round, &longer.groups) {
            let now: Vec<&Extra> = group.iter().filter_map(|cell| of(*cell)).collect();
            let now: Vec<&Extra> = now.into_iter().filter(|extra| (extra.from..extra.to).contains(&round)).collect();
            let takes: f64 = now.iter().map(|extra| extra.seconds).sum();
            if !now.is_empty() && Instant::now() + Duration::from_secs_f64(takes) > until {
                return Ok(false);
            }
            for extra in now {
                run_round(&longer, round, extra.cell, writer, &mut known[extra.cell], &mut resting, show)?;
            }
        }
    }
    Ok(true)
}

/// Whether this sweep is to find what its GPU sustains: once a run, where the built-in step runs on one.
fn wants_ceilings(sweep: &Sweep<'_>, before: Option<&Run>) -> bool {
    let builtin = sweep.cells.iter().any(|planned| matches!(planned.work, Work::Builtin(_)));
    builtin && sweep.backend == "cuda" && before.is_none_or(|run| run.ceilings.is_empty())
}

/// A worker that holds fixed work for seconds. Without it cells have no bound; that ends no run.
fn find_ceilings(sweep: &Sweep<'_>, writer: &mut RunWriter, show: &mut Progress) -> Result<(), Stopped> {
    let Some(planned) = sweep.cells.iter().find(|planned| matches!(planned.work, Work::Builtin(_))) else {
        return Ok(());
    };
    show.start(&planned.cell.id, Doing::Ceilings);
    let task = sweep.task(planned, Mode::Ceilings);
    let attempted = attempt::attempt(&task, &mut Resting::default(), &mut |_, _| ())?;
    show.end(&attempted.record);
    match attempted.ceilings {
        Some(ceilings) if attempted.record.end == End::Completed => Ok(writer.store_ceilings(&ceilings)?),
        _ => Ok(()),
    }
}

/// How many workers are still to run: `prepare`, rounds, profiles.
fn remaining(sweep: &Sweep<'_>, known: &[Known]) -> [u64; 3] {
    let mut counts = [0, 0, 0];
    for (planned, known) in sweep.cells.iter().zip(known) {
        let builtin = matches!(planned.work, Work::Builtin(_));
        counts[0] += u64::from(builtin && !known.is_prepared());
        counts[1] += (0..sweep.rounds).filter(|round| !known.is_completed(*round)).count() as u64;
        counts[2] += u64::from(builtin && sweep.profile && !known.profiled);
    }
    counts
}

impl Known {
    fn is_prepared(&self) -> bool {
        matches!(self.prepared, Some((End::Completed, _)))
    }

    fn is_completed(&self, round: u32) -> bool {
        matches!(self.rounds.get(&round), Some((End::Completed, _)))
    }

    /// The end that keeps this cell's rounds from running, if any.
    fn obstacle(&self) -> Option<End> {
        match &self.prepared {
            Some((end, _)) if *end != End::Completed => Some(end.clone()),
            _ if self.failures >= FAILURES => self.last_failure.clone(),
            _ => None,
        }
    }
}

fn remember(planned: &PlannedCell, before: Option<&Run>) -> Known {
    let mut known = Known::default();
    let Some(run) = before else { return known };
    let id = &planned.cell.id;
    known.prepared = run.prepared.iter().find(|record| &record.cell == id).map(|r| (r.end.clone(), r.attempt));
    known.plan = run.plans.iter().find(|plan| &plan.cell == id).and_then(|plan| plan.plan.clone());
    if matches!(planned.work, Work::Builtin(_)) && known.plan.is_none() && known.is_prepared() {
        // Its plan is lost, so it is settled again; the attempt's number goes on.
        known.prepared = known.prepared.map(|(_, attempt)| (failed("its plan is missing"), attempt));
    }
    for round in run.rounds.iter().filter(|round| &round.record.cell == id) {
        if let Some(number) = round.record.round {
            known.rounds.insert(number, (round.record.end.clone(), round.record.attempt));
        }
    }
    known.profiled = run.profiles.iter().any(|profile| &profile.cell == id);
    known
}

fn prepare_all(
    sweep: &Sweep<'_>,
    writer: &mut RunWriter,
    known: &mut [Known],
    show: &mut Progress,
) -> Result<(), Stopped> {
    for (planned, known) in sweep.cells.iter().zip(known) {
        if matches!(planned.work, Work::Command(_)) || known.is_prepared() {
            continue;
        }
        let attempt = known.prepared.as_ref().map_or(0, |(_, attempt)| attempt + 1);
        let task = Task { attempt, ..sweep.task(planned, Mode::Prepare) };
        show.start(&planned.cell.id, Doing::Prepare);
        let mut attempted = attempt::attempt(&task, &mut Resting::default(), &mut |_, _| ())?;
        if attempted.record.end == End::Completed && attempted.plan.is_none() {
            attempted.record.end = failed("it finished without a plan");
        }
        if attempted.record.end == End::Completed || attempted.plan.is_some() {
            let plan = PlanFile {
                cell: planned.cell.id.clone(),
                plan: attempted.plan.clone(),
                verification: attempted.verification.take(),
                ready: attempted.record.ready.clone(),
            };
            writer.store_plan(&plan)?;
        }
        known.plan = attempted.plan.take();
        known.prepared = Some((attempted.record.end.clone(), attempt));
        store(writer, attempted, show)?;
    }
    Ok(())
}

fn run_round(
    sweep: &Sweep<'_>,
    round: u32,
    index: usize,
    writer: &mut RunWriter,
    known: &mut Known,
    resting: &mut Resting,
    show: &mut Progress,
) -> Result<(), Stopped> {
    if known.is_completed(round) {
        return Ok(());
    }
    let planned = &sweep.cells[index];
    let attempt = known.rounds.get(&round).map_or(0, |(_, attempt)| attempt + 1);
    let plan = known.plan.clone();
    let more = (round + 1..sweep.rounds).any(|later| !known.is_completed(later));
    let task = Task { round: Some(round), attempt, plan: plan.as_ref(), more, ..sweep.task(planned, Mode::Measure) };
    if let Some(end) = known.obstacle() {
        if known.rounds.get(&round).is_none_or(|(before, _)| *before != end) {
            let attempted = attempt::not_run(&task, end.clone());
            known.rounds.insert(round, (end, attempt));
            writer.append(attempted.record, &[])?;
        }
        show.pass_over();
        return Ok(());
    }
    show.start(&planned.cell.id, Doing::Round(round + 1, sweep.rounds));
    let samples = sweep.measure.samples;
    let mut attempted =
        attempt::attempt(&task, resting, &mut |warmup, measured| show.steps(warmup, measured, samples))?;
    if let (End::Skipped { reason }, "cuda") = (&attempted.record.end, sweep.backend)
        && known.is_prepared()
    {
        // What was prepared could run: a device that is gone since must not pass for a cell that does not fit.
        attempted.record.end = failed(&format!("it was prepared and can no longer run: {reason}"));
    }
    if attempted.record.end != End::Completed {
        known.failures += 1;
        known.last_failure = Some(attempted.record.end.clone());
    }
    known.rounds.insert(round, (attempted.record.end.clone(), attempt));
    store(writer, attempted, show)
}

fn profile_all(
    sweep: &Sweep<'_>,
    writer: &mut RunWriter,
    known: &mut [Known],
    show: &mut Progress,
) -> Result<(), Stopped> {
    for (planned, known) in sweep.cells.iter().zip(known) {
        let runs = matches!(planned.work, Work::Builtin(_)) && known.is_prepared() && known.obstacle().is_none();
        if !runs || known.profiled {
            continue;
        }
        show.start(&planned.cell.id, Doing::Profile);
        let plan = known.plan.clone();
        let task = Task { plan: plan.as_ref(), ..sweep.task(planned, Mode::Profile) };
        let attempted = attempt::attempt(&task, &mut Resting::default(), &mut |_, _| ())?;
        show.end(&attempted.record);
        if attempted.record.end == End::Completed {
            writer.store_profile(&Profile { cell: planned.cell.id.clone(), ops: attempted.ops })?;
            known.profiled = true;
        }
    }
    Ok(())
}

fn store(writer: &mut RunWriter, attempted: Attempted, show: &mut Progress) -> Result<(), Stopped> {
    let record: RoundRecord = writer.append(attempted.record, &attempted.samples)?;
    show.rate(&record, &attempted.samples);
    show.end(&record);
    Ok(())
}

/// Which cells run next to one another: the two sides of each pair, every other cell alone.
#[must_use]
pub fn groups(cells: &[PlannedCell], against: Option<&Against>) -> Vec<Vec<usize>> {
    let place = |id: &CellId| cells.iter().position(|planned| &planned.cell.id == id);
    let other = |id: &CellId| against.and_then(|against| against.other(id)).and_then(place);
    let is_other = |id: &CellId| against.is_some_and(|against| against.is_other(id));
    let own = cells.iter().enumerate().filter(|(_, planned)| !is_other(&planned.cell.id));
    own.map(|(index, planned)| std::iter::once(index).chain(other(&planned.cell.id)).collect()).collect()
}

impl<'a> Sweep<'a> {
    fn task(&self, planned: &'a PlannedCell, mode: Mode) -> Task<'a> {
        Task {
            planned,
            mode,
            round: None,
            attempt: 0,
            seed: self.seed,
            plan: None,
            measure: self.measure,
            backend: self.backend,
            device: self.device,
            gpu: self.gpu,
            more: false,
        }
    }
}

fn failed(message: &str) -> End {
    End::Failed { message: message.to_owned() }
}
