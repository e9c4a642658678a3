//! `stepwatch list`: the cells of a scenario with estimated memory and time; nothing is run.

use std::path::PathBuf;

use stepwatch_model::config::StepConfig;
use stepwatch_model::count;
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::name::Names;
use stepwatch_record::{Cell, CellId};

use super::check::say_warnings;
use super::{CommandError, aligned, emit, say};
use crate::baseline;
use crate::exit::Exit;
use crate::scenario::{self, BackendChoice, LoadOptions, Measure, PlannedCell, Scenario, Warmup, Work};

/// List the cells of a scenario with estimated time and memory; nothing is run
#[derive(Debug, clap::Args)]
pub struct List {
    /// Scenario file
    #[arg(value_name = "SCENARIO")]
    pub scenario: PathBuf,
    /// Only these cells, such as 'precision=fp8-*,compile=full'
    #[arg(long)]
    pub filter: Option<String>,
    /// auto, cuda or cpu, instead of the scenario's own
    #[arg(long)]
    pub backend: Option<String>,
    /// Where accepted baselines are: what the newest of the scenario measured stands in place of a guess
    #[arg(long, value_name = "DIR", default_value = "baselines")]
    pub baselines: PathBuf,
}

/// Lists the cells. An accepted run that cannot be read is said, and the guesses stay.
///
/// # Errors
/// What is wrong with the scenario, exit 2.
pub fn run(args: &List) -> Result<Exit, CommandError> {
    let backend = args.backend.as_deref().map(backend).transpose()?;
    let options = LoadOptions { filter: args.filter.as_deref(), backend, ..LoadOptions::default() };
    let scenario =
        scenario::load(&args.scenario, &options).map_err(|errors| CommandError::rendered(errors.for_stderr()))?;
    say_warnings(&scenario);
    let accepted = baseline::reference(&args.baselines, &scenario.name, 1, "", |_| true).unwrap_or_else(|error| {
        say(format_args!("warning: {error}"));
        Vec::new()
    });
    emit(&text(&scenario, accepted.first().map(|accepted| &accepted.summary)))?;
    Ok(Exit::Good)
}

fn backend(word: &str) -> Result<BackendChoice, CommandError> {
    BackendChoice::from_name(word)
        .ok_or_else(|| CommandError::usage(format!("--backend {word}: one of auto, cuda, cpu is needed")))
}

/// The list as text: one line a cell, then the totals and what the estimates rest on. Times of cells that an accepted run has
/// measured are its own, and so is the memory of commands.
#[must_use]
pub fn text(scenario: &Scenario, accepted: Option<&Summary>) -> String {
    // What reports call a cell, where its id does not say it: ids stay as they are whatever is added to a scenario.
    let cells: Vec<Cell> = scenario.cells.iter().map(|planned| planned.cell.clone()).collect();
    let names = Names::of(&cells);
    let called = |id: &CellId| Some(names.get(id)).filter(|name| *name != id.readable()).unwrap_or_default().to_owned();
    let ids_tell_all = cells.iter().all(|cell| called(&cell.id).is_empty());
    let heads = ["cell", "memory", "a step", "all rounds", if ids_tell_all { "" } else { "called" }];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let cuda = scenario.backend == BackendChoice::Cuda;
    let (mut total, mut guessed, mut measured, mut unknown) = (0.0, 0, 0, 0);
    for planned in &scenario.cells {
        let id = &planned.cell.id;
        let known = accepted.and_then(|summary| Measured::of(summary.cell(id)?, &planned.work, &scenario.measure));
        let times = known.map(|known| (known.step_seconds, known.rounds_seconds));
        let (memory, guess) = match &planned.work {
            Work::Builtin(config) => {
                total += if cuda { PREPARE_SECONDS } else { 0.0 };
                let Estimate { memory_bytes, step_seconds } = estimate(config, cuda);
                let rounds_seconds = cell_seconds(START_SECONDS, step_seconds, &scenario.measure);
                (Some(memory_bytes), Some((step_seconds, rounds_seconds)))
            }
            Work::Command(_) => (known.and_then(|known| known.memory_bytes), None),
        };
        *match (times, guess) {
            (Some(_), _) => &mut measured,
            (None, Some(_)) => &mut guessed,
            (None, None) => &mut unknown,
        } += 1;
        let [step, all] = match times.or(guess) {
            Some((step, all)) => {
                total += all;
                let sign = if times.is_some() { "" } else { "≈ " };
                [step, all].map(|time| format!("{sign}{}", seconds(time)))
            }
            None => ["?"; 2].map(str::to_owned),
        };
        rows.push(vec![id.to_string(), memory.map_or_else(|| "?".into(), bytes), step, all, called(id)]);
    }
    let measure = &scenario.measure;
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let total = match unknown {
        0 => format!("about {}", seconds(total)),
        _ if unknown == cells.len() => "how long the commands take is not known".to_owned(),
        _ => format!("about {} without the commands", seconds(total)),
    };
    let mut rests_on = Vec::new();
    if let Some(summary) = accepted.filter(|_| measured > 0) {
        let machines: Vec<&str> =
            summary.machines.iter().flat_map(|m| m.gpus.iter().map(|gpu| gpu.name.as_str())).collect();
        let on = machines.first().map_or_else(String::new, |gpu| format!(" on {gpu}"));
        rests_on.push(format!(
            "Times of {measured} cell{} are those of the accepted run {}{on}.",
            plural(measured),
            summary.run
        ));
    }
    if guessed > 0 {
        rests_on.push(if cuda { GUESS_ON_CUDA } else { GUESS_ON_CPU }.to_owned());
    }
    rests_on.push(if cuda { MEMORY_ON_CUDA } else { MEMORY_ON_CPU }.to_owned());
    format!(
        "{}\n\n{} cell{} × {} rounds × {} samples, {} claim{}; {total}\n{}\n",
        aligned(rows, &[1, 2, 3]).join("\n"),
        scenario.cells.len(),
        plural(scenario.cells.len()),
        measure.rounds_min,
        measure.samples,
        scenario.claims.len(),
        plural(scenario.claims.len()),
        rests_on.join("\n"),
    )
}

/// What an accepted run says of a cell.
#[derive(Debug, Clone, Copy)]
struct Measured {
    step_seconds: f64,
    rounds_seconds: f64,
    memory_bytes: Option<u64>,
}

impl Measured {
    /// `None` where it measured no time of the cell.
    fn of(figures: &CellFigures, work: &Work, measure: &Measure) -> Option<Self> {
        let of = |metric: &str| figures.figure(metric).map(|figure| figure.estimate.point);
        let step_seconds = of("step_seconds")?;
        let start = of("setup_seconds").unwrap_or(START_SECONDS);
        let rounds = f64::from(measure.rounds_min);
        let rounds_seconds = match work {
            // One process: it sets up once.
            Work::Command(command) if command.persistent => start + rounds * round_seconds(0.0, step_seconds, measure),
            _ => cell_seconds(start, step_seconds, measure),
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes, far below 2^53")]
        let memory_bytes = of("peak_memory_bytes").map(|bytes| bytes as u64);
        Some(Self { step_seconds, rounds_seconds, memory_bytes })
    }
}

const GUESS_ON_CPU: &str = "≈ is a rough guess (40 GFLOP/s, a 2-core CPU).";
const GUESS_ON_CUDA: &str = "≈ is a rough guess (500 TFLOP/s, a twentieth of it in fp32).";
const MEMORY_ON_CPU: &str = "Memory counts weights, states and activations.";
const MEMORY_ON_CUDA: &str = "Memory counts weights, states, activations and what executor and libraries take; a process's CUDA context \
                              takes about half a GiB more.";

/// What the CUDA executor takes beside the step, bytes: 32 MiB of workspace for the products, cuDNN's scratch, loaded kernels.
/// It is what an H100 had less of free memory beyond what is placed (454m × 16 × 2048, bf16: 36.12 GiB against 35.95);
/// `peak_memory_bytes` leaves the kernels out and is lower by less than 0.5 %.
const BESIDE_THE_STEP: u64 = 170 << 20;

/// Start of a worker process until its first step, seconds: a guess.
const START_SECONDS: f64 = 1.0;

/// A cell on a GPU prepares itself once: algorithms are searched, its numbers verified. 16 cells took 118 s on an H100, 2026-11-28.
const PREPARE_SECONDS: f64 = 7.0;

struct Estimate {
    memory_bytes: u64,
    step_seconds: f64,
}

/// What a step costs, by its FLOPs alone. An estimate to tell minutes from hours, never a figure of a report.
fn estimate(config: &StepConfig, cuda: bool) -> Estimate {
    let step = count::step(config);
    let speed = match (cuda, config.precision == stepwatch_model::Precision::Fp32) {
        (false, _) => 40e9,
        (true, true) => 25e12,
        (true, false) => 500e12,
    };
    let memory_bytes = step.memory.total + if cuda { BESIDE_THE_STEP } else { 0 };
    Estimate { memory_bytes, step_seconds: step.flops_per_token * config.tokens() as f64 / speed }
}

/// What a round takes on average by the guesses alone, seconds; of commands nothing is known.
pub(super) fn guessed_round(cells: &[PlannedCell], measure: &Measure, cuda: bool) -> f64 {
    let guesses: Vec<f64> = cells
        .iter()
        .filter_map(|planned| match &planned.work {
            Work::Builtin(config) => Some(round_seconds(START_SECONDS, estimate(config, cuda).step_seconds, measure)),
            Work::Command(_) => None,
        })
        .collect();
    if guesses.is_empty() { 10.0 } else { guesses.iter().sum::<f64>() / guesses.len() as f64 }
}

/// All rounds of a cell whose worker takes `start` seconds until its first step.
fn cell_seconds(start: f64, step_seconds: f64, measure: &Measure) -> f64 {
    f64::from(measure.rounds_min) * round_seconds(start, step_seconds, measure)
}

/// A round: start, warm-up, samples. A warm-up until steady is taken as ten steps.
fn round_seconds(start: f64, step_seconds: f64, measure: &Measure) -> f64 {
    let warmup = match measure.warmup {
        Warmup::Steady => measure.max_warmup_steps.min(10),
        Warmup::Steps(steps) => steps,
    };
    let steps = warmup as f64 + f64::from(measure.samples) + 1.0;
    start + steps * step_seconds
}

/// Bytes as a person reads them.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0x4000_0000.. => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
        0x10_0000.. => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} KiB", bytes as f64 / 1024.0),
    }
}

/// A duration as a person reads it.
fn seconds(seconds: f64) -> String {
    if seconds < 0.001 {
        format!("{:.0} µs", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.0} h", seconds / 3600.0)
    }
}
