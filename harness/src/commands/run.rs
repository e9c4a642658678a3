//! `stepwatch run`: scenarios in, run folders, verdicts and reports out; or an interrupted run gone on with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stepwatch_record::machine::Machine;
use stepwatch_record::run::{Asked, Run as StoredRun, RunManifest, Shard};
use stepwatch_record::trend::History;

use super::{CommandError, Places, emit, list, say};
use crate::device::Answer;
use crate::exit::Exit;
use crate::judgement::{Against, Judgement, unwritable};
use crate::ledger::{self, Request};
use crate::progress::Progress;
use crate::promotion::{self, Promotion};
use crate::runner::{self, Stopped, Sweep, tree};
use crate::scenario::known::KnownFiles;
use crate::scenario::{self, BackendChoice, LoadOptions, PlannedCell, Scenario, Work};
use crate::store::{self, RunWriter};
use crate::{budget, device, interrupt, machine, other_side};

/// Runs every cell of a scenario, compares with the accepted baseline and writes the report.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The scenario files.
    #[arg(value_name = "SCENARIO", required_unless_present = "resume")]
    scenarios: Vec<PathBuf>,
    /// Only cells whose parameters match, such as 'precision=fp8-*,compile=full'.
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// What runs the built-in step: auto, cuda or cpu; instead of the scenario's own.
    #[arg(long, value_parser = parse_backend)]
    backend: Option<BackendChoice>,
    /// The GPU that runs cells, by index or UUID, as `stepwatch doctor` shows them; the first one unless said.
    #[arg(long, value_name = "GPU")]
    device: Option<String>,
    /// Worker processes of each cell, instead of the scenario's own.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Go on with a run that was interrupted.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["scenarios", "filter", "backend", "device", "rounds", "shard", "seed"])]
    resume: Option<String>,
    /// Run only part I of N of the cells; `stepwatch merge` brings the parts together.
    #[arg(long, value_name = "I/N", value_parser = ledger::parse_shard)]
    shard: Option<Shard>,
    /// Compare with this run instead of the accepted baseline.
    #[arg(long, value_name = "RUN", conflicts_with = "no_compare")]
    baseline: Option<String>,
    /// Alternate every round with another stepwatch binary, or with another workload of the scenario, and judge the pairs.
    #[arg(long, value_name = "BINARY|WORKLOAD", conflicts_with_all = ["baseline", "no_compare", "shard"])]
    against: Option<String>,
    /// Spend up to this time, such as 30min, on extra rounds of cells in doubt, up to the scenario's `rounds.max`.
    #[arg(long, value_name = "TIME", value_parser = budget::parse, conflicts_with_all = ["rounds", "shard", "resume"])]
    budget: Option<Duration>,
    /// Compare with nothing.
    #[arg(long)]
    no_compare: bool,
    /// Draw the runs of the same scenario in and below this folder, and look for lasting changes in them instead of in the newest of those beside the run.
    #[arg(long, value_name = "DIR", conflicts_with = "shard")]
    history: Option<PathBuf>,
    /// Measure where the time goes, in workers of their own after the rounds.
    #[arg(long)]
    profile: bool,
    /// Seeds weights, tokens and the order of rounds.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Show failures only while running.
    #[arg(long, short)]
    quiet: bool,
    /// Keep the host's name in the clear.
    #[arg(long)]
    identify: bool,
    #[command(flatten)]
    places: Places,
}

/// A run about to be swept.
struct Planned {
    manifest: RunManifest,
    cells: Vec<PlannedCell>,
    measure: scenario::Measure,
    folder: PathBuf,
    /// The GPU that workers use, by UUID, where it is known before they say so.
    gpu: Option<String>,
}

/// Runs the scenarios, or goes on with a run.
///
/// # Errors
/// When a scenario, a named baseline or the run folder is wrong, or no device is usable.
pub fn run(args: &Run) -> Result<Exit, CommandError> {
    let against = against(args)?;
    // Read before any cell runs: a typo in a waiver must not cost the night that it was written for.
    let known = args.places.known()?;
    if let Some(folder) = args.history.as_deref().filter(|folder| !folder.is_dir()) {
        return Err(CommandError::usage(format!("{} is no folder of runs", folder.display())));
    }
    if let Some(name) = &args.resume {
        return resume(args, name, &against, &known);
    }
    // All scenarios are read before any runs: a typo in the last must not cost the time of the first.
    let planned = args.scenarios.iter().map(|path| plan(args, path)).collect::<Result<Vec<_>, _>>()?;
    begin_workers()?;
    let mut exit = Exit::Good;
    for planned in planned {
        std::fs::create_dir_all(&planned.folder)
            .map_err(|error| CommandError::usage(format!("{} cannot be created: {error}", planned.folder.display())))?;
        let writer = RunWriter::create(&planned.folder, &planned.manifest).map_err(unwritable)?;
        let ended = sweep(args, &planned, writer, None, &against, &known)?;
        exit = exit.worst(ended);
        if matches!(ended, Exit::Interrupted | Exit::Terminated) {
            break;
        }
    }
    Ok(exit)
}

fn against(args: &Run) -> Result<Against, CommandError> {
    match &args.baseline {
        _ if args.no_compare => Ok(Against::Nothing),
        Some(name) => super::compare::named(name, &args.places.out),
        None => Ok(Against::Accepted(args.places.baselines.clone())),
    }
}

fn plan(args: &Run, path: &Path) -> Result<Planned, CommandError> {
    let asked = Asked {
        filter: args.filter.clone(),
        backend: args.backend.map(|backend| backend.name().to_owned()),
        device: args.device.as_deref().map(device::select).transpose().map_err(CommandError::usage)?,
        rounds: args.rounds,
        profile: args.profile,
        shard: args.shard,
        against: None,
        budget: None,
        findings: Vec::new(),
    };
    let scenario = load_scenario(path, &asked)?;
    super::check::say_warnings(&scenario);
    let (backend, answer) = backend(&scenario, asked.device.as_deref())?;
    let sides = args.against.as_deref().map(|named| against_of(named, &scenario, args.identify)).transpose()?;
    let cells = match &sides {
        Some(sides) => sides.cells.clone(),
        None => ledger::part(scenario.cells.clone(), args.shard),
    };
    if cells.is_empty() {
        return Err(CommandError::usage(format!(
            "{} has {} cells: this part of the sweep is empty",
            path.display(),
            scenario.cells.len()
        )));
    }
    let machine = machine::used(args.identify, answer.as_ref(), asked.device.as_deref());
    let gpu = watched(&machine, &backend);
    let budget = args.budget.map(|time| budget::of(time, &scenario.measure)).transpose();
    let budget = budget.map_err(|why| CommandError::usage(format!("{}: {why}", path.display())))?;
    let asked = Asked { against: sides.as_ref().map(|sides| sides.against.clone()), budget, ..asked };
    let request = Request { backend, seed: args.seed, machine, identify: args.identify, asked };
    let mut manifest = ledger::new(&scenario, &cells, &request);
    manifest.notes.extend(sides.into_iter().flat_map(|sides| sides.notes));
    let folder = args.places.out.join(&scenario.name).join(&manifest.id);
    Ok(Planned { manifest, cells, measure: scenario.measure, folder, gpu })
}

/// The other side, said on stderr: what is alternated with what, and what is left out.
fn against_of(named: &str, scenario: &Scenario, identify: bool) -> Result<other_side::Sides, CommandError> {
    let sides = other_side::find(named, scenario, |path| ledger::shown(path, identify)).map_err(CommandError::usage)?;
    let known = stepwatch_verdict::pairs::named(&sides.against);
    say(format_args!("against {known}: {} pairs of cells, alternated round by round", sides.against.pairs.len()));
    if sides.against.binary.as_ref().is_some_and(|binary| binary.same) {
        say("note: it is the very same file as this stepwatch: an A/A test, whose differences are none of the code's");
    }
    sides.notes.iter().for_each(|note| say(format_args!("note: {note}")));
    Ok(sides)
}

/// The GPU whose state is read before a worker starts: the only one that it can take. A step on the CPU takes none.
fn watched(machine: &Machine, backend: &str) -> Option<String> {
    match machine.gpus.as_slice() {
        [gpu] if matches!(backend, "cuda" | "command") => Some(gpu.uuid.clone()),
        _ => None,
    }
}

fn load_scenario(path: &Path, asked: &Asked) -> Result<Scenario, CommandError> {
    let options = LoadOptions {
        filter: asked.filter.as_deref(),
        backend: asked.backend.as_deref().and_then(BackendChoice::from_name),
        rounds: asked.rounds,
        ..LoadOptions::default()
    };
    scenario::load(path, &options).map_err(|diagnostics| CommandError::rendered(diagnostics.for_stderr()))
}

/// What runs the built-in cells here, and what was found of the GPU if that does; said on stderr where `auto` decided.
fn backend(scenario: &Scenario, device: Option<&str>) -> Result<(String, Option<Answer>), CommandError> {
    if !scenario.cells.iter().any(|planned| matches!(planned.work, Work::Builtin(_))) {
        return Ok(("command".to_owned(), None));
    }
    let mut found = None;
    let name = match scenario.backend {
        BackendChoice::Cpu => "cpu",
        BackendChoice::Null if std::env::var_os("STEPWATCH_NULL").is_some() => "null",
        BackendChoice::Null => return Err(CommandError::usage("the null backend only runs in stepwatch's own tests")),
        BackendChoice::Cuda => {
            found = Some(device::cuda(device).map_err(|why| super::doctor::no_cuda(&why))?);
            "cuda"
        }
        BackendChoice::Auto => match device::cuda(device) {
            Ok(answer) => {
                found = Some(answer);
                "cuda"
            }
            Err(why) => {
                say(format_args!("backend: cpu ({why})"));
                "cpu"
            }
        },
    };
    Ok((name.to_owned(), found))
}

fn begin_workers() -> Result<(), CommandError> {
    interrupt::listen().map_err(|error| CommandError::new(Exit::Bug, format!("signals cannot be handled: {error}")))?;
    tree::adopt_orphans();
    Ok(())
}

fn resume(args: &Run, name: &str, against: &Against, known: &KnownFiles) -> Result<Exit, CommandError> {
    let folder = store::find(name, &args.places.out).map_err(CommandError::usage)?;
    let manifest = store::load_manifest(&folder).map_err(CommandError::usage)?;
    let planned = replan(args, folder, manifest)?;
    let (writer, torn) = RunWriter::reopen(&planned.folder).map_err(|error| match error {
        store::StoreError::Full { .. } => unwritable(error),
        other => CommandError::usage(other),
    })?;
    for torn in torn {
        say(format_args!("warning: {}: {}", planned.folder.display(), torn.what));
    }
    let before = super::load(&planned.folder)?;
    begin_workers()?;
    sweep(args, &planned, writer, Some(&before), against, known)
}

/// Plans a stored run again from its scenario, which must not have changed.
fn replan(args: &Run, folder: PathBuf, manifest: RunManifest) -> Result<Planned, CommandError> {
    let device = manifest.asked.device.as_deref();
    let answer = if manifest.backend == "cuda" {
        Some(device::cuda(device).map_err(|why| super::doctor::no_cuda(&why))?)
    } else {
        None
    };
    let machine = machine::used(false, answer.as_ref(), device);
    let obstacles = ledger::obstacles(&manifest, &machine);
    if !obstacles.is_empty() {
        return Err(CommandError::usage(format!(
            "{} cannot be gone on with here, since its rounds would not be comparable: {}; start a new run",
            manifest.id,
            obstacles.join("; ")
        )));
    }
    let path = PathBuf::from(&manifest.scenario_file);
    let scenario = load_scenario(&path, &manifest.asked)?;
    let sides = sides_again(args, &manifest, &scenario)?;
    let possible = sides.as_ref().map_or(&scenario.cells, |sides| &sides.cells);
    let same_cell = |cell: &stepwatch_record::Cell| possible.iter().find(|planned| planned.cell == *cell).cloned();
    let cells: Option<Vec<PlannedCell>> = manifest.cells.iter().map(same_cell).collect();
    match cells {
        Some(cells) if scenario.text == manifest.scenario_text && scenario.hash == manifest.scenario_hash => {
            let gpu = watched(&machine, &manifest.backend);
            Ok(Planned { manifest, cells, measure: scenario.measure, folder, gpu })
        }
        _ => Err(CommandError::usage(format!(
            "{} has changed since {} began: start a new run, or put the file back as it is in the run's {}",
            path.display(),
            manifest.id,
            store::MANIFEST
        ))),
    }
}

/// The other side of a stored run, if it has one.
fn sides_again(
    args: &Run,
    manifest: &RunManifest,
    scenario: &Scenario,
) -> Result<Option<other_side::Sides>, CommandError> {
    let Some(then) = &manifest.asked.against else {
        return match &args.against {
            Some(_) => {
                Err(CommandError::usage(format!("{} was begun without --against: start a new run", manifest.id)))
            }
            None => Ok(None),
        };
    };
    other_side::again(args.against.as_deref(), then, scenario).map(Some).map_err(CommandError::usage)
}

/// Sweeps, then judges and shows what came of it.
fn sweep(
    args: &Run,
    planned: &Planned,
    mut writer: RunWriter,
    before: Option<&StoredRun>,
    against: &Against,
    known: &KnownFiles,
) -> Result<Exit, CommandError> {
    let manifest = &planned.manifest;
    let guess = list::guessed_round(&planned.cells, &planned.measure, manifest.backend == "cuda");
    let mut progress = Progress::new(args.quiet).of(&manifest.cells, manifest.rounds, guess);
    let sweep = Sweep {
        cells: &planned.cells,
        groups: runner::groups(&planned.cells, manifest.asked.against.as_ref()),
        measure: &planned.measure,
        rounds: manifest.rounds,
        seed: manifest.seed,
        backend: &manifest.backend,
        device: manifest.asked.device.as_deref(),
        gpu: planned.gpu.as_deref(),
        profile: manifest.asked.profile || args.profile,
    };
    let mut outcome = runner::run(&sweep, &mut writer, before, &mut progress);
    if let (Ok(()), Some(budget)) = (&outcome, &manifest.asked.budget) {
        outcome = budget::spend(&sweep, budget, &planned.folder, (against, known), &mut writer, &mut progress)?;
    }
    progress.finish();
    drop(writer);
    let again = format!("go on with: stepwatch run --resume {}", quoted(&planned.folder));
    match outcome {
        Ok(()) => judge(args, planned, against, known),
        Err(Stopped::Interrupted(exit)) => {
            say(format_args!("interrupted: what was measured is kept; {again}"));
            Ok(exit)
        }
        Err(Stopped::Store(error)) => Err(CommandError::new(Exit::CellsFailed, format!("{error}; {again}"))),
    }
}

fn judge(args: &Run, planned: &Planned, against: &Against, known: &KnownFiles) -> Result<Exit, CommandError> {
    let run = super::load(&planned.folder)?;
    if let Some(shard) = planned.manifest.asked.shard {
        say(format_args!("part {} of {} is measured; judge all parts with `stepwatch merge`", shard.index, shard.of));
        emit(&format!("{}\n", planned.folder.display()))?;
        let ends = || planned.manifest.cells.iter().map(|cell| run.cell_end(&cell.id));
        let all = ends()
            .all(|end| matches!(end, Some(stepwatch_record::End::Completed | stepwatch_record::End::Skipped { .. })));
        return Ok(if all { Exit::Good } else { Exit::CellsFailed });
    }
    let judgement = Judgement::new(run, against, known)?;
    let history = args.history.as_deref().and_then(|nights| earlier(&judgement, nights, known));
    let judgement = match &history {
        Some(history) => judgement.over(history),
        None => judgement.searched(&planned.folder),
    };
    let report = judgement.store(&planned.folder, history.as_ref())?;
    emit(&stepwatch_reports::text::render(&judgement.view(), super::colored_stdout()))?;
    emit(&format!("\nreport: {}\n", report.display()))?;
    if let Against::Accepted(baselines) = against {
        match promotion::promote(&judgement, &args.places.out, baselines).map_err(unwritable)? {
            Promotion::NotAsked => {}
            Promotion::Not(why) => say(format_args!("not a reference by itself: {why}")),
            Promotion::Accepted(path, reason) => say(format_args!("{}: {reason}", path.display())),
        }
    }
    Ok(judgement.exit())
}

/// The nights before a run that has ended. A folder that cannot be read any more is said: it must not cost the run.
fn earlier(judgement: &Judgement, folder: &Path, known: &KnownFiles) -> Option<History> {
    judgement.nights(folder, known).map_err(|error| say(format_args!("warning: {error}"))).ok()
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-~+=:,@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn parse_backend(text: &str) -> Result<BackendChoice, String> {
    BackendChoice::from_name(text).ok_or_else(|| format!("`{text}` is no backend: auto, cuda or cpu"))
}
