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
        let (name, tile) = if bytes == 1 && self.rows.is_multiple_of(16) && self.cols.is_multiple_of(16) {
            ("transpose_bytes_tiles".to_owned(), 128)
        } else {
            (format!("transpose_{bytes}_v{pack}"), 32 * pack)
        };
        let kernel = Kernel::new(gpu, &SOURCE, &name)?
            .grid(self.rows.div_ceil(tile), self.cols.div_ceil(tile))
            .pointer(operands.pointer("x"))
            .pointer(operands.pointer("y"))
            .int(self.rows)
            .int(self.cols);
        Ok(vec![kernel.ready()?])
    }
}
