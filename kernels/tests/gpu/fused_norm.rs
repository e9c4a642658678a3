//! RMSNorm with what surrounds it in one launch, against its parts: every cast, odd and even shapes, what is not finite; and
//! what it reaches at the size of a 454M step.

use std::collections::HashMap;

use stepwatch_kernels::fused::{Fused, Pattern};
use stepwatch_kernels::gpu::{Gpu, launch};
use stepwatch_kernels::op::{Access, Op};
use stepwatch_kernels::precision::Granularity;
use stepwatch_kernels::quantise::{Amax, Axis, Quantise, Record, Scale, Tiling};
use stepwatch_kernels::tensor::Buffer;
use stepwatch_kernels::timer::Event;
use stepwatch_kernels::{Dtype, residual, rmsnorm};

use crate::compare::{Near, Random, check, one_rounding};
use crate::fused::{check_fused, fuse};
use crate::open;

/// What follows the norm.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Nothing,
    /// A tensor-wide maximum that leaves the launch.
    Amax,
    /// A maximum that is recorded, and a cast with a given scale: as stored, transposed.
    Delayed(bool, bool),
    /// A cast with a scale per row or per block of a row; whether scales are powers of two.
    Own(Granularity, bool),
}

type Parts = Vec<(Op, &'static [&'static str])>;

fn follow(parts: &mut Parts, hidden: &mut Vec<&'static str>, rows: usize, dim: usize, format: Dtype, then: Then) {
    let dtype = Dtype::Bf16;
    let tiling = |granularity| Tiling { rows, cols: dim, granularity, axis: Axis::Rows };
    let amax = |granularity| Op::Amax(Amax { tiling: tiling(granularity), dtype });
    let cast = |granularity, row_major, transposed| {
        Op::Quantise(Quantise { tiling: tiling(granularity), dtype, format, row_major, transposed })
    };
    match then {
        Then::Nothing => {}
        Then::Amax => parts.push((amax(Granularity::Tensor), &["result", "amax"])),
        Then::Delayed(row_major, transposed) => {
            parts.push((amax(Granularity::Tensor), &["result", "amax"]));
            let operands: &[&str] = match (row_major, transposed) {
                (true, true) => &["result", "scale", "q", "qt"],
                (true, false) => &["result", "scale", "q"],
                (false, _) => &["result", "scale", "qt"],
            };
            parts.push((cast(Granularity::Tensor, row_major, transposed), operands));
            parts.push((Op::Record(Record {}), &["amax", "step", "history"]));
            hidden.push("amax");
        }
        Then::Own(granularity, power_of_two) => {
            let shape = tiling(granularity).scales();
            parts.push((amax(granularity), &["result", "amax"]));
            parts.push((Op::Scale(Scale { shape, format, power_of_two }), &["amax", "scale"]));
            parts.push((cast(granularity, true, false), &["result", "scale", "q"]));
            hidden.push("amax");
        }
    }
}

/// The norm forward, behind a residual sum or not; `stored`: its result is read elsewhere too.
fn forward(rows: usize, dim: usize, add: bool, stored: bool, then: Then) -> Fused {
    let (dtype, mut parts, mut hidden) = (Dtype::Bf16, Parts::new(), Vec::new());
    if add {
        parts.push((Op::Add(residual::Add { rows, dim, dtype }), &["a", "b", "x"]));
    }
    parts.push((Op::RmsNormForward(rmsnorm::Forward { rows, dim, dtype }), &["x", "w", "result", "rstd"]));
    follow(&mut parts, &mut hidden, rows, dim, Dtype::E4m3, then);
    if !stored {
        hidden.push("result");
    }
    fuse(Pattern::NormForward, &parts, &hidden, &[])
}

/// The norm backward, with the residual gradient or not.
fn backward(rows: usize, dim: usize, add: bool, stored: bool, format: Dtype, then: Then) -> Fused {
    let (dtype, mut parts, mut hidden) = (Dtype::Bf16, Parts::new(), Vec::new());
    let norm = Op::RmsNormBackward(rmsnorm::Backward { rows, dim, dtype });
    if add {
        parts.push((norm, &["x", "w", "rstd", "dy", "dx", "dw"]));
        parts.push((Op::Add(residual::Add { rows, dim, dtype }), &["a", "dx", "result"]));
        hidden.push("dx");
    } else {
        parts.push((norm, &["x", "w", "rstd", "dy", "result", "dw"]));
    }
    follow(&mut parts, &mut hidden, rows, dim, format, then);
    if !stored {
        hidden.push("result");
    }
    fuse(Pattern::NormBackward, &parts, &hidden, &[])
}

const WIDTHS: [usize; 6] = [64, 256, 896, 1024, 2048, 4096];
const ROWS: [usize; 4] = [1, 37, 1000, 2048];

/// Every fusion of a shape that a kernel takes.
fn fusions(rows: usize, dim: usize) -> Vec<Fused> {
    let own = [(Granularity::Row, true), (Granularity::Row, false), (Granularity::Block1x128, false)];
    let own = own.map(|(granularity, power_of_two)| Then::Own(granularity, power_of_two));
    let transposed = rows.is_multiple_of(16);
    let mut all = vec![
        forward(rows, dim, true, true, Then::Nothing),
        forward(rows, dim, true, true, Then::Amax),
        forward(rows, dim, false, true, Then::Amax),
        forward(rows, dim, false, false, Then::Delayed(true, false)),
        backward(rows, dim, true, true, Dtype::E5m2, Then::Nothing),
        backward(rows, dim, true, true, Dtype::E5m2, Then::Amax),
        backward(rows, dim, false, true, Dtype::E5m2, Then::Amax),
        backward(rows, dim, true, true, Dtype::E5m2, Then::Delayed(true, false)),
    ];
    for then in own {
        all.push(forward(rows, dim, false, true, then));
        all.push(forward(rows, dim, true, false, then));
        all.push(backward(rows, dim, true, true, Dtype::E4m3, then));
        all.push(backward(rows, dim, false, true, Dtype::E4m3, then));
    }
    if transposed {
        all.push(forward(rows, dim, false, false, Then::Delayed(true, true)));
        all.push(forward(rows, dim, true, false, Then::Delayed(true, true)));
        all.push(forward(rows, dim, false, true, Then::Delayed(false, true)));
        all.push(backward(rows, dim, true, true, Dtype::E5m2, Then::Delayed(true, true)));
        all.push(backward(rows, dim, false, true, Dtype::E5m2, Then::Delayed(true, true)));
    }
    all
}

#[test]
fn a_kernel_takes_every_fusion_of_a_step() {
    for dim in WIDTHS {
        for rows in [1000, 32_768] {
            for fused in fusions(rows, dim) {
                assert!(!fused.variants().is_empty(), "no kernel takes {fused:?}");
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn norms_with_what_surrounds_them_equal_their_parts() {
    let gpu = open();
    for dim in WIDTHS {
        // 19200: blocks of two tiles, the last of one.
        for rows in ROWS.into_iter().chain([48, 19_200]) {
            if rows * dim > 5 << 18 {
                continue;
            }
            for fused in fusions(rows, dim) {
                check_fused(&gpu, &fused, Near::Exact, 2, &HashMap::new());
            }
        }
        println!("width {dim}");
    }
    let delayed = Then::Delayed(true, true);
    check_fused(&gpu, &forward(19_216, 1024, false, false, delayed), Near::Exact, 2, &HashMap::new());
    check_fused(&gpu, &backward(19_216, 1024, true, true, Dtype::E5m2, delayed), Near::Exact, 2, &HashMap::new());
}

/// Small, for a checker of memory accesses.
#[test]
#[ignore = "needs a GPU"]
fn norms_of_few_rows_equal_their_parts() {
    let gpu = open();
    for (rows, dim) in [(37, 896), (48, 1024), (176, 1024), (32, 2048), (48, 4096)] {
        for fused in fusions(rows, dim) {
            check_fused(&gpu, &fused, Near::Exact, 2, &HashMap::new());
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn what_is_not_finite_goes_where_the_parts_let_it_go() {
    let gpu = open();
    let (rows, dim) = (48, 1024);
    for fused in fusions(rows, dim) {
        for what in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            // Every large operand in turn: x, dy and the residual.
            for (index, param) in fused.params.iter().enumerate() {
                if param.access != Access::Read || param.elements() != rows * dim {
                    continue;
                }
                let mut random = Random::new(9);
                let mut values: Vec<f32> = (0..rows * dim).map(|_| random.normal()).collect();
                values[20 * dim + 333] = what;
                check_fused(&gpu, &fused, Near::Exact, 2, &HashMap::from([(index, values)]));
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn plain_norms_of_every_width_equal_their_reference() {
    let gpu = open();
    let dtype = Dtype::Bf16;
    // Packs and none, one warp a row to eight, widths that no power of two divides, and one beyond the fused kernel.
    for dim in [1, 7, 64, 72, 256, 896, 1000, 1024, 1032, 2048, 3072, 4096, 5120, 8192, 8200] {
        for rows in [1, 37, 300] {
            check(&gpu, &Op::RmsNormForward(rmsnorm::Forward { rows, dim, dtype }), one_rounding(dtype));
            check(&gpu, &Op::RmsNormBackward(rmsnorm::Backward { rows, dim, dtype }), one_rounding(dtype));
        }
    }
}

/// Bytes that a fusion must move: what it reads and what somebody reads afterwards.
fn bytes(fused: &Fused) -> usize {
    fused.params.iter().map(|param| param.bytes()).sum()
}

fn rate(gpu: &Gpu, name: &str, op: &Op, bytes: usize) {
    const REPEATS: u32 = 50;
    let params = op.signature();
    let mut random = Random::new(3);
    // One after the other, as a step places them: distances are sums of powers of two.
    let arena = gpu.allocate(params.iter().map(|param| param.bytes().next_multiple_of(256)).sum()).unwrap();
    let mut end = 0;
    let mut place = |bytes: usize| {
        let slice = arena.slice(end, bytes).unwrap();
        end += bytes.next_multiple_of(256);
        slice
    };
    let slices: Vec<_> = params.iter().map(|param| place(param.bytes())).collect();
    for (param, slice) in params.iter().zip(&slices) {
        let values: Vec<f32> = (0..param.elements().min(1_000_016)).map(|_| random.normal().abs() + 0.01).collect();
        let stretch = Buffer::<f32>::rounded(param.dtype, &values);
        let size = values.len() * param.dtype.bytes();
        for offset in (0..slice.bytes()).step_by(size) {
            match slice.slice(offset, size) {
                Some(part) => gpu.upload_tensor(&part, stretch.view()).unwrap(),
                None => gpu.fill(&slice.slice(offset, slice.bytes() - offset).unwrap(), 0).unwrap(),
            }
        }
    }
    let scratch = gpu.allocate(launch::scratch_bytes(op)).unwrap();
    let prepared = launch::prepare(gpu, op, &slices, &scratch).unwrap();
    let (start, end) = (Event::new(gpu).unwrap(), Event::new(gpu).unwrap());
    for _ in 0..5 {
        gpu.enqueue(&prepared).unwrap();
    }
    start.record(gpu).unwrap();
    for _ in 0..REPEATS {
        gpu.enqueue(&prepared).unwrap();
    }
    end.record(gpu).unwrap();
    end.wait().unwrap();
    let ns = end.since(&start).unwrap() / f64::from(REPEATS);
    println!("{name:<44} {:>8.1} µs {:>6.0} GB/s  {} launches", ns / 1e3, bytes as f64 / ns, prepared.launches());
}

#[test]
#[ignore = "needs a GPU"]
fn fused_norm_rates() {
    let gpu = open();
    let (rows, dtype) = (32_768, Dtype::Bf16);
    for (rows, dim) in [(rows, 1024), (rows, 896), (rows / 2, 2048), (rows / 2, 4096)] {
        println!("{rows} rows of {dim}");
        let plain = [
            ("forward", Op::RmsNormForward(rmsnorm::Forward { rows, dim, dtype })),
            ("backward", Op::RmsNormBackward(rmsnorm::Backward { rows, dim, dtype })),
        ];
        for (name, op) in plain {
            rate(&gpu, name, &op, op.signature().iter().map(|param| param.bytes()).sum());
        }
        let (e4m3, e5m2) = (Dtype::E4m3, Dtype::E5m2);
        let row = Then::Own(Granularity::Row, true);
        let block = Then::Own(Granularity::Block1x128, false);
        let fused = [
            ("forward, delayed cast, both layouts", forward(rows, dim, false, false, Then::Delayed(true, true))),
            ("sum, forward, delayed cast, both layouts", forward(rows, dim, true, false, Then::Delayed(true, true))),
            ("backward, sum", backward(rows, dim, true, true, e5m2, Then::Nothing)),
            ("backward, sum, delayed cast, both", backward(rows, dim, true, true, e5m2, Then::Delayed(true, true))),
            ("backward, delayed cast, both", backward(rows, dim, false, true, e5m2, Then::Delayed(true, true))),
            ("forward, amax", forward(rows, dim, false, true, Then::Amax)),
            ("backward, sum, amax", backward(rows, dim, true, true, e5m2, Then::Amax)),
            ("forward, cast by rows", forward(rows, dim, false, true, row)),
            ("backward, sum, cast by rows", backward(rows, dim, true, true, e4m3, row)),
            ("forward, cast by blocks", forward(rows, dim, false, true, block)),
            ("backward, sum, cast by blocks", backward(rows, dim, true, true, e4m3, block)),
        ];
        for (name, fused) in fused {
            let bytes = bytes(&fused);
            rate(&gpu, name, &Op::Fused(fused), bytes);
        }
    }
}
