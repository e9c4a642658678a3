//! What the kernels reach at the sizes of a 454M step of 16 × 2048 tokens: time, bytes and FLOPs per second. Prints a table and
//! asserts nothing: rates belong to a machine and its clock.

use stepwatch_kernels::attention::{FlashBackward, FlashForward, Kernel, Order, Shape};
use stepwatch_kernels::gemm::{Gemm, Operand};
use stepwatch_kernels::gpu::{Gpu, Slice, launch};
use stepwatch_kernels::op::{Access, Op, Param};
use stepwatch_kernels::precision::Granularity;
use stepwatch_kernels::quantise::{Amax, Axis, Quantise, Tiling};
use stepwatch_kernels::tensor::Buffer;
use stepwatch_kernels::timer::{Clocks, Event};
use stepwatch_kernels::{
    Dtype, adamw, cast, cross_entropy, embedding, gradient, residual, rmsnorm, rope, swiglu, transpose,
};

use crate::compare::Random;
use crate::open;

const ROWS: usize = 32_768;
const DIM: usize = 1024;
const FFN: usize = 4096;

fn ops() -> Vec<(&'static str, Op)> {
    let dtype = Dtype::Bf16;
    let tiling = |cols, granularity| Tiling { rows: ROWS, cols, granularity, axis: Axis::Rows };
    let quantise = |cols, granularity, row_major, transposed| {
        Op::Quantise(Quantise { tiling: tiling(cols, granularity), dtype, format: Dtype::E4m3, row_major, transposed })
    };
    let shape = Shape::causal(16, 2048, 16, 64, dtype);
    let plain = |transposed| Operand::plain(dtype, transposed);
    let product = |m, n, k, a: Operand, b| {
        // Sums of block-scaled products are promoted; the library offers no faster way.
        let fast_accumulation = matches!(a.scaling, Some(Granularity::Tensor | Granularity::Row));
        Op::Gemm(Gemm { m, n, k, a, b, d: dtype, accumulate: false, fast_accumulation })
    };
    let scaled = |granularity| Operand::scaled(Dtype::E4m3, granularity);
    let state = |state| adamw::AdamW {
        shape: vec![2 * FFN, 8 * DIM],
        gradient: dtype,
        state,
        copy: (state == Dtype::F32).then_some(dtype),
        learning_rate: 1e-3,
        warmup: 10,
        weight_decay: 0.1,
    };
    vec![
        ("norm forward, dim 1024", Op::RmsNormForward(rmsnorm::Forward { rows: 4 * ROWS, dim: DIM, dtype })),
        ("norm backward, dim 1024", Op::RmsNormBackward(rmsnorm::Backward { rows: 4 * ROWS, dim: DIM, dtype })),
        ("norm backward, dim 4096", Op::RmsNormBackward(rmsnorm::Backward { rows: ROWS, dim: FFN, dtype })),
        ("rope", Op::Rope(rope::Rope { batch: 16, seq: 2048, heads: 16, head_dim: 64, dtype, backward: false })),
        ("swiglu forward", Op::SwigluForward(swiglu::Forward { rows: ROWS, ffn: FFN, dtype })),
        ("swiglu backward", Op::SwigluBackward(swiglu::Backward { rows: ROWS, ffn: FFN, dtype })),
        ("add", Op::Add(residual::Add { rows: 4 * ROWS, dim: DIM, dtype })),
        ("cast bf16 to fp32", Op::Cast(cast::Cast { shape: vec![4 * ROWS, DIM], from: dtype, to: Dtype::F32 })),
        ("transpose bf16", Op::Transpose(transpose::Transpose { rows: 4 * ROWS, cols: DIM, dtype })),
        ("transpose e4m3", Op::Transpose(transpose::Transpose { rows: ROWS, cols: 2 * FFN, dtype: Dtype::E4m3 })),
        (
            "loss forward",
            Op::CrossEntropyForward(cross_entropy::Forward { rows: ROWS / 4, vocab: 50257, padded: 50304, dtype }),
        ),
        (
            "loss backward",
            Op::CrossEntropyBackward(cross_entropy::Backward { rows: ROWS / 4, vocab: 50257, padded: 50304, dtype }),
        ),
        ("embedding forward", Op::EmbeddingForward(embedding::Forward { tokens: ROWS, vocab: 50304, dim: DIM, dtype })),
        (
            "embedding backward",
            Op::EmbeddingBackward(embedding::Backward { tokens: ROWS, vocab: 50304, dim: DIM, dtype }),
        ),
        ("sum of squares", Op::SumSquares(gradient::SumSquares { shape: vec![4 * ROWS, DIM], dtype })),
        ("adamw bf16", Op::AdamW(state(Dtype::Bf16))),
        ("adamw fp32 and copy", Op::AdamW(state(Dtype::F32))),
        ("amax tensor", Op::Amax(Amax { tiling: tiling(FFN, Granularity::Tensor), dtype })),
        ("amax rows", Op::Amax(Amax { tiling: tiling(FFN, Granularity::Row), dtype })),
        (
            "amax columns",
            Op::Amax(Amax { tiling: Tiling { axis: Axis::Columns, ..tiling(FFN, Granularity::Row) }, dtype }),
        ),
        ("amax 1×128", Op::Amax(Amax { tiling: tiling(FFN, Granularity::Block1x128), dtype })),
        ("quantise tensor, row", quantise(FFN, Granularity::Tensor, true, false)),
        ("quantise tensor, both", quantise(FFN, Granularity::Tensor, true, true)),
        ("quantise rows, both", quantise(FFN, Granularity::Row, true, true)),
        ("quantise 1×128, row", quantise(FFN, Granularity::Block1x128, true, false)),
        ("flash forward, hd 64", Op::FlashForward(FlashForward { shape, kernel: Kernel::Flash })),
        ("flash backward, hd 64", Op::FlashBackward(FlashBackward { shape, kernel: Kernel::Flash, order: Order::Any })),
        (
            "flash forward, hd 128",
            Op::FlashForward(FlashForward { shape: Shape::causal(16, 2048, 8, 128, dtype), kernel: Kernel::Flash }),
        ),
        (
            "flash backward, hd 128",
            Op::FlashBackward(FlashBackward {
                shape: Shape::causal(16, 2048, 8, 128, dtype),
                kernel: Kernel::Flash,
                order: Order::Any,
            }),
        ),
        ("gemm bf16 gate-up", product(ROWS, 2 * FFN, DIM, plain(false), plain(false))),
        ("gemm bf16 gate-up dX", product(ROWS, DIM, 2 * FFN, plain(false), plain(true))),
        ("gemm bf16 gate-up dW", product(2 * FFN, DIM, ROWS, plain(true), plain(true))),
        ("gemm bf16 head", product(ROWS, 50304, DIM, plain(false), plain(false))),
        (
            "gemm fp8 block gate-up",
            product(ROWS, 2 * FFN, DIM, scaled(Granularity::Block1x128), scaled(Granularity::Block128x128)),
        ),
        (
            "gemm fp8 tensor gate-up",
            product(ROWS, 2 * FFN, DIM, scaled(Granularity::Tensor), scaled(Granularity::Tensor)),
        ),
        ("gemm fp8 row gate-up", product(ROWS, 2 * FFN, DIM, scaled(Granularity::Row), scaled(Granularity::Row))),
    ]
}

/// Fills what an op reads with random numbers, a stretch of them over and over: rates depend on data.
fn fill(gpu: &Gpu, param: &Param, slice: &Slice, random: &mut Random) {
    // No multiple of a row, so that rows differ.
    const STRETCH: usize = 1_000_016;
    let n = param.elements().min(STRETCH);
    let mut all = |make: &dyn Fn(&mut Random) -> f32| (0..n).map(|_| make(random)).collect::<Vec<f32>>();
    let values = match (param.dtype, param.name.as_ref()) {
        (Dtype::I32, "step") => vec![3.0],
        // Zipf's law, as tokens have it.
        (Dtype::I32, _) => all(&|r| (50257.0_f32.powf(r.uniform()) - 1.0).floor()),
        (_, name) if name.contains("scale") => vec![0.01; n],
        (_, "lse") => vec![8.0; n],
        (_, "v") => all(&|r| r.uniform()),
        _ => all(&Random::normal),
    };
    let stretch = Buffer::<f32>::rounded(param.dtype, &values);
    let bytes = n * param.dtype.bytes();
    for offset in (0..slice.bytes()).step_by(bytes) {
        if let Some(part) = slice.slice(offset, bytes) {
            gpu.upload_tensor(&part, stretch.view()).unwrap();
        } else {
            gpu.fill(&slice.slice(offset, slice.bytes() - offset).unwrap(), 0).unwrap();
        }
    }
}

/// Prints what an op reaches.
pub fn rate(gpu: &Gpu, name: &str, op: &Op) {
    const REPEATS: usize = 20;
    let mut random = Random::new(1);
    let params = op.signature();
    let slices: Vec<Slice> = params.iter().map(|param| gpu.allocate(param.bytes()).unwrap()).collect();
    for (param, slice) in params.iter().zip(&slices).filter(|(param, _)| param.access != Access::Write) {
        fill(gpu, param, slice, &mut random);
    }
    let scratch = gpu.allocate(launch::scratch_bytes(op)).unwrap();
    let prepared = match launch::prepare(gpu, op, &slices, &scratch) {
        Ok(prepared) => prepared,
        Err(error) => {
            println!("{name:<26} {error}");
            return;
        }
    };
    let (before, after) = (Clocks::new(gpu).unwrap(), Clocks::new(gpu).unwrap());
    let (start, end) = (Event::new(gpu).unwrap(), Event::new(gpu).unwrap());
    for _ in 0..3 {
        gpu.enqueue(&prepared).unwrap();
    }
    before.record(gpu).unwrap();
    start.record(gpu).unwrap();
    for _ in 0..REPEATS {
        gpu.enqueue(&prepared).unwrap();
    }
    end.record(gpu).unwrap();
    after.record(gpu).unwrap();
    end.wait().unwrap();
    let ns = end.since(&start).unwrap() / REPEATS as f64;
    let clock = after.since(gpu, &before).unwrap().map_or(0.0, |(_, hz)| hz / 1e6);
    println!("{name:<26} {:>9.1} {:>8.0} {:>9.1} {clock:>6.0}", ns / 1e3, op.bytes() / ns, op.flops() / ns / 1e3);
}

/// The heading of [`rate`]'s lines.
pub fn heading() {
    println!("{:<26} {:>9} {:>8} {:>9} {:>6}", "op", "µs", "GB/s", "TFLOP/s", "MHz");
}

#[test]
#[ignore = "needs a GPU"]
fn rates() {
    let gpu = open();
    heading();
    for (name, op) in ops() {
        rate(&gpu, name, &op);
    }
}
