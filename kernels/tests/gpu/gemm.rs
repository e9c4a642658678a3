//! Matrix products: every layout, every recipe's operands and scales, with m, n and k all different.

use stepwatch_kernels::Dtype;
use stepwatch_kernels::gemm::search::search;
use stepwatch_kernels::gemm::{Algorithm, Gemm, Operand};
use stepwatch_kernels::gpu::Gpu;
use stepwatch_kernels::gpu::launch::{prepare, scratch_bytes};
use stepwatch_kernels::op::{Op, Param, Spec};
use stepwatch_kernels::precision::{GemmRecipe, Granularity, Precision, Role};
use stepwatch_kernels::tensor::Buffer;

use crate::compare::{Near, Random, check, values};
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

#[test]
#[ignore = "needs a GPU"]
fn searched_algorithms_are_right_and_come_back_bit_for_bit() {
    let plain = |dtype, transposed| Operand::plain(dtype, transposed);
    let scaled = |dtype, granularity| Operand::scaled(dtype, granularity);
    let bf16 = |m, n, k, a: bool, b: bool| Gemm {
        m,
        n,
        k,
        a: plain(Dtype::Bf16, a),
        b: plain(Dtype::Bf16, b),
        d: Dtype::Bf16,
        accumulate: false,
        fast_accumulation: false,
    };
    let fp8 = |m, n, k, a: Dtype, granularity, fast_accumulation| Gemm {
        a: scaled(a, granularity),
        b: scaled(Dtype::E4m3, granularity),
        fast_accumulation,
        ..bf16(m, n, k, false, false)
    };
    let gemms = [
        bf16(2048, 3072, 1024, false, false),
        bf16(3072, 1024, 4096, true, true),
        Gemm { accumulate: true, ..bf16(4096, 1024, 1024, false, true) },
        Gemm {
            a: plain(Dtype::F32, false),
            b: plain(Dtype::F32, false),
            d: Dtype::F32,
            ..bf16(1000, 896, 256, false, false)
        },
        fp8(4096, 8192, 1024, Dtype::E4m3, Granularity::Tensor, true),
        fp8(1024, 3072, 8192, Dtype::E5m2, Granularity::Tensor, false),
        fp8(2048, 3072, 1024, Dtype::E4m3, Granularity::Row, true),
        fp8(2048, 3072, 1024, Dtype::E4m3, Granularity::Block1x128, false),
        Gemm { accumulate: true, ..fp8(2048, 1024, 4096, Dtype::E4m3, Granularity::Tensor, true) },
    ];
    for gemm in gemms {
        let product = gemm.product();
        let found = search(&open(), &gemm).unwrap_or_else(|error| panic!("{product}: {error}")).unwrap();
        let first = found.first_ns.unwrap_or(f64::NAN);
        println!(
            "{product}: {:.1} µs, first {:.1} µs, of {}: {}; dropped {:?}",
            found.ns / 1e3,
            first / 1e3,
            found.candidates,
            found.settings,
            found.dropped
        );
        assert!(found.candidates > 0 && found.ns > 0.0 && !found.settings.is_empty());
        // Pinned in two processes' worth of devices: the same bits, which are right.
        let text = String::from(found.algorithm);
        let runs = [(); 2].map(|()| {
            let gpu = open();
            gpu.pin(&product, Algorithm::try_from(text.clone()).unwrap());
            bits_of(&gpu, &gemm)
        });
        assert!(runs[0] == runs[1], "{product}: the pinned algorithm does not repeat itself");
        let gpu = open();
        gpu.pin(&product, found.algorithm);
        // Each step of a sum that is never promoted cuts off below its 14 bits: the longest of them are 4096 products.
        let near = match (gemm.a.dtype.is_fp8(), gemm.k) {
            (false, _) => 1e-3,
            (true, ..=1024) => 2e-3,
            (true, _) => 4e-3,
        };
        check(&gpu, &Op::Gemm(gemm), Near::Norm(near));
    }
}

#[test]
#[ignore = "needs a GPU"]
fn an_algorithm_of_another_product_is_refused() {
    let operand = Operand::plain(Dtype::Bf16, false);
    let gemm = Gemm {
        m: 256,
        n: 256,
        k: 256,
        a: operand,
        b: operand,
        d: Dtype::Bf16,
        accumulate: false,
        fast_accumulation: false,
    };
    let gpu = open();
    gpu.pin(&gemm.product(), Algorithm::try_from("0".repeat(127) + "9").unwrap());
    let slices: Vec<_> = gemm.signature().iter().map(|param| gpu.allocate(param.bytes()).unwrap()).collect();
    let error = prepare(&gpu, &Op::Gemm(gemm), &slices, &gpu.allocate(0).unwrap()).unwrap_err().to_string();
    assert!(error.contains("cublasLtMatmulAlgoCheck") && error.contains("256×256×256"), "{error}");
}

/// What a product leaves, with operands that are the same each time.
fn bits_of(gpu: &Gpu, gemm: &Gemm) -> Vec<u8> {
    let mut random = Random::new(5);
    let params = gemm.signature();
    let mut upload = |param: &Param| {
        let slice = gpu.allocate(param.bytes()).unwrap();
        gpu.upload_tensor(&slice, Buffer::rounded(param.dtype, &values(param, &mut random, 1)).view()).unwrap();
        slice
    };
    let slices: Vec<_> = params.iter().map(&mut upload).collect();
    let op = Op::Gemm(gemm.clone());
    let scratch = gpu.allocate(scratch_bytes(&op)).unwrap();
    gpu.enqueue(&prepare(gpu, &op, &slices, &scratch).unwrap()).unwrap();
    let d = slices.last().unwrap();
    let mut bytes = vec![0; d.bytes()];
    gpu.download(d, &mut bytes).unwrap();
    bytes
}
