//! What each FP8 cell gains over its BF16 twin, and what it could gain at the most: FP8 halves the time of the products that
//! take it and of nothing else, so the rest of the step bounds the gain (Amdahl's law), whatever the kernels.

use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::gain::Gain;
use stepwatch_record::run::Run;
use stepwatch_record::{CellId, Scalar};

use crate::claims::emulated;
use crate::ratio::Ratios;
use crate::twins::twins;

/// How many times as fast as BF16 the tensor cores do FP8 products, by the datasheets of every GPU that has both.
pub(crate) const FP8_RATE: f64 = 2.0;

/// One gain for every pair of completed twins; none for FP8 that is emulated.
#[must_use]
pub fn all(run: &Run, summary: &Summary) -> Vec<Gain> {
    let pairs: Vec<_> = twins(summary).into_iter().filter(|(fp8, _)| !emulated(run, &fp8.cell.id)).collect();
    let confidence = 1.0 - run.manifest.policy.false_alarms.clamp(1e-9, 0.5) / pairs.len().max(1) as f64;
    let ratios = Ratios::new(summary, "tokens_per_second");
    pairs
        .into_iter()
        .filter_map(|(fp8, bf16)| {
            let ratio = ratios.of(&fp8.cell.id, &bf16.cell.id, confidence).ok()?;
            let share = product_share(run, summary, &bf16.cell.id, takes_head(fp8));
            Some(Gain {
                of: fp8.cell.id.clone(),
                over: bf16.cell.id.clone(),
                width: width(summary, fp8),
                ratio: ratio.point,
                low: ratio.low,
                high: ratio.high,
                confidence,
                product_share: share,
                bound: share.map(bound),
            })
        })
        .collect()
}

/// The largest gain where this share of the step runs at [`FP8_RATE`].
pub(crate) fn bound(share: f64) -> f64 {
    1.0 / (1.0 - share * (1.0 - 1.0 / FP8_RATE))
}

/// The share of a step that must be such products for a gain of `ratio`; above 1 no step has it.
pub(crate) fn share_needed(ratio: f64) -> f64 {
    (1.0 - 1.0 / ratio) / (1.0 - 1.0 / FP8_RATE)
}

/// The share of a cell's measured step that its profile books under products which FP8 can take: the linears, and the
/// classifier where it takes it too.
pub(crate) fn product_share(run: &Run, summary: &Summary, cell: &CellId, head: bool) -> Option<f64> {
    let step_ns = summary.cell(cell)?.figure("step_seconds")?.estimate.point * 1e9;
    let profile = run.profiles.iter().rfind(|profile| &profile.cell == cell)?;
    let takes = |class: &str| class.starts_with("gemm ") && (head || class != "gemm head");
    let products: f64 = profile.ops.iter().filter(|op| takes(&op.class)).map(|op| op.gpu_ns).sum();
    // Events around every op make a profiled step longer than a measured one; a share above 1 would be nonsense.
    (step_ns > 0.0 && products > 0.0).then(|| (products / step_ns).min(1.0))
}

pub(crate) fn takes_head(cell: &CellFigures) -> bool {
    cell.cell.parameters.get("head").is_some_and(|head| head.to_string() == "fp8")
}

/// The width of a cell's model: its own, else that of a cell whose model has the same name.
fn width(summary: &Summary, cell: &CellFigures) -> Option<u64> {
    let dim = |cell: &CellFigures| match cell.cell.parameters.get("dim") {
        Some(Scalar::Integer(dim)) => u64::try_from(*dim).ok(),
        _ => None,
    };
    let model = cell.cell.parameters.get("model")?;
    dim(cell).or_else(|| summary.cells.iter().filter(|c| c.cell.parameters.get("model") == Some(model)).find_map(dim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_step_bounds_the_gain() {
        assert!((bound(0.5) - 4.0 / 3.0).abs() < 1e-12);
        assert!((bound(1.0) - 2.0).abs() < 1e-12 && (bound(0.0) - 1.0).abs() < 1e-12);
        assert!((share_needed(1.7) - 0.823_529).abs() < 1e-6, "{}", share_needed(1.7));
        assert!((bound(share_needed(1.4)) - 1.4).abs() < 1e-12);
        assert!(share_needed(2.5) > 1.0, "no step gains more than the rate of its products");
    }
}
