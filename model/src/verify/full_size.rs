//! A cell on the GPU at its own size: elements of its products, attention and casts against fp64, loss and gradient norm
//! against the fp32 twin, what its casts lose.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use stepwatch_kernels::op::Op;

use super::casts::CastCounts;
use super::fp32_twin;
use super::ops::{OnGpu, OpChecks};
use crate::build::build;
use crate::config::{Attention, Compile, OptimizerState, StepConfig};
use crate::data::Source;
use crate::exec::Backend;
use crate::exec::cuda::{Choices, Cuda};
use crate::exec::search;
use crate::ir::Step;
use crate::plan::{Plan, memory_bytes};
use crate::session::{SessionError, compile};
use crate::{Precision, check_config};

/// Most FLOPs of the fp32 twin: about a second of an H100 without TF32.
const TWIN_FLOPS: f64 = 4e13;

/// Most memory of the fp32 twin, bytes.
const TWIN_BYTES: u64 = 48 << 30;

/// The later step whose casts are counted where scales look back.
const LATER: u64 = 3;

/// Loss and gradient norm of step 0 beside those of the fp32 list on the same tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Twin {
    /// Blocks of both; the model's own number unless fp32 took too long.
    pub layers: u64,
    /// Sequences of both.
    pub batch_size: u64,
    /// Tokens of a sequence.
    pub seq_len: u64,
    /// Loss in fp32, nats.
    pub fp32_loss: f64,
    /// Gradient norm in fp32.
    pub fp32_grad_norm: f64,
    /// Loss of the cell's list, nats.
    pub loss: f64,
    /// Gradient norm of the cell's list.
    pub grad_norm: f64,
}

/// The algorithms of a plan, by product.
pub type Algorithms = BTreeMap<String, serde_json::Value>;

/// What a cell came to at its own size.
pub(super) struct AtSize {
    /// Its products, attention and casts.
    pub(super) ops: OpChecks,
    /// Loss of step 0, nats.
    pub(super) loss: f64,
    /// Gradient norm of step 0.
    pub(super) grad_norm: f64,
    /// The same beside fp32.
    pub(super) twin: Twin,
    /// What casts lose; FP8 only.
    pub(super) casts: Option<CastCounts>,
}

impl AtSize {
    /// One after the other: each takes the GPU's memory.
    pub(super) fn of(config: &StepConfig, plan: &Plan, seed: u64) -> Result<Self, SessionError> {
        let (ops, loss, grad_norm) = check_ops(config, seed, &plan.algorithms)?;
        let twin = twin(config, seed)?;
        let casts = config.precision.is_fp8().then(|| casts(config, seed)).transpose()?;
        Ok(Self { ops, loss, grad_norm, twin, casts })
    }
}

fn failed(error: impl std::fmt::Display) -> SessionError {
    SessionError::Failed(error.to_string())
}

/// Runs step 0 as the cell runs it and checks ops on the way; loss and gradient norm.
///
/// # Errors
/// Whatever the GPU lacks; wrong numbers are in `checks`.
pub fn check_ops(
    config: &StepConfig,
    seed: u64,
    algorithms: &Algorithms,
) -> Result<(OpChecks, f64, f64), SessionError> {
    let compiled = compile(config, Backend::Cuda)?;
    let batch = Source::open(config, seed).map_err(failed)?.batch(0);
    // Op by op, never as a graph: operands must still be there when they are looked at.
    let choices = Choices { algorithms: search::algorithms(algorithms).map_err(failed)?, graph: false };
    let mut cuda = Cuda::open_with(compiled.step, seed, &batch, Instant::now(), &choices)?;
    let mut checks = OpChecks::new(cuda.step(), seed);
    cuda.run_watched::<SessionError>(&batch, &mut |cuda, node| Ok(checks.after(node, &mut OnGpu { node, cuda })?))?;
    let (loss, grad_norm) = (scalar(&cuda, cuda.step().ports.loss)?, scalar(&cuda, cuda.step().ports.grad_norm)?);
    Ok((checks, loss, grad_norm))
}

fn scalar(cuda: &Cuda, id: crate::ir::TensorId) -> Result<f64, SessionError> {
    Ok(cuda.read(id)?.view().values().first().map_or(f64::NAN, |value| f64::from(*value)))
}

/// The cell with as few sequences as its recipe takes, and as few blocks as fp32 has time and memory for.
pub(super) fn cut(config: &StepConfig) -> StepConfig {
    let fewer = |batch_size| StepConfig { batch_size, ..config.clone() };
    let batch_size = (1..=config.batch_size).find(|&batch_size| check_config(&fewer(batch_size)).is_ok());
    let mut cut = fewer(batch_size.unwrap_or(config.batch_size));
    let fits = |cut: &StepConfig| {
        let step = without_update(build(&twin_of(cut)));
        step.ops.iter().map(|node| node.op.flops()).sum::<f64>() <= TWIN_FLOPS && memory_bytes(&step) <= TWIN_BYTES
    };
    while cut.dims.layers > 1 && !fits(&cut) {
        cut.dims.layers = cut.dims.layers.div_ceil(2);
    }
    cut
}

/// An uncompiled list up to its gradient norm: fp32 moments of the largest models would not fit beside their gradients.
fn without_update(mut step: Step) -> Step {
    step.ops.retain(|node| !matches!(node.op, Op::AdamW(_) | Op::Advance(_)));
    step
}

/// The fp32 list beside a cell: attention that fp32 has.
fn twin_of(config: &StepConfig) -> StepConfig {
    let attention = if config.attention == Attention::Cudnn { Attention::Flash } else { config.attention };
    StepConfig { attention, ..fp32_twin(config) }
}

/// Step 0 of the cell's list and of fp32's on the same tokens.
///
/// # Errors
/// Whatever the GPU lacks.
pub fn twin(config: &StepConfig, seed: u64) -> Result<Twin, SessionError> {
    let cut = cut(config);
    let of = |config: &StepConfig| -> Result<(f64, f64), SessionError> {
        let mut step = compile(config, Backend::Cuda)?.step;
        if config.compile == Compile::None {
            step = without_update(step);
        }
        let batch = Source::open(config, seed).map_err(failed)?.batch(0);
        let mut cuda = Cuda::open(step, seed, &batch, Instant::now())?;
        cuda.submit(&batch)?;
        let ended = cuda.oldest()?.ok_or_else(|| failed("step 0 did not end"))?;
        Ok((ended.loss, ended.grad_norm))
    };
    let (fp32_loss, fp32_grad_norm) = of(&twin_of(&cut))?;
    let (loss, grad_norm) = of(&cut)?;
    let [layers, batch_size, seq_len] = [cut.dims.layers, cut.batch_size, cut.seq_len].map(|size| size as u64);
    Ok(Twin { layers, batch_size, seq_len, fp32_loss, fp32_grad_norm, loss, grad_norm })
}

/// What the recipe's casts lose in step 0, and with delayed scaling in a later one, with as few sequences as the recipe takes.
///
/// # Errors
/// Whatever the GPU lacks.
pub fn casts(config: &StepConfig, seed: u64) -> Result<CastCounts, SessionError> {
    let config = StepConfig { optimizer_state: OptimizerState::Bf16, ..cut(config) };
    let steps: &[u64] = if config.precision == Precision::Fp8Delayed { &[0, LATER] } else { &[0] };
    casts_at(&config, seed, steps)
}

/// What casts lose in some steps of a training, in order: counted over the uncompiled list, where what is cast lies in memory.
///
/// # Errors
/// Whatever the GPU lacks.
pub fn casts_at(config: &StepConfig, seed: u64, steps: &[u64]) -> Result<CastCounts, SessionError> {
    let config = StepConfig { compile: Compile::None, ..config.clone() };
    let step = compile(&config, Backend::Cuda)?.step;
    let source = Source::open(&config, seed).map_err(failed)?;
    let mut cuda = Cuda::open(step, seed, &source.batch(0), Instant::now())?;
    let mut counts = CastCounts::default();
    for step in 0..=steps.iter().copied().max().unwrap_or(0) {
        let counted = steps.contains(&step);
        cuda.run_watched::<SessionError>(&source.batch(step), &mut |cuda, node| {
            if let (Op::Quantise(quantise), true) = (&node.op, counted) {
                let losses = cuda.cast_losses(quantise, node.operands[0], node.operands[1])?;
                counts.add(step, node, quantise, losses);
            }
            Ok(())
        })?;
    }
    Ok(counts)
}
