//! Pieces of a tensor on the device, brought to the host without the rest of it: rows, columns, single elements.

use super::source::Source;
use super::{Gpu, GpuError, Kernel, Prepared, Slice};
use crate::dtype::Dtype;
use crate::tensor::Buffer;

pub(crate) static SOURCE: Source = Source { name: "gather.cu", text: include_str!("gather.cu") };

/// Most pieces of one launch.
const AT_ONCE: usize = 0xffff;

impl Gpu {
    /// From each of `starts`, `len` elements of a tensor that lie `stride` apart, one start after the other; waits for
    /// everything enqueued before.
    ///
    /// # Errors
    /// If a piece reaches past the end, there is no memory for the pieces, or work before it has failed.
    pub fn gather(
        &self,
        from: &Slice,
        dtype: Dtype,
        starts: &[usize],
        stride: usize,
        len: usize,
    ) -> Result<Buffer<f32>, GpuError> {
        let (bytes, elements) = (dtype.bytes(), from.bytes() / dtype.bytes());
        let outside = |start: &usize| start + len.saturating_sub(1) * stride >= elements;
        if let Some(start) = starts.iter().find(|start| outside(start)) {
            let what = format!("{len} elements from {start}, {stride} apart, of {elements}");
            return Err(GpuError::Operand { op: "gather", operand: "piece".to_owned(), what });
        }
        if starts.is_empty() || len == 0 {
            return Ok(Buffer::zeros(dtype, 0));
        }
        if let ([start], 1) = (starts, stride)
            && let Some(piece) = from.slice(start * bytes, len * bytes)
        {
            return self.download_tensor(&piece, dtype);
        }
        let (out, table) = (self.allocate(starts.len() * len * bytes)?, self.allocate(8 * starts.len())?);
        let words: Vec<u8> = starts.iter().flat_map(|start| (*start as u64).to_le_bytes()).collect();
        self.upload(&table, &words)?;
        for first in (0..starts.len()).step_by(AT_ONCE) {
            let pieces = AT_ONCE.min(starts.len() - first);
            let kernel = Kernel::new(self, &SOURCE, &format!("gather_{bytes}"))?
                .grid(len.div_ceil(256), pieces)
                .pointer(from.pointer())
                .pointer(table.pointer() + 8 * first as u64)
                .long(stride)
                .int(len)
                .pointer(out.pointer() + (first * len * bytes) as u64);
            self.enqueue(&Prepared::new(vec![kernel.ready()?], vec![from.clone(), table.clone(), out.clone()]))?;
        }
        self.download_tensor(&out, dtype)
    }
}
