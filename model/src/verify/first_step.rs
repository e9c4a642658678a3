//! Step 0 of a list, run and kept: on the CPU with whatever watches it, on a GPU as it is.

use std::time::Instant;

use stepwatch_kernels::op::Op;
use stepwatch_kernels::tensor::Buffer;

use super::casts::CastCounts;
use super::ops::{OnCpu, OpChecks};
use super::outcome::Outcome;
use super::tolerance::OtherRoundings;
use crate::build::build;
use crate::config::{Compile, OptimizerState, StepConfig};
use crate::data::Source;
use crate::exec::Backend;
use crate::exec::cpu::Cpu;
use crate::exec::cuda::{Cuda, Ended};
use crate::ir::{Node, Step};
use crate::passes::{Compiled, pipeline};
use crate::plan::memory_bytes;
use crate::session::{SessionError, check_memory, feed};
use crate::{Precision, check_config};

/// What happens to the ops of a list while it runs on the CPU.
#[derive(Debug, Default)]
pub(super) struct Watching<'a> {
    /// Checks that look at every op.
    pub(super) ops: Option<&'a mut OpChecks>,
    /// Rounds some results the other way.
    pub(super) roundings: Option<OtherRoundings>,
}

/// Runs step 0 of a list and keeps what is compared. Casts are counted where the list shows them.
///
/// # Errors
/// Data that cannot be read, too little memory, a list that is wrong.
pub fn first_step(config: &StepConfig, compile: &Compile, seed: u64) -> Result<(Outcome, Step), SessionError> {
    let step = listed(config, compile, Backend::Cpu)?;
    let outcome = run(config, step.clone(), seed, Watching::default())?;
    Ok((outcome, step))
}

/// The list of a step whose gradients are kept.
pub(super) fn listed(config: &StepConfig, compile: &Compile, backend: Backend) -> Result<Step, SessionError> {
    let mut step = build(config);
    let gradients: Vec<_> = step.parameters.iter().map(|parameter| parameter.gradient).collect();
    step.outputs.extend(gradients);
    let Compiled { step, .. } =
        pipeline(step, compile, backend).map_err(|error| SessionError::Failed(error.to_string()))?;
    Ok(step)
}

/// The uncompiled list up to the gradients: no update, no master weights. Step 0 has the same gradients without them, and
/// the masters' start is the weights' before rounding.
pub(super) fn gradients_only(config: &StepConfig) -> Result<(StepConfig, Step), SessionError> {
    let optimizer_state = if config.precision == Precision::Fp32 { OptimizerState::Fp32 } else { OptimizerState::Bf16 };
    let light = StepConfig { optimizer_state, compile: Compile::None, ..config.clone() };
    let light = if check_config(&light).is_ok() { light } else { config.clone() };
    let mut step = listed(&light, &Compile::None, Backend::Cpu)?;
    step.ops.retain(|node| !matches!(node.op, Op::AdamW(_) | Op::Advance(_)));
    Ok((light, step))
}

/// Step 0 on the CPU.
pub(super) fn run(
    config: &StepConfig,
    step: Step,
    seed: u64,
    mut watching: Watching<'_>,
) -> Result<Outcome, SessionError> {
    let failed = |text: String| SessionError::Failed(text);
    check_memory(memory_bytes(&step))?;
    let source = Source::open(config, seed).map_err(|error| failed(error.to_string()))?;
    let mut cpu = Cpu::new(step, seed);
    feed(&mut cpu, &source, 0);
    cpu.init().map_err(|gone| failed(gone.to_string()))?;
    let mut casts = CastCounts::default();
    let mut watch = |node: &Node, buffers: &mut [Option<Buffer<f32>>]| {
        casts.after(0, node, buffers);
        if let Some(roundings) = &mut watching.roundings {
            roundings.after(node, buffers);
        }
        if let Some(ops) = &mut watching.ops {
            let Ok(()) = ops.after(node, &mut OnCpu { node, buffers });
        }
    };
    cpu.run_watched(&mut watch).map_err(|gone| failed(gone.to_string()))?;
    let ports = cpu.step().ports;
    let values = |id| cpu.buffer(id).map(|buffer| buffer.view().values().into_owned()).unwrap_or_default();
    let parameters = cpu.step().parameters.iter();
    Ok(Outcome {
        gradients: parameters.map(|parameter| (parameter.name.clone(), values(parameter.gradient))).collect(),
        loss: cpu.scalar(ports.loss),
        grad_norm: cpu.scalar(ports.grad_norm),
        casts,
    })
}

/// [`first_step`] on the GPU, compiled as the configuration says. Casts are not counted.
///
/// # Errors
/// Data that cannot be read, whatever the GPU lacks, a list that is wrong.
pub fn first_step_on_gpu(config: &StepConfig, seed: u64) -> Result<Outcome, SessionError> {
    let failed = |text: String| SessionError::Failed(text);
    let step = listed(config, &config.compile, Backend::Cuda)?;
    let batch = Source::open(config, seed).map_err(|error| failed(error.to_string()))?.batch(0);
    let mut cuda = Cuda::open(step, seed, &batch, Instant::now())?;
    cuda.submit(&batch)?;
    let ended = cuda.oldest()?.ok_or_else(|| failed("step 0 did not end".to_owned()))?;
    let parameters = cuda.step().parameters.iter();
    let gradients = parameters.map(|parameter| {
        let values = cuda.read(parameter.gradient)?.view().values().into_owned();
        Ok((parameter.name.clone(), values))
    });
    let gradients = gradients.collect::<Result<_, SessionError>>()?;
    let Ended { loss, grad_norm, .. } = ended;
    Ok(Outcome { gradients, loss, grad_norm, casts: CastCounts::default() })
}
