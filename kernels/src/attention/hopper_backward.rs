//! How the tiled backward is launched on Hopper: row sums before, tiles of keys taken off a counter by one block a
//! multiprocessor, the queries' gradients to bf16 after.

use super::{FlashBackward, Mask, Order, Shape, hopper};
use crate::gpu::launch::Operands;
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source =
    Source { name: "flash_hopper_backward.cu", text: include_str!("flash_hopper_backward.cu") };

/// Keys of a block, tiles of queries at once, and warpgroups that compute, as in the source.
const KEYS: usize = 128;
const STAGES: usize = 2;
const GROUPS: usize = 2;

/// A group's part of a tile's gradient, bytes: 64 × 64 in fp32.
const PART_BYTES: usize = 64 * 64 * 4;

/// Queries of a tile.
const fn queries(head_dim: usize) -> usize {
    if head_dim == 64 { 128 } else { 64 }
}

/// Tiles of queries of all heads.
const fn tiles(shape: Shape) -> usize {
    shape.batch * shape.heads * shape.seq.div_ceil(queries(shape.head_dim))
}

/// Bytes of shared memory: as `Layout` counts them, and the way to the first multiple of 1024 bytes.
const fn shared_bytes(head_dim: usize) -> usize {
    let (queries, blocks) = (queries(head_dim), if head_dim == 64 { 2 } else { 1 });
    let keys_and_values = 2 * blocks * KEYS * head_dim * 2;
    let queries_and_gradients = 2 * STAGES * queries * head_dim * 2;
    let (pairs, parts, rows) = (KEYS * queries * 2, GROUPS * PART_BYTES, STAGES * 2 * queries * 4);
    keys_and_values + queries_and_gradients + pairs + parts + rows + 256 + 1024
}

/// Where in scratch memory what lies, in bytes.
struct Scratch {
    rows: usize,
    turns: usize,
    next: usize,
    end: usize,
}

impl Scratch {
    /// First the sums, (B·H, tiles, groups, 64 · 64) fp32; log-sum-exps and deltas of each tile's queries; how many blocks
    /// have added to each part; the counter.
    const fn of(shape: Shape) -> Self {
        let tiles = tiles(shape);
        let rows = tiles * GROUPS * PART_BYTES;
        let turns = rows + tiles * 2 * queries(shape.head_dim) * 4;
        let next = turns + (tiles * GROUPS * 4).next_multiple_of(16);
        Self { rows, turns, next, end: next + 16 }
    }
}

/// Bytes of scratch memory where the kernels may run a shape; which device it is, is not known yet.
pub(super) fn scratch(shape: Shape) -> usize {
    if shape.on_tensor_cores() { Scratch::of(shape).end } else { 0 }
}

/// Three launches.
pub(super) fn backward(op: &FlashBackward, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
    let (shape, hd) = (op.shape, op.shape.head_dim);
    let at = Scratch::of(shape);
    let [sums, rows, turns, next] = [0, at.rows, at.turns, at.next].map(|offset| operands.scratch() + offset as u64);
    let (tiles, blocks) = (shape.seq.div_ceil(queries(hd)), shape.seq.div_ceil(KEYS));
    let (all, problems) = (shape.batch * shape.heads, shape.batch * shape.kv_heads);
    if all > 65_535 || i32::try_from(problems * blocks + 2 * gpu.facts().multiprocessors).is_err() {
        return operands.unsupported(format!("{all} heads of {blocks} blocks of keys: more than a launch can count"));
    }
    let causal = usize::from(shape.mask == Mask::Causal);
    let work = [shape.seq, shape.heads, shape.kv_heads, problems, tiles, blocks, causal];
    let work = hopper::work_bytes(&work, shape.softmax_scale());
    let order = match op.order {
        Order::Any => "any",
        Order::Fixed => "fixed",
    };
    let prepare = Kernel::new(gpu, &SOURCE, &format!("flash_hopper_prepare_{order}_{hd}"))?
        .grid(tiles, all)
        .block(256)
        .pointer(operands.pointer("context"))
        .pointer(operands.pointer("dcontext"))
        .pointer(operands.pointer("lse"))
        .pointer(rows)
        .pointer(sums)
        .pointer(turns)
        .pointer(next)
        .structure(&work);
    let main = Kernel::new(gpu, &SOURCE, &format!("flash_hopper_backward_{order}_{hd}"))?
        .grid(gpu.facts().multiprocessors.min(problems * blocks), 1)
        .block(128 * (GROUPS + 1))
        .shared(shared_bytes(hd))
        .structure(&hopper::map(shape, operands.pointer("qkv"), shape.packed_width())?)
        .structure(&hopper::map(shape, operands.pointer("dcontext"), shape.width())?)
        .pointer(rows)
        .pointer(sums)
        .pointer(turns)
        .pointer(next)
        .pointer(operands.pointer("dqkv"))
        .structure(&work);
    let finish = Kernel::new(gpu, &SOURCE, &format!("flash_hopper_finish_{hd}"))?
        .grid(tiles * GROUPS, all)
        .block(256)
        .pointer(sums)
        .pointer(operands.pointer("dqkv"))
        .structure(&work);
    Ok(vec![prepare.ready()?, main.ready()?, finish.ready()?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    #[test]
    fn a_block_fits_what_hopper_gives_one() {
        for head_dim in [64, 128] {
            let bytes = shared_bytes(head_dim);
            assert!(bytes <= 227 << 10, "{bytes} bytes at head dim {head_dim}");
        }
    }

    #[test]
    fn scratch_memory_holds_an_fp32_gradient_of_every_query_and_what_keeps_order() {
        let shape = Shape::causal(2, 1000, 3, 64, Dtype::Bf16);
        let at = Scratch::of(shape);
        // 8 tiles of 128 queries a head.
        assert_eq!(at.rows, 2 * 3 * 8 * 128 * 64 * 4);
        assert_eq!(at.turns - at.rows, 2 * 3 * 8 * 128 * 2 * 4);
        assert_eq!((at.next, at.end), (at.turns + 2 * 3 * 8 * 2 * 4, at.next + 16));
        assert_eq!(scratch(Shape { dtype: Dtype::F32, ..shape }), 0);
    }
}
