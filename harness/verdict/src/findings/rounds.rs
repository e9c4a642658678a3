//! Findings on the rounds themselves: warm-up that did not end, and rounds that scatter more than the policy can bear.

use stepwatch_record::CellId;
use stepwatch_record::figure::Summary;
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::run::{End, Round, Run};

use crate::stats;
use crate::wording::{count, percent, spoken};

/// Rounds that were counted although their steps never became steady.
pub(super) fn not_steady(run: &Run) -> Option<Finding> {
    let (mut cells, mut evidence, mut unsteady_rounds): (Vec<CellId>, Vec<String>, usize) = Default::default();
    let measured = |round: &&Round| round.record.end == End::Completed && round.samples.iter().any(|s| s.measured);
    for cell in &run.manifest.cells {
        let rounds: Vec<&Round> = run.rounds.iter().filter(measured).filter(|r| r.record.cell == cell.id).collect();
        let unsteady: Vec<&&Round> = rounds.iter().filter(|round| !round.record.steady).collect();
        if unsteady.is_empty() {
            continue;
        }
        let warmup = unsteady.iter().map(|round| round.record.warmup_steps).max().unwrap_or_default();
        let drifts: Vec<f64> = unsteady.iter().filter_map(|round| drift(round)).collect();
        let drift = stats::median(&drifts)
            .map(|drift| format!("; the later half of the samples takes {} the earlier", compared(drift)))
            .unwrap_or_default();
        evidence.push(format!(
            "{}: {} of {} after {warmup} steps of warm-up{drift}",
            cell.id,
            unsteady.len(),
            count(rounds.len(), "round")
        ));
        unsteady_rounds += unsteady.len();
        cells.push(cell.id.clone());
    }
    (!cells.is_empty()).then(|| Finding {
        kind: Kind::NotSteady,
        severity: Severity::Medium,
        sentence: format!(
            "{} of {} never became steady: their figures depend on how long was measured",
            count(unsteady_rounds, "round"),
            count(cells.len(), "cell")
        ),
        evidence,
        next_step: "give warm-up more steps, or look for what drifts (temperature, memory growth, data)".to_owned(),
        command: String::new(),
        cells,
    })
}

/// Mean of the later half of the samples over the earlier, minus 1.
fn drift(round: &Round) -> Option<f64> {
    let steps: Vec<f64> = round.samples.iter().filter(|s| s.measured).map(|s| s.gpu_ns as f64).collect();
    let (early, late) = steps.split_at(steps.len() / 2);
    let early = stats::mean(early).filter(|mean| *mean > 0.0)?;
    Some(stats::mean(late)? / early - 1.0)
}

fn compared(drift: f64) -> String {
    format!("{} {} than", percent(drift.abs()), if drift < 0.0 { "less" } else { "more" })
}

/// Cells whose rounds differ, by standard deviation, by more than the change that the policy wants seen.
pub(super) fn noisy(run: &Run, summary: &Summary) -> Option<Finding> {
    let policy = &run.manifest.policy;
    let mut noisy: Vec<(f64, &CellId, String)> = Vec::new();
    for cell in summary.cells.iter().filter(|cell| cell.end == Some(End::Completed)) {
        for figure in cell.figures.iter().filter(|figure| policy.gate.contains(&figure.metric.name)) {
            let estimate = &figure.estimate;
            if estimate.rounds.len() > 1 && estimate.round_sd_log > policy.detect {
                let line = format!(
                    "{}: {} differs by {} between {} (sd), steps within a round by {}",
                    cell.cell.id,
                    spoken(&figure.metric),
                    percent(estimate.round_sd_log),
                    count(estimate.rounds.len(), "round"),
                    percent(estimate.step_sd_log)
                );
                noisy.push((estimate.round_sd_log, &cell.cell.id, line));
            }
        }
    }
    noisy.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut cells: Vec<CellId> = Vec::new();
    for (_, id, _) in &noisy {
        if !cells.contains(id) {
            cells.push((*id).clone());
        }
    }
    (!noisy.is_empty()).then(|| Finding {
        kind: Kind::Noisy,
        severity: Severity::Low,
        sentence: format!(
            "the rounds of {} differ by more than the {} that should be seen",
            count(cells.len(), "cell"),
            percent(policy.detect)
        ),
        evidence: noisy.into_iter().map(|(_, _, line)| line).collect(),
        next_step: "close what else runs on the machine, measure longer rounds, or measure more of them".to_owned(),
        command: String::new(),
        cells,
    })
}
