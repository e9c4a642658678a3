//! Fused casts and scales against their parts, bit for bit, at shapes that fill no tile; broken values included.

use std::collections::HashMap;

use stepwatch_kernels::Dtype;
use stepwatch_kernels::fused::{Fused, Pattern};
use stepwatch_kernels::op::Op;
use stepwatch_kernels::precision::Granularity;
use stepwatch_kernels::quantise::{Amax, Axis, DelayedScale, Quantise, Record, Scale, Tiling};
use stepwatch_kernels::transpose::Transpose;

use crate::compare::{Near, Random};
use crate::fused::{check_fused, fuse};
use crate::open;
use crate::rates::{heading, rate};

const SHAPES: [(usize, usize); 8] =
    [(16, 16), (400, 896), (1008, 1024), (656, 2688), (272, 3584), (1040, 144), (16, 4096), (48, 14_336)];

const FORMATS: [Dtype; 2] = [Dtype::E4m3, Dtype::E5m2];
const LAYOUTS: [(bool, bool); 3] = [(true, false), (false, true), (true, true)];

/// Which scale a cast has.
#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    /// A given one, while the maximum is recorded for later.
    Before,
    /// From a maximum that is given.
    Maximum,
    /// From the maxima of the cast tensor.
    Own { power_of_two: bool, store_amax: bool },
}

fn cast(tiling: Tiling, format: Dtype, (row_major, transposed): (bool, bool), from: From) -> Fused {
    let dtype = Dtype::Bf16;
    let amax = (Op::Amax(Amax { tiling, dtype }), &["x", "amax"] as &[&str]);
    let power_of_two = matches!(from, From::Own { power_of_two: true, .. });
    let scale = (Op::Scale(Scale { shape: tiling.scales(), format, power_of_two }), &["amax", "scale"] as &[&str]);
    let operands: &[&str] = match (row_major, transposed) {
        (true, true) => &["x", "scale", "q", "qt"],
        (true, false) => &["x", "scale", "q"],
        _ => &["x", "scale", "qt"],
    };
    let quantise = (Op::Quantise(Quantise { tiling, dtype, format, row_major, transposed }), operands);
    let record = (Op::Record(Record {}), &["amax", "step", "history"] as &[&str]);
    match from {
        From::Before => fuse(Pattern::Cast, &[amax, quantise, record], &["amax"], &[]),
        From::Maximum => fuse(Pattern::Cast, &[scale, quantise], &[], &[]),
        From::Own { store_amax: true, .. } => fuse(Pattern::Cast, &[amax, scale, quantise], &[], &[]),
        From::Own { .. } => fuse(Pattern::Cast, &[amax, scale, quantise], &["amax"], &[]),
    }
}

/// Every fusion that a kernel takes, at one shape.
fn casts(rows: usize, cols: usize) -> Vec<Fused> {
    let tiling = |granularity, axis| Tiling { rows, cols, granularity, axis };
    let tensor = tiling(Granularity::Tensor, Axis::Rows);
    let mut all = Vec::new();
    for format in FORMATS {
        for layout in LAYOUTS {
            for from in [From::Before, From::Maximum] {
                all.push(cast(tensor, format, layout, from));
            }
            for (power_of_two, store_amax) in [(false, false), (true, true)] {
                let from = From::Own { power_of_two, store_amax };
                for axis in [Axis::Rows, Axis::Columns] {
                    all.push(cast(tiling(Granularity::Block128x128, axis), format, layout, from));
                }
                for granularity in [Granularity::Row, Granularity::Block1x128] {
                    all.push(cast(tiling(granularity, Axis::Columns), format, layout, from));
                    if layout == (true, false) {
                        all.push(cast(tiling(granularity, Axis::Rows), format, layout, from));
                    }
                }
            }
        }
    }
    let amax = Op::Amax(Amax { tiling: tensor, dtype: Dtype::Bf16 });
    let record = Op::Record(Record {});
    all.push(fuse(Pattern::Cast, &[(amax, &["x", "amax"]), (record, &["amax", "step", "history"])], &["amax"], &[]));
    all
}

/// Values of the tensor over many powers of two, some that saturate and flush to zero; `broken` ones at both ends and in the
/// middle.
fn wide(elements: usize, broken: &[f32]) -> Vec<f32> {
    let mut random = Random::new(elements as u64);
    let mut x: Vec<f32> = (0..elements).map(|_| random.normal() * 2.0_f32.powi(random.below(30) as i32 - 20)).collect();
    for (index, &value) in broken.iter().enumerate() {
        x[index * (elements - 1) / broken.len().max(2).saturating_sub(1)] = value;
    }
    x
}

fn check_all(shapes: &[(usize, usize)], broken: &[f32]) {
    let gpu = open();
    for &(rows, cols) in shapes {
        let values = wide(rows * cols, broken);
        for fused in casts(rows, cols) {
            let x = fused.params.iter().position(|param| param.name == "x").unwrap();
            let given = HashMap::from([(x, values.clone())]);
            check_fused(&gpu, &fused, Near::Exact, 2, &given);
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn casts_equal_their_parts() {
    check_all(&SHAPES, &[]);
}

#[test]
#[ignore = "needs a GPU"]
fn casts_let_nan_and_infinity_through() {
    check_all(&SHAPES[..3], &[f32::NAN, f32::INFINITY, -0.0, f32::NEG_INFINITY]);
}

/// Small enough for the sanitizer's tools.
#[test]
#[ignore = "needs a GPU"]
fn small_casts_equal_their_parts() {
    check_all(&[(144, 272), (272, 144)], &[]);
}

/// Few tiles, and more than can wait for each other.
#[test]
#[ignore = "needs a GPU"]
fn columns_of_any_length_equal_their_parts() {
    let gpu = open();
    let from = From::Own { power_of_two: true, store_amax: false };
    for (rows, cols) in [(8192, 1024), (16_400, 1040), (131_072, 64), (16, 64)] {
        let tiling = Tiling { rows, cols, granularity: Granularity::Row, axis: Axis::Columns };
        check_fused(&gpu, &cast(tiling, Dtype::E4m3, (false, true), from), Near::Exact, 2, &HashMap::new());
    }
}

#[test]
#[ignore = "needs a GPU"]
fn all_delayed_scales_equal_their_parts() {
    let gpu = open();
    for n in [1, 2, 77, 300] {
        let names: Vec<[String; 2]> = (0..n).map(|i| [format!("history{i}"), format!("scale{i}")]).collect();
        let names: Vec<[&str; 2]> = names.iter().map(|[history, scale]| [history.as_str(), scale.as_str()]).collect();
        let part = |i: usize| (Op::DelayedScale(DelayedScale { format: FORMATS[i % 2] }), &names[i] as &[&str]);
        let parts: Vec<(Op, &[&str])> = (0..n).map(part).collect();
        let mut broken = vec![1.0; 16];
        broken[9] = f32::NAN;
        let given = HashMap::from([(0, broken), (2 * (n - 1), vec![0.0; 16])]);
        check_fused(&gpu, &fuse(Pattern::Scales, &parts, &[], &[]), Near::Exact, 2, &given);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn rates_of_fused_casts() {
    const ROWS: usize = 32_768;
    let gpu = open();
    heading();
    let own = From::Own { power_of_two: true, store_amax: false };
    let (row, column, both) = (LAYOUTS[0], LAYOUTS[1], LAYOUTS[2]);
    let (tensor, rows, tall, blocks) =
        (Granularity::Tensor, Granularity::Row, Granularity::Block1x128, Granularity::Block128x128);
    let cases = [
        ("given, both", tensor, Axis::Rows, both, From::Before),
        ("current, both", tensor, Axis::Rows, both, From::Maximum),
        ("current, row", tensor, Axis::Rows, row, From::Maximum),
        ("rows", rows, Axis::Rows, row, own),
        ("columns", rows, Axis::Columns, column, own),
        ("1×128 rows", tall, Axis::Rows, row, own),
        ("1×128 columns", tall, Axis::Columns, column, own),
        ("128×128, row", blocks, Axis::Rows, row, own),
        ("128×128, transposed", blocks, Axis::Columns, column, own),
    ];
    for (height, width) in [(ROWS, 1024), (ROWS, 4096), (ROWS, 8192), (1024, 1024), (8192, 1024), (1024, 4096)] {
        println!("{height} × {width}");
        for (name, granularity, axis, layout, from) in cases {
            let tiling = Tiling { rows: height, cols: width, granularity, axis };
            rate(&gpu, name, &Op::Fused(cast(tiling, Dtype::E4m3, layout, from)));
        }
    }
    println!("parts alone");
    let tiling = Tiling { rows: ROWS, cols: 4096, granularity: tall, axis: Axis::Rows };
    let (dtype, format) = (Dtype::Bf16, Dtype::E4m3);
    for (name, granularity, (row_major, transposed)) in [
        ("1×128, row", tall, row),
        ("tensor, row", tensor, row),
        ("tensor, both", tensor, both),
        ("rows, both", rows, both),
        ("tensor, transposed", tensor, column),
    ] {
        let tiling = Tiling { granularity, ..tiling };
        rate(&gpu, name, &Op::Quantise(Quantise { tiling, dtype, format, row_major, transposed }));
    }
    rate(&gpu, "transpose e4m3", &Op::Transpose(Transpose { rows: ROWS, cols: 8192, dtype: format }));
    let names: Vec<[String; 2]> = (0..288).map(|i| [format!("history{i}"), format!("scale{i}")]).collect();
    let names: Vec<[&str; 2]> = names.iter().map(|[history, scale]| [history.as_str(), scale.as_str()]).collect();
    let part = |names| (Op::DelayedScale(DelayedScale { format: Dtype::E4m3 }), names);
    let parts: Vec<(Op, &[&str])> = names.iter().map(|names| part(names as &[&str])).collect();
    rate(&gpu, "288 delayed scales", &Op::Fused(fuse(Pattern::Scales, &parts, &[], &[])));
}
