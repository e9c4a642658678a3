//! Whether nights agree well enough for the newest of them to become a reference by itself.

use stepwatch_record::comparison::{Change, Verdict};
use stepwatch_record::figure::Summary;
use stepwatch_record::run::Run;

use crate::compare::Comparison;
use crate::wording::count;

/// Judges a run against the runs before it, newest first, by its own policy.
///
/// # Errors
/// In words, why they do not agree: a run that may not be compared with it, or a gated figure that was shown to differ, for the
/// better too. What is waived stays known and is no reference either.
pub fn agree(run: &Run, summary: &Summary, changes: &[Change], earlier: &[Summary]) -> Result<(), String> {
    if let Some(waived) = changes.iter().find(|change| change.verdict == Verdict::KnownRegressed) {
        return Err(format!("{} of {} is a waived regression", waived.metric.name, waived.cell));
    }
    let comparison = Comparison::new(run, summary, earlier);
    if comparison.usable.len() < earlier.len() {
        let refused = earlier.len() - comparison.usable.len();
        return Err(format!("{} before it may not be compared with it", count(refused, "run")));
    }
    let differs = |verdict: Verdict| !matches!(verdict, Verdict::Unchanged | Verdict::Undecided | Verdict::Skipped);
    match comparison.changes().iter().find(|change| change.gated && differs(change.verdict)) {
        Some(change) => Err(format!(
            "{} of {} is {} against the nights before: {}",
            change.metric.name,
            change.cell,
            change.verdict.word(),
            change.why
        )),
        None => Ok(()),
    }
}
