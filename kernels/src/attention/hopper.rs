//! How the tiled forward is launched on Hopper: tensor maps for the copy engine, one block a multiprocessor, tiles taken off a
//! counter.

use super::{Mask, Shape};
use crate::gpu::launch::Operands;
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel, TensorMap};

pub(crate) static SOURCE: Source = Source { name: "flash_hopper.cu", text: include_str!("flash_hopper.cu") };

/// Bytes of the counter.
pub(super) const SCRATCH: usize = 16;

/// Queries of one warpgroup, and rows of every box that is copied.
const ROWS: usize = 64;

/// Keys of a tile, and tiles of keys (and of values) at once, as in the source.
const KEYS: usize = 128;
const STAGES: usize = 2;

/// Barriers and what lies behind them, and the way to the first multiple of 1024 bytes.
const REST: usize = 1024 + 256;

/// Whether the kernel runs this shape on this device: its instructions are of compute capability 9.0 alone.
pub(super) fn takes(shape: Shape, gpu: &Gpu) -> bool {
    shape.on_tensor_cores() && gpu.facts().capability == (9, 0)
}

/// Warpgroups that compute.
const fn groups(head_dim: usize) -> usize {
    if head_dim == 64 { 3 } else { 2 }
}

/// Heads at a time, so that their keys and values take a quarter of the second-level cache. Measured were fixed groups of 4 to 256
/// heads: which of 4 to 16 is fastest depends on the shape, by 3 %; from 66 on all are slower (`model/PERFORMANCE.md`).
fn heads_at_once(shape: Shape, l2_bytes: usize) -> usize {
    let head = 2 * shape.seq * shape.head_dim * shape.dtype.bytes();
    let head = head.div_ceil(shape.sharing());
    (l2_bytes / 4 / head).clamp(1, shape.batch * shape.heads)
}

/// Boxes of 64 rows of a (B·S, `columns`) tensor.
pub(super) fn map(shape: Shape, pointer: u64, columns: usize) -> Result<Vec<u8>, GpuError> {
    TensorMap { pointer, batch: shape.batch, rows: shape.seq, columns, box_rows: 64 }.encode()
}

/// `struct Work` of the kernels: numbers, then the softmax scale.
pub(super) fn work_bytes(numbers: &[usize], scale: f32) -> Vec<u8> {
    let numbers = numbers.iter().flat_map(|&number| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    numbers.chain(scale.to_le_bytes()).collect()
}

/// Zeroes the counter, then one launch.
pub(super) fn forward(shape: Shape, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
    let (hd, problems) = (shape.head_dim, shape.batch * shape.heads);
    let queries = ROWS * groups(hd);
    let tiles = shape.seq.div_ceil(queries);
    let group = heads_at_once(shape, gpu.facts().l2_bytes);
    let causal = usize::from(shape.mask == Mask::Causal);
    let work = [shape.seq, shape.heads, shape.kv_heads, problems, group, tiles, causal];
    // Indices run once past the last tile for every block.
    if i32::try_from(problems * tiles + 2 * gpu.facts().multiprocessors).is_err() {
        return operands.unsupported(format!("{problems} heads of {tiles} tiles: more than 2^31 tiles"));
    }
    let kernel = Kernel::new(gpu, &SOURCE, &format!("flash_hopper_forward_{hd}"))?
        .grid(gpu.facts().multiprocessors.min(problems * tiles), 1)
        .block(128 * (groups(hd) + 1))
        // Queries twice, tiles of keys and of values.
        .shared((2 * queries + 2 * STAGES * KEYS) * hd * 2 + REST)
        .structure(&map(shape, operands.pointer("qkv"), shape.packed_width())?)
        .structure(&map(shape, operands.pointer("context"), shape.width())?)
        .pointer(operands.pointer("lse"))
        .pointer(operands.scratch())
        .structure(&work_bytes(&work, shape.softmax_scale()));
    Ok(vec![Call::zero(operands.scratch(), SCRATCH), kernel.ready()?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    #[test]
    fn keys_and_values_of_the_heads_at_once_fit_a_quarter_of_the_cache() {
        let shape = Shape::causal(16, 2048, 16, 64, Dtype::Bf16);
        // 512 KiB a head.
        assert_eq!(heads_at_once(shape, 50 << 20), 25);
        assert_eq!(heads_at_once(shape, 1 << 30), 256);
        assert_eq!(heads_at_once(Shape { seq: 1 << 20, ..shape }, 50 << 20), 1);
    }
}
