//! Norm, rotary positions, SwiGLU, residual, casts, transposes, embedding, loss, gradient norm and optimiser.

use std::collections::HashMap;

use stepwatch_kernels::op::Op;
use stepwatch_kernels::{
    Dtype, adamw, cast, cross_entropy, embedding, gradient, residual, rmsnorm, rope, swiglu, transpose,
};

use crate::compare::{Near, check, check_with, one_rounding};
use crate::open;

const FLOATS: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

/// Rows and widths: one token, partial last tiles, widths that are and are not whole packs.
const SHAPES: [(usize, usize); 7] = [(1, 64), (3, 100), (37, 896), (1000, 896), (129, 1024), (17, 4096), (5, 33)];

#[test]
#[ignore = "needs a GPU"]
fn rmsnorm_both_ways() {
    let gpu = open();
    for dtype in FLOATS {
        for (rows, dim) in SHAPES {
            check(&gpu, &Op::RmsNormForward(rmsnorm::Forward { rows, dim, dtype }), one_rounding(dtype));
            check(&gpu, &Op::RmsNormBackward(rmsnorm::Backward { rows, dim, dtype }), one_rounding(dtype));
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn rope_both_ways() {
    let gpu = open();
    for dtype in FLOATS {
        for (batch, seq, heads, head_dim) in [(1, 1, 1, 64), (2, 1000, 14, 64), (1, 77, 3, 128), (2, 9, 2, 20)] {
            for backward in [false, true] {
                let (cos, sin) = rope::tables::<f32>(seq, head_dim);
                let given = HashMap::from([("cos", cos), ("sin", sin)]);
                let op = Op::Rope(rope::Rope { batch, seq, heads, head_dim, dtype, backward });
                check_with(&gpu, &op, one_rounding(dtype), 2, &given);
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn swiglu_both_ways() {
    let gpu = open();
    for dtype in FLOATS {
        for (rows, ffn) in [(1, 64), (1000, 3584), (7, 100), (33, 4096), (5, 2731)] {
            check(&gpu, &Op::SwigluForward(swiglu::Forward { rows, ffn, dtype }), one_rounding(dtype));
            check(&gpu, &Op::SwigluBackward(swiglu::Backward { rows, ffn, dtype }), one_rounding(dtype));
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn sums_casts_and_transposes_are_exact() {
    let gpu = open();
    for dtype in FLOATS {
        for (rows, dim) in SHAPES {
            check(&gpu, &Op::Add(residual::Add { rows, dim, dtype }), Near::Exact);
        }
    }
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::E4m3, Dtype::E5m2] {
        for (rows, cols) in [(1, 1), (1, 64), (1000, 896), (37, 53), (130, 66), (128, 256), (144, 1040), (4096, 36)] {
            check(&gpu, &Op::Transpose(transpose::Transpose { rows, cols, dtype }), Near::Exact);
        }
        for to in [Dtype::F32, Dtype::Bf16, Dtype::E4m3, Dtype::E5m2] {
            for shape in [vec![1], vec![37, 53], vec![896, 64]] {
                check(&gpu, &Op::Cast(cast::Cast { shape, from: dtype, to }), Near::Exact);
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn embedding_both_ways() {
    let gpu = open();
    for dtype in FLOATS {
        // Few distinct ids, so that many tokens meet in one row; and many, most of them met once.
        for (tokens, vocab, dim, distinct) in
            [(1, 10, 64, 10), (1000, 300, 896, 3), (2048, 50304, 1024, 50257), (257, 64, 100, 60), (700, 7, 33, 1)]
        {
            let forward = Op::EmbeddingForward(embedding::Forward { tokens, vocab, dim, dtype });
            let backward = Op::EmbeddingBackward(embedding::Backward { tokens, vocab, dim, dtype });
            if dim * dtype.bytes() % 2 == 0 {
                check_with(&gpu, &forward, Near::Exact, distinct, &HashMap::new());
            }
            // The sum's order is the reference's own.
            check_with(&gpu, &backward, Near::Exact, distinct, &HashMap::new());
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn cross_entropy_both_ways_and_its_mean() {
    let gpu = open();
    for dtype in FLOATS {
        for (rows, vocab, padded) in [(1, 10, 16), (100, 50257, 50304), (33, 1000, 1000), (7, 101, 103)] {
            let forward = Op::CrossEntropyForward(cross_entropy::Forward { rows, vocab, padded, dtype });
            let backward = Op::CrossEntropyBackward(cross_entropy::Backward { rows, vocab, padded, dtype });
            check_with(&gpu, &forward, Near::Norm(1e-5), vocab, &HashMap::new());
            check_with(&gpu, &backward, one_rounding(dtype), vocab, &HashMap::new());
        }
    }
    for rows in [1, 7, 1000, 32768] {
        check(&gpu, &Op::MeanLoss(cross_entropy::Mean { rows }), Near::Norm(1e-6));
    }
}

#[test]
#[ignore = "needs a GPU"]
fn gradient_norm_and_clipping() {
    let gpu = open();
    for dtype in FLOATS {
        for shape in [vec![1], vec![7], vec![896, 3584], vec![50304, 64], vec![33, 5]] {
            check(&gpu, &Op::SumSquares(gradient::SumSquares { shape, dtype }), Near::Norm(1e-6));
        }
    }
    for (count, max_norm) in [(1, 1.0), (300, 0.5), (300, 1e9), (5, 0.0)] {
        check(&gpu, &Op::ClipScale(gradient::ClipScale { count, max_norm }), Near::Norm(1e-6));
    }
    // A gradient that is not a number must not be clipped away.
    let given = HashMap::from([("sum1", vec![f32::NAN])]);
    let got =
        check_with(&gpu, &Op::ClipScale(gradient::ClipScale { count: 2, max_norm: 1.0 }), Near::Norm(1e-6), 2, &given);
    assert!(got[2].view().values()[0].is_nan());
}

#[test]
#[ignore = "needs a GPU"]
fn adamw_in_every_mixture_of_dtypes() {
    let gpu = open();
    for gradient in FLOATS {
        for state in FLOATS {
            for copy in [None, Some(Dtype::Bf16), Some(Dtype::F32)] {
                for (shape, warmup) in [(vec![1], 0), (vec![896, 65], 100), (vec![1003], 2)] {
                    let (learning_rate, weight_decay) = (3e-3, 0.1);
                    let op = adamw::AdamW { shape, gradient, state, copy, learning_rate, warmup, weight_decay };
                    check(&gpu, &Op::AdamW(op), one_rounding(state));
                }
            }
        }
    }
    check(&gpu, &Op::Advance(adamw::Advance {}), Near::Exact);
}
