//! Where the time of a step goes, by op class: one line per cell in `ops.jsonl`.

use serde::{Deserialize, Serialize};

use crate::cell::CellId;

/// Time, work and traffic of all ops that share class, label and phase, summed over one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpClass {
    /// `gemm forward`, `gemm input gradient`, `gemm weight gradient`, `gemm head`, `attention`, `quantise`, `transpose`,
    /// `scale` (amax and scale), `norm`, `elementwise`, `loss`, `optimiser`, `gap`.
    pub class: String,
    /// The ops' own name, such as `gate-up forward`.
    pub label: String,
    /// `forward`, `backward`, `optimiser`.
    pub phase: String,
    /// How many launches.
    pub count: u64,
    /// Their time, ns per step.
    pub gpu_ns: f64,
    /// Their FLOPs per step.
    pub flops: f64,
    /// Their least bytes per step.
    pub bytes: f64,
}

/// The profile of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Whose it is.
    pub cell: CellId,
    /// The classes; they add up to the step.
    pub ops: Vec<OpClass>,
}
