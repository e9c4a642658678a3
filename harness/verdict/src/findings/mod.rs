//! Findings: conclusions with their evidence and a next step. One file per family; this one gathers and ranks them.

mod bound;
mod claims;
mod drift;
mod fastest;
mod gpu;
mod ladder;
mod launch;
mod machine;
mod plan;
mod precision;
mod rounds;
mod shift;
mod work;

pub(crate) use machine::is_held_down;
pub(crate) use shift::Crowd;

use stepwatch_record::CellId;
use stepwatch_record::ceiling::CellBound;
use stepwatch_record::comparison::{Change, JudgedClaim};
use stepwatch_record::finding::Finding;
use stepwatch_record::run::Run;

use crate::compare::Comparison;

/// All findings of a run with those made elsewhere, the most severe first; among equals in the order of the families.
#[must_use]
pub fn all(
    comparison: &Comparison<'_>,
    changes: &[Change],
    claims: &[JudgedClaim],
    bounds: &[CellBound],
    extra: Vec<Finding>,
) -> Vec<Finding> {
    let run = comparison.run;
    let mut findings = claims::findings(run, comparison.summary, claims, bounds);
    findings.extend(work::unequal_work(run));
    findings.extend(work::other_work(comparison));
    findings.extend(precision::emulated(run));
    findings.extend(precision::fp8_slower(run, comparison.summary));
    findings.extend(ladder::passes(run, comparison.summary));
    findings.extend(fastest::fastest(run, comparison.summary));
    findings.extend(launch::launch_bound(run));
    findings.extend(shift::common(comparison, changes));
    findings.extend(shift::machine(comparison, changes));
    findings.extend(plan::algorithm_changed(comparison, changes));
    findings.extend(plan::not_applied(run));
    findings.extend(gpu::errors(run));
    findings.extend(gpu::foreign_process(run));
    findings.extend(drift::machine_drift(run));
    findings.extend(machine::throttled(run));
    findings.extend(machine::two_library_versions(run));
    findings.extend(rounds::not_steady(run));
    findings.extend(rounds::noisy(run, comparison.summary));
    for finding in extra {
        if !findings.iter().any(|known| known.kind == finding.kind && known.sentence == finding.sentence) {
            findings.push(finding);
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// The command that puts two cells of a run side by side.
fn explain(run: &Run, from: &CellId, to: &CellId) -> String {
    format!("stepwatch explain {} '{from}' '{to}'", run.manifest.id)
}
