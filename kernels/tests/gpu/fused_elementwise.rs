//! SwiGLU and rotary positions fused with amax and cast, against their parts, bit for bit, at shapes that fill no tile.

use std::collections::HashMap;

use stepwatch_kernels::Dtype;
use stepwatch_kernels::fused::{Fused, Pattern};
use stepwatch_kernels::gpu::Gpu;
use stepwatch_kernels::op::{Op, Param};
use stepwatch_kernels::precision::Granularity;
use stepwatch_kernels::quantise::{Amax, Axis, Quantise, Record, Scale, Tiling};
use stepwatch_kernels::{rope, swiglu};

use crate::compare::{Near, Random};
use crate::fused::{check_fused, fuse};
use crate::open;
use crate::rates::{heading, rate};

const DTYPE: Dtype = Dtype::Bf16;

/// What is behind a tensor.
#[derive(Debug, Clone, Copy)]
enum Behind {
    /// Its maximum alone.
    Maximum,
    /// Its maximum in the history, and its cast with a given scale: as stored, transposed.
    Delayed { row_major: bool, transposed: bool },
    /// Its cast with scales from its own maxima.
    Own { granularity: Granularity, power_of_two: bool },
}

const DELAYED: Behind = Behind::Delayed { row_major: true, transposed: true };
const BLOCKS: Behind = Behind::Own { granularity: Granularity::Block1x128, power_of_two: false };
const ROWS: Behind = Behind::Own { granularity: Granularity::Row, power_of_two: true };

/// What makes a tensor.
#[derive(Debug, Clone, Copy)]
enum Maker {
    SwigluForward {
        rows: usize,
        ffn: usize,
    },
    SwigluBackward {
        rows: usize,
        ffn: usize,
    },
    /// With h made again for its transposed cast.
    SwigluAgain {
        rows: usize,
        ffn: usize,
    },
    /// With h made again and stored.
    SwigluAndH {
        rows: usize,
        ffn: usize,
    },
    Rope {
        batch: usize,
        seq: usize,
        heads: usize,
        head_dim: usize,
    },
}

/// The fusion; whether the tensor itself is read afterwards.
fn fusion(maker: Maker, behind: Behind, format: Dtype, read: bool) -> Fused {
    let dtype = DTYPE;
    let (pattern, op, operands, rows, cols): (_, _, &[&str], _, _) = match maker {
        Maker::SwigluForward { rows, ffn } => {
            let op = Op::SwigluForward(swiglu::Forward { rows, ffn, dtype });
            (Pattern::SwigluForward, op, &["gate_up", "x"], rows, ffn)
        }
        Maker::SwigluBackward { rows, ffn } | Maker::SwigluAgain { rows, ffn } | Maker::SwigluAndH { rows, ffn } => {
            let op = Op::SwigluBackward(swiglu::Backward { rows, ffn, dtype });
            (Pattern::SwigluBackward, op, &["gate_up", "dh", "x"], rows, 2 * ffn)
        }
        Maker::Rope { batch, seq, heads, head_dim } => {
            let op = Op::Rope(rope::Rope { batch, seq, heads, head_dim, dtype, backward: true });
            (Pattern::RopeBackward, op, &["cos", "sin", "x"], batch * seq, 3 * heads * head_dim)
        }
    };
    let granularity = match behind {
        Behind::Own { granularity, .. } => granularity,
        _ => Granularity::Tensor,
    };
    let tiling = Tiling { rows, cols, granularity, axis: Axis::Rows };
    let mut parts: Vec<(Op, &[&str])> = Vec::new();
    if let Maker::SwigluAgain { rows, ffn } = maker {
        let tiling = Tiling { rows, cols: ffn, granularity: Granularity::Tensor, axis: Axis::Rows };
        let cast = Quantise { tiling, dtype, format: Dtype::E4m3, row_major: false, transposed: true };
        parts.push((Op::SwigluForward(swiglu::Forward { rows, ffn, dtype }), &["gate_up", "h"]));
        parts.push((Op::Quantise(cast), &["h", "scale of h", "ht"]));
    }
    if let Maker::SwigluAndH { rows, ffn } = maker {
        parts.push((Op::SwigluForward(swiglu::Forward { rows, ffn, dtype }), &["gate_up", "h"]));
    }
    parts.extend([(op, operands), (Op::Amax(Amax { tiling, dtype }), &["x", "amax"] as &[&str])]);
    let quantise = |row_major, transposed| {
        let operands: &[&str] = match (row_major, transposed) {
            (true, true) => &["x", "scale", "q", "qt"],
            (true, false) => &["x", "scale", "q"],
            _ => &["x", "scale", "qt"],
        };
        (Op::Quantise(Quantise { tiling, dtype, format, row_major, transposed }), operands)
    };
    match behind {
        Behind::Maximum => {}
        Behind::Delayed { row_major, transposed } => {
            parts.push(quantise(row_major, transposed));
            parts.push((Op::Record(Record {}), &["amax", "step", "history"]));
        }
        Behind::Own { power_of_two, .. } => {
            parts.push((Op::Scale(Scale { shape: tiling.scales(), format, power_of_two }), &["amax", "scale"]));
            parts.push(quantise(true, false));
        }
    }
    let in_place = matches!(maker, Maker::Rope { .. });
    let mut hidden = Vec::new();
    if matches!(maker, Maker::SwigluAgain { .. }) {
        hidden.push("h");
    }
    if !matches!(behind, Behind::Maximum) {
        hidden.push("amax");
    }
    // What is made in place is an operand even if nobody reads it.
    if !read && !in_place {
        hidden.push("x");
    }
    fuse(pattern, &parts, &hidden, if !read && in_place { &["x"] } else { &[] })
}

/// Every fusion that a kernel takes of one maker.
fn fusions(maker: Maker) -> Vec<Fused> {
    let mut all = vec![fusion(maker, Behind::Maximum, Dtype::E4m3, true)];
    for format in [Dtype::E4m3, Dtype::E5m2] {
        for (row_major, transposed) in [(true, true), (true, false), (false, true)] {
            for read in [false, true] {
                all.push(fusion(maker, Behind::Delayed { row_major, transposed }, format, read));
            }
        }
        // Scales of the launch's own do not go with h's.
        for power_of_two in [false, true].into_iter().filter(|_| !matches!(maker, Maker::SwigluAgain { .. })) {
            for granularity in [Granularity::Row, Granularity::Block1x128] {
                let halves_share_blocks = matches!(maker, Maker::SwigluBackward { ffn, .. } | Maker::SwigluAndH { ffn, .. } if ffn % 128 != 0);
                if granularity == Granularity::Row || !halves_share_blocks {
                    all.push(fusion(maker, Behind::Own { granularity, power_of_two }, format, power_of_two));
                }
            }
        }
    }
    all
}

/// Values over many powers of two, so that casts saturate and flush to zero; `broken` ones spread among them.
fn wide(elements: usize, broken: &[f32]) -> Vec<f32> {
    let mut random = Random::new(elements as u64 + 5);
    let mut x: Vec<f32> = (0..elements).map(|_| random.normal() * 2.0_f32.powi(random.below(24) as i32 - 20)).collect();
    for (index, &value) in broken.iter().enumerate() {
        x[(2 * index + 1) * elements / (2 * broken.len()) - index % 3] = value;
    }
    x
}

fn check_all(gpu: &Gpu, makers: &[Maker], broken: &[f32]) {
    for &maker in makers {
        // What is read is the same for all fusions of a maker.
        let mut made: HashMap<usize, Vec<f32>> = HashMap::new();
        for fused in fusions(maker) {
            let read = |param: &Param| matches!(param.name.as_ref(), "gate_up" | "dh" | "qkv");
            let read = fused.params.iter().enumerate().filter(|(_, param)| read(param));
            let values = |(index, param): (usize, &Param)| {
                let n = param.elements();
                (index, made.entry(n).or_insert_with(|| wide(n, broken)).clone())
            };
            let given: HashMap<usize, Vec<f32>> = read.map(values).collect();
            assert!(!given.is_empty(), "{fused:?}");
            check_fused(gpu, &fused, Near::Exact, 2, &given);
        }
    }
}

/// Rows and widths that end within a tile, a word and a row of blocks.
const SWIGLU: [(usize, usize); 5] = [(400, 896), (1008, 144), (16, 4096), (144, 2688), (16, 7168)];
const ROPE: [(usize, usize, usize, usize); 5] =
    [(2, 200, 14, 64), (3, 48, 5, 128), (5, 80, 7, 32), (1, 1008, 2, 16), (16, 9, 16, 64)];

#[test]
#[ignore = "needs a GPU"]
fn swiglu_with_casts_equals_its_parts() {
    let gpu = open();
    for (rows, ffn) in SWIGLU {
        check_all(&gpu, &[Maker::SwigluForward { rows, ffn }, Maker::SwigluBackward { rows, ffn }], &[]);
        check_all(&gpu, &[Maker::SwigluAgain { rows, ffn }, Maker::SwigluAndH { rows, ffn }], &[]);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn rope_with_casts_equals_its_parts() {
    let gpu = open();
    for (batch, seq, heads, head_dim) in ROPE {
        check_all(&gpu, &[Maker::Rope { batch, seq, heads, head_dim }], &[]);
    }
}

/// Broken values and small enough for the sanitizer's tools.
#[test]
#[ignore = "needs a GPU"]
fn small_ones_with_broken_values_equal_their_parts() {
    let gpu = open();
    let makers = [
        Maker::SwigluForward { rows: 144, ffn: 256 },
        Maker::SwigluBackward { rows: 144, ffn: 256 },
        Maker::SwigluBackward { rows: 144, ffn: 272 },
        Maker::SwigluAgain { rows: 144, ffn: 256 },
        Maker::SwigluAgain { rows: 144, ffn: 272 },
        Maker::SwigluAndH { rows: 144, ffn: 256 },
        Maker::SwigluAndH { rows: 144, ffn: 272 },
        Maker::Rope { batch: 3, seq: 48, heads: 3, head_dim: 64 },
    ];
    for broken in [&[f32::INFINITY, -0.0, f32::NEG_INFINITY] as &[f32], &[f32::NAN], &[3e38, -3e38]] {
        check_all(&gpu, &makers, broken);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn rates_of_fused_elementwise() {
    let gpu = open();
    heading();
    let (rows, ffn) = (32_768, 4096);
    let makers = [
        ("swiglu forward", Maker::SwigluForward { rows, ffn }, Dtype::E4m3),
        ("swiglu backward", Maker::SwigluBackward { rows, ffn }, Dtype::E5m2),
        ("swiglu backward, h again", Maker::SwigluAgain { rows, ffn }, Dtype::E5m2),
        ("swiglu backward and h", Maker::SwigluAndH { rows, ffn }, Dtype::E4m3),
        ("rope backward", Maker::Rope { batch: 16, seq: 2048, heads: 16, head_dim: 64 }, Dtype::E5m2),
    ];
    for (name, maker, format) in makers {
        let behind = [
            ("delayed", DELAYED, false),
            ("amax", Behind::Maximum, true),
            ("1×128", BLOCKS, true),
            ("rows", ROWS, true),
        ];
        for (recipe, behind, read) in behind {
            if matches!((maker, behind), (Maker::SwigluAgain { .. }, Behind::Own { .. })) {
                continue;
            }
            rate(&gpu, &format!("{name}, {recipe}"), &Op::Fused(fusion(maker, behind, format, read)));
        }
    }
}
