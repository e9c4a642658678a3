//! Descriptions of tensors for the copy engine of Hopper and newer: encoded once by the driver when work is prepared, passed to
//! kernels by value. It may not know what the tensors mean.
#![allow(unsafe_code)]

use cudarc::driver::sys;

use super::GpuError;

/// Columns of a box: 128 bytes of bf16, the widest that the 128-byte swizzle takes.
const BOX_COLUMNS: u32 = 64;

/// A dense bf16 tensor (batch, rows, columns), copied in boxes of `box_rows` × 64 elements that are swizzled by 128 bytes.
/// Rows past the end of a batch read as 0 and are not written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorMap {
    pub(crate) pointer: u64,
    pub(crate) batch: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) box_rows: u32,
}

impl TensorMap {
    /// The 128 bytes that a kernel takes as a parameter.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, GpuError> {
        let row_bytes = self.columns as u64 * 2;
        let dims = [self.columns as u64, self.rows as u64, self.batch as u64];
        let strides = [row_bytes, row_bytes * self.rows as u64];
        let (within, steps) = ([BOX_COLUMNS, self.box_rows, 1], [1_u32; 3]);
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: every pointer is to a live array of the rank's length, the map is aligned as its type says; the driver
        // reads and writes nothing else, and does not touch the tensor's memory.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                3,
                self.pointer as *mut std::ffi::c_void,
                dims.as_ptr(),
                strides.as_ptr(),
                within.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map_err(|error| GpuError::driver(format!("cuTensorMapEncodeTiled of {self:?}"), error))?;
        Ok(map.opaque.iter().flat_map(|word| word.to_le_bytes()).collect())
    }
}
