//! What `prepare` settled for a cell, stored as `plans/<cell>.json` and handed to every round: rounds load it and do not
//! search again, so that all rounds of a cell run the same algorithm.

use serde::{Deserialize, Serialize};

use crate::cell::CellId;

/// The plan of one cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Hash of the op list after passes with its algorithms: equal hashes ran the same work.
    pub hash: String,
    /// The passes really applied, in order.
    #[serde(default)]
    pub passes: Vec<String>,
    /// The passes asked for and not applied, each with its reason.
    #[serde(default)]
    pub skipped_passes: Vec<SkippedPass>,
    /// How many ops the list holds after passes.
    #[serde(default)]
    pub ops: u64,
    /// FLOPs of one step, by the ops' own counts.
    #[serde(default)]
    pub flops: f64,
    /// Least bytes of one step, by the ops' own counts.
    #[serde(default)]
    pub bytes: f64,
    /// The same by what the ops are.
    #[serde(default)]
    pub work: Vec<OpWork>,
    /// Bytes of device memory the plan places.
    #[serde(default)]
    pub memory_bytes: u64,
    /// The executor's own pinned choices: the algorithm of each matrix product, by what the product is.
    #[serde(default)]
    pub algorithms: std::collections::BTreeMap<String, serde_json::Value>,
    /// Seconds spent to settle it, the search left out.
    #[serde(default)]
    pub compile_seconds: f64,
    /// Seconds spent to search for algorithms.
    #[serde(default)]
    pub search_seconds: f64,
}

/// What ops of one kind do in one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpWork {
    /// Their class, as profiles have it.
    pub class: String,
    /// What they do in the model, such as `gate-up forward`.
    pub label: String,
    /// What they multiply: `fp8`, `bf16` or `fp32`.
    pub arithmetic: String,
    /// How many.
    pub count: u64,
    /// Their FLOPs together.
    pub flops: f64,
    /// Their least bytes together.
    pub bytes: f64,
}

/// A pass that was asked for and does nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedPass {
    /// Its name.
    pub name: String,
    /// Why, in words.
    pub reason: String,
}

/// The outcome of checking a cell's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Whether every check held. `false` makes the cell `numbers-wrong`, whatever its speed.
    pub ok: bool,
    /// The lowest gradient SQNR of any parameter, dB (20·log10 ‖x‖/‖x−y‖), against `against`.
    pub worst_sqnr_db: f64,
    /// What the gradients were compared with: `fp32`, `emulation`.
    pub against: String,
    /// Loss of step 0, nats.
    pub loss: f64,
    /// Gradient norm of step 0.
    pub grad_norm: f64,
    /// The lowest gradient SQNR against fp32, dB: recorded, not gated for FP8 recipes.
    #[serde(default)]
    pub sqnr_fp32_db: Option<f64>,
    /// Elements the FP8 casts of step 0 saturated.
    #[serde(default)]
    pub cast_overflows: Option<u64>,
    /// Non-zero elements the FP8 casts of step 0 flushed to zero.
    #[serde(default)]
    pub cast_underflows: Option<u64>,
    /// Products, attention and casts whose elements were made again in fp64 from their operands.
    #[serde(default)]
    pub operations: Vec<CheckedOp>,
    /// Loss and gradient norm of step 0 beside those of fp32 on the same tokens.
    #[serde(default)]
    pub twin: Option<Twin>,
    /// What FP8 casts lost at the ends of the format's range, by step and by what was cast.
    #[serde(default)]
    pub casts: Vec<CastCount>,
    /// Which checks failed, one line each.
    #[serde(default)]
    pub failures: Vec<String>,
}

/// An op whose results were checked element by element.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckedOp {
    /// The op, such as `Gemm`.
    pub op: String,
    /// What it does in the model, such as `gate-up forward`.
    pub label: String,
    /// Elements that were checked.
    pub elements: u64,
    /// The largest error among them as a share of what right arithmetic may be off: above 1 it is wrong.
    pub worst_error: f64,
}

/// A step 0 beside the same in fp32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Twin {
    /// Blocks of both.
    pub layers: u64,
    /// Sequences of both.
    pub batch_size: u64,
    /// Tokens of a sequence.
    pub seq_len: u64,
    /// Loss in fp32, nats.
    pub fp32_loss: f64,
    /// Gradient norm in fp32.
    pub fp32_grad_norm: f64,
    /// Loss of the cell's own list, nats.
    pub loss: f64,
    /// Gradient norm of the cell's own list.
    pub grad_norm: f64,
}

/// What casts of one kind of tensor lost in one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CastCount {
    /// The step, from 0.
    pub step: u64,
    /// `activation`, `weight` or `gradient`.
    pub class: String,
    /// Values cast.
    pub values: u64,
    /// Values that saturated.
    pub overflows: u64,
    /// Values that were not zero and became zero.
    pub underflows: u64,
}

/// The file `plans/<cell>.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanFile {
    /// Whose plan it is.
    pub cell: CellId,
    /// What was settled; absent for workloads that have none.
    #[serde(default)]
    pub plan: Option<Plan>,
    /// What was checked; absent for workloads that check nothing.
    #[serde(default)]
    pub verification: Option<Verification>,
    /// What the worker said of itself.
    #[serde(default)]
    pub ready: Option<crate::message::Ready>,
}
