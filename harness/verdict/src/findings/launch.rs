//! The finding that a GPU waits for the host, drawn from profiles: time between ops, and ops shorter than their launch.

use stepwatch_record::CellId;
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::profile::Profile;
use stepwatch_record::run::Run;

use crate::wording::{count, number, percent};

/// An op that takes less than this, ns, waits for the host more than it works: a launch costs the host about 4 µs, and
/// profiles count that wait as part of the op.
const SHORT_NS: f64 = 8_000.0;
/// Time between ops from this share of the step on is the host's.
const GAP_SHARE: f64 = 0.2;
/// So is a step of which this share goes to gaps and short ops together.
const SHORT_SHARE: f64 = 0.5;

/// Cells of which the host sets the pace. Steps captured as a graph are launched at once and are not asked.
pub(super) fn launch_bound(run: &Run) -> Option<Finding> {
    if run.manifest.backend == "cpu" {
        return None;
    }
    let found: Vec<(CellId, String)> =
        run.profiles.iter().filter(|profile| !is_graph(run, &profile.cell)).filter_map(bound).collect();
    (!found.is_empty()).then(|| Finding {
        kind: Kind::LaunchBound,
        severity: Severity::Medium,
        sentence: format!(
            "the GPU waits for the host in {}: its ops are shorter than it takes to launch them",
            count(found.len(), "cell")
        ),
        evidence: found.iter().map(|(_, line)| line.clone()).collect(),
        next_step: "capture the step as a graph (`compile` with `graph`), or make batch_size or seq_len larger"
            .to_owned(),
        command: String::new(),
        cells: found.into_iter().map(|(cell, _)| cell).collect(),
    })
}

/// The evidence that one profile gives, if it does.
fn bound(profile: &Profile) -> Option<(CellId, String)> {
    let total: f64 = profile.ops.iter().map(|op| op.gpu_ns).sum();
    let gap: f64 = profile.ops.iter().filter(|op| op.class == "gap").map(|op| op.gpu_ns).sum();
    let ops = || profile.ops.iter().filter(|op| op.class != "gap" && op.count > 0);
    let short: f64 = ops().filter(|op| op.gpu_ns / (op.count as f64) < SHORT_NS).map(|op| op.gpu_ns).sum();
    let launches: u64 = ops().map(|op| op.count).sum();
    if total <= 0.0 || (gap / total < GAP_SHARE && (gap + short) / total < SHORT_SHARE) {
        return None;
    }
    let line = format!(
        "{}: {} of a step of {} ms pass between its {} ops and {} in ops under {} µs",
        profile.cell,
        percent(gap / total),
        number(total / 1e6),
        launches,
        percent(short / total),
        number(SHORT_NS / 1e3)
    );
    Some((profile.cell.clone(), line))
}

fn is_graph(run: &Run, cell: &CellId) -> bool {
    let plan = run.plans.iter().rfind(|plan| &plan.cell == cell).and_then(|plan| plan.plan.as_ref());
    plan.is_some_and(|plan| plan.passes.iter().any(|pass| pass == "graph"))
}
