//! What the machine was measured to do at the most, the only place where ceilings come from: a roofline that is drawn from a
//! datasheet says nothing about the machine at hand.

use stepwatch_record::Run;

/// One ceiling.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ceiling {
    /// What reached it.
    pub(crate) name: String,
    /// Bytes or FLOPs a second.
    pub(crate) rate: f64,
    /// Whether it bounds traffic rather than arithmetic.
    pub(crate) traffic: bool,
}

/// The best that the canary reached, in all rounds of all cells: a bf16 product and a copy.
pub(crate) fn ceilings(run: &Run) -> Vec<Ceiling> {
    let readings = || run.rounds.iter().flat_map(|round| &round.record.canaries);
    let flops = readings().map(|canary| canary.flops_per_second).filter(|rate| *rate > 0.0).reduce(f64::max);
    let bytes = readings().map(|canary| canary.bytes_per_second).filter(|rate| *rate > 0.0).reduce(f64::max);
    let product = if run.manifest.backend == "cpu" { "multiply-adds (canary)" } else { "bf16 product (canary)" };
    let arithmetic = flops.map(|rate| Ceiling { name: product.into(), rate, traffic: false });
    let traffic = bytes.map(|rate| Ceiling { name: "copy (canary)".into(), rate, traffic: true });
    arithmetic.into_iter().chain(traffic).collect()
}
