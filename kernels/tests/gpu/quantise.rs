//! Amaxes, scales and casts to FP8: bit for bit, broken and saturating values included.

use std::collections::HashMap;

use stepwatch_kernels::Dtype;
use stepwatch_kernels::op::Op;
use stepwatch_kernels::precision::Granularity;
use stepwatch_kernels::quantise::{Amax, Axis, DelayedScale, Quantise, Record, Scale, Tiling};

use crate::compare::{Near, Random, check, check_with};
use crate::open;

const SHAPES: [(usize, usize); 6] = [(1, 16), (16, 16), (1000, 896), (144, 272), (37, 53), (256, 1024)];

fn tilings() -> impl Iterator<Item = Tiling> {
    let granularities = [Granularity::Tensor, Granularity::Row, Granularity::Block1x128, Granularity::Block128x128];
    SHAPES.into_iter().flat_map(move |(rows, cols)| {
        granularities.into_iter().flat_map(move |granularity| {
            [Axis::Rows, Axis::Columns].map(move |axis| Tiling { rows, cols, granularity, axis })
        })
    })
}

/// Normal values over many powers of two, some far too large, some that flush to zero.
fn wide(elements: usize) -> Vec<f32> {
    let mut random = Random::new(5);
    (0..elements).map(|_| random.normal() * 2.0_f32.powi(random.below(30) as i32 - 20)).collect()
}

#[test]
#[ignore = "needs a GPU"]
fn amaxes_of_every_tiling_are_exact() {
    let gpu = open();
    for tiling in tilings() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let given = HashMap::from([("x", wide(tiling.rows * tiling.cols))]);
            check_with(&gpu, &Op::Amax(Amax { tiling, dtype }), Near::Exact, 2, &given);
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn an_amax_lets_nan_and_infinity_through() {
    let gpu = open();
    for tiling in tilings() {
        let mut x = wide(tiling.rows * tiling.cols);
        let (middle, last) = (x.len() / 2, x.len() - 1);
        x[middle] = f32::NAN;
        x[last] = f32::NEG_INFINITY;
        check_with(&gpu, &Op::Amax(Amax { tiling, dtype: Dtype::Bf16 }), Near::Exact, 2, &HashMap::from([("x", x)]));
    }
}

#[test]
#[ignore = "needs a GPU"]
fn scales_are_exact() {
    let gpu = open();
    for format in [Dtype::E4m3, Dtype::E5m2] {
        for power_of_two in [false, true] {
            let mut amax = wide(1000).into_iter().map(f32::abs).collect::<Vec<f32>>();
            amax[..6].copy_from_slice(&[0.0, f32::NAN, f32::INFINITY, 448.0, 1e-30, f32::MAX]);
            let op = Op::Scale(Scale { shape: vec![1000], format, power_of_two });
            check_with(&gpu, &op, Near::Exact, 2, &HashMap::from([("amax", amax)]));
        }
        check(&gpu, &Op::DelayedScale(DelayedScale { format }), Near::Exact);
        let mut broken = vec![1.0; 16];
        broken[9] = f32::NAN;
        let given = HashMap::from([("history", broken)]);
        check_with(&gpu, &Op::DelayedScale(DelayedScale { format }), Near::Exact, 2, &given);
    }
    for step in [0.0, 15.0, 16.0, 37.0] {
        check_with(&gpu, &Op::Record(Record {}), Near::Exact, 2, &HashMap::from([("step", vec![step])]));
    }
}

#[test]
#[ignore = "needs a GPU"]
fn casts_are_exact_in_both_layouts() {
    let gpu = open();
    for tiling in tilings() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for format in [Dtype::E4m3, Dtype::E5m2] {
                for (row_major, transposed) in [(true, false), (false, true), (true, true)] {
                    let op = Op::Quantise(Quantise { tiling, dtype, format, row_major, transposed });
                    let mut x = wide(tiling.rows * tiling.cols);
                    x[0] = f32::NAN;
                    x[1] = f32::INFINITY;
                    x[2] = -0.0;
                    check_with(&gpu, &op, Near::Exact, 2, &HashMap::from([("x", x)]));
                }
            }
        }
    }
}
