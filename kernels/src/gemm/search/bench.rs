//! What one product is timed on: operands of its own, as many copies as no cache holds, and three ways of timing an algorithm there,
//! each for another question. It may not know which algorithms there are, nor what is made of the times.

use std::cell::OnceCell;

use rayon::prelude::*;

use super::super::cublaslt::Matmul;
use super::super::{Algorithm, Gemm};
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::{Call, Gpu, GpuError, Prepared, Slice};
use crate::op::{Param, Spec};
use crate::tensor::Buffer;
use crate::timer::{Clocks, Event, median};

/// Launches of a candidate before it is timed, and timed ones, of which the median counts.
const WARM_UP: usize = 2;
const REPETITIONS: usize = 5;

/// A candidate whose first launches take this much longer than the best is not timed further, and launches are timed for so long at
/// least: the clocks that they are read by tick in about a microsecond.
const GIVEN_UP: f64 = 1.15;
const LEAST_NS: f64 = 3e5;

/// Turns of finalists, and how long one is.
const TURNS: usize = 6;
const TURN_NS: f64 = 5e6;

/// Copies of the operands that launches take in turn, at most.
const MOST_COPIES: usize = 16;

/// Random elements that operands repeat: no power of two, so that no two rows are equal.
const PERIOD: usize = 1_048_573;

/// What one product is timed and verified on.
pub(super) struct Bench<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) gemm: &'a Gemm,
    /// The product on each copy of its operands.
    pub(super) copies: Vec<Matmul>,
    /// Operands of the first copy, in the order of the signature.
    pub(super) operands: Vec<Slice>,
    /// A second place for results, and one for the first that was right.
    pub(super) other: Slice,
    pub(super) reference: OnceCell<Slice>,
    /// Before and after what is timed.
    clocks: [Clocks; 2],
    _memory: Vec<Slice>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(gpu: &'a Gpu, gemm: &'a Gemm) -> Result<Self, GpuError> {
        let params = gemm.signature();
        let bytes: usize = params.iter().map(Param::bytes).sum();
        let copies = (2 * gpu.facts().l2_bytes).div_ceil(bytes.max(1)).clamp(1, MOST_COPIES);
        let scratch = gpu.allocate(gemm.scratch())?;
        let mut memory = vec![scratch.clone()];
        let mut matmuls = Vec::with_capacity(copies);
        let mut first = Vec::new();
        for copy in 0..copies {
            let operands = params.iter().map(|param| operand(gpu, param)).collect::<Result<Vec<_>, _>>()?;
            let bound = Operands { op: "gemm", params: &params, slices: &operands, scratch: &scratch };
            let mut calls = gemm.calls(gpu, &bound)?;
            let Some(Call::Matmul(matmul)) = calls.pop() else { continue };
            // Scales in the library's order: once, since all copies share the place.
            if copy == 0 {
                gpu.enqueue(&Prepared::new(calls, Vec::new()))?;
                gpu.synchronize()?;
                first.clone_from(&operands);
            }
            matmuls.push(*matmul);
            memory.extend(operands);
        }
        let other = gpu.allocate(params.last().map_or(0, Param::bytes))?;
        let reference = OnceCell::new();
        let clocks = [Clocks::new(gpu)?, Clocks::new(gpu)?];
        Ok(Self { gpu, gemm, copies: matmuls, operands: first, other, reference, clocks, _memory: memory })
    }

    /// The product on every copy by one algorithm.
    fn by(&self, algorithm: Algorithm) -> Result<Vec<Prepared>, GpuError> {
        let one = |copy: &Matmul| {
            let matmul = Matmul::with(self.gpu, copy.problem(), algorithm)?;
            Ok(Prepared::new(vec![Call::Matmul(Box::new(matmul))], Vec::new()))
        };
        self.copies.iter().map(one).collect()
    }

    /// SM cycles of a launch, the median of a few: they do not depend on the clock, which falls while a search heats the chip. After
    /// two launches it is known whether an algorithm comes near `least`, and of others nothing more.
    pub(super) fn cycles(&self, algorithm: Algorithm, least: f64) -> Result<f64, GpuError> {
        let products = self.by(algorithm)?;
        let mut products = products.iter().cycle();
        for product in products.by_ref().take(WARM_UP) {
            self.gpu.enqueue(product)?;
        }
        let (ns, cycles) = self.timed(&mut products, 2)?;
        if cycles > GIVEN_UP * least {
            return Ok(cycles);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let launches = (LEAST_NS / ns).clamp(REPETITIONS as f64, 100.0) as usize;
        Ok(self.timed(&mut products, launches)?.1)
    }

    /// Median ns of some launches, and the cycles that they took.
    fn timed<'b>(
        &self,
        products: &mut impl Iterator<Item = &'b Prepared>,
        launches: usize,
    ) -> Result<(f64, f64), GpuError> {
        let events = (0..=launches).map(|_| Event::new(self.gpu)).collect::<Result<Vec<_>, _>>()?;
        let [before, after] = &self.clocks;
        before.record(self.gpu)?;
        events[0].record(self.gpu)?;
        for (event, product) in events[1..].iter().zip(products) {
            self.gpu.enqueue(product)?;
            event.record(self.gpu)?;
        }
        after.record(self.gpu)?;
        self.gpu.synchronize()?;
        let times = events.windows(2).map(|pair| pair[1].since(&pair[0])).collect::<Result<Vec<_>, _>>()?;
        let ns = median(&times);
        let hz = after.since(self.gpu, before)?.map_or(1e9, |(_, hz)| hz);
        Ok((ns, ns * hz / 1e9))
    }

    /// Times of algorithms that take turns of [`TURN_NS`], ns: what drifts, drifts for all.
    pub(super) fn in_turns(&self, algorithms: &[Algorithm]) -> Result<Vec<f64>, GpuError> {
        let products = algorithms.iter().map(|algorithm| self.by(*algorithm)).collect::<Result<Vec<_>, _>>()?;
        let (start, end) = (Event::new(self.gpu)?, Event::new(self.gpu)?);
        let mut times = vec![Vec::with_capacity(TURNS); algorithms.len()];
        let mut launches = vec![REPETITIONS; algorithms.len()];
        for turn in 0..=TURNS {
            for at in 0..algorithms.len() {
                // Who comes first changes, so that nobody always follows the same neighbour.
                let at = (at + turn) % algorithms.len();
                start.record(self.gpu)?;
                for product in products[at].iter().cycle().take(launches[at]) {
                    self.gpu.enqueue(product)?;
                }
                end.record(self.gpu)?;
                end.wait()?;
                #[expect(clippy::cast_precision_loss, reason = "few launches")]
                let ns = end.since(&start)? / launches[at] as f64;
                if turn == 0 {
                    // The first turn says how many launches fill one.
                    launches[at] = turns_of(ns);
                } else {
                    times[at].push(ns);
                }
            }
        }
        Ok(times.iter().map(|times| median(times)).collect())
    }

    /// Time of a launch among so many of one algorithm, ns: the last third of them is timed.
    pub(super) fn alone(&self, algorithm: Algorithm, launches: usize) -> Result<f64, GpuError> {
        let products = self.by(algorithm)?;
        let (start, end) = (Event::new(self.gpu)?, Event::new(self.gpu)?);
        let timed = launches / 3;
        let mut products = products.iter().cycle();
        for product in products.by_ref().take(launches - timed) {
            self.gpu.enqueue(product)?;
        }
        start.record(self.gpu)?;
        for product in products.take(timed) {
            self.gpu.enqueue(product)?;
        }
        end.record(self.gpu)?;
        end.wait()?;
        #[expect(clippy::cast_precision_loss, reason = "few launches")]
        let ns = end.since(&start)? / timed as f64;
        Ok(ns)
    }
}

/// Random contents for one operand: rounded normals, repeated with a period that is in step with no row; scales near 0.01.
fn operand(gpu: &Gpu, param: &Param) -> Result<Slice, GpuError> {
    let slice = gpu.allocate(param.bytes())?;
    let seed = param.name.bytes().fold(param.elements() as u64, |seed, byte| seed * 31 + u64::from(byte));
    let scales = param.name.ends_with("_scale");
    // FP8 values as a cast leaves them: the largest near the format's own.
    let spread = if param.dtype.is_fp8() { 64.0 } else { 1.0 };
    let value = |at: usize| {
        let random = normal(seed.wrapping_add(at as u64));
        if scales { 0.01 * (1.0 + 0.2 * random.clamp(-3.0, 3.0)) } else { spread * random }
    };
    let values: Vec<f32> = (0..param.elements().min(PERIOD)).into_par_iter().map(value).collect();
    let block = Buffer::rounded(param.dtype, &values);
    let size = block.len() * param.dtype.bytes();
    let within = |from: usize, bytes: usize| {
        let what = format!("{} bytes at {from} of {}", bytes, slice.bytes());
        slice.slice(from, bytes).ok_or(GpuError::Operand { op: "search", operand: param.name.to_string(), what })
    };
    gpu.upload_tensor(&within(0, size)?, block.view())?;
    for from in (size..param.bytes()).step_by(size.max(1)) {
        let bytes = size.min(param.bytes() - from);
        gpu.copy(&within(from, bytes)?, &within(0, bytes)?)?;
    }
    Ok(slice)
}

/// Standard normal number of an index (SplitMix64 and Box & Muller).
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "random bits")]
fn normal(index: u64) -> f32 {
    let mix = |value: u64| {
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    };
    let bits = mix(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let unit = |bits: u64| (bits as f64 + 0.5) / f64::from(u32::MAX);
    let (u, v) = (unit(bits >> 32).min(1.0), unit(bits & u64::from(u32::MAX)));
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// Launches that fill a turn.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn turns_of(ns: f64) -> usize {
    (TURN_NS / ns).clamp(REPETITIONS as f64, 1000.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_operands_are_normal() {
        let values: Vec<f64> = (0..100_000).map(|index| f64::from(normal(index))).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|value| value * value).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
