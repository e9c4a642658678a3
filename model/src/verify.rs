//! Whether a cell's numbers are right: its gradients against fp32, its compiled list against the uncompiled one.
//!
//! The cell's own dims are checked, with at most two blocks and a short batch, so that it takes seconds on a CPU.

use std::time::Instant;

use stepwatch_kernels::Dtype;
use stepwatch_kernels::op::Op;
use stepwatch_kernels::tensor::Buffer;

use crate::build::build;
use crate::config::{Attention, Compile, Head, OptimizerState, StepConfig};
use crate::data::Source;
use crate::exec::Backend;
use crate::exec::cpu::Cpu;
use crate::exec::cuda::{Cuda, Ended};
use crate::ir::{Node, Step};
use crate::passes::pipeline;
use crate::plan::{MAX_SQNR_DB, Verification, memory_bytes};
use crate::session::{SessionError, check_memory, feed};
use crate::{Precision, check_config};

/// Blocks that are checked.
const BLOCKS: usize = 2;

/// Tokens that are checked, where the cell's shape lets them be cut.
const TOKENS: usize = 256;

/// What bf16 gradients must reach against fp32, dB: measured 36–41 for models of these kinds.
pub const BF16_FLOOR_DB: f64 = 32.0;

/// What fp32 gradients of a compiled list must reach against the uncompiled one, dB: only the order of sums may differ.
pub const FP32_FLOOR_DB: f64 = 80.0;

/// One step's outcome: the gradient of every parameter, loss, gradient norm.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Name and gradient of each parameter.
    pub gradients: Vec<(String, Vec<f32>)>,
    /// Mean loss, nats.
    pub loss: f64,
    /// Norm of all gradients.
    pub grad_norm: f64,
    /// Elements that casts saturated.
    pub cast_overflows: u64,
    /// Non-zero elements that casts flushed to zero.
    pub cast_underflows: u64,
}

/// Signal to quantisation-noise ratio of `found` against `reference`, dB: 20·log10 ‖x‖/‖x−y‖, at most [`MAX_SQNR_DB`];
/// NaN counts as all noise.
#[must_use]
pub fn sqnr_db(reference: &[f32], found: &[f32]) -> f64 {
    let square = |value: f64| value * value;
    let signal: f64 = reference.iter().map(|x| square(f64::from(*x))).sum();
    let noise: f64 = reference.iter().zip(found).map(|(x, y)| square(f64::from(*x) - f64::from(*y))).sum();
    if noise == 0.0 {
        return MAX_SQNR_DB;
    }
    let ratio = 10.0 * (signal / noise).log10();
    if ratio.is_nan() { -MAX_SQNR_DB } else { ratio.clamp(-MAX_SQNR_DB, MAX_SQNR_DB) }
}

/// The parameter with the lowest SQNR, and that.
#[must_use]
pub fn worst_sqnr(reference: &Outcome, found: &Outcome) -> (String, f64) {
    let pairs = reference.gradients.iter().zip(&found.gradients);
    let ratios = pairs.map(|((name, x), (_, y))| (name.clone(), sqnr_db(x, y)));
    ratios.min_by(|one, two| one.1.total_cmp(&two.1)).unwrap_or((String::new(), MAX_SQNR_DB))
}

/// The cell cut to what is checked.
#[must_use]
pub fn sample(config: &StepConfig) -> StepConfig {
    let mut cut = config.clone();
    cut.dims.layers = cut.dims.layers.min(BLOCKS);
    let mut shorter = cut.clone();
    shorter.seq_len = shorter.seq_len.min(TOKENS);
    shorter.batch_size = shorter.batch_size.min((TOKENS / shorter.seq_len).max(1));
    if check_config(&shorter).is_ok() { shorter } else { cut }
}

/// The same step in fp32, uncompiled.
#[must_use]
pub fn fp32_twin(config: &StepConfig) -> StepConfig {
    StepConfig {
        precision: Precision::Fp32,
        compile: Compile::None,
        optimizer_state: OptimizerState::Fp32,
        head: Head::Bf16,
        recompute: false,
        ..config.clone()
    }
}

/// Runs step 0 of a list and keeps what is compared. Casts are counted where the list shows them.
///
/// # Errors
/// Data that cannot be read, too little memory, a list that is wrong.
pub fn first_step(config: &StepConfig, compile: &Compile, seed: u64) -> Result<(Outcome, Step), SessionError> {
    let failed = |text: String| SessionError::Failed(text);
    let mut step = build(config);
    let gradients: Vec<_> = step.parameters.iter().map(|parameter| parameter.gradient).collect();
    step.outputs.extend(gradients);
    let compiled = pipeline(step, compile, Backend::Cpu).map_err(|error| failed(error.to_string()))?;
    check_memory(memory_bytes(&compiled.step))?;
    let source = Source::open(config, seed).map_err(|error| failed(error.to_string()))?;
    let mut cpu = Cpu::new(compiled.step, seed);
    feed(&mut cpu, &source, 0);
    cpu.init().map_err(|gone| failed(gone.to_string()))?;
    let (mut overflows, mut underflows) = (0, 0);
    let mut watch = |node: &Node, buffers: &[Option<Buffer<f32>>]| {
        let (over, under) = cast_losses(node, buffers);
        overflows += over;
        underflows += under;
    };
    cpu.run_watched(&mut watch).map_err(|gone| failed(gone.to_string()))?;
    let ports = cpu.step().ports;
    let values = |id| cpu.buffer(id).map(|buffer| buffer.view().values().into_owned()).unwrap_or_default();
    let parameters = cpu.step().parameters.iter();
    let outcome = Outcome {
        gradients: parameters.map(|parameter| (parameter.name.clone(), values(parameter.gradient))).collect(),
        loss: cpu.scalar(ports.loss),
        grad_norm: cpu.scalar(ports.grad_norm),
        cast_overflows: overflows,
        cast_underflows: underflows,
    };
    Ok((outcome, cpu.step().clone()))
}

/// [`first_step`] on the GPU, compiled as the configuration says. Casts are not counted.
///
/// # Errors
/// Data that cannot be read, whatever the GPU lacks, a list that is wrong.
pub fn first_step_on_gpu(config: &StepConfig, seed: u64) -> Result<Outcome, SessionError> {
    let failed = |text: String| SessionError::Failed(text);
    let mut step = build(config);
    let gradients: Vec<_> = step.parameters.iter().map(|parameter| parameter.gradient).collect();
    step.outputs.extend(gradients);
    let compiled = pipeline(step, &config.compile, Backend::Cuda).map_err(|error| failed(error.to_string()))?;
    let batch = Source::open(config, seed).map_err(|error| failed(error.to_string()))?.batch(0);
    let mut cuda = Cuda::open(compiled.step, seed, &batch, Instant::now())?;
    cuda.submit(&batch)?;
    let ended = cuda.oldest()?.ok_or_else(|| failed("step 0 did not end".to_owned()))?;
    let parameters = cuda.step().parameters.iter();
    let gradients = parameters.map(|parameter| {
        let values = cuda.read(parameter.gradient)?.view().values().into_owned();
        Ok((parameter.name.clone(), values))
    });
    let gradients = gradients.collect::<Result<_, SessionError>>()?;
    let Ended { loss, grad_norm, .. } = ended;
    Ok(Outcome { gradients, loss, grad_norm, cast_overflows: 0, cast_underflows: 0 })
}

/// Elements that one cast saturated, and non-zero ones that it flushed to zero. Only what a tensor-wide scale can do is
/// counted: finer scales come from the maxima of what they scale.
fn cast_losses(node: &Node, buffers: &[Option<Buffer<f32>>]) -> (u64, u64) {
    let Op::Quantise(quantise) = &node.op else { return (0, 0) };
    let values = |index: usize| {
        let id = node.operands.get(index)?;
        Some(buffers[id.index()].as_ref()?.view().values())
    };
    let (Some(x), Some(scale), Some(q)) = (values(0), values(1), values(2)) else { return (0, 0) };
    let ([scale], Some(largest)) = (&scale[..], quantise.format.max_finite()) else { return (0, 0) };
    // Past the last value by half a step and more: what lies nearer rounds to it anyway.
    let beyond = largest * scale * (1.0 + if quantise.format == Dtype::E4m3 { 1.0 / 28.0 } else { 1.0 / 14.0 });
    let overflows = x.iter().filter(|value| value.abs() > beyond).count() as u64;
    // Zeros are counted, not matched: the cast may be stored transposed.
    let zeros = |values: &[f32]| values.iter().filter(|value| **value == 0.0).count() as u64;
    (overflows, zeros(&q).saturating_sub(zeros(&x)))
}

/// Checks a cell: finite, near its fp32 twin, right against what it is held to.
///
/// fp32 and bf16 are held to fp32; an FP8 recipe is held to its own emulation, which on the CPU is the uncompiled list, and
/// its distance from fp32 is recorded. A compiled list must equal the uncompiled one bit for bit unless a pass declared a
/// rounding that it removed; then it may be no farther from it than the recipe itself is from fp32.
///
/// # Errors
/// As [`first_step`]; wrong numbers are no error but `ok: false` with the failures in words.
pub fn verify(config: &StepConfig, backend: Backend, seed: u64) -> Result<Verification, SessionError> {
    let on_gpu = backend == Backend::Cuda;
    let cell = sample(config);
    // The emulation runs on the CPU, whose tiled attention means what cuDNN's does.
    let attention = if cell.attention == Attention::Cudnn { Attention::Flash } else { cell.attention };
    let config = StepConfig { attention, ..cell.clone() };
    let (twin, _) = first_step(&fp32_twin(&config), &Compile::None, seed)?;
    let (plain, _) = first_step(&config, &Compile::None, seed)?;
    let (own, step) = match config.compile {
        _ if on_gpu => (first_step_on_gpu(&cell, seed)?, None),
        Compile::None => (plain.clone(), None),
        _ => first_step(&config, &config.compile, seed).map(|(own, step)| (own, Some(step)))?,
    };
    let mut failures = Vec::new();
    if !own.loss.is_finite() || !own.grad_norm.is_finite() {
        failures.push(format!("loss {} and gradient norm {} must be finite", own.loss, own.grad_norm));
    }
    let (loss_within, norm_within) = if config.precision.is_fp8() { (0.02, 0.2) } else { (0.005, 0.05) };
    for (what, found, expected, within) in
        [("loss", own.loss, twin.loss, loss_within), ("gradient norm", own.grad_norm, twin.grad_norm, norm_within)]
    {
        // NaN is near nothing.
        let near = (found - expected).abs() <= within * expected.abs();
        if !near {
            failures.push(format!("{what} {found:.6} is more than {within} off fp32's {expected:.6}"));
        }
    }
    let (parameter, fp32_db) = worst_sqnr(&twin, &own);
    let (list_parameter, list_db) = worst_sqnr(&plain, &own);
    let roundings = step.as_ref().map_or(0, |step| step.removed_roundings.len());
    if !on_gpu && roundings == 0 && (list_db < MAX_SQNR_DB || own.loss.to_bits() != plain.loss.to_bits()) {
        failures.push(format!("gradient of {list_parameter} differs from the uncompiled list's, and no pass says why"));
    }
    // A value that a removed rounding moves across an FP8 rounding point changes by a whole FP8 step, so even a right list
    // may be as far from the uncompiled one as casting itself is from fp32; never farther.
    let (_, recipe_db) = worst_sqnr(&twin, &plain);
    let (against, worst, name, floor) = match config.precision {
        Precision::Fp32 => ("fp32", fp32_db, parameter, FP32_FLOOR_DB),
        Precision::Bf16 => ("fp32", fp32_db, parameter, BF16_FLOOR_DB),
        _ => ("emulation", list_db, list_parameter, recipe_db),
    };
    if worst < floor {
        failures
            .push(format!("gradient of {name} has {worst:.1} dB against {against}: at least {floor:.1} dB is right"));
    }
    let fp8 = config.precision.is_fp8();
    Ok(Verification {
        ok: failures.is_empty(),
        worst_sqnr_db: worst,
        against: against.to_owned(),
        loss: finite(own.loss),
        grad_norm: finite(own.grad_norm),
        sqnr_fp32_db: Some(fp32_db),
        cast_overflows: fp8.then_some(plain.cast_overflows),
        cast_underflows: fp8.then_some(plain.cast_underflows),
        failures,
    })
}

/// JSON has neither NaN nor infinity: either is written as the largest number, and named in the failures.
const fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { f64::MAX }
}

/// What the null executor says.
pub(crate) fn scripted(ok: bool) -> Verification {
    let failures = if ok { Vec::new() } else { vec!["the script says so".to_owned()] };
    Verification {
        ok,
        worst_sqnr_db: 40.0,
        against: "fp32".to_owned(),
        loss: 5.0,
        grad_norm: 1.0,
        sqnr_fp32_db: Some(40.0),
        cast_overflows: None,
        cast_underflows: None,
        failures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Attention, preset};

    #[test]
    fn sqnr_of_hand_worked_cases() {
        // ‖x‖ = 5, ‖x − y‖ = 0.5: a factor of 10 is 20 dB.
        assert!((sqnr_db(&[3.0, 4.0], &[3.0, 4.5]) - 20.0).abs() < 1e-9);
        assert_eq!(sqnr_db(&[3.0, 4.0], &[3.0, 4.0]), MAX_SQNR_DB);
        assert_eq!(sqnr_db(&[0.0], &[0.0]), MAX_SQNR_DB);
        assert_eq!(sqnr_db(&[0.0], &[1.0]), -MAX_SQNR_DB);
        assert_eq!(sqnr_db(&[1.0], &[f32::NAN]), -MAX_SQNR_DB);
    }

    #[test]
    fn big_cells_are_cut_and_odd_ones_stay_whole() {
        let big = StepConfig {
            precision: Precision::Fp8Block128,
            attention: Attention::Flash,
            ..StepConfig::example(preset("454m").unwrap(), 16, 2048)
        };
        let cut = sample(&big);
        assert_eq!((cut.dims.layers, cut.batch_size, cut.seq_len), (2, 1, 256));
        assert_eq!((cut.dims.dim, cut.dims.vocab), (1024, 50257));
        // 200 tokens a sequence: one alone is no multiple of 16, all 4 are.
        let odd =
            StepConfig { precision: Precision::Fp8Rowwise, ..StepConfig::example(preset("tiny").unwrap(), 4, 200) };
        assert_eq!((sample(&odd).batch_size, sample(&odd).seq_len), (4, 200));
    }

    #[test]
    fn numbers_that_are_no_numbers_are_written_as_json_can() {
        let nan = Verification { loss: finite(f64::NAN), grad_norm: finite(f64::INFINITY), ..scripted(false) };
        let text = serde_json::to_string(&nan).unwrap();
        assert_eq!(serde_json::from_str::<Verification>(&text).unwrap(), nan);
    }
}
