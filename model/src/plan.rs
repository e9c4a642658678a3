//! What `prepare` settles for a cell: the plan, and whether its numbers are right. Serialised as the run folder keeps them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stepwatch_kernels::Dtype;
use stepwatch_kernels::op::Op;

use crate::ir::Step;
use crate::passes::{Compiled, place};
use crate::verify::{CastCount, CheckedOp, Twin};

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
    /// The same by what the ops are, in the order of their first.
    #[serde(default)]
    pub work: Vec<OpWork>,
    /// Bytes of device memory the plan places.
    #[serde(default)]
    pub memory_bytes: u64,
    /// The executor's own pinned choices: the algorithm of each matrix product, by what the product is.
    #[serde(default)]
    pub algorithms: BTreeMap<String, serde_json::Value>,
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
    /// Whether every check held.
    pub ok: bool,
    /// The lowest gradient SQNR of any parameter, dB (20·log10 ‖x‖/‖x−y‖), against `against`; at most [`MAX_SQNR_DB`].
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
    /// Products, attention and casts whose elements were made again in fp64.
    #[serde(default)]
    pub operations: Vec<CheckedOp>,
    /// Loss and gradient norm of step 0 beside those of fp32.
    #[serde(default)]
    pub twin: Option<Twin>,
    /// What casts lost, by step and by what was cast.
    #[serde(default)]
    pub casts: Vec<CastCount>,
    /// Which checks failed, one line each.
    #[serde(default)]
    pub failures: Vec<String>,
}

/// What an exact match is written as: JSON has no infinity.
pub const MAX_SQNR_DB: f64 = 300.0;

impl Plan {
    /// The plan of a compiled step.
    #[must_use]
    pub fn of(compiled: &Compiled, compile_seconds: f64) -> Self {
        let step = &compiled.step;
        Self {
            hash: hash(step),
            passes: compiled.applied.iter().map(|pass| pass.name().to_owned()).collect(),
            skipped_passes: compiled.skipped.clone(),
            ops: step.ops.len() as u64,
            flops: step.ops.iter().map(|node| node.op.flops()).sum(),
            bytes: step.ops.iter().map(|node| node.op.bytes()).sum(),
            work: work(step),
            memory_bytes: memory_bytes(step),
            algorithms: BTreeMap::new(),
            compile_seconds,
            search_seconds: 0.0,
        }
    }

    /// Pins algorithms; the hash is then of the list with them.
    pub fn pin(&mut self, algorithms: BTreeMap<String, serde_json::Value>) {
        if !algorithms.is_empty() {
            let mut digest = Sha256::new();
            digest.update(&self.hash);
            for (product, pinned) in &algorithms {
                // What was measured on the way is no part of what runs.
                digest.update(format!("\n{product}\n{}", pinned["algorithm"]));
            }
            self.hash = hex(&digest.finalize());
        }
        self.algorithms = algorithms;
    }
}

/// Work and traffic of a step by class, label and arithmetic.
fn work(step: &Step) -> Vec<OpWork> {
    let mut found: Vec<OpWork> = Vec::new();
    for node in &step.ops {
        let (class, arithmetic) = (node.booked_class(), arithmetic(&node.op));
        let same =
            |known: &&mut OpWork| known.class == class && known.label == node.label && known.arithmetic == arithmetic;
        let (flops, bytes) = (node.op.flops(), node.op.bytes());
        match found.iter_mut().find(same) {
            Some(known) => {
                (known.count, known.flops, known.bytes) = (known.count + 1, known.flops + flops, known.bytes + bytes);
            }
            None => found.push(OpWork {
                class,
                label: node.label.clone(),
                arithmetic: arithmetic.to_owned(),
                count: 1,
                flops,
                bytes,
            }),
        }
    }
    found
}

/// The format that an op multiplies in.
fn arithmetic(op: &Op) -> &'static str {
    let dtype = match op {
        Op::Gemm(gemm) => gemm.a.dtype,
        other => other.signature().first().map_or(Dtype::Bf16, |param| param.dtype),
    };
    match dtype {
        Dtype::F32 => "fp32",
        dtype if dtype.is_fp8() && matches!(op, Op::Gemm(_)) => "fp8",
        _ => "bf16",
    }
}

/// Device memory of a step: what lives across steps, and the arena; without one, the most that lives at once.
#[must_use]
pub fn memory_bytes(step: &Step) -> u64 {
    let per_step = step.placement.as_ref().map_or_else(|| place::peak_live_bytes(step), |placed| placed.arena_bytes);
    step.persistent_bytes() + per_step
}

/// The first 64 bits of SHA-256 over ops, operands and offsets.
#[must_use]
pub fn hash(step: &Step) -> String {
    let mut digest = Sha256::new();
    for node in step.init.iter().chain(&step.ops) {
        // Specs are plain data: they always serialise.
        digest.update(serde_json::to_vec(&(&node.op, &node.operands)).unwrap_or_default());
        digest.update(b"\n");
    }
    digest.update(serde_json::to_vec(&step.placement).unwrap_or_default());
    hex(&digest.finalize())
}

/// The first 64 bits of a digest.
fn hex(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
