//! Time as the GPU sees it: events on the stream, and the SM clock from the chip's own cycle counters. Recording waits for
//! nothing; reading waits for what was recorded. It may not know what is timed.
#![allow(unsafe_code)]

use std::rc::Rc;

use cudarc::driver::{result, sys};

use crate::gpu::source::Source;
use crate::gpu::{Call, Context, Gpu, GpuError, Kernel, Prepared, Slice};

pub(crate) static CLOCKS: Source = Source { name: "clocks.cu", text: include_str!("gpu/clocks.cu") };

/// A point in the stream.
#[derive(Debug)]
pub struct Event {
    event: sys::CUevent,
    _context: Rc<Context>,
}

impl Event {
    /// A new event, not yet recorded.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        let event = result::event::create(sys::CUevent_flags_enum::CU_EVENT_DEFAULT)
            .map_err(|error| GpuError::driver("cuEventCreate", error))?;
        Ok(Self { event, _context: Rc::clone(gpu.context()) })
    }

    /// Marks the end of what is enqueued so far.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn record(&self, gpu: &Gpu) -> Result<(), GpuError> {
        // SAFETY: event and stream are live.
        unsafe { result::event::record(self.event, gpu.stream()) }
            .map_err(|error| GpuError::driver("cuEventRecord", error))
    }

    /// [`Self::record`] where the stream is being captured: as a node of the graph, which each launch records anew.
    ///
    /// # Errors
    /// If the driver refuses.
    pub(crate) fn record_in_graph(&self, gpu: &Gpu) -> Result<(), GpuError> {
        /// `CU_EVENT_RECORD_EXTERNAL`.
        const EXTERNAL: u32 = 1;
        // SAFETY: event and stream are live.
        unsafe { sys::cuEventRecordWithFlags(self.event, gpu.stream(), EXTERNAL) }
            .result()
            .map_err(|error| GpuError::driver("cuEventRecordWithFlags", error))
    }

    /// Waits until it has passed.
    ///
    /// # Errors
    /// If something enqueued before has failed.
    pub fn wait(&self) -> Result<(), GpuError> {
        // SAFETY: the event is live.
        unsafe { result::event::synchronize(self.event) }.map_err(|error| GpuError::driver("cuEventSynchronize", error))
    }

    /// Time from an earlier event to this one, ns; resolution 0.5 µs. Both have passed.
    ///
    /// # Errors
    /// If one was not recorded or has not passed.
    pub fn since(&self, earlier: &Self) -> Result<f64, GpuError> {
        // SAFETY: both events are live.
        unsafe { result::event::elapsed(earlier.event, self.event) }
            .map(|milliseconds| f64::from(milliseconds) * 1e6)
            .map_err(|error| GpuError::driver("cuEventElapsedTime", error))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once; the driver keeps it until it has passed.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}

/// The cycle counters of all multiprocessors at one point in the stream.
#[derive(Debug)]
pub struct Clocks {
    launch: Prepared,
    out: Slice,
}

impl Clocks {
    /// Prepares one reading.
    ///
    /// # Errors
    /// If its kernel does not compile or there is no memory.
    pub fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        let multiprocessors = gpu.facts().multiprocessors;
        let out = gpu.allocate(16 * multiprocessors)?;
        gpu.fill(&out, 0)?;
        let half = gpu.facts().shared_bytes_per_block / 2;
        // More than half of the shared memory each: no two blocks share a multiprocessor.
        let kernel = Kernel::new(gpu, &CLOCKS, "read_clocks")?
            .grid(multiprocessors, 1)
            .block(32)
            .shared(half + 1024)
            .table(out.clone());
        let launch = Prepared::new(vec![kernel.ready()? as Call], vec![out.clone()]);
        Ok(Self { launch, out })
    }

    /// Enqueues the reading.
    ///
    /// # Errors
    /// If the launch is refused.
    pub fn record(&self, gpu: &Gpu) -> Result<(), GpuError> {
        gpu.enqueue(&self.launch)
    }

    /// What a reading leaves on the device: cycles and ns of each multiprocessor, u64.
    #[must_use]
    pub const fn slice(&self) -> &Slice {
        &self.out
    }

    /// [`clock_between`] of an earlier reading and this one; waits for the stream.
    ///
    /// # Errors
    /// If the copy fails.
    pub fn since(&self, gpu: &Gpu, earlier: &Self) -> Result<Option<(u64, f64)>, GpuError> {
        let mut bytes = [vec![0; earlier.out.bytes()], vec![0; self.out.bytes()]];
        gpu.download(&earlier.out, &mut bytes[0])?;
        gpu.download(&self.out, &mut bytes[1])?;
        Ok(clock_between(&bytes[0], &bytes[1]))
    }
}

/// Cycles from one reading to a later one, and the SM clock over that time, Hz: medians over the multiprocessors that both
/// met; `None` if there is none.
#[must_use]
pub fn clock_between(before: &[u8], after: &[u8]) -> Option<(u64, f64)> {
    median_clock(&counters(before), &counters(after))
}

/// (cycles, ns) of each multiprocessor.
fn counters(bytes: &[u8]) -> Vec<(u64, u64)> {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |word, &byte| word << 8 | u64::from(byte));
    bytes.chunks_exact(16).map(|pair| (word(&pair[..8]), word(&pair[8..]))).collect()
}

#[expect(clippy::cast_precision_loss, reason = "differences are far below 2^53")]
fn median_clock(before: &[(u64, u64)], after: &[(u64, u64)]) -> Option<(u64, f64)> {
    let met = before.iter().zip(after).filter(|(b, a)| b.0 != 0 && a.0 > b.0 && a.1 > b.1);
    let mut found: Vec<(u64, f64)> =
        met.map(|(b, a)| (a.0 - b.0, (a.0 - b.0) as f64 * 1e9 / (a.1 - b.1) as f64)).collect();
    found.sort_by(|a, b| a.1.total_cmp(&b.1));
    found.get(found.len() / 2).copied()
}

/// The middle of some times.
#[must_use]
pub fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_cycles_over_time_of_the_same_multiprocessor() {
        // Counters of different multiprocessors start anywhere; one was not met.
        let before = [(1_000, 5_000), (900_000, 5_000), (0, 0)];
        let after = [(1_981_000, 1_005_000), (2_880_000, 1_005_000), (7, 7)];
        let (cycles, hz) = median_clock(&before, &after).unwrap();
        assert_eq!(cycles, 1_980_000);
        assert!((hz - 1.98e9).abs() < 1.0);
        assert_eq!(median_clock(&[(0, 0)], &[(5, 5)]), None);
    }
}
