//! How a transpose is launched.

use super::Transpose;
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "transpose.cu", text: include_str!("transpose.cu") };

impl Launch for Transpose {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let bytes = self.dtype.bytes();
        // Elements of one 4-byte word, where rows start on words on both sides.
        let word = 4 / bytes;
        let pack = if self.rows.is_multiple_of(word) && self.cols.is_multiple_of(word) { word } else { 1 };
        let (down, across) = (|tile| self.rows.div_ceil(tile), |tile| self.cols.div_ceil(tile));
        let kernel = if bytes == 1 && self.rows.is_multiple_of(16) && self.cols.is_multiple_of(16) {
            Kernel::new(gpu, &SOURCE, "transpose_bytes_tiles")?.grid(across(128), down(128))
        } else {
            let tile = 32 * pack;
            Kernel::new(gpu, &SOURCE, &format!("transpose_{bytes}_v{pack}"))?.grid(down(tile), across(tile))
        };
        let kernel = kernel.pointer(operands.pointer("x")).pointer(operands.pointer("y")).int(self.rows).int(self.cols);
        Ok(vec![kernel.ready()?])
    }
}
