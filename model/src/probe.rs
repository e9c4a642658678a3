//! What a machine can do, beside any cell: the probe of drivers and libraries; the canary, the same fixed work before and after
//! every round; the ceilings, held for seconds once a run. It may not know the step, nor what is concluded from its readings.

use std::hint::black_box;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use stepwatch_kernels::canary;
use stepwatch_kernels::ceiling::{self, Held};
use stepwatch_kernels::gemm::Gemm;
use stepwatch_kernels::gpu::{Gpu, fault};
use stepwatch_kernels::timer::median;

pub use stepwatch_kernels::gpu::fault::NAMES as FAULTS;
pub use stepwatch_kernels::gpu::library::{Mapped, mapped};
pub use stepwatch_kernels::gpu::probe::{Found, Probe, probe};

use crate::exec::search;
use crate::session::SessionError;

/// What the canary reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// Rate of its arithmetic, FLOP/s: a bf16 product on a GPU, a loop of multiply-adds on every thread of a CPU.
    pub flops_per_second: f64,
    /// Standard deviation of its blocks over their mean.
    pub flops_spread: f64,
    /// Rate of its copy, bytes read and written a second.
    pub bytes_per_second: f64,
    /// Standard deviation of its blocks over their mean.
    pub bytes_spread: f64,
    /// SM clock while it computed, Hz; absent on a CPU.
    pub sm_clock_hz: Option<f64>,
}

/// Timed blocks of each kind on a CPU.
const BLOCKS: usize = 8;
/// Turns of the loop in one block: about 4 ms a thread.
const TURNS: usize = 1 << 19;
/// Independent sums in the loop: enough to fill the pipelines.
const LANES: usize = 32;
/// Bytes copied at once on a CPU: larger than most caches.
const COPY_BYTES: usize = 32 << 20;

/// The canary on a CPU, on all threads that a step uses: about 0.1 s.
#[must_use]
pub fn cpu_canary() -> Canary {
    multiply_add();
    let threads = rayon::current_num_threads() as f64;
    let compute: Vec<f64> = (0..BLOCKS).map(|_| seconds(|| rayon::broadcast(|_| multiply_add()))).collect();
    let from = vec![0x5a_u8; COPY_BYTES];
    let mut to = vec![0_u8; COPY_BYTES];
    to.copy_from_slice(black_box(&from));
    let copies: Vec<f64> =
        (0..BLOCKS).map(|_| seconds(|| black_box(&mut to).copy_from_slice(black_box(&from)))).collect();
    Canary {
        flops_per_second: threads * (2 * LANES * TURNS) as f64 / median(&compute),
        flops_spread: canary::spread(&compute),
        bytes_per_second: (2 * COPY_BYTES) as f64 / median(&copies),
        bytes_spread: canary::spread(&copies),
        sm_clock_hz: None,
    }
}

/// The canary on a GPU that a step has open.
pub(crate) fn gpu_canary(gpu: &Gpu) -> Result<Canary, SessionError> {
    let canary::Reading { flops_per_second, flops_spread, bytes_per_second, bytes_spread, sm_clock_hz } =
        canary::run(gpu)?;
    Ok(Canary { flops_per_second, flops_spread, bytes_per_second, bytes_spread, sm_clock_hz })
}

/// Work that is held to find a ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// A bf16 product.
    Bf16Product,
    /// An FP8 product with fast accumulation.
    Fp8Product,
    /// A copy in device memory.
    Copy,
}

/// What a GPU sustains of one kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Of what.
    pub work: Work,
    /// FLOP/s, or bytes read and written a second.
    pub per_second: f64,
    /// For how long it was held, s.
    pub seconds: f64,
    /// When it began to count, ns since the worker's start.
    pub from_ns: u64,
    /// When it ended, ns since the worker's start.
    pub to_ns: u64,
    /// SM clock meanwhile, Hz.
    pub sm_clock_hz: Option<f64>,
}

/// The ceilings of the GPU, by UUID, each held for 2 s after half a second in which clock and power settle. What it cannot do is
/// left out. `began` is the worker's start.
///
/// # Errors
/// What is missing, or whatever ends the device.
pub fn ceilings(began: Instant) -> Result<(String, Vec<Ceiling>), SessionError> {
    let gpu = Gpu::open(0)?;
    let choose = |gpu: &Gpu, gemm: &Gemm| Ok(search::choose(gpu, gemm)?.map(|(choice, _)| choice.algorithm));
    let mut found = Vec::new();
    for (work, kind) in [
        (Work::Bf16Product, ceiling::Work::Bf16Product),
        (Work::Fp8Product, ceiling::Work::Fp8Product),
        (Work::Copy, ceiling::Work::Copy),
    ] {
        let Some(Held { per_second, seconds, sm_clock_hz, between }) = ceiling::hold(&gpu, kind, &choose)? else {
            continue;
        };
        let since = |moment: Instant| u64::try_from(moment.duration_since(began).as_nanos()).unwrap_or(u64::MAX);
        let (from_ns, to_ns) = (since(between.0), since(between.1));
        found.push(Ceiling { work, per_second, seconds, from_ns, to_ns, sm_clock_hz });
    }
    Ok((gpu.facts().uuid.clone(), found))
}

/// The end of a session that a fault of [`FAULTS`] would bring; for tests of what comes after it.
#[must_use]
pub fn fault_of(name: &str) -> Option<SessionError> {
    fault::error(name).map(SessionError::from)
}

/// One block of arithmetic on one thread.
fn multiply_add() {
    let factor = black_box(0.999_999_f32);
    let mut sums = black_box([1.0_f32; LANES]);
    for _ in 0..TURNS {
        for sum in &mut sums {
            *sum = *sum * factor + 1e-6;
        }
    }
    black_box(sums);
}

fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canary_of_a_cpu_reads_rates_and_their_spread() {
        let canary = cpu_canary();
        assert!(canary.flops_per_second > 1e6 && canary.bytes_per_second > 1e6, "{canary:?}");
        assert!(canary.flops_spread >= 0.0 && canary.bytes_spread >= 0.0, "{canary:?}");
        assert_eq!(canary.sm_clock_hz, None);
    }

    #[test]
    fn faults_end_as_the_real_ones_do() {
        let ended = |name| fault_of(name).unwrap();
        for name in ["no-driver", "old-driver", "no-gpu", "no-nvrtc", "wrong-architecture"] {
            assert!(matches!(ended(name), SessionError::Unsupported(_)), "{name}: {:?}", ended(name));
        }
        assert!(matches!(ended("out-of-memory"), SessionError::OutOfMemory(_)));
        for name in ["illegal-address", "gpu-lost"] {
            assert!(matches!(ended(name), SessionError::Failed(_)), "{name}: {:?}", ended(name));
        }
        assert_eq!(fault_of("rain"), None);
        assert!(FAULTS.iter().all(|name| fault_of(name).is_some()));
    }
}
