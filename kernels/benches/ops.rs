//! How long the CPU references take on tensors of a small model's size, in elements a second. Run on demand:
//! `cargo bench -p stepwatch-kernels`; a name as argument selects.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark: its macros make undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stepwatch_kernels::attention::{FlashBackward, FlashForward, Kernel, Order, Shape};
use stepwatch_kernels::io::{Io, Slot};
use stepwatch_kernels::precision::Granularity;
use stepwatch_kernels::quantise::{Amax, Axis, Quantise, Tiling};
use stepwatch_kernels::tensor::Buffer;
use stepwatch_kernels::{Access, Dtype, Op};
use stepwatch_kernels::{adamw, cast, embedding, gemm, gradient, residual, rmsnorm, swiglu, transpose};

const ROWS: usize = 1024;
const COLS: usize = 1024;

/// Values between −1 and 1 that are not all alike; ids below 256 where integers are wanted.
fn filled(dtype: Dtype, len: usize) -> Buffer<f32> {
    let value = |index: usize| u16::try_from(index.wrapping_mul(40_503) % 65_521).unwrap_or_default();
    let values: Vec<f32> = match dtype {
        Dtype::I32 => (0..len).map(|index| f32::from(value(index) % 256)).collect(),
        _ => (0..len).map(|index| f32::from(value(index)) / 32_760.0 - 1.0).collect(),
    };
    Buffer::rounded(dtype, &values)
}

/// Runs an op over and over on buffers of its own; `elements` is what its rate counts.
fn bench(criterion: &mut Criterion, name: &str, op: &Op, elements: usize) {
    op.check().unwrap();
    let params = op.signature();
    let mut buffers: Vec<Buffer<f32>> = params.iter().map(|param| filled(param.dtype, param.elements())).collect();
    let mut group = criterion.benchmark_group("cpu");
    group.throughput(Throughput::Elements(elements as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let slots = params.iter().zip(&mut buffers).map(|(param, buffer)| match param.access {
                Access::Read => Slot::Read(buffer.view()),
                Access::Write | Access::Update => Slot::Write(buffer.view_mut()),
            });
            op.run(&mut Io::new(&params, slots.collect()));
        });
    });
    group.finish();
    black_box(buffers);
}

fn casts(criterion: &mut Criterion) {
    let elements = ROWS * COLS;
    let granularities = [
        ("tensor", Granularity::Tensor),
        ("row", Granularity::Row),
        ("block1x128", Granularity::Block1x128),
        ("block128x128", Granularity::Block128x128),
    ];
    for (name, granularity) in granularities {
        for (side, axis) in [("rows", Axis::Rows), ("columns", Axis::Columns)] {
            let tiling = Tiling { rows: ROWS, cols: COLS, granularity, axis };
            let dtype = Dtype::Bf16;
            bench(criterion, &format!("amax {name} {side}"), &Op::Amax(Amax { tiling, dtype }), elements);
            let op = Quantise { tiling, dtype, format: Dtype::E4m3, row_major: true, transposed: true };
            bench(criterion, &format!("quantise {name} {side}, both layouts"), &Op::Quantise(op), elements);
        }
    }
    for dtype in [Dtype::E4m3, Dtype::Bf16, Dtype::F32] {
        let op = Op::Transpose(transpose::Transpose { rows: ROWS, cols: COLS, dtype });
        bench(criterion, &format!("transpose {dtype}"), &op, elements);
    }
    for (from, to) in [
        (Dtype::F32, Dtype::Bf16),
        (Dtype::Bf16, Dtype::F32),
        (Dtype::F32, Dtype::E4m3),
        (Dtype::E4m3, Dtype::F32),
        (Dtype::F32, Dtype::E5m2),
    ] {
        let op = Op::Cast(cast::Cast { shape: vec![ROWS, COLS], from, to });
        bench(criterion, &format!("cast {from} to {to}"), &op, elements);
    }
}

fn per_element(criterion: &mut Criterion) {
    let (elements, rows, dim) = (ROWS * COLS, ROWS, COLS);
    for dtype in [Dtype::F32, Dtype::Bf16] {
        bench(criterion, &format!("add {dtype}"), &Op::Add(residual::Add { rows, dim, dtype }), elements);
        let op = Op::SumSquares(gradient::SumSquares { shape: vec![ROWS, COLS], dtype });
        bench(criterion, &format!("sum of squares {dtype}"), &op, elements);
        let op = Op::RmsNormForward(rmsnorm::Forward { rows, dim, dtype });
        bench(criterion, &format!("rmsnorm forward {dtype}"), &op, elements);
        let op = Op::RmsNormBackward(rmsnorm::Backward { rows, dim, dtype });
        bench(criterion, &format!("rmsnorm backward {dtype}"), &op, elements);
        let op = Op::SwigluForward(swiglu::Forward { rows, ffn: dim, dtype });
        bench(criterion, &format!("swiglu forward {dtype}"), &op, elements);
        let op = Op::EmbeddingForward(embedding::Forward { tokens: rows, vocab: 50_304, dim, dtype });
        bench(criterion, &format!("embedding forward {dtype}"), &op, elements);
        let update = adamw::AdamW {
            shape: vec![ROWS, COLS],
            gradient: dtype,
            state: dtype,
            copy: None,
            learning_rate: 1e-3,
            warmup: 0,
            weight_decay: 0.1,
        };
        bench(criterion, &format!("adamw {dtype}"), &Op::AdamW(update), elements);
    }
}

fn products(criterion: &mut Criterion) {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let (m, n, k) = (512, 512, 512);
        let operand = gemm::Operand::plain(dtype, false);
        let op = gemm::Gemm { m, n, k, a: operand, b: operand, d: dtype, accumulate: false, fast_accumulation: false };
        bench(criterion, &format!("gemm {dtype}, multiplications"), &Op::Gemm(op), m * n * k);
        let shape = Shape::causal(2, 256, 4, 64, dtype);
        let pairs = 2 * 4 * 256 * 257 / 2;
        let op = Op::FlashForward(FlashForward { shape, kernel: Kernel::Flash });
        bench(criterion, &format!("flash forward {dtype}, pairs"), &op, pairs);
        let op = Op::FlashBackward(FlashBackward { shape, kernel: Kernel::Flash, order: Order::Any });
        bench(criterion, &format!("flash backward {dtype}, pairs"), &op, pairs);
    }
}

criterion_group! {
    name = ops;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = casts, per_element, products
}
criterion_main!(ops);
