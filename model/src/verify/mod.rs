//! Whether a cell's numbers are right. `model/VERIFICATION.md` says what is compared with what, how near it must come and why.
//!
//! Three checks: at the cell's dims with at most two blocks every gradient against fp32 or the recipe's own emulation; at the
//! size that runs, elements of each distinct product, attention and cast against fp64; loss and gradient norm against fp32.

mod casts;
mod first_step;
mod full_size;
mod ops;
mod outcome;
mod sides;
#[cfg(test)]
mod tests;
mod tolerance;

use crate::config::{Compile, FastAccumulation, Head, OptimizerState, StepConfig};
use crate::exec::Backend;
use crate::plan::{MAX_SQNR_DB, Plan, Verification};
use crate::session::SessionError;
use crate::{Precision, check_config};
use full_size::AtSize;
use outcome::sqnrs_by_part;
use sides::{Checked, Emulations, joined};
use tolerance::{FP32_FLOOR_DB, PART_MARGIN_DB, SPREAD_MARGIN_DB, against_fp32, bf16_floor_db};

pub use casts::{CastCount, CastCounts};
pub use first_step::{first_step, first_step_on_gpu};
pub use full_size::{Algorithms, Twin, casts, casts_at, check_ops, twin};
pub use ops::{CheckedOp, ELEMENTS, OnCpu, OnGpu, OpChecks};
pub use outcome::{Outcome, sqnr_db, sqnrs, worst_sqnr};
pub use tolerance::{BF16_FLOOR_DB, OtherRoundings};

/// Blocks that are checked.
const BLOCKS: usize = 2;

/// Tokens that are checked, where the cell's shape lets them be cut: two tiles of attention, one block of 128 scales.
const TOKENS: usize = 128;

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
        fast_accumulation: FastAccumulation::Forward,
        recompute: false,
        ..config.clone()
    }
}

/// One part of a gradient beside the emulation of its recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct PartRatio {
    /// The parameter, and what of it.
    pub part: String,
    /// Its SQNR against the emulation, dB.
    pub found_db: f64,
    /// What two right emulations reach, dB.
    pub spread_db: f64,
}

/// Every part of every gradient of the cut cell beside the emulation; none for fp32.
///
/// # Errors
/// As [`first_step()`].
pub fn parts(config: &StepConfig, backend: Backend, seed: u64) -> Result<Vec<PartRatio>, SessionError> {
    let cell = sample(config);
    Ok(part_ratios(&Checked::of(&cell, backend, seed)?.own, &Emulations::of(&cell, seed)?))
}

fn part_ratios(own: &Outcome, emulations: &Emulations) -> Vec<PartRatio> {
    let Emulations { plain, other: Some(other), .. } = emulations else { return Vec::new() };
    let pairs = sqnrs_by_part(plain, own).into_iter().zip(sqnrs_by_part(plain, other));
    pairs.map(|((part, found_db), (_, spread_db))| PartRatio { part, found_db, spread_db }).collect()
}

/// Checks a cell: finite, near its fp32 twin, right against what it is held to.
///
/// fp32 and bf16 gradients are held to fp32, bf16 as far as its own emulations come there. Those of bf16 and of FP8 recipes are also held, part by part, to their own
/// emulation on the CPU, to within what two right emulations lie apart, measured at the cell's own dims; the distance of an
/// FP8 recipe from fp32 is recorded. On the CPU a
/// compiled list must equal the uncompiled one bit for bit unless a pass declared a rounding that it removed. On a GPU
/// products run by the algorithms of the plan.
///
/// # Errors
/// As [`first_step()`]; wrong numbers are no error but `ok: false` with the failures in words.
pub fn verify(config: &StepConfig, backend: Backend, plan: &Plan, seed: u64) -> Result<Verification, SessionError> {
    let cell = sample(config);
    // The CPU emulates while the GPU runs what is held to it.
    let (emulations, found) = std::thread::scope(|scope| {
        let emulations = (backend == Backend::Cuda).then(|| scope.spawn(|| Emulations::of(&cell, seed)));
        let found = Checked::of(&cell, backend, seed).and_then(|checked| {
            let at_size = (backend == Backend::Cuda).then(|| AtSize::of(config, plan, seed)).transpose()?;
            Ok((checked, at_size))
        });
        (emulations.map_or_else(|| Emulations::of(&cell, seed), joined), found)
    });
    let (Checked { own, removed_roundings, ops }, at_size) = found?;
    let emulations = emulations?;
    let mut failures = Vec::new();
    let judged = (config.precision, backend);
    let (against, worst) = judge_gradients(judged, (&own, removed_roundings), &emulations, &mut failures);
    let Emulations { twin, plain, .. } = emulations;
    near_fp32(config.precision, (own.loss, own.grad_norm), (twin.loss, twin.grad_norm), &mut failures);
    let (_, fp32_db) = worst_sqnr(&twin, &own);
    let fp8 = config.precision.is_fp8();
    let (mut loss, mut grad_norm, mut casts) = (own.loss, own.grad_norm, plain.casts);
    let (ops, twin) = if let Some(AtSize { ops, loss: full_loss, grad_norm: full_norm, twin: beside, casts: lost }) =
        at_size
    {
        (loss, grad_norm) = (full_loss, full_norm);
        let (own, fp32) = ((beside.loss, beside.grad_norm), (beside.fp32_loss, beside.fp32_grad_norm));
        near_fp32(config.precision, own, fp32, &mut failures);
        casts = lost.unwrap_or(casts);
        (Some(ops), beside)
    } else {
        let [layers, batch_size, seq_len] = [cell.dims.layers, cell.batch_size, cell.seq_len].map(|size| size as u64);
        let (fp32_loss, fp32_grad_norm) = (twin.loss, twin.grad_norm);
        (ops, Twin { layers, batch_size, seq_len, fp32_loss, fp32_grad_norm, loss, grad_norm })
    };
    if !loss.is_finite() || !grad_norm.is_finite() {
        failures.push(format!("loss {loss} and gradient norm {grad_norm} must be finite"));
    }
    let mut operations = Vec::new();
    if let Some(ops) = ops {
        failures.extend(ops.failures);
        operations = ops.checked;
    }
    let totals = fp8.then(|| casts.totals(0));
    Ok(Verification {
        ok: failures.is_empty(),
        worst_sqnr_db: worst,
        against: against.to_owned(),
        loss: finite(loss),
        grad_norm: finite(grad_norm),
        sqnr_fp32_db: Some(fp32_db),
        cast_overflows: totals.map(|(overflows, _)| overflows),
        cast_underflows: totals.map(|(_, underflows)| underflows),
        operations,
        twin: Some(finite_twin(twin)),
        casts: casts.0,
        failures,
    })
}

/// Holds gradients to what the precision is held to: that, and the worst of them in dB.
fn judge_gradients(
    (precision, backend): (Precision, Backend),
    (own, removed_roundings): (&Outcome, usize),
    emulations: &Emulations,
    failures: &mut Vec<String>,
) -> (&'static str, f64) {
    let Emulations { twin, plain, other } = emulations;
    let (list_parameter, list_db) = worst_sqnr(plain, own);
    let same = list_db >= MAX_SQNR_DB && own.loss.to_bits() == plain.loss.to_bits();
    if backend != Backend::Cuda && removed_roundings == 0 && !same {
        failures.push(format!("gradient of {list_parameter} differs from the uncompiled list's, and no pass says why"));
    }
    let (against, (name, worst), floor) = match (precision, other) {
        (Precision::Fp32, _) | (_, None) => ("fp32", worst_sqnr(twin, own), FP32_FLOOR_DB),
        (Precision::Bf16, Some(other)) => {
            let reached = worst_sqnr(twin, plain).1.min(worst_sqnr(twin, other).1);
            ("fp32", worst_sqnr(twin, own), bf16_floor_db(reached))
        }
        (_, Some(other)) => {
            let (_, spread) = worst_sqnr(plain, other);
            ("emulation", (list_parameter, list_db), spread - SPREAD_MARGIN_DB)
        }
    };
    if worst < floor {
        failures
            .push(format!("gradient of {name} has {worst:.1} dB against {against}: at least {floor:.1} dB is right"));
    }
    // One part far off fails even where the worst of all is good enough.
    for PartRatio { part, found_db, spread_db } in part_ratios(own, emulations) {
        let floor = spread_db - PART_MARGIN_DB;
        if found_db < floor {
            failures.push(format!(
                "gradient of {part} has {found_db:.1} dB against the emulation: at least {floor:.1} dB is right"
            ));
        }
    }
    (against, worst)
}

/// Holds loss and gradient norm to fp32's.
fn near_fp32(precision: Precision, own: (f64, f64), fp32: (f64, f64), failures: &mut Vec<String>) {
    let within = against_fp32(precision);
    for (what, found, expected, within) in
        [("loss", own.0, fp32.0, within.0), ("gradient norm", own.1, fp32.1, within.1)]
    {
        // NaN is near nothing.
        let near = (found - expected).abs() <= within * expected.abs();
        if !near {
            failures.push(format!("{what} {found:.6} is more than {within} off fp32's {expected:.6}"));
        }
    }
}

/// JSON has neither NaN nor infinity: either is written as the largest number, and named in the failures.
const fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { f64::MAX }
}

fn finite_twin(twin: Twin) -> Twin {
    Twin {
        fp32_loss: finite(twin.fp32_loss),
        fp32_grad_norm: finite(twin.fp32_grad_norm),
        loss: finite(twin.loss),
        grad_norm: finite(twin.grad_norm),
        ..twin
    }
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
        operations: Vec::new(),
        twin: None,
        casts: Vec::new(),
        failures,
    }
}
