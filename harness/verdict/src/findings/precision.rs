//! Findings on precision: FP8 that is emulated, and FP8 that is slower than its BF16 twin.

use stepwatch_record::CellId;
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::run::Run;
use stepwatch_record::waterfall::WaterfallStep;

use crate::claims;
use crate::ratio::{Ratio, Ratios};
use crate::twins::twins;
use crate::waterfall;
use crate::wording::{count, number, percent, value};

/// The metric by which one precision is faster than another.
const SPEED: &str = "tokens_per_second";

/// Said once for the run, if any of its cells computes FP8 on a CPU.
pub(super) fn emulated(run: &Run) -> Option<Finding> {
    let cells: Vec<CellId> =
        run.manifest.cells.iter().map(|cell| cell.id.clone()).filter(|id| claims::emulated(run, id)).collect();
    (!cells.is_empty()).then(|| Finding {
        kind: Kind::Emulated,
        severity: Severity::High,
        sentence: "FP8 is emulated on this CPU: the numbers are real, the speed says nothing of a GPU".to_owned(),
        evidence: vec![format!(
            "{} of {} compute FP8 by exact rounding",
            cells.len(),
            count(run.manifest.cells.len(), "cell")
        )],
        next_step: "run the same scenario on a GPU with FP8 (`--backend cuda`) before concluding anything of its speed"
            .to_owned(),
        command: String::new(),
        cells,
    })
}

/// FP8 cells shown to be slower than the BF16 cell that is equal in all else. Not drawn on a CPU.
pub(super) fn fp8_slower(run: &Run, summary: &Summary) -> Option<Finding> {
    if run.manifest.backend == "cpu" {
        return None;
    }
    let twins = twins(summary);
    let confidence = 1.0 - run.manifest.policy.false_alarms.clamp(1e-9, 0.5) / twins.len().max(1) as f64;
    let ratios = Ratios::new(summary, SPEED);
    let mut slower: Vec<(&CellFigures, &CellFigures, Ratio)> = twins
        .iter()
        .filter_map(|(fp8, bf16)| Some((*fp8, *bf16, ratios.of(&fp8.cell.id, &bf16.cell.id, confidence).ok()?)))
        .filter(|(_, _, ratio)| ratio.high < 1.0)
        .collect();
    slower.sort_by(|a, b| a.2.point.total_cmp(&b.2.point));
    let (worst, _, ratio) = slower.first()?;
    let lead = format!("{} is {} slower than its BF16 twin", worst.cell.id, percent(1.0 - ratio.point));
    Some(Finding {
        kind: Kind::Fp8SlowerThanBf16,
        severity: Severity::High,
        sentence: if twins.len() == 1 {
            lead
        } else {
            format!("FP8 is slower than BF16 in {} of {}: {lead}", slower.len(), count(twins.len(), "pair"))
        },
        evidence: slower
            .iter()
            .flat_map(|(fp8, bf16, ratio)| [Some(line(fp8, bf16, ratio)), milliseconds(run, summary, fp8, bf16)])
            .flatten()
            .collect(),
        next_step: "see whether the linears run in FP8 and what casts cost".to_owned(),
        command: super::explain(run, &worst.cell.id, &slower[0].1.cell.id),
        cells: slower.iter().flat_map(|(fp8, bf16, _)| [fp8.cell.id.clone(), bf16.cell.id.clone()]).collect(),
    })
}

/// Where an FP8 step takes longer than its twin's and where it takes less, by op class; none without both profiles.
fn milliseconds(run: &Run, summary: &Summary, fp8: &CellFigures, bf16: &CellFigures) -> Option<String> {
    /// Classes named: the rest is small.
    const MOST: usize = 6;
    let waterfall = waterfall::between(run, summary, &bf16.cell.id, &fp8.cell.id)?;
    let change = |step: &WaterfallStep| (step.to_seconds - step.from_seconds) * 1e3;
    let classes: Vec<String> = waterfall
        .steps
        .iter()
        .filter(|step| change(step).abs() >= 0.0005)
        .take(MOST)
        .map(|step| format!("{} {:+.3} ms ({:.3} ms)", step.class, change(step), step.to_seconds * 1e3))
        .collect();
    (!classes.is_empty())
        .then(|| format!("{}, by op class against its twin (its own time): {}", fp8.cell.id, classes.join(", ")))
}

fn line(fp8: &CellFigures, bf16: &CellFigures, ratio: &Ratio) -> String {
    let speed = |cell: &CellFigures| {
        cell.figure(SPEED).map_or_else(String::new, |figure| value(&figure.metric, figure.estimate.point))
    };
    format!(
        "{}: {}, its twin {}: {}; ratio {} ({}…{})",
        fp8.cell.id,
        speed(fp8),
        bf16.cell.id,
        speed(bf16),
        number(ratio.point),
        number(ratio.low),
        number(ratio.high)
    )
}
