//! `stepwatch list`: the cells of a scenario with estimated memory and time; nothing is run.

use std::path::PathBuf;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use stepwatch_model::config::StepConfig;
use stepwatch_model::count;
use stepwatch_record::name::Names;
use stepwatch_record::{Cell, CellId};

use super::check::say_warnings;
use super::{CommandError, emit};
use crate::exit::Exit;
use crate::scenario::{self, BackendChoice, LoadOptions, Measure, Scenario, Warmup, Work};

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
}

/// Lists the cells.
///
/// # Errors
/// What is wrong with the scenario, exit 2.
pub fn run(args: &List) -> Result<Exit, CommandError> {
    let backend = args.backend.as_deref().map(backend).transpose()?;
    let options = LoadOptions { filter: args.filter.as_deref(), backend, ..LoadOptions::default() };
    let scenario =
        scenario::load(&args.scenario, &options).map_err(|errors| CommandError::rendered(errors.for_stderr()))?;
    say_warnings(&scenario);
    emit(&text(&scenario))?;
    Ok(Exit::Good)
}

fn backend(word: &str) -> Result<BackendChoice, CommandError> {
    BackendChoice::from_name(word)
        .ok_or_else(|| CommandError::usage(format!("--backend {word}: one of auto, cuda, cpu is needed")))
}

/// The list as text: one line a cell, then the totals and what the estimates rest on.
#[must_use]
pub fn text(scenario: &Scenario) -> String {
    let mut table = Table::new();
    // Never wrapped: a cell is one line, for people and for `grep`.
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    // What reports call a cell, where its id does not say it: ids stay as they are whatever is added to a scenario.
    let cells: Vec<Cell> = scenario.cells.iter().map(|planned| planned.cell.clone()).collect();
    let names = Names::of(&cells);
    let called = |id: &CellId| Some(names.get(id)).filter(|name| *name != id.readable()).unwrap_or_default().to_owned();
    let ids_tell_all = cells.iter().all(|cell| called(&cell.id).is_empty());
    table.set_header(["cell", "memory", "a step", "all rounds", if ids_tell_all { "" } else { "called" }]);
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 1));
    }
    for column in table.column_iter_mut().skip(1).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let cuda = scenario.backend == BackendChoice::Cuda;
    let mut total = 0.0;
    let mut unknown = false;
    for planned in &scenario.cells {
        let (id, called) = (planned.cell.id.to_string(), called(&planned.cell.id));
        let Work::Builtin(config) = &planned.work else {
            unknown = true;
            table.add_row([id.as_str(), "?", "?", "?", &called]);
            continue;
        };
        let estimate = estimate(config, cuda);
        let cell = cell_seconds(estimate.step_seconds, &scenario.measure);
        total += cell;
        table.add_row([id, bytes(estimate.memory_bytes), seconds(estimate.step_seconds), seconds(cell), called]);
    }
    let measure = &scenario.measure;
    let total = if unknown { format!("{} without the commands", seconds(total)) } else { seconds(total) };
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    format!(
        "{}\n\n{} cell{} × {} rounds × {} samples, {} claim{}; about {total}\n{}\n",
        lines.join("\n"),
        scenario.cells.len(),
        plural(scenario.cells.len()),
        measure.rounds_min,
        measure.samples,
        scenario.claims.len(),
        plural(scenario.claims.len()),
        if cuda { ON_CUDA } else { ON_CPU },
    )
}

const ON_CPU: &str =
    "Times are a rough guess (10 GFLOP/s, a 2-core CPU); memory counts weights, states and activations.";
const ON_CUDA: &str = "Times are a rough guess (250 TFLOP/s, a tenth of it in fp32); memory counts weights, states, activations and what \
                       executor and libraries take; a process's CUDA context takes about half a GiB more.";

/// What the CUDA executor takes beside the step, bytes: 32 MiB of workspace for the products, cuDNN's scratch, loaded kernels.
/// It is what an H100 had less of free memory beyond what is placed (454m × 16 × 2048, bf16: 36.12 GiB against 35.95);
/// `peak_memory_bytes` leaves the kernels out and is lower by less than 0.5 %.
const BESIDE_THE_STEP: u64 = 170 << 20;

/// Start of a worker process until its first step, seconds: a guess.
const START_SECONDS: f64 = 1.0;

struct Estimate {
    memory_bytes: u64,
    step_seconds: f64,
}

/// What a step costs, by its FLOPs alone. An estimate to tell minutes from hours, never a figure of a report.
fn estimate(config: &StepConfig, cuda: bool) -> Estimate {
    let step = count::step(config);
    let speed = match (cuda, config.precision == stepwatch_model::Precision::Fp32) {
        (false, _) => 10e9,
        (true, true) => 25e12,
        (true, false) => 250e12,
    };
    let memory_bytes = step.memory.total + if cuda { BESIDE_THE_STEP } else { 0 };
    Estimate { memory_bytes, step_seconds: step.flops_per_token * config.tokens() as f64 / speed }
}

/// All rounds of a cell: start, warm-up, samples. A warm-up until steady is taken as ten steps.
fn cell_seconds(step_seconds: f64, measure: &Measure) -> f64 {
    let warmup = match measure.warmup {
        Warmup::Steady => measure.max_warmup_steps.min(10),
        Warmup::Steps(steps) => steps,
    };
    let steps = warmup as f64 + f64::from(measure.samples) + 1.0;
    f64::from(measure.rounds_min) * (START_SECONDS + steps * step_seconds)
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
