//! Where the two halves of the house meet: the model's session as the worker sees it, in the record's types.

use serde::Serialize;
use serde::de::DeserializeOwned;
use stepwatch_model::config::StepConfig;
use stepwatch_model::probe;
use stepwatch_model::session::{self, Backend, Session, SessionError, StepTime};
use stepwatch_record::ceiling::Ceiling;
use stepwatch_record::machine::Library;
use stepwatch_record::message::{Canary, FromWorker, Ready};
use stepwatch_record::plan::{Plan, SkippedPass, Verification};
use stepwatch_record::profile::OpClass;

use crate::fault::{self, Stage};

/// Why a session cannot go on.
#[derive(Debug)]
pub struct Ended(SessionError);

impl Ended {
    /// A failure in words of the worker's own.
    #[must_use]
    pub fn failed(message: String) -> Self {
        Self(SessionError::Failed(message))
    }

    /// Why, in words.
    #[must_use]
    pub fn into_reason(self) -> String {
        self.0.to_string()
    }

    /// How the worker tells it.
    #[must_use]
    pub fn message(self) -> FromWorker {
        let (kind, message) = match self.0 {
            SessionError::Unsupported(reason) => return FromWorker::Skipped { reason },
            SessionError::OutOfMemory(message) => ("out-of-memory", message),
            SessionError::NumbersWrong(message) => ("numbers-wrong", message),
            SessionError::Failed(message) => ("failed", message),
        };
        FromWorker::Failed { kind: kind.to_owned(), message }
    }
}

impl From<SessionError> for Ended {
    fn from(error: SessionError) -> Self {
        Self(error)
    }
}

/// The backend that the parent names.
///
/// # Errors
/// When it names none.
pub fn backend(name: &str) -> Result<Backend, String> {
    match name {
        "cpu" => Ok(Backend::Cpu),
        "cuda" => Ok(Backend::Cuda),
        "null" => Ok(Backend::Null),
        other => Err(format!("`{other}` is no backend: cpu, cuda or null")),
    }
}

/// Settles the plan of a cell and checks its numbers.
///
/// # Errors
/// [`Ended`] when it cannot.
pub fn prepare(config: &StepConfig, backend: Backend, seed: u64) -> Result<(Plan, Verification), Ended> {
    fault::strike(Stage::Prepare)?;
    let prepared = session::prepare(config, backend, seed)?;
    Ok((convert(&prepared.plan)?, convert(&prepared.verification)?))
}

/// Time per op class.
///
/// # Errors
/// [`Ended`] when it cannot.
pub fn profile(
    config: &StepConfig,
    backend: Backend,
    plan: &serde_json::Value,
    seed: u64,
) -> Result<Vec<OpClass>, Ended> {
    let ops = session::profile(config, backend, plan_of(plan)?.as_ref(), seed)?;
    ops.iter().map(convert).collect()
}

/// What the device sustains: its UUID, and the ceilings.
///
/// # Errors
/// [`Ended`] when it cannot; on a CPU nothing is bounded by it.
pub fn ceilings(backend: Backend, began: std::time::Instant) -> Result<(String, Vec<Ceiling>), Ended> {
    if backend != Backend::Cuda {
        return Err(SessionError::Unsupported("ceilings are a GPU's".to_owned()).into());
    }
    let (gpu, found) = probe::ceilings(began)?;
    let all = found.iter().map(convert).collect::<Result<_, _>>()?;
    Ok((gpu, all))
}

/// The step at which an injected fault strikes: samples were sent by then.
const FAULT_AT: u64 = 3;

/// A cell that runs steps.
pub struct Running {
    session: Session,
    /// Steps asked for since the first.
    advanced: u64,
}

impl Running {
    /// Builds, places and initialises a cell; no step has run then.
    ///
    /// # Errors
    /// [`Ended`] when it cannot.
    pub fn open(config: &StepConfig, backend: Backend, plan: &serde_json::Value, seed: u64) -> Result<Self, Ended> {
        fault::strike(Stage::Open)?;
        Ok(Self { session: Session::open(config, backend, plan_of(plan)?.as_ref(), seed)?, advanced: 0 })
    }

    /// Runs the first step to its end: on every backend it is the slow one, and no later step is in flight.
    ///
    /// # Errors
    /// [`Ended`] when it cannot.
    pub fn first_step(&mut self) -> Result<StepTime, Ended> {
        let mut times = self.session.advance(1)?;
        if times.is_empty() {
            times = self.session.drain()?;
        }
        times.pop().ok_or_else(|| Ended::failed("the first step has no time".to_owned()))
    }

    /// Submits one more step; the times of those that finished, which on a GPU lag behind.
    ///
    /// # Errors
    /// [`Ended`] when it cannot.
    pub fn advance(&mut self) -> Result<Vec<StepTime>, Ended> {
        self.advanced += 1;
        if self.advanced == FAULT_AT {
            fault::strike(Stage::Step)?;
        }
        Ok(self.session.advance(1)?)
    }

    /// The times of the steps still in flight.
    ///
    /// # Errors
    /// [`Ended`] when one fails.
    pub fn drain(&mut self) -> Result<Vec<StepTime>, Ended> {
        Ok(self.session.drain()?)
    }

    /// The canary on this session's device; no step may be under way. `None` where there is none, or no memory for it.
    ///
    /// # Errors
    /// [`Ended`] when the device fails.
    pub fn canary(&self) -> Result<Option<Canary>, Ended> {
        match self.session.canary() {
            Ok(canary) => canary.as_ref().map(convert).transpose(),
            Err(SessionError::OutOfMemory(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What really runs.
    #[must_use]
    pub fn describe(&self) -> Ready {
        let description = self.session.describe();
        Ready {
            device: Some(description.device),
            device_uuid: description.device_uuid,
            parameters_count: Some(description.parameters_count),
            fp8_linears: Some(description.fp8_linears),
            attention: Some(description.attention),
            passes: description.passes,
            skipped_passes: description
                .skipped_passes
                .into_iter()
                .map(|pass| SkippedPass { name: pass.name, reason: pass.reason })
                .collect(),
            kernels_compiled: description.kernels_compiled,
            flops_per_token: Some(description.flops_per_token),
            libraries: mapped_libraries(),
            ..Ready::default()
        }
    }

    /// Peak memory, bytes.
    #[must_use]
    pub fn peak_memory_bytes(&self) -> u64 {
        self.session.peak_memory_bytes()
    }
}

/// The CUDA libraries that this process maps: `libcublasLt.so.13.0.2` is `cublasLt` in version `13.0.2`.
fn mapped_libraries() -> Vec<Library> {
    let named = |file: probe::Mapped| {
        let (name, version) = file.name.split_once(".so").unwrap_or((&file.name, ""));
        Library {
            name: name.strip_prefix("lib").unwrap_or(name).to_owned(),
            version: version.trim_start_matches('.').to_owned(),
            path: file.path.display().to_string(),
        }
    };
    probe::mapped().into_iter().map(named).collect()
}

/// The plan as the model knows it; none where the parent has none.
fn plan_of(plan: &serde_json::Value) -> Result<Option<stepwatch_model::plan::Plan>, Ended> {
    if plan.is_null() {
        return Ok(None);
    }
    convert(plan).map(Some)
}

/// The two halves never import each other: what both know is carried over as JSON of one form.
fn convert<T: DeserializeOwned>(value: &impl Serialize) -> Result<T, Ended> {
    serde_json::to_value(value)
        .and_then(serde_json::from_value)
        .map_err(|error| Ended::failed(format!("model and record disagree on a type: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_and_verifications_have_one_form_on_both_sides() {
        let plan = stepwatch_model::plan::Plan { hash: "abc".into(), flops: 1.5, ..Default::default() };
        let ours: Plan = convert(&plan).unwrap();
        let back: stepwatch_model::plan::Plan = convert(&ours).unwrap();
        assert_eq!((ours.hash.as_str(), back), ("abc", plan));
    }

    #[test]
    fn ceilings_have_one_form_on_both_sides() {
        let found = probe::Ceiling {
            work: probe::Work::Fp8Product,
            per_second: 1e15,
            seconds: 2.0,
            from_ns: 3,
            to_ns: 5,
            sm_clock_hz: None,
        };
        let ours: Ceiling = convert(&found).unwrap();
        assert_eq!(
            (ours.work, ours.per_second, ours.power_w),
            (stepwatch_record::ceiling::Work::Fp8Product, 1e15, None)
        );
        assert!(matches!(ceilings(Backend::Cpu, std::time::Instant::now()), Err(Ended(SessionError::Unsupported(_)))));
    }

    #[test]
    fn every_end_of_a_session_has_its_message() {
        let told = |error: SessionError| serde_json::to_string(&Ended(error).message()).unwrap();
        assert_eq!(told(SessionError::Unsupported("x".into())), r#"{"type":"skipped","reason":"x"}"#);
        assert_eq!(
            told(SessionError::OutOfMemory("x".into())),
            r#"{"type":"failed","kind":"out-of-memory","message":"x"}"#
        );
        assert_eq!(
            told(SessionError::NumbersWrong("x".into())),
            r#"{"type":"failed","kind":"numbers-wrong","message":"x"}"#
        );
    }
}
