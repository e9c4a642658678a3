//! Faults on demand in a worker, so that what comes after each can be tested where the real one cannot be made. Test only:
//! `STEPWATCH_INJECT` is in no help and no scenario.
//!
//! It holds faults parted by commas, each `NAME[@STAGE][:CELL]`: a name of `model::probe::FAULTS`, `crash` or `hang`; the stage
//! at which it strikes, `step` unless said; and how the ids of the cells begin that it strikes.

use stepwatch_model::probe::fault_of;

use crate::builtin::Ended;

/// Names what is to fail.
pub const VARIABLE: &str = "STEPWATCH_INJECT";

/// Where a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// While drivers and libraries are probed.
    Probe,
    /// While a cell is prepared.
    Prepare,
    /// While a round's session is opened.
    Open,
    /// After some steps of a round.
    Step,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Prepare => "prepare",
            Self::Open => "open",
            Self::Step => "step",
        }
    }
}

/// Strikes if this stage of this cell is to fail.
///
/// # Errors
/// The end that the fault brings.
pub fn strike(stage: Stage) -> Result<(), Ended> {
    let Ok(asked) = std::env::var(VARIABLE) else { return Ok(()) };
    let cell = std::env::var("STEPWATCH_CELL").unwrap_or_default();
    match chosen(&asked, stage, &cell) {
        None => Ok(()),
        Some("crash") => std::process::abort(),
        Some("hang") => loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        },
        Some(name) => match fault_of(name) {
            Some(error) => Err(error.into()),
            None => Err(Ended::failed(format!("{VARIABLE}: `{name}` is no fault"))),
        },
    }
}

/// The name of the first fault that strikes here.
fn chosen<'a>(asked: &'a str, stage: Stage, cell: &str) -> Option<&'a str> {
    asked.split(',').find_map(|fault| {
        let (what, prefix) = fault.split_once(':').unwrap_or((fault, ""));
        let (name, at) = what.split_once('@').unwrap_or((what, "step"));
        (at == stage.name() && cell.starts_with(prefix)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_its_stage_and_its_cells_only() {
        let asked = "hang@open:tiny/bf16,illegal-address,crash@probe";
        let cases = [
            (Stage::Open, "tiny/bf16/none", Some("hang")),
            (Stage::Open, "tiny/fp32/none", None),
            (Stage::Step, "tiny/fp32/none", Some("illegal-address")),
            (Stage::Prepare, "tiny/bf16/none", None),
            (Stage::Probe, "", Some("crash")),
        ];
        for (stage, cell, expected) in cases {
            assert_eq!(chosen(asked, stage, cell), expected, "{stage:?} of {cell}");
        }
    }
}
