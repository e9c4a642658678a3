//! How the embedding is launched: a gather forward; backward a counting sort of the tokens by id, then one sum per id.

use super::{Backward, Forward};
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "embedding.cu", text: include_str!("embedding.cu") };

impl Launch for Forward {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let row = self.dim * self.dtype.bytes();
        let Some(unit) = [16, 4, 2].into_iter().find(|unit| row.is_multiple_of(*unit)) else {
            return operands.unsupported(format!("rows of {row} bytes: an even number is expected"));
        };
        let packs = row / unit;
        let kernel = Kernel::new(gpu, &SOURCE, &format!("embedding_forward_{unit}"))?
            .grid(self.tokens, packs.div_ceil(128))
            .block(128)
            .pointer(operands.pointer("ids"))
            .pointer(operands.pointer("table"))
            .pointer(operands.pointer("x"))
            .int(packs);
        Ok(vec![kernel.ready()?])
    }
}

impl Launch for Backward {
    /// rank (T), order (T), counts (V), offsets (V), all i32.
    fn scratch(&self) -> usize {
        4 * (2 * self.tokens + 2 * self.vocab)
    }

    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let (dtype, pack) = (operands.float(self.dtype)?, Operands::pack(self.dtype, self.dim));
        let (tokens, vocab) = (self.tokens as u64, self.vocab as u64);
        let rank = operands.scratch();
        let order = rank + 4 * tokens;
        let counts = order + 4 * tokens;
        let offsets = counts + 4 * vocab;
        let ids = operands.pointer("ids");
        let ranked = Kernel::new(gpu, &SOURCE, "embedding_rank")?
            .grid(self.tokens.div_ceil(256), 1)
            .pointer(ids)
            .pointer(rank)
            .pointer(counts)
            .int(self.tokens);
        let scanned = Kernel::new(gpu, &SOURCE, "embedding_offsets")?
            .block(1024)
            .pointer(counts)
            .pointer(offsets)
            .int(self.vocab);
        let placed = Kernel::new(gpu, &SOURCE, "embedding_place")?
            .grid(self.tokens.div_ceil(256), 1)
            .pointer(ids)
            .pointer(rank)
            .pointer(offsets)
            .pointer(order)
            .int(self.tokens);
        let summed = Kernel::new(gpu, &SOURCE, &format!("embedding_backward_{dtype}_v{pack}"))?
            .grid(self.tokens, self.dim.div_ceil(pack * 128))
            .block(128)
            .pointer(ids)
            .pointer(rank)
            .pointer(order)
            .pointer(offsets)
            .pointer(counts)
            .pointer(operands.pointer("dx"))
            .pointer(operands.pointer("dtable"))
            .int(self.dim);
        Ok(vec![
            Call::zero(counts, 4 * self.vocab),
            ranked.ready()?,
            scanned.ready()?,
            placed.ready()?,
            summed.ready()?,
        ])
    }
}
