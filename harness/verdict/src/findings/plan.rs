//! Findings from plans: work that changed since the reference, and passes asked for by name that do nothing here.

use stepwatch_record::CellId;
use stepwatch_record::comparison::Change;
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::run::Run;

use crate::compare::Comparison;
use crate::wording::{change, count};

/// Cells whose plan differs from that of the newest comparable reference run: another algorithm was timed. Of two builds that were
/// asked to be compared it is worth knowing and no doubt.
pub(super) fn algorithm_changed(comparison: &Comparison<'_>, changes: &[Change]) -> Option<Finding> {
    let newest = comparison.usable.first()?;
    let there = if comparison.paired { "on the other side" } else { "in the reference" };
    let changed: Vec<(CellId, String)> = comparison
        .summary
        .cells
        .iter()
        .filter_map(|cell| {
            let now = cell.plan_hash.as_ref()?;
            let then = newest.cell(&cell.cell.id)?.plan_hash.as_ref()?;
            let gated = changes.iter().find(|c| c.cell == cell.cell.id && c.gated && c.effect.is_some());
            let effect = gated.and_then(|c| Some(format!(", {}", change(&c.metric, c.effect?)))).unwrap_or_default();
            let line = format!("{}: plan {now}, {there} {then}{effect}", cell.cell.id);
            (now != then).then(|| (cell.cell.id.clone(), line))
        })
        .collect();
    let planned = comparison.summary.cells.iter().filter(|cell| cell.plan_hash.is_some()).count();
    let of = format!("{} of {}", changed.len(), count(planned, "cell"));
    let (severity, sentence, next_step) = if comparison.paired {
        let sentence = format!("the two sides run {of} by different plans");
        (Severity::Low, sentence, "compare the plans of both sides (`plans/`): they are part of what was timed")
    } else {
        let sentence = format!("the plan of {of} changed since the reference: what is timed there is other work");
        let next_step = "compare the plans of both runs (`plans/`), then accept the run if the change is meant";
        (Severity::Medium, sentence, next_step)
    };
    (!changed.is_empty()).then(|| Finding {
        kind: Kind::AlgorithmChanged,
        severity,
        sentence,
        evidence: changed.iter().map(|(_, line)| line.clone()).collect(),
        next_step: next_step.to_owned(),
        command: String::new(),
        cells: changed.into_iter().map(|(cell, _)| cell).collect(),
    })
}

/// Passes that a cell names in its `compile` and that were not applied. `full` names none: it is all there is.
pub(super) fn not_applied(run: &Run) -> Option<Finding> {
    let mut evidence = Vec::new();
    let mut cells = Vec::new();
    for cell in &run.manifest.cells {
        let asked = cell.parameters.get("compile").map(ToString::to_string).unwrap_or_default();
        let plan = run.plans.iter().rfind(|plan| plan.cell == cell.id).and_then(|plan| plan.plan.as_ref());
        let skipped = plan.map(|plan| plan.skipped_passes.as_slice()).unwrap_or_default();
        for pass in skipped.iter().filter(|pass| asked.split('+').any(|name| name.trim() == pass.name)) {
            evidence.push(format!("{}: `{}` was not applied: {}", cell.id, pass.name, pass.reason));
            if !cells.contains(&cell.id) {
                cells.push(cell.id.clone());
            }
        }
    }
    (!evidence.is_empty()).then(|| Finding {
        kind: Kind::NotApplied,
        severity: Severity::Medium,
        sentence: format!("{} did not get all the passes that were asked for by name", count(cells.len(), "cell")),
        evidence,
        next_step: "leave these passes out of `compile`, or run where they exist".to_owned(),
        command: String::new(),
        cells,
    })
}
