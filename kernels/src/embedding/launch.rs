//! How the embedding is launched: a gather forward; backward a counting sort of the tokens by id, then one sum per id.

use super::{Backward, Forward, SEGMENT};
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

/// Threads of a block that sums rows, and stretches that the comparisons of tokens are cut into.
const THREADS: usize = 128;
const STRETCHES: usize = 32;

impl Backward {
    /// Blocks that share a row.
    fn across(&self) -> usize {
        self.dim.div_ceil(Operands::pack(self.dtype, self.dim) * THREADS)
    }

    /// Words of scratch memory: zeroed ones, then the rest of the sort, then partial sums.
    fn words(&self) -> (usize, usize, usize) {
        // rank (T), counts (V), arrived (across, V), end; order (T), offsets (V); partials.
        let zeroed = self.tokens + self.vocab + self.across() * self.vocab + 1;
        let partials = 2 * (self.tokens / SEGMENT + 1) * self.dim;
        (zeroed.next_multiple_of(4), (self.tokens + self.vocab).next_multiple_of(4), partials)
    }
}

impl Launch for Backward {
    fn scratch(&self) -> usize {
        let (zeroed, sort, partials) = self.words();
        4 * (zeroed + sort + partials)
    }

    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let (dtype, pack) = (operands.float(self.dtype)?, Operands::pack(self.dtype, self.dim));
        let (zeroed, sort, _) = self.words();
        let word = |index: usize| operands.scratch() + 4 * index as u64;
        let (rank, counts, arrived) = (word(0), word(self.tokens), word(self.tokens + self.vocab));
        let end = word(self.tokens + self.vocab + self.across() * self.vocab);
        let (order, offsets, partials) = (word(zeroed), word(zeroed + self.tokens), word(zeroed + sort));
        let ids = operands.pointer("ids");
        let by_token = |name: &str| -> Result<Kernel, GpuError> {
            let kernel = Kernel::new(gpu, &SOURCE, name)?;
            Ok(kernel.grid(self.tokens.div_ceil(256), 1).pointer(ids).pointer(rank))
        };
        let ranked =
            by_token("embedding_rank")?.grid(self.tokens.div_ceil(256), STRETCHES).pointer(counts).int(self.tokens);
        let begun = by_token("embedding_offsets")?.pointer(counts).pointer(offsets).pointer(end).int(self.tokens);
        let placed = by_token("embedding_place")?.pointer(offsets).pointer(order).int(self.tokens);
        // `struct Sorted` of the kernel: seven addresses, three i32, padded to 8 bytes.
        let addresses = [ids, rank, order, offsets, counts, partials, arrived];
        let mut sorted: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
        for size in [SEGMENT, self.vocab, self.dim, 0] {
            sorted.extend(u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
        }
        let summed = Kernel::new(gpu, &SOURCE, &format!("embedding_backward_{dtype}_v{pack}"))?
            .grid(self.tokens, self.across())
            .block(THREADS)
            .structure(&sorted)
            .pointer(operands.pointer("dx"))
            .pointer(operands.pointer("dtable"));
        Ok(vec![Call::zero(rank, 4 * zeroed), ranked.ready()?, begun.ready()?, placed.ready()?, summed.ready()?])
    }
}
