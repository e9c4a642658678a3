//! Where the two halves of the house meet: the model's session as the worker sees it, in the record's types.

use serde::Serialize;
use serde::de::DeserializeOwned;
use stepwatch_model::config::StepConfig;
use stepwatch_record::message::{FromWorker, Ready};
use stepwatch_record::plan::{Plan, Verification};
use stepwatch_record::profile::OpClass;

/// One step's times.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Counted from 0, the first step included.
    pub step: u64,
    /// Host time at its end, ns since the session was opened.
    pub t_ns: u64,
    /// Its duration as the device saw it, ns.
    pub gpu_ns: u64,
    /// Its SM cycles; 0 where unknown.
    pub cycles: u64,
    /// Its loss, nats.
    pub loss: f64,
}

/// Why a session cannot go on.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEnd {
    /// Too little memory.
    OutOfMemory(String),
    /// It cannot run here.
    Unsupported(String),
    /// Its numbers are wrong.
    NumbersWrong(String),
    /// Anything else.
    Failed(String),
}

impl SessionEnd {
    /// How the worker tells it.
    #[must_use]
    pub fn message(&self) -> FromWorker {
        let (kind, message) = match self {
            Self::Unsupported(reason) => return FromWorker::Skipped { reason: reason.clone() },
            Self::OutOfMemory(message) => ("out-of-memory", message),
            Self::NumbersWrong(message) => ("numbers-wrong", message),
            Self::Failed(message) => ("failed", message),
        };
        FromWorker::Failed { kind: kind.to_owned(), message: message.clone() }
    }
}

/// A session that runs steps.
pub struct Running {}

/// What `prepare` settled.
pub struct Prepared {
    /// The plan.
    pub plan: Plan,
    /// What was checked.
    pub verification: Verification,
    /// Steps run for it.
    pub steps: u64,
}

const ABSENT: &str = "the built-in step is not there yet";

/// Settles the plan of a cell and checks its numbers.
///
/// # Errors
/// [`SessionEnd`].
pub fn prepare(_config: &StepConfig, _backend: &str, _seed: u64) -> Result<Prepared, SessionEnd> {
    Err(SessionEnd::Unsupported(ABSENT.to_owned()))
}

/// Time per op class.
///
/// # Errors
/// [`SessionEnd`].
pub fn profile(
    _config: &StepConfig,
    _backend: &str,
    _plan: &serde_json::Value,
    _seed: u64,
) -> Result<Vec<OpClass>, SessionEnd> {
    Err(SessionEnd::Unsupported(ABSENT.to_owned()))
}

/// Builds, places and initialises a cell.
///
/// # Errors
/// [`SessionEnd`].
pub fn open(
    _config: &StepConfig,
    _backend: &str,
    _plan: &serde_json::Value,
    _seed: u64,
) -> Result<Running, SessionEnd> {
    Err(SessionEnd::Unsupported(ABSENT.to_owned()))
}

impl Running {
    /// Runs the first step to its end.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub fn first_step(&mut self) -> Result<Step, SessionEnd> {
        Err(SessionEnd::Unsupported(ABSENT.to_owned()))
    }

    /// Runs one more step; the times of steps that finished, which on a GPU may lag behind.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub fn advance(&mut self) -> Result<Vec<Step>, SessionEnd> {
        Err(SessionEnd::Unsupported(ABSENT.to_owned()))
    }

    /// The times of the steps still in flight.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub fn drain(&mut self) -> Result<Vec<Step>, SessionEnd> {
        Ok(Vec::new())
    }

    /// What really runs.
    #[must_use]
    pub fn describe(&self) -> Ready {
        Ready::default()
    }

    /// Tokens of one step.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        0
    }

    /// Peak memory, bytes.
    #[must_use]
    pub fn peak_memory_bytes(&self) -> u64 {
        0
    }
}

/// The two halves never import each other: what both know is carried over as JSON of one form.
#[allow(dead_code)]
fn convert<T: DeserializeOwned>(value: &impl Serialize) -> Result<T, SessionEnd> {
    serde_json::to_value(value)
        .and_then(serde_json::from_value)
        .map_err(|error| SessionEnd::Failed(format!("model and record disagree on a type: {error}")))
}
