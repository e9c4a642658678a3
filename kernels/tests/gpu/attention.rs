//! Attention, naive and tiled: products on packed layouts, softmax, and the tiled kernels on tensor cores and without.

use std::collections::HashMap;

use stepwatch_kernels::Dtype;
use stepwatch_kernels::attention::{
    FlashBackward, FlashForward, Kernel, Mask, Order, Product, ProductKind, Shape, SoftmaxBackward, SoftmaxForward,
};
use stepwatch_kernels::gpu::{Gpu, Slice, launch};
use stepwatch_kernels::io::{Io, Slot};
use stepwatch_kernels::op::{Access, Op, Spec};
use stepwatch_kernels::tensor::Buffer;

use crate::compare::{Near, Random, check_elements, check_with, compare, one_rounding, values};
use crate::open;

const SHAPES: [(usize, usize, usize, usize); 6] =
    [(1, 1, 1, 64), (2, 64, 3, 64), (2, 200, 2, 64), (1, 131, 2, 128), (1, 1000, 2, 64), (2, 33, 2, 20)];

fn shapes() -> impl Iterator<Item = Shape> {
    SHAPES.into_iter().flat_map(|(batch, seq, heads, head_dim)| {
        [Dtype::F32, Dtype::Bf16].map(move |dtype| Shape::causal(batch, seq, heads, head_dim, dtype))
    })
}

/// Probabilities: causal rows that add up to 1.
fn probabilities(shape: Shape) -> Vec<f32> {
    let mut random = Random::new(9);
    let mut p = Vec::with_capacity(shape.batch * shape.heads * shape.seq * shape.seq);
    for row in 0..shape.batch * shape.heads * shape.seq {
        let seen = row % shape.seq + 1;
        let weights: Vec<f32> = (0..seen).map(|_| random.normal().exp()).collect();
        let sum: f32 = weights.iter().sum();
        p.extend(weights.iter().map(|w| w / sum));
        p.extend(std::iter::repeat_n(0.0, shape.seq - seen));
    }
    p
}

#[test]
#[ignore = "needs a GPU"]
fn the_products_of_naive_attention() {
    let gpu = open();
    for shape in shapes() {
        for kind in [
            ProductKind::Scores,
            ProductKind::Context,
            ProductKind::ProbabilityGradient,
            ProductKind::ValueGradient,
            ProductKind::QueryGradient,
            ProductKind::KeyGradient,
        ] {
            let given = HashMap::from([("p", probabilities(shape))]);
            check_with(&gpu, &Op::AttentionProduct(Product { shape, kind }), one_rounding(shape.dtype), 2, &given);
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn softmax_both_ways() {
    let gpu = open();
    for shape in shapes() {
        let given = HashMap::from([("p", probabilities(shape))]);
        check_with(&gpu, &Op::SoftmaxForward(SoftmaxForward { shape }), one_rounding(shape.dtype), 2, &given);
        check_with(&gpu, &Op::SoftmaxBackward(SoftmaxBackward { shape }), one_rounding(shape.dtype), 2, &given);
    }
}

/// Forward, then backward in both orders, from what the reference's forward leaves.
fn tiled_both_ways(gpu: &Gpu, shape: Shape) {
    // Probabilities are rounded against the largest score of the tiles so far, which differ: two roundings apart.
    let near = if shape.dtype == Dtype::F32 { Near::Norm(1e-5) } else { Near::Norm(4e-3) };
    let forward = Op::FlashForward(FlashForward { shape, kernel: Kernel::Flash });
    let backward = |order| FlashBackward { shape, kernel: Kernel::Flash, order };
    let mut random = Random::new(3);
    let signature = backward(Order::Any).signature();
    let [qkv, dcontext] = [0, 3].map(|index| {
        let values = values(&signature[index], &mut random, 2);
        Buffer::<f32>::rounded(shape.dtype, &values).view().values().into_owned()
    });
    let given = HashMap::from([("qkv", qkv.clone())]);
    check_with(gpu, &forward, near, 2, &given);
    let (context, lse) = reference(&forward, &qkv);
    let given = HashMap::from([("qkv", qkv), ("dcontext", dcontext), ("context", context), ("lse", lse)]);
    for order in [Order::Any, Order::Fixed] {
        let op = Op::FlashBackward(backward(order));
        if shape.dtype == Dtype::F32 {
            check_with(gpu, &op, near, 2, &given);
            continue;
        }
        // Early keys are seen by all queries: their gradients are far larger than most, and so are their errors.
        check_with(gpu, &op, Near::Whole(4e-3), 2, &given);
        check_elements(gpu, &op, &given, 2048);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn tiled_attention_both_ways() {
    let gpu = open();
    for shape in shapes() {
        tiled_both_ways(&gpu, shape);
    }
}

/// Lengths around the tiles of the kernels for Hopper: 128 keys, and 192, 128 or 64 queries of groups of 64.
#[test]
#[ignore = "needs a GPU"]
fn tiled_attention_of_every_length() {
    let gpu = open();
    for head_dim in [64, 128] {
        for seq in [1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 257, 1000, 2048, 4096] {
            let heads = if seq > 1000 { 1 } else { 3 };
            tiled_both_ways(&gpu, Shape::causal(if seq > 200 { 1 } else { 2 }, seq, heads, head_dim, Dtype::Bf16));
        }
    }
}

/// Query heads that share keys and values, and no mask.
#[test]
#[ignore = "needs a GPU"]
fn tiled_attention_with_shared_heads_and_without_a_mask() {
    let gpu = open();
    if gpu.facts().capability != (9, 0) {
        println!("not run: only the kernels for Hopper take these shapes");
        return;
    }
    for head_dim in [64, 128] {
        for (heads, kv_heads) in [(4, 4), (4, 2), (6, 1)] {
            for mask in [Mask::Causal, Mask::Full] {
                for seq in [1, 64, 127, 129, 320, 1000] {
                    tiled_both_ways(
                        &gpu,
                        Shape { kv_heads, mask, ..Shape::causal(2, seq, heads, head_dim, Dtype::Bf16) },
                    );
                }
            }
        }
    }
}

/// More heads than the kernels for Hopper keep sums for: places are used again, by heads of one block each, of some, and of
/// query heads that share keys and values. Then three calls on the same scratch memory: a call leaves nothing to the next.
#[test]
#[ignore = "needs a GPU"]
fn tiled_backward_of_more_heads_than_have_sums() {
    let gpu = open();
    let shapes = [
        // One block a head; 576 and 561 heads with places for 512.
        Shape::causal(18, 64, 32, 64, Dtype::Bf16),
        Shape::causal(17, 33, 33, 128, Dtype::Bf16),
        // Four blocks with a partial last; 160 heads with places for 128, and 96 with 64.
        Shape::causal(5, 450, 32, 64, Dtype::Bf16),
        Shape { mask: Mask::Full, ..Shape::causal(3, 450, 32, 128, Dtype::Bf16) },
        // Four query heads to each of 128 heads of keys, with places for 111 of these.
        Shape { kv_heads: 8, ..Shape::causal(16, 257, 32, 64, Dtype::Bf16) },
        // The same where a block of keys sees two tiles of queries at its diagonal, and the last of a head only one.
        Shape { kv_heads: 8, ..Shape::causal(16, 257, 32, 128, Dtype::Bf16) },
    ];
    for shape in shapes {
        tiled_both_ways(&gpu, shape);
        for order in [Order::Any, Order::Fixed] {
            let op = Op::FlashBackward(FlashBackward { shape, kernel: Kernel::Flash, order });
            repeats_on_its_scratch(&gpu, &op);
        }
    }
}

/// Three calls of one prepared op, whose results are poisoned between: bit by bit where the order is fixed, else near.
fn repeats_on_its_scratch(gpu: &Gpu, op: &Op) {
    let params = op.signature();
    let mut random = Random::new(7);
    let slices: Vec<Slice> = params.iter().map(|param| gpu.allocate(param.bytes()).unwrap()).collect();
    for (param, slice) in params.iter().zip(&slices).filter(|(param, _)| param.access == Access::Read) {
        gpu.upload_tensor(slice, Buffer::<f32>::rounded(param.dtype, &values(param, &mut random, 2)).view()).unwrap();
    }
    let scratch = gpu.allocate(launch::scratch_bytes(op)).unwrap();
    gpu.fill(&scratch, 0xff).unwrap();
    let prepared = launch::prepare(gpu, op, &slices, &scratch).unwrap();
    let at = params.iter().position(|param| param.name == "dqkv").unwrap();
    let call = || {
        gpu.fill(&slices[at], 0xff).unwrap();
        gpu.enqueue(&prepared).unwrap();
        gpu.synchronize().unwrap();
        gpu.download_tensor(&slices[at], params[at].dtype).unwrap().view().values().into_owned()
    };
    let first = call();
    for _ in 0..2 {
        let near = if matches!(op, Op::FlashBackward(FlashBackward { order: Order::Fixed, .. })) {
            Near::Exact
        } else {
            Near::Whole(1e-3)
        };
        compare(&first, &call(), near, &format!("a call again: {op:?}"));
    }
}

/// Scores in the thousands: exponentials overflow unless the running maximum is taken off first. Rows of one or two keys remain,
/// whose gradients cancel: elements are held to what their own sums may be off, not to the size of all.
#[test]
#[ignore = "needs a GPU"]
fn tiled_attention_of_large_logits() {
    let gpu = open();
    for head_dim in [64, 128] {
        let shape = Shape::causal(2, 333, 2, head_dim, Dtype::Bf16);
        let forward = Op::FlashForward(FlashForward { shape, kernel: Kernel::Flash });
        let signature = forward.signature();
        let mut qkv = values(&signature[0], &mut Random::new(5), 2);
        let width = shape.heads * head_dim;
        for (index, value) in qkv.iter_mut().enumerate() {
            if index % (3 * width) < 2 * width {
                *value *= 20.0;
            }
        }
        let qkv = Buffer::<f32>::rounded(shape.dtype, &qkv).view().values().into_owned();
        check_with(&gpu, &forward, Near::Norm(4e-3), 2, &HashMap::from([("qkv", qkv.clone())]));
        let (context, lse) = reference(&forward, &qkv);
        let given = HashMap::from([("qkv", qkv), ("context", context), ("lse", lse)]);
        for order in [Order::Any, Order::Fixed] {
            let op = Op::FlashBackward(FlashBackward { shape, kernel: Kernel::Flash, order });
            check_elements(&gpu, &op, &given, shape.batch * shape.seq * 3 * width);
        }
    }
}

/// Context and log-sum-exp of the forward reference.
fn reference(forward: &Op, qkv: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let params = forward.signature();
    let mut buffers: Vec<Buffer<f32>> = params.iter().map(|p| Buffer::zeros(p.dtype, p.elements())).collect();
    buffers[0] = Buffer::rounded(params[0].dtype, qkv);
    let slots = params.iter().zip(&mut buffers).map(|(param, buffer)| match param.access {
        Access::Read => Slot::Read(buffer.view()),
        _ => Slot::Write(buffer.view_mut()),
    });
    let slots = slots.collect();
    forward.run(&mut Io::new(&params, slots));
    (buffers[1].view().values().into_owned(), buffers[2].view().values().into_owned())
}
