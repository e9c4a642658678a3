//! Whether two workloads that a claim compares did the same work: parameters, FLOPs, and the losses of equal seeds and tokens.

use stepwatch_record::CellId;
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::run::{Claim, Run};

use crate::compare::Comparison;
use crate::wording::count;
use crate::work;

/// One finding per claim whose pairs of different workloads did different work.
pub(super) fn unequal_work(run: &Run) -> Vec<Finding> {
    run.manifest.claims.iter().filter_map(|claim| of_claim(run, claim)).collect()
}

fn of_claim(run: &Run, claim: &Claim) -> Option<Finding> {
    let mut evidence = Vec::new();
    let mut cells = Vec::new();
    for pair in &claim.pairs {
        if !meant_equal(run, &pair.of, &pair.over) {
            continue;
        }
        let (Some(of), Some(over)) = (work::of(run, &pair.of), work::of(run, &pair.over)) else { continue };
        let differences = work::differences(&of, &over);
        if !differences.is_empty() {
            evidence.push(format!("{} against {}: {}", pair.of, pair.over, differences.join("; ")));
            cells.extend([pair.of.clone(), pair.over.clone()]);
        }
    }
    (!evidence.is_empty()).then(|| Finding {
        kind: Kind::UnequalComparison,
        severity: Severity::High,
        sentence: format!("“{}” compares workloads that did not do the same work", claim.text),
        evidence,
        next_step: "make model, tokens, weights and optimiser of both the same before their speeds are compared"
            .to_owned(),
        command: String::new(),
        cells,
    })
}

/// Whether two cells are the same step by two workloads: what is named otherwise on purpose is no fault.
fn meant_equal(run: &Run, of: &CellId, over: &CellId) -> bool {
    let find = |id: &CellId| run.manifest.cells.iter().find(|cell| &cell.id == id);
    let (Some(of), Some(over)) = (find(of), find(over)) else { return false };
    let same = |name: &str| of.parameters.get(name) == over.parameters.get(name);
    of.workload != over.workload && ["model", "batch_size", "seq_len"].into_iter().all(same)
}

/// Cells that did other work than in the newest comparable reference run.
pub(super) fn other_work(comparison: &Comparison<'_>) -> Option<Finding> {
    let (cells, evidence): (Vec<CellId>, Vec<String>) = comparison
        .summary
        .cells
        .iter()
        .filter_map(|cell| {
            let differences = comparison.other_work(cell);
            let line = format!("{}: {}", cell.cell.id, differences.join("; "));
            (!differences.is_empty()).then(|| (cell.cell.id.clone(), line))
        })
        .unzip();
    (!cells.is_empty()).then(|| Finding {
        kind: Kind::UnequalComparison,
        severity: Severity::High,
        sentence: format!(
            "{} did other work than in the reference: their speeds do not compare",
            count(cells.len(), "cell")
        ),
        evidence,
        next_step: "find out what changed the work; if it is meant, accept a run of it as the reference".to_owned(),
        command: String::new(),
        cells,
    })
}
