//! Page-locked host memory that crosses to and from the device without anybody waiting: what a step is given, and what it
//! leaves behind. Both sides are handed over by events, so that neither reads what the other still writes.
#![allow(unsafe_code)]

use std::rc::Rc;

use cudarc::driver::result;

use super::{Context, Gpu, GpuError, Slice};
use crate::timer::Event;

/// Page-locked bytes.
#[derive(Debug)]
struct Pinned {
    pointer: *mut u8,
    bytes: usize,
    _context: Rc<Context>,
}

impl Pinned {
    fn new(gpu: &Gpu, bytes: usize) -> Result<Self, GpuError> {
        // SAFETY: a plain allocation in the current context.
        let pointer = unsafe { result::malloc_host(bytes.max(1), 0) }
            .map_err(|error| GpuError::driver("cuMemHostAlloc", error))?
            .cast::<u8>();
        // SAFETY: the range was just allocated; bytes that are read are initialised.
        unsafe { pointer.write_bytes(0, bytes.max(1)) };
        Ok(Self { pointer, bytes, _context: Rc::clone(gpu.context()) })
    }

    const fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and initialised with this length; callers wait for the device first.
        unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) }
    }

    const fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated once, freed once; the driver waits for copies under way.
        let _ = unsafe { result::free_host(self.pointer.cast()) };
    }
}

/// What the host gives the device.
#[derive(Debug)]
pub struct Outbox {
    pinned: Pinned,
    sent: Event,
}

impl Outbox {
    /// Room for so many bytes.
    ///
    /// # Errors
    /// If there is no page-locked memory.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Self, GpuError> {
        Ok(Self { pinned: Pinned::new(gpu, bytes)?, sent: Event::new(gpu)? })
    }

    /// Enqueues a copy of integers to the device. Waits only if the last copy out of this box is not yet through.
    ///
    /// # Errors
    /// If sizes differ or the driver refuses.
    pub fn send(&mut self, gpu: &Gpu, values: &[i32], to: &Slice) -> Result<(), GpuError> {
        if values.len() * 4 != self.pinned.bytes || to.bytes() != self.pinned.bytes {
            let what = format!("{} integers for {} bytes in a box of {}", values.len(), to.bytes(), self.pinned.bytes);
            return Err(GpuError::Operand { op: "send", operand: "box".to_owned(), what });
        }
        self.sent.wait()?;
        for (bytes, value) in self.pinned.bytes_mut().chunks_exact_mut(4).zip(values) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        // SAFETY: both sides have this size; the box is not written again before `sent` has passed, nor freed before the
        // driver is done.
        unsafe { result::memcpy_htod_async(to.pointer(), self.pinned.bytes(), gpu.stream()) }
            .map_err(|error| GpuError::driver("cuMemcpyHtoDAsync", error))?;
        self.sent.record(gpu)
    }
}

/// What the device leaves for the host.
#[derive(Debug)]
pub struct Inbox {
    pinned: Pinned,
    arrived: Event,
}

impl Inbox {
    /// Room for so many bytes.
    ///
    /// # Errors
    /// If there is no page-locked memory.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Self, GpuError> {
        Ok(Self { pinned: Pinned::new(gpu, bytes)?, arrived: Event::new(gpu)? })
    }

    /// Enqueues a copy of slices, one behind the other, into the box. Takes it mutably: what was read before is gone.
    ///
    /// # Errors
    /// If they do not fit or the driver refuses.
    pub fn post(&mut self, gpu: &Gpu, from: &[&Slice]) -> Result<(), GpuError> {
        let total: usize = from.iter().map(|slice| slice.bytes()).sum();
        if total != self.pinned.bytes {
            let what = format!("{total} bytes for a box of {}", self.pinned.bytes);
            return Err(GpuError::Operand { op: "post", operand: "box".to_owned(), what });
        }
        let mut rest = self.pinned.bytes_mut();
        for slice in from {
            let (part, behind) = rest.split_at_mut(slice.bytes());
            // SAFETY: both sides have this size; the box is not read before `arrived` has passed.
            unsafe { result::memcpy_dtoh_async(part, slice.pointer(), gpu.stream()) }
                .map_err(|error| GpuError::driver("cuMemcpyDtoHAsync", error))?;
            rest = behind;
        }
        self.arrived.record(gpu)
    }

    /// What arrived; waits for it.
    ///
    /// # Errors
    /// If work before it has failed.
    pub fn take(&self) -> Result<&[u8], GpuError> {
        self.arrived.wait()?;
        Ok(self.pinned.bytes())
    }
}
