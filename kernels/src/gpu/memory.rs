//! Device memory: one allocation, cut into slices that keep it alive, and copies between it and the host.
#![allow(unsafe_code)]

use std::rc::Rc;

use cudarc::driver::{result, sys};
use float8::{F8E4M3, F8E5M2};
use half::bf16;

use super::{Context, Gpu, GpuError};
use crate::dtype::Dtype;
use crate::tensor::{Buffer, View};

#[derive(Debug)]
struct Allocation {
    pointer: sys::CUdeviceptr,
    bytes: usize,
    // Declared last: the memory goes before the context does.
    context: Rc<Context>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated once in `Gpu::allocate`, freed once here; the driver waits for work that uses it.
        let _ = unsafe { result::free_sync(self.pointer) };
        self.context.gave_back(self.bytes);
    }
}

/// A range of device memory.
#[derive(Debug, Clone)]
pub struct Slice {
    allocation: Rc<Allocation>,
    offset: usize,
    bytes: usize,
}

impl Slice {
    /// Its size, bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Part of it; `None` if it reaches past the end.
    #[must_use]
    pub fn slice(&self, offset: usize, bytes: usize) -> Option<Self> {
        let end = offset.checked_add(bytes)?;
        let allocation = Rc::clone(&self.allocation);
        (end <= self.bytes).then_some(Self { allocation, offset: self.offset + offset, bytes })
    }

    /// Its address.
    pub(crate) fn pointer(&self) -> u64 {
        self.allocation.pointer + self.offset as u64
    }
}

impl Gpu {
    /// Allocates, uninitialised, aligned to 256 bytes.
    ///
    /// # Errors
    /// If there is not so much memory.
    pub fn allocate(&self, bytes: usize) -> Result<Slice, GpuError> {
        // SAFETY: a plain allocation in the current context.
        let pointer = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                GpuError::OutOfMemory { asked: bytes, free: self.memory().map(|memory| memory.0).unwrap_or_default() }
            }
            _ => GpuError::driver("cuMemAlloc", error),
        })?;
        self.context().took(bytes);
        let allocation = Rc::new(Allocation { pointer, bytes, context: Rc::clone(self.context()) });
        Ok(Slice { allocation, offset: 0, bytes })
    }

    /// Memory with these contents.
    pub(crate) fn table(&self, bytes: &[u8]) -> Result<Slice, GpuError> {
        let table = self.allocate(bytes.len())?;
        if !bytes.is_empty() {
            self.upload(&table, bytes)?;
        }
        Ok(table)
    }

    /// Copies to the device and waits.
    ///
    /// # Errors
    /// If the sizes differ or the copy fails.
    pub fn upload(&self, to: &Slice, bytes: &[u8]) -> Result<(), GpuError> {
        same_size("upload", to, bytes.len())?;
        // SAFETY: both sides have the size that is copied, and the host's lives until the copy is done.
        unsafe { result::memcpy_htod_async(to.pointer(), bytes, self.stream()) }
            .map_err(|error| GpuError::driver("cuMemcpyHtoDAsync", error))?;
        self.synchronize()
    }

    /// Copies from the device and waits for everything enqueued before.
    ///
    /// # Errors
    /// If the sizes differ, the copy fails, or work before it has failed.
    pub fn download(&self, from: &Slice, bytes: &mut [u8]) -> Result<(), GpuError> {
        same_size("download", from, bytes.len())?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(bytes, from.pointer(), self.stream()) }
            .map_err(|error| GpuError::driver("cuMemcpyDtoHAsync", error))?;
        self.synchronize()
    }

    /// Enqueues a copy within the device.
    ///
    /// # Errors
    /// If the sizes differ or the driver refuses.
    pub fn copy(&self, to: &Slice, from: &Slice) -> Result<(), GpuError> {
        same_size("copy", to, from.bytes)?;
        if from.bytes == 0 {
            return Ok(());
        }
        // SAFETY: both ranges are the slices' own, of this size.
        unsafe { result::memcpy_dtod_async(to.pointer(), from.pointer(), from.bytes, self.stream()) }
            .map_err(|error| GpuError::driver("cuMemcpyDtoDAsync", error))
    }

    /// Enqueues a fill with one byte.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn fill(&self, slice: &Slice, byte: u8) -> Result<(), GpuError> {
        if slice.bytes == 0 {
            return Ok(());
        }
        // SAFETY: the range is the slice's own.
        unsafe { result::memset_d8_async(slice.pointer(), byte, slice.bytes, self.stream()) }
            .map_err(|error| GpuError::driver("cuMemsetD8Async", error))
    }

    /// Copies a tensor to the device and waits.
    ///
    /// # Errors
    /// If the sizes differ or the copy fails.
    pub fn upload_tensor(&self, to: &Slice, tensor: View<'_, f32>) -> Result<(), GpuError> {
        let fp8: Vec<u8>;
        let bytes = match tensor {
            View::Real(values) => bytes_of(values),
            View::Bf16(values) => bytes_of(values),
            View::I32(values) => bytes_of(values),
            View::E4m3(values) => {
                fp8 = values.iter().map(|value| value.to_bits()).collect();
                &fp8
            }
            View::E5m2(values) => {
                fp8 = values.iter().map(|value| value.to_bits()).collect();
                &fp8
            }
        };
        self.upload(to, bytes)
    }

    /// Copies a tensor from the device, waiting for everything enqueued before.
    ///
    /// # Errors
    /// If the copy fails, or work before it has failed.
    pub fn download_tensor(&self, from: &Slice, dtype: Dtype) -> Result<Buffer<f32>, GpuError> {
        let mut bytes = vec![0; from.bytes];
        self.download(from, &mut bytes)?;
        let words = || bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        Ok(match dtype {
            Dtype::F32 => Buffer::Real(words().map(f32::from_le_bytes).collect()),
            Dtype::Bf16 => Buffer::Bf16(bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect()),
            Dtype::E4m3 => Buffer::E4m3(bytes.iter().map(|&b| F8E4M3::from_bits(b)).collect()),
            Dtype::E5m2 => Buffer::E5m2(bytes.iter().map(|&b| F8E5M2::from_bits(b)).collect()),
            Dtype::I32 => Buffer::I32(words().map(i32::from_le_bytes).collect()),
        })
    }
}

/// Plain numbers as bytes; the host is little-endian, as the device is.
const fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` types have no padding and no invalid bytes, and the length is theirs.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Numbers that are their bytes.
trait Plain {}
impl Plain for f32 {}
impl Plain for i32 {}
impl Plain for bf16 {}

fn same_size(op: &'static str, slice: &Slice, bytes: usize) -> Result<(), GpuError> {
    if slice.bytes == bytes {
        return Ok(());
    }
    let what = format!("{bytes} bytes on the host, {} on the device", slice.bytes);
    Err(GpuError::Operand { op, operand: "copy".to_owned(), what })
}
