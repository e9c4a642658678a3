//! What a GPU sustains: a bf16 product, an FP8 product and a copy, each held for seconds, so that clock and power have settled. A
//! burst runs at a clock that no training step has. It may not know what is bounded by it.

use std::time::Instant;

use crate::canary::operand_bytes;
use crate::dtype::Dtype;
use crate::gemm::{Algorithm, Gemm, Operand};
use crate::gpu::launch::{prepare, scratch_bytes};
use crate::gpu::{Gpu, GpuError, Prepared, Slice};
use crate::op::{Op, Spec};
use crate::precision::Granularity;
use crate::timer::{Clocks, Event};

/// Rows, columns and depth of the products: large enough that nothing but the multiprocessors counts.
const SIDE: usize = 8192;
/// Bytes copied at once: larger than any cache.
const COPY_BYTES: usize = 1 << 30;
/// How long work runs before it counts, ns: clock and power settle meanwhile.
const SETTLE_NS: f64 = 0.5e9;
/// How long it then counts, ns.
const HELD_NS: f64 = 2e9;
/// Launches between two events: some 20 ms of products, and of copies.
const PRODUCTS: usize = 12;
const COPIES: usize = 24;

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A bf16 product.
    Bf16Product,
    /// An E4M3 product with one scale a tensor and fast accumulation.
    Fp8Product,
    /// A copy in device memory.
    Copy,
}

/// What it reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    /// FLOP/s, or bytes read and written a second.
    pub per_second: f64,
    /// For how long, s.
    pub seconds: f64,
    /// SM clock meanwhile, Hz.
    pub sm_clock_hz: Option<f64>,
    /// The host's time when it began to count, and when it ended.
    pub between: (Instant, Instant),
}

/// Who knows the fastest algorithm of a product; `None` for the library's first.
pub type Choose<'a> = &'a dyn Fn(&Gpu, &Gemm) -> Result<Option<Algorithm>, GpuError>;

/// Holds one kind of work, a product by the algorithm that is chosen for it; `None` where the device cannot do it (FP8 before Ada).
/// Its memory, 2 GiB at most, is given back.
///
/// # Errors
/// If there is no memory, a library is missing, or the device fails; or what `choose` could not do.
pub fn hold(gpu: &Gpu, work: Work, choose: Choose<'_>) -> Result<Option<Held>, GpuError> {
    match work {
        Work::Copy => {
            let (from, to) = (gpu.allocate(COPY_BYTES)?, gpu.allocate(COPY_BYTES)?);
            gpu.fill(&from, 0x5a)?;
            let block = || (0..COPIES).try_for_each(|_| gpu.copy(&to, &from));
            held(gpu, (2 * COPIES * COPY_BYTES) as f64, block).map(Some)
        }
        Work::Bf16Product => product(gpu, &square(Operand::plain(Dtype::Bf16, false), false), choose).map(Some),
        Work::Fp8Product => {
            match product(gpu, &square(Operand::scaled(Dtype::E4m3, Granularity::Tensor), true), choose) {
                Err(GpuError::Unsupported { .. } | GpuError::Blas { .. }) => Ok(None),
                other => other.map(Some),
            }
        }
    }
}

const fn square(operand: Operand, fast_accumulation: bool) -> Gemm {
    let (m, n, k) = (SIDE, SIDE, SIDE);
    Gemm { m, n, k, a: operand, b: operand, d: Dtype::Bf16, accumulate: false, fast_accumulation }
}

fn product(gpu: &Gpu, gemm: &Gemm, choose: Choose<'_>) -> Result<Held, GpuError> {
    if let Some(algorithm) = choose(gpu, gemm)? {
        gpu.pin(&gemm.product(), algorithm);
    }
    let (prepared, _memory) = prepared(gpu, gemm)?;
    held(gpu, PRODUCTS as f64 * gemm.flops(), || (0..PRODUCTS).try_for_each(|_| gpu.enqueue(&prepared)))
}

/// The product with random operands; scales are 1.
fn prepared(gpu: &Gpu, gemm: &Gemm) -> Result<(Prepared, Vec<Slice>), GpuError> {
    let mut slices = Vec::new();
    for (param, seed) in gemm.signature().iter().zip(1..) {
        let slice = gpu.allocate(param.bytes())?;
        match param.dtype {
            Dtype::F32 => gpu.upload(&slice, &1_f32.to_le_bytes())?,
            Dtype::E4m3 => gpu.upload(&slice, &fp8_bytes(param.bytes(), seed))?,
            _ => gpu.upload(&slice, &operand_bytes(param.bytes(), seed))?,
        }
        slices.push(slice);
    }
    let op = Op::Gemm(gemm.clone());
    let scratch = gpu.allocate(scratch_bytes(&op))?;
    let prepared = prepare(gpu, &op, &slices, &scratch)?;
    slices.push(scratch);
    Ok((prepared, slices))
}

/// Random E4M3 values in ±[1, 2), from the bits of bf16 ones: sign, exponent of 1, three bits of fraction.
fn fp8_bytes(bytes: usize, seed: u64) -> Vec<u8> {
    let bf16 = operand_bytes(2 * bytes, seed);
    bf16.chunks_exact(2).map(|pair| (pair[1] & 0x80) | 0x38 | (pair[0] & 0x07)).collect()
}

/// Runs blocks of `work` each until the time is over. Two are on their way at most, so that it ends when it should.
fn held(gpu: &Gpu, work: f64, block: impl Fn() -> Result<(), GpuError>) -> Result<Held, GpuError> {
    let mark = || -> Result<Event, GpuError> {
        let event = Event::new(gpu)?;
        event.record(gpu)?;
        Ok(event)
    };
    let (before, after) = (Clocks::new(gpu)?, Clocks::new(gpu)?);
    let first = mark()?;
    let mut counted: Vec<Event> = Vec::new();
    let mut last = mark()?;
    let mut began = Instant::now();
    loop {
        block()?;
        let next = mark()?;
        last.wait()?;
        let passed = std::mem::replace(&mut last, next);
        match counted.first() {
            None if passed.since(&first)? >= SETTLE_NS => {
                before.record(gpu)?;
                last = mark()?;
                // What is enqueued now is not begun before the block in flight has ended.
                last.wait()?;
                began = Instant::now();
                counted.push(mark()?);
                last = mark()?;
            }
            None => {}
            Some(start) => {
                let enough = passed.since(start)? >= HELD_NS;
                counted.push(passed);
                if enough {
                    break;
                }
            }
        }
    }
    after.record(gpu)?;
    last.wait()?;
    gpu.synchronize()?;
    let sm_clock_hz = after.since(gpu, &before)?.map(|(_, hz)| hz);
    counted.push(last);
    let ns = counted[counted.len() - 1].since(&counted[0])?;
    // The start, an event right behind it, and one event a block.
    let blocks = counted.len() - 2;
    let per_second = work * blocks as f64 / (ns * 1e-9);
    Ok(Held { per_second, seconds: ns * 1e-9, sm_clock_hz, between: (began, Instant::now()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_operands_are_finite_and_not_alike() {
        let bytes = fp8_bytes(1 << 12, 7);
        let values: Vec<f32> = bytes.iter().map(|&bits| float8::F8E4M3::from_bits(bits).to_f32()).collect();
        assert!(values.iter().all(|value| (1.0..2.0).contains(&value.abs())));
        let negative = values.iter().filter(|value| **value < 0.0).count();
        assert!((values.len() / 3..2 * values.len() / 3).contains(&negative), "{negative}");
        assert!((0..8).all(|fraction| bytes.iter().any(|byte| byte & 0x07 == fraction)));
    }
}
