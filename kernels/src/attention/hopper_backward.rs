//! How the tiled backward is launched on Hopper: row sums before, then tiles of keys taken off a counter by one block a
//! multiprocessor, which finish the queries' gradients beside.

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

/// Multiprocessors of the largest product, and a third of its second-level cache. Scratch memory is asked for before the device
/// is known; on another device the ring is right too, and may be waited for.
const MULTIPROCESSORS: usize = 132;
const CACHED_BYTES: usize = 16 << 20;

/// Queries of a tile.
const fn queries(head_dim: usize) -> usize {
    if head_dim == 64 { 128 } else { 64 }
}

/// Tiles of queries of one head, and of all.
const fn tiles_of_head(shape: Shape) -> usize {
    shape.seq.div_ceil(queries(shape.head_dim))
}

const fn tiles(shape: Shape) -> usize {
    shape.batch * shape.heads * tiles_of_head(shape)
}

/// Tiles that there are sums for: of as many heads as the cache holds, and of no fewer than are under way at once, since to wait
/// for a place costs more than to miss the cache. A block of the longest work is at it while all multiprocessors do this many
/// heads of keys: with the mask its work is twice the average. One more as they do not start together, and a quarter for the time
/// that finishing takes. Whole heads of keys, with all queries that share them, or blocks of one head could wait for each other.
fn ring(shape: Shape) -> usize {
    let work = if shape.mask == Mask::Causal { 2 } else { 1 };
    let longest = (work * MULTIPROCESSORS).div_ceil(shape.seq.div_ceil(KEYS));
    let under_way = longest + 1 + longest / 4;
    let tiles_of_keys = shape.sharing() * tiles_of_head(shape);
    let cached = CACHED_BYTES / (tiles_of_keys * GROUPS * PART_BYTES);
    under_way.max(cached).min(shape.batch * shape.kv_heads) * tiles_of_keys
}

/// Bytes of shared memory: as `Layout` counts them, and the way to the first multiple of 1024 bytes.
const fn shared_bytes(head_dim: usize) -> usize {
    let (queries, blocks) = (queries(head_dim), if head_dim == 64 { 2 } else { 1 });
    let keys_and_values = 2 * blocks * KEYS * head_dim * 2;
    let queries_and_gradients = 2 * STAGES * queries * head_dim * 2;
    let (pairs, parts, rows) = (KEYS * queries * 2, GROUPS * PART_BYTES, STAGES * 2 * queries * 4);
    let finished = PART_BYTES + PART_BYTES / 4;
    keys_and_values + queries_and_gradients + pairs + parts + rows + finished + 256 + 1024
}

/// Where in scratch memory what lies, in bytes.
struct Scratch {
    rows: usize,
    turns: usize,
    next: usize,
    end: usize,
}

impl Scratch {
    /// First the sums, (ring, groups, 64 · 64) fp32; log-sum-exps and deltas of each tile's queries; how many blocks have added
    /// to each part; the counters.
    fn of(shape: Shape) -> Self {
        let tiles = tiles(shape);
        let rows = ring(shape) * GROUPS * PART_BYTES;
        let turns = rows + tiles * 2 * queries(shape.head_dim) * 4;
        let next = turns + (tiles * GROUPS * 4).next_multiple_of(16);
        Self { rows, turns, next, end: next + 16 }
    }
}

/// Bytes of scratch memory where the kernels may run a shape; which device it is, is not known yet.
pub(super) fn scratch(shape: Shape) -> usize {
    if shape.on_tensor_cores() { Scratch::of(shape).end } else { 0 }
}

/// Which of the source's two orders runs. With the mask the fixed one does, asked for or not: a block begins at its diagonal, where
/// those it waits for are ahead of it anyway, and what is stored first needs no zeroes to be read. Its figures are in
/// `model/PERFORMANCE.md`. Without the mask all blocks begin at the same queries, and the last waits for every other.
fn order(op: &FlashBackward) -> &'static str {
    match (op.order, op.shape.mask) {
        (Order::Any, Mask::Full) => "any",
        (Order::Fixed, _) | (Order::Any, Mask::Causal) => "fixed",
    }
}

/// Two launches.
pub(super) fn backward(op: &FlashBackward, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
    let (shape, hd) = (op.shape, op.shape.head_dim);
    let at = Scratch::of(shape);
    let [sums, rows, turns, next] = [0, at.rows, at.turns, at.next].map(|offset| operands.scratch() + offset as u64);
    let (per_head, blocks) = (tiles_of_head(shape), shape.seq.div_ceil(KEYS));
    let (all, problems) = (shape.batch * shape.heads, shape.batch * shape.kv_heads);
    // Parts are the most that is counted, and counters run past the end once a block.
    if all > 65_535 || i32::try_from(tiles(shape) * GROUPS + 2 * gpu.facts().multiprocessors).is_err() {
        return operands
            .unsupported(format!("{all} heads of {per_head} tiles of queries: more than a launch can count"));
    }
    let causal = usize::from(shape.mask == Mask::Causal);
    let work = [shape.seq, shape.heads, shape.kv_heads, problems, per_head, blocks, causal, ring(shape)];
    let work = hopper::work_bytes(&work, shape.softmax_scale());
    let order = order(op);
    let prepare = Kernel::new(gpu, &SOURCE, &format!("flash_hopper_prepare_{order}_{hd}"))?
        .grid(per_head, all)
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
    Ok(vec![prepare.ready()?, main.ready()?])
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
    fn a_causal_backward_repeats_bit_for_bit_unasked() {
        let causal = Shape::causal(1, 256, 2, 64, Dtype::Bf16);
        let full = Shape { mask: Mask::Full, ..causal };
        let of = |shape, order| super::order(&FlashBackward { shape, kernel: super::super::Kernel::Flash, order });
        assert_eq!([of(causal, Order::Any), of(causal, Order::Fixed)], ["fixed", "fixed"]);
        assert_eq!([of(full, Order::Any), of(full, Order::Fixed)], ["any", "fixed"]);
    }

    #[test]
    fn scratch_memory_holds_a_ring_of_fp32_gradients_and_what_keeps_order() {
        let shape = Shape::causal(2, 1000, 3, 64, Dtype::Bf16);
        let at = Scratch::of(shape);
        // 8 tiles of 128 queries a head; few enough for all of them to have a place.
        assert_eq!(at.rows, 2 * 3 * 8 * 128 * 64 * 4);
        assert_eq!(at.turns - at.rows, 2 * 3 * 8 * 128 * 2 * 4);
        assert_eq!((at.next, at.end), (at.turns + 2 * 3 * 8 * 2 * 4, at.next + 16));
        assert_eq!(scratch(Shape { dtype: Dtype::F32, ..shape }), 0);
        let many = Shape::causal(16, 2048, 16, 64, Dtype::Bf16);
        assert_eq!(Scratch::of(many).rows, 16 << 20);
    }

    #[test]
    fn the_ring_holds_what_is_under_way_in_whole_heads_of_keys() {
        let shape = Shape::causal(16, 2048, 16, 64, Dtype::Bf16);
        // 16 tiles a head: as many heads of 512 KiB as the cache holds.
        assert_eq!(ring(shape), 32 * 16);
        // 1 MiB a head of 32 tiles: those under way, 264/16 and a quarter more.
        assert_eq!(ring(Shape { head_dim: 128, ..shape }), 22 * 32);
        // Half of them without the mask, where the cache holds more.
        assert_eq!(ring(Shape { head_dim: 128, mask: Mask::Full, ..shape }), 16 * 32);
        assert_eq!(ring(Shape { seq: 8192, head_dim: 128, ..shape }), 7 * 128);
        // All four heads of queries of each head of keys.
        assert_eq!(ring(Shape { kv_heads: 4, ..shape }), 22 * 4 * 16);
        // One head of keys and more blocks than multiprocessors: all of its queries' heads, and the next one's.
        assert_eq!(ring(Shape { batch: 1, seq: 1 << 17, kv_heads: 1, ..shape }), 16 * 1024);
        assert_eq!(ring(Shape { batch: 9, seq: 1 << 17, kv_heads: 1, ..shape }), 2 * 16 * 1024);
    }
}
