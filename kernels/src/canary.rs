//! The canary: a fixed product and a fixed copy, timed on the GPU. It is the same work in every cell and every build, so that
//! a machine that changes is told from code that changes. It may not know what is measured around it.

use crate::dtype::Dtype;
use crate::gemm::{Gemm, Operand};
use crate::gpu::launch::{prepare, scratch_bytes};
use crate::gpu::{Gpu, GpuError};
use crate::op::{Op, Spec};
use crate::timer::{Clocks, Event, median};

/// Rows, columns and depth of the product.
const SIDE: usize = 4096;
/// Bytes copied at once: larger than any cache.
const COPY_BYTES: usize = 256 << 20;
/// Timed blocks of each kind; their spread is the canary's own noise.
const BLOCKS: usize = 8;
/// What one block of products does, FLOPs: 25 ms at 700 TFLOP/s.
const BLOCK_FLOPS: f64 = 1.8e13;
/// Copies of one block: 4 ms at 3 TB/s.
const BLOCK_COPIES: usize = 24;

/// What the canary reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Rate of the bf16 product, FLOP/s: the median of its blocks.
    pub flops_per_second: f64,
    /// Standard deviation of its blocks over their mean.
    pub flops_spread: f64,
    /// Rate of the copy, bytes read and written a second: the median of its blocks.
    pub bytes_per_second: f64,
    /// Standard deviation of its blocks over their mean.
    pub bytes_spread: f64,
    /// SM clock while the products ran, Hz.
    pub sm_clock_hz: Option<f64>,
}

/// Runs the canary and waits for it: about 0.3 s on an H100. Its memory, 610 MiB, is given back.
///
/// # Errors
/// If there is no memory beside the step, or the device fails.
pub fn run(gpu: &Gpu) -> Result<Reading, GpuError> {
    let operand = Operand::plain(Dtype::Bf16, false);
    let product = Gemm {
        m: SIDE,
        n: SIDE,
        k: SIDE,
        a: operand,
        b: operand,
        d: Dtype::Bf16,
        accumulate: false,
        fast_accumulation: false,
    };
    let flops = product.flops();
    let op = Op::Gemm(product);
    let side = 2 * SIDE * SIDE;
    let slices = [gpu.allocate(side)?, gpu.allocate(side)?, gpu.allocate(side)?];
    for (slice, seed) in slices.iter().zip([1, 2, 3]) {
        gpu.upload(slice, &operand_bytes(side, seed))?;
    }
    let scratch = gpu.allocate(scratch_bytes(&op))?;
    let products = prepare(gpu, &op, &slices, &scratch)?;
    let (from, to) = (gpu.allocate(COPY_BYTES)?, gpu.allocate(COPY_BYTES)?);
    gpu.fill(&from, 0x5a)?;

    // Constants are exact in f64; the count is a few dozens.
    let launches = (BLOCK_FLOPS / flops).ceil();
    let block = || (0..launches as usize).try_for_each(|_| gpu.enqueue(&products));
    block()?;
    let (before, after) = (Clocks::new(gpu)?, Clocks::new(gpu)?);
    before.record(gpu)?;
    let compute = time(gpu, block)?;
    after.record(gpu)?;
    let sm_clock_hz = after.since(gpu, &before)?.map(|(_, hz)| hz);
    gpu.copy(&to, &from)?;
    let copies = time(gpu, || (0..BLOCK_COPIES).try_for_each(|_| gpu.copy(&to, &from)))?;
    Ok(Reading {
        flops_per_second: launches * flops / (median(&compute) * 1e-9),
        flops_spread: spread(&compute),
        bytes_per_second: (2 * COPY_BYTES * BLOCK_COPIES) as f64 / (median(&copies) * 1e-9),
        bytes_spread: spread(&copies),
        sm_clock_hz,
    })
}

/// Time of each block, ns. All are enqueued before any is waited for.
fn time(gpu: &Gpu, block: impl Fn() -> Result<(), GpuError>) -> Result<Vec<f64>, GpuError> {
    let events: Vec<Event> = (0..=BLOCKS).map(|_| Event::new(gpu)).collect::<Result<_, _>>()?;
    for (index, event) in events.iter().enumerate() {
        event.record(gpu)?;
        if index < BLOCKS {
            block()?;
        }
    }
    gpu.synchronize()?;
    events.windows(2).map(|pair| pair[1].since(&pair[0])).collect()
}

/// Random bf16 values in ±[1, 2): what a product costs in watts, and so in clock, depends on its operands' bits.
pub(crate) fn operand_bytes(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    // A megabyte of them, repeated: making all of it would take longer than the canary.
    let pattern: Vec<u8> = (0..1 << 19)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let bits = ((state >> 40) as u16 & 0x807f) | 0x3f80;
            bits.to_le_bytes()
        })
        .collect();
    pattern.iter().copied().cycle().take(bytes).collect()
}

/// Standard deviation over mean.
#[must_use]
pub fn spread(times: &[f64]) -> f64 {
    let count = times.len() as f64;
    let mean = times.iter().sum::<f64>() / count;
    let squares: f64 = times.iter().map(|time| (time - mean).powi(2)).sum();
    (squares / (count - 1.0)).sqrt() / mean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_finite_and_not_alike() {
        let bytes = operand_bytes(1 << 12, 7);
        let values: Vec<f32> =
            bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        assert!(values.iter().all(|value| (1.0..2.0).contains(&value.abs())));
        let negative = values.iter().filter(|value| **value < 0.0).count();
        assert!((values.len() / 3..2 * values.len() / 3).contains(&negative), "{negative}");
        assert_ne!(bytes, operand_bytes(1 << 12, 8));
    }

    #[test]
    fn the_middle_and_the_spread_of_times() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert!((spread(&[9.0, 10.0, 11.0]) - 0.1).abs() < 1e-12);
    }
}
