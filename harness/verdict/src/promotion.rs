//! Whether nights agree well enough for the newest of them to become a reference by itself.

use stepwatch_record::comparison::{Change, Verdict};
use stepwatch_record::figure::Summary;
use stepwatch_record::run::Run;

use crate::compare::Comparison;
use crate::explain::with_numbers;

/// Judges a run against the runs before it, newest first, by its own policy.
///
/// # Errors
/// In words, why they do not agree: a run that may not be compared with it, or a gated figure that was shown to differ, for the
/// better too. What is waived stays known and is no reference either.
pub fn agree(run: &Run, summary: &Summary, changes: &[Change], earlier: &[Summary]) -> Result<(), String> {
    if let Some(waived) = changes.iter().find(|change| change.verdict == Verdict::KnownRegressed) {
        return Err(format!("{} of {} is a waived regression", waived.metric.name, waived.cell));
    }
    // One by one: nights that differ among themselves would widen the interval until it holds them all.
    for one in earlier {
        let comparison = Comparison::new(run, summary, std::slice::from_ref(one));
        if comparison.usable.is_empty() {
            return Err(format!("{} may not be compared with it: {}", one.run, comparison.obstacles.join("; ")));
        }
        let differs = |verdict: Verdict| !matches!(verdict, Verdict::Unchanged | Verdict::Undecided | Verdict::Skipped);
        if let Some(change) = comparison.changes().iter().find(|change| change.gated && differs(change.verdict)) {
            return Err(format!(
                "{} of {} is {} against {}: {}",
                change.metric.name,
                change.cell,
                change.verdict.word(),
                one.run,
                with_numbers(change)
            ));
        }
    }
    Ok(())
}
