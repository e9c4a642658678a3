//! Matrix products: every layout, every recipe's operands and scales, with m, n and k all different.

use stepwatch_kernels::Dtype;
use stepwatch_kernels::gemm::{Gemm, Operand};
use stepwatch_kernels::op::Op;
use stepwatch_kernels::precision::{GemmRecipe, Granularity, Precision, Role};

use crate::compare::{Near, check};
use crate::open;

#[test]
#[ignore = "needs a GPU"]
fn plain_products_in_every_layout() {
    let gpu = open();
    for (dtype, near) in [(Dtype::F32, Near::Norm(1e-5)), (Dtype::Bf16, Near::Norm(1e-3))] {
        for (m, n, k) in [(128, 384, 256), (1000, 896, 64), (37, 53, 29), (1, 50304, 64), (896, 1, 1000)] {
            for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
                for accumulate in [false, true] {
                    let (a, b) = (Operand::plain(dtype, a), Operand::plain(dtype, b));
                    let op = Gemm { m, n, k, a, b, d: dtype, accumulate, fast_accumulation: false };
                    check(&gpu, &Op::Gemm(op), near);
                }
            }
        }
    }
    // bf16 operands with an fp32 result.
    let (a, b) = (Operand::plain(Dtype::Bf16, false), Operand::plain(Dtype::Bf16, true));
    let op = Gemm { m: 100, n: 200, k: 300, a, b, d: Dtype::F32, accumulate: false, fast_accumulation: false };
    check(&gpu, &Op::Gemm(op), Near::Norm(1e-5));
}

#[test]
#[ignore = "needs a GPU"]
fn the_products_of_every_fp8_recipe() {
    let gpu = open();
    for precision in Precision::ALL {
        for role in [Role::Forward, Role::InputGradient, Role::WeightGradient] {
            let GemmRecipe::Fp8 { a, b, fast_accumulation } = precision.recipe(role) else { continue };
            let blocks = !matches!(a.granularity, Granularity::Tensor | Granularity::Row);
            let shapes = if blocks {
                // k of a last block that is not full, and of k-blocks that are no multiple of 4.
                vec![(256, 384, 640), (128, 896, 1024), (1024, 256, 128)]
            } else {
                vec![(256, 384, 640), (144, 272, 400), (1008, 896, 64), (16, 3584, 896)]
            };
            for (m, n, k) in shapes {
                for accumulate in [false, true] {
                    let a = Operand::scaled(a.format, a.granularity);
                    let b = Operand::scaled(b.format, b.granularity);
                    let op = Gemm { m, n, k, a, b, d: Dtype::Bf16, accumulate, fast_accumulation };
                    // Hopper's tensor cores keep 14 bits of a sum of FP8 products between promotions.
                    check(&gpu, &Op::Gemm(op), Near::Norm(2e-3));
                }
            }
        }
    }
}
