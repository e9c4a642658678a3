//! A scenario: from the file a user writes to the cells that are run, with every default applied and every word understood.
//!
//! Two tiers. `raw` mirrors the file and keeps where each thing stands; `resolve` makes the types below of it, and nobody
//! reads raw input after that. Nothing here runs, measures or judges.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stepwatch_model::config::{Dims, StepConfig};
use stepwatch_record::finding::Finding;
use stepwatch_record::run::{Better, Claim, Metric, Policy};
use stepwatch_record::{Cell, Scalar};

mod builtin;
mod claim;
mod diagnostic;
mod exclude;
mod expand;
mod filter;
mod keys;
pub mod known;
mod matrix;
mod measure;
mod metric;
pub(crate) mod models;
mod policy;
mod raw;
mod read;
mod resolve;
pub mod schema;
#[cfg(test)]
mod tests;
mod workload;

pub use builtin::config_of;
pub use diagnostic::Diagnostics;

/// A scenario as resolved: all that is needed to run it.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The file, as the user named it.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
    /// Its name: a safe path component (letters, digits, `-`, `_`, `.`).
    pub name: String,
    /// Its title: free text, to be escaped wherever it is shown.
    pub title: String,
    /// Which backend runs the built-in cells.
    pub backend: BackendChoice,
    /// The cells, in the order of the file, after exclude and filter.
    pub cells: Vec<PlannedCell>,
    /// How each cell is measured.
    pub measure: Measure,
    /// When a change matters.
    pub policy: Policy,
    /// The claims with their pairs among `cells`.
    pub claims: Vec<Claim>,
    /// Every metric that these cells can have: the built-in figures, then the user's own.
    pub metrics: Vec<Metric>,
    /// The command workloads, by name.
    pub workloads: BTreeMap<String, CommandWorkload>,
    /// SHA-256 of the resolved scenario, 16 hex digits. Titles, texts, comments and the order of tables are outside it.
    pub hash: String,
    /// What is wrong with the question rather than with the file, such as a size label that does not fit.
    pub findings: Vec<Finding>,
    /// What the user should know and need not act on, one line each.
    pub notes: Vec<String>,
    /// What looks like a slip, with its place in the file: to be shown, and no reason to stop.
    pub warnings: Diagnostics,
}

/// `backend` as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// CUDA where a usable GPU is found, else the CPU.
    #[default]
    Auto,
    /// CUDA, or exit 7.
    Cuda,
    /// The CPU.
    Cpu,
    /// Scripted times, for tests; not documented to users.
    Null,
}

impl BackendChoice {
    /// Its name as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
            Self::Null => "null",
        }
    }

    /// The backend of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Auto, Self::Cuda, Self::Cpu, Self::Null].into_iter().find(|backend| backend.name() == name)
    }
}

/// A cell and what runs it.
#[derive(Debug, Clone)]
pub struct PlannedCell {
    /// Who it is.
    pub cell: Cell,
    /// What runs it.
    pub work: Work,
    /// The stepwatch binary that runs it, if it is not this one: a built-in cell of the other side.
    pub program: Option<PathBuf>,
}

/// A time with its unit (ms, s, min, h), such as `5min`; `None` unless it is at least 1 s and at most a week.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    read::duration(text)
}

/// Whether a name is that of a workload: the built-in step, or one that the scenario declares.
#[must_use]
pub fn is_workload(name: &str, scenario: &Scenario) -> bool {
    name == workload::BUILTIN || scenario.workloads.contains_key(name)
}

/// Whether two cells of different workloads have the same value of every parameter that both have.
#[must_use]
pub fn agree(one: &Cell, other: &Cell) -> bool {
    let shared = one.parameters.iter().filter_map(|(name, value)| Some((name, value, other.parameters.get(name)?)));
    shared.into_iter().all(|(name, value, other)| workload::same(name, value, other))
}

/// What runs a cell.
#[derive(Debug, Clone)]
pub enum Work {
    /// The built-in training step.
    Builtin(Box<StepConfig>),
    /// A command of the user's.
    Command(CommandCell),
}

/// A command workload (`[workloads.NAME]`), resolved.
#[derive(Debug, Clone)]
pub struct CommandWorkload {
    /// Its name.
    pub name: String,
    /// Program and arguments with `{parameter}` places.
    pub command: Vec<String>,
    /// Whether it speaks the JSON-lines protocol instead of being read by regex.
    pub protocol: bool,
    /// Whether one process runs all rounds of a cell.
    pub persistent: bool,
    /// The parameters it takes, by name.
    pub axes: BTreeMap<String, CommandAxis>,
    /// The figures read from it.
    pub metrics: Vec<CommandMetric>,
    /// Where it runs: the folder of the scenario file.
    pub working_dir: PathBuf,
}

/// A parameter that a command workload takes.
#[derive(Debug, Clone)]
pub struct CommandAxis {
    /// The values it accepts, spelled as the command wants them; empty accepts what the built-in key accepts.
    pub values: Vec<Scalar>,
    /// The value of a cell that is given none.
    pub default: Option<Scalar>,
}

/// One cell of a command workload, ready to start.
#[derive(Debug, Clone)]
pub struct CommandCell {
    /// The workload's name.
    pub workload: String,
    /// Program and arguments, every `{parameter}` filled in.
    pub argv: Vec<String>,
    /// Whether it speaks the JSON-lines protocol.
    pub protocol: bool,
    /// Whether one process runs all rounds of the cell.
    pub persistent: bool,
    /// The figures to read.
    pub metrics: Vec<CommandMetric>,
    /// Where it runs.
    pub working_dir: PathBuf,
}

/// A figure of a command workload.
#[derive(Debug, Clone)]
pub struct CommandMetric {
    /// Its name.
    pub name: String,
    /// What finds it in the output: the first group is the number (`,` and `_` between digits are ignored); every match is
    /// a sample. `None` only where the workload speaks the protocol and sends it under its name.
    pub regex: Option<regex::Regex>,
    /// Its unit.
    pub unit: String,
    /// Its good direction.
    pub better: Better,
}

/// `[measure]`, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// Rounds (worker processes) of each cell.
    pub rounds_min: u32,
    /// Rounds of each cell at the most, where a budget allows more.
    pub rounds_max: u32,
    /// When warm-up ends.
    pub warmup: Warmup,
    /// Steps that count, of each round.
    pub samples: u32,
    /// The longest a worker may take.
    pub timeout: Duration,
    /// Where warm-up that does not become steady is given up.
    pub max_warmup_steps: u64,
}

/// When warm-up ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warmup {
    /// When the step times are steady.
    Steady,
    /// After so many steps.
    Steps(u64),
}

/// What the command line says about a scenario.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions<'a> {
    /// `--filter`.
    pub filter: Option<&'a str>,
    /// `--backend`.
    pub backend: Option<BackendChoice>,
    /// `--rounds`: exactly so many.
    pub rounds: Option<u32>,
    /// Instead of the file's `max_cells`.
    pub max_cells: Option<usize>,
}

/// Reads, checks and resolves a scenario.
///
/// # Errors
/// Everything that is wrong with the file, each with file, line, caret and what is allowed.
pub fn load(path: &Path, options: &LoadOptions<'_>) -> Result<Scenario, Diagnostics> {
    parse(path, &read_file(path)?, options)
}

/// As [`load`], for text that stands in no file yet; `path` is what messages call it and where relative files start from.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str, options: &LoadOptions<'_>) -> Result<Scenario, Diagnostics> {
    resolve::resolve(path, text, options)
}

/// The models that a scenario declares, by name; the rest of the file is not looked at.
///
/// # Errors
/// What is wrong with them.
pub fn model_dims(path: &Path) -> Result<Vec<(String, Dims)>, Diagnostics> {
    resolve::model_dims(path, &read_file(path)?)
}

fn read_file(path: &Path) -> Result<String, Diagnostics> {
    std::fs::read_to_string(path).map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such scenario file".to_owned(),
            std::io::ErrorKind::InvalidData => "the file is not UTF-8 text".to_owned(),
            _ => format!("the file cannot be read: {error}"),
        };
        Diagnostics::of_file(path, why)
    })
}
