//! What a product means: operands dequantised, summed in the arithmetic type, rounded once.

use std::borrow::Cow;

use rayon::prelude::*;

use super::product::{Matrix, multiply};
use super::{Gemm, Operand};
use crate::io::Io;
use crate::op::Reference;
use crate::precision::Granularity;
use crate::real::Real;
use crate::tensor::CHUNK;

impl Reference for Gemm {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (m, n, k) = (self.m, self.n, self.k);
        let scale = |operand: Operand, name| operand.scaling.map(|granularity| (granularity, io.read(name)));
        let (a_scale, b_scale) = (scale(self.a, "a_scale"), scale(self.b, "b_scale"));
        let a = blockwise(io.read("a"), a_scale.as_ref(), k);
        let b = blockwise(io.read("b"), b_scale.as_ref(), k);
        let addend = self.accumulate.then(|| io.read("c"));
        let mut d = io.output("d");
        let a = Matrix { values: &a, transposed: self.a.transposed };
        let b = Matrix { values: &b, transposed: self.b.transposed };
        multiply(&mut d, (m, n, k), a, b, true);
        // One scale per tensor or row leaves the sum and is applied to it, as the tensor cores' epilogue does.
        if let (Some(a), Some(b)) = (outer(a_scale.as_ref(), m), outer(b_scale.as_ref(), n)) {
            d.par_chunks_exact_mut(n).zip(a).for_each(|(row, a)| {
                row.iter_mut().zip(&b).for_each(|(d, &b)| *d = *d * (a * b));
            });
        }
        if let Some(addend) = addend {
            d.par_chunks_mut(CHUNK).zip(addend.par_chunks(CHUNK)).for_each(|(d, c)| {
                d.iter_mut().zip(c).for_each(|(d, &c)| *d += c);
            });
        }
    }
}

/// Applies scales finer than a row to the operand itself.
fn blockwise<'a, R: Real>(values: Cow<'a, [R]>, scale: Option<&(Granularity, Cow<'_, [R]>)>, k: usize) -> Cow<'a, [R]> {
    let Some((granularity @ (Granularity::Block1x128 | Granularity::Block128x128), scales)) = scale else {
        return values;
    };
    let rows_per_scale = if *granularity == Granularity::Block1x128 { 1 } else { 128 };
    let per_row = k.div_ceil(128);
    let mut values = values.into_owned();
    values.par_chunks_exact_mut(k).enumerate().for_each(|(row, values)| {
        let scales = &scales[row / rows_per_scale * per_row..][..per_row];
        for (block, &scale) in values.chunks_mut(128).zip(scales) {
            block.iter_mut().for_each(|value| *value = *value * scale);
        }
    });
    Cow::Owned(values)
}

/// The scale of each row, where the granularity is a tensor or a row.
fn outer<R: Real>(scale: Option<&(Granularity, Cow<'_, [R]>)>, rows: usize) -> Option<Vec<R>> {
    match scale {
        Some((Granularity::Tensor, scales)) => Some(vec![scales[0]; rows]),
        Some((Granularity::Row, scales)) => Some(scales.to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::gemm::scale_shape;
    use crate::op::Op;
    use crate::precision::{GemmRecipe, Precision, Role, Scaled};
    use crate::quantise::{Amax, Axis, Quantise, Scale, Tiling};
    use crate::testing::{Random, Tensors, assert_close};

    /// `A · Bᵀ (+ C)` of dequantised operands in plain fp64 loops.
    fn plain(gemm: &Gemm, tensors: &Tensors<f32>) -> Vec<f64> {
        let operand = |name: &str, rows: usize, operand: Operand| {
            let values = tensors.get(name);
            let scales = operand.scaling.map(|_| tensors.get(&format!("{name}_scale")));
            let mut out = vec![0.0; rows * gemm.k];
            for row in 0..rows {
                for l in 0..gemm.k {
                    let value = if operand.transposed { values[l * rows + row] } else { values[row * gemm.k + l] };
                    let scale = match (operand.scaling, &scales) {
                        (Some(Granularity::Tensor), Some(scales)) => scales[0],
                        (Some(Granularity::Row), Some(scales)) => scales[row],
                        (Some(Granularity::Block1x128), Some(scales)) => scales[row * gemm.k.div_ceil(128) + l / 128],
                        (Some(Granularity::Block128x128), Some(scales)) => {
                            scales[row / 128 * gemm.k.div_ceil(128) + l / 128]
                        }
                        _ => 1.0,
                    };
                    out[row * gemm.k + l] = value * scale;
                }
            }
            out
        };
        let (a, b) = (operand("a", gemm.m, gemm.a), operand("b", gemm.n, gemm.b));
        let c = if gemm.accumulate { tensors.get("c") } else { vec![0.0; gemm.m * gemm.n] };
        let element = |i: usize, j: usize| -> f64 {
            let (a, b) = (&a[i * gemm.k..][..gemm.k], &b[j * gemm.k..][..gemm.k]);
            a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() + c[i * gemm.n + j]
        };
        (0..gemm.m * gemm.n).map(|index| element(index / gemm.n, index % gemm.n)).collect()
    }

    fn gemm(m: usize, n: usize, k: usize, a: Operand, b: Operand, d: Dtype) -> Gemm {
        Gemm { m, n, k, a, b, d, accumulate: false, fast_accumulation: false }
    }

    #[test]
    fn two_by_two_by_hand() {
        // A = [1 2; 3 4], B = [5 6; 7 8]: A·Bᵀ = [17 23; 39 53].
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
        let (at, bt) = ([1.0, 3.0, 2.0, 4.0], [5.0, 7.0, 6.0, 8.0]);
        for (a, at) in [(a, false), (at, true)] {
            for (b, bt) in [(b, false), (bt, true)] {
                for dtype in [Dtype::F32, Dtype::Bf16] {
                    let mut spec = gemm(2, 2, 2, Operand::plain(dtype, at), Operand::plain(dtype, bt), dtype);
                    let mut tensors = Tensors::<f32>::new().with("a", dtype, &a).with("b", dtype, &b);
                    assert_eq!(tensors.run(&Op::Gemm(spec.clone())).get("d"), [17.0, 23.0, 39.0, 53.0]);
                    spec.accumulate = true;
                    tensors.put("c", dtype, &[1.0, -23.0, 0.0, 0.5]);
                    assert_eq!(tensors.run(&Op::Gemm(spec)).get("d"), [18.0, 0.0, 39.0, 53.5]);
                }
            }
        }
    }

    #[test]
    fn plain_products_of_odd_shapes_in_every_layout() {
        for (m, n, k) in [(1, 1, 1), (5, 3, 7), (33, 65, 17), (64, 48, 200), (130, 70, 90)] {
            let mut random = Random::new(30);
            let (a, b, c) = (random.normals(m * k), random.normals(n * k), random.normals(m * n));
            for (dtype, d) in [(Dtype::F32, Dtype::F32), (Dtype::Bf16, Dtype::F32), (Dtype::Bf16, Dtype::Bf16)] {
                for (at, bt, accumulate) in
                    [(false, false, false), (true, false, true), (false, true, true), (true, true, false)]
                {
                    let (a_operand, b_operand) = (Operand::plain(dtype, at), Operand::plain(dtype, bt));
                    let spec = Gemm { accumulate, ..gemm(m, n, k, a_operand, b_operand, d) };
                    let mut tensors = Tensors::<f32>::new().with("a", dtype, &a).with("b", dtype, &b).with("c", d, &c);
                    let expected = plain(&spec, &tensors);
                    let tolerance = if d == Dtype::Bf16 { 1.0 / 256.0 } else { 1e-6 };
                    assert_close(&tensors.run(&Op::Gemm(spec)).get("d"), &expected, tolerance);
                }
            }
        }
    }

    #[test]
    fn bf16_results_are_rounded_once_after_adding_c() {
        // 256 + 1 + 1: rounding the product before C is added would lose both ones.
        let spec = Gemm {
            accumulate: true,
            ..gemm(1, 1, 2, Operand::plain(Dtype::Bf16, false), Operand::plain(Dtype::Bf16, false), Dtype::Bf16)
        };
        let mut tensors = Tensors::<f32>::new()
            .with("a", Dtype::Bf16, &[256.0, 1.0])
            .with("b", Dtype::Bf16, &[1.0, 1.0])
            .with("c", Dtype::Bf16, &[1.0]);
        assert_eq!(tensors.run(&Op::Gemm(spec)).get("d"), [258.0]);
    }

    /// Casts `x`, (rows, k), as an operand `name`.
    fn cast(tensors: &mut Tensors<f32>, name: &str, x: &[f64], (rows, k): (usize, usize), scaled: Scaled) {
        let Scaled { format, granularity, power_of_two, .. } = scaled;
        let tiling = Tiling { rows, cols: k, granularity, axis: Axis::Rows };
        let scale = format!("{name}_scale");
        tensors.put("x", Dtype::Bf16, x);
        tensors.run(&Op::Amax(Amax { tiling, dtype: Dtype::Bf16 }));
        let shape = scale_shape(granularity, rows, k);
        tensors.run_as(&Op::Scale(Scale { shape, format, power_of_two }), &[("scale", &scale)]);
        let (dtype, row_major, transposed) = (Dtype::Bf16, true, false);
        let quantise = Quantise { tiling, dtype, format, row_major, transposed };
        tensors.run_as(&Op::Quantise(quantise), &[("scale", &scale), ("q", name)]);
    }

    #[test]
    fn every_recipe_and_role_multiplies_the_dequantised_operands() {
        for (m, n, k) in [(16, 32, 48), (144, 160, 272), (128, 16, 256)] {
            for precision in Precision::ALL {
                for role in [Role::Forward, Role::InputGradient, Role::WeightGradient] {
                    let mut random = Random::new(31);
                    // Rows of very different size: a scale that reaches the wrong row or block shows.
                    let mut matrix = |rows: usize| -> Vec<f64> {
                        (0..rows)
                            .flat_map(|row| random.normals(k).into_iter().map(move |x| x * f64::from(1 << (row % 7))))
                            .collect()
                    };
                    let (a, b) = (matrix(m), matrix(n));
                    let mut tensors = Tensors::<f32>::new();
                    let (a_operand, b_operand) = match precision.recipe(role) {
                        GemmRecipe::Plain(dtype) => {
                            tensors.put("a", dtype, &a);
                            tensors.put("b", dtype, &b);
                            (Operand::plain(dtype, false), Operand::plain(dtype, false))
                        }
                        GemmRecipe::Fp8 { a: a_scaled, b: b_scaled, .. } => {
                            cast(&mut tensors, "a", &a, (m, k), a_scaled);
                            cast(&mut tensors, "b", &b, (n, k), b_scaled);
                            let operand = |scaled: Scaled| Operand::scaled(scaled.format, scaled.granularity);
                            (operand(a_scaled), operand(b_scaled))
                        }
                    };
                    for accumulate in [false, true] {
                        tensors.put("c", Dtype::F32, &random.normals(m * n));
                        let spec = Gemm { accumulate, ..gemm(m, n, k, a_operand, b_operand, Dtype::F32) };
                        let expected = plain(&spec, &tensors);
                        let found = tensors.run(&Op::Gemm(spec)).get("d");
                        assert_close(&found, &expected, 1e-6);
                        // Row by row too: rows of small numbers must be as right as the largest.
                        for (found, expected) in found.chunks(n).zip(expected.chunks(n)) {
                            let size = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
                            let off = found.iter().zip(expected).fold(0f64, |a, (f, e)| a.max((f - e).abs()));
                            assert!(off <= 1e-5 * size, "{} {role:?} {m}×{n}×{k}", precision.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_product_does_not_depend_on_the_threads() {
        for (m, n, k) in [(64, 96, 512), (200, 130, 1500), (300, 8, 64)] {
            let mut random = Random::new(32);
            let (a, b) = (random.normals(m * k), random.normals(n * k));
            let run = |threads: usize| {
                let mut tensors = Tensors::<f32>::new().with("a", Dtype::F32, &a).with("b", Dtype::F32, &b);
                let plain = Operand::plain(Dtype::F32, false);
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| tensors.run(&Op::Gemm(gemm(m, n, k, plain, plain, Dtype::F32))).get("d"))
            };
            let one = run(1);
            for threads in [2, 3, 8] {
                assert!(run(threads) == one, "{m}×{n}×{k} on {threads} threads");
            }
        }
    }

    #[test]
    fn what_cannot_run_is_refused_with_its_reason() {
        use Dtype::{Bf16, E4m3, E5m2, F32};
        use Granularity::{Block1x128, Block128x128, Row, Tensor};
        let plain = |dtype| Operand::plain(dtype, false);
        let fp8 = Operand::scaled;
        let turned = Operand { transposed: true, ..fp8(E4m3, Tensor) };
        let unscaled = plain(E4m3);
        let pairs = "scales pair tensor with tensor, row with row, and 1×128 with 1×128 or 128×128";
        let sixteen = "FP8 products need m, n and k in multiples of 16";
        let contiguous = "FP8 operands are stored with the summed dimension contiguous: transpose them first";
        // dims, a, b, message
        type Case = ((usize, usize, usize), Operand, Operand, Option<String>);
        let cases: &[Case] = &[
            ((3, 5, 7), plain(F32), plain(F32), None),
            ((3, 5, 7), plain(Bf16), Operand::plain(Bf16, true), None),
            ((16, 32, 48), fp8(E4m3, Tensor), fp8(E4m3, Tensor), None),
            ((16, 32, 48), fp8(E5m2, Row), fp8(E4m3, Row), None),
            ((16, 32, 48), fp8(E4m3, Block1x128), fp8(E5m2, Block1x128), None),
            ((16, 32, 48), fp8(E4m3, Block1x128), fp8(E4m3, Block128x128), None),
            ((16, 32, 48), fp8(E4m3, Block128x128), fp8(E4m3, Block1x128), None),
            ((3, 5, 7), plain(F32), plain(Bf16), Some("gemm 3×5×7 fp32·bf16: both operands have one dtype".into())),
            (
                (16, 16, 16),
                fp8(E4m3, Tensor),
                plain(Bf16),
                Some("gemm 16×16×16 e4m3·bf16: both operands are FP8 or neither is".into()),
            ),
            (
                (3, 5, 7),
                fp8(F32, Tensor),
                plain(F32),
                Some("gemm 3×5×7 fp32·fp32: only FP8 operands are scaled".into()),
            ),
            ((16, 16, 16), turned, fp8(E4m3, Tensor), Some(format!("gemm 16×16×16 e4m3·e4m3: {contiguous}"))),
            ((16, 16, 16), fp8(E4m3, Tensor), turned, Some(format!("gemm 16×16×16 e4m3·e4m3: {contiguous}"))),
            (
                (16, 16, 16),
                fp8(E5m2, Tensor),
                fp8(E5m2, Tensor),
                Some(
                    "gemm 16×16×16 e5m2·e5m2: E5M2 × E5M2 is not supported by the hardware's library: one side is E4M3"
                        .into(),
                ),
            ),
            ((24, 16, 16), fp8(E4m3, Tensor), fp8(E4m3, Tensor), Some(format!("gemm 24×16×16 e4m3·e4m3: {sixteen}"))),
            ((16, 8, 16), fp8(E4m3, Tensor), fp8(E4m3, Tensor), Some(format!("gemm 16×8×16 e4m3·e4m3: {sixteen}"))),
            ((16, 16, 100), fp8(E4m3, Row), fp8(E4m3, Row), Some(format!("gemm 16×16×100 e4m3·e4m3: {sixteen}"))),
            ((16, 16, 16), fp8(E4m3, Tensor), fp8(E4m3, Row), Some(format!("gemm 16×16×16 e4m3·e4m3: {pairs}"))),
            ((16, 16, 16), fp8(E4m3, Row), fp8(E4m3, Block1x128), Some(format!("gemm 16×16×16 e4m3·e4m3: {pairs}"))),
            (
                (16, 16, 16),
                fp8(E4m3, Block128x128),
                fp8(E4m3, Block128x128),
                Some(format!("gemm 16×16×16 e4m3·e4m3: {pairs}")),
            ),
            ((16, 16, 16), unscaled, fp8(E4m3, Tensor), Some(format!("gemm 16×16×16 e4m3·e4m3: {pairs}"))),
            ((16, 16, 16), unscaled, unscaled, Some(format!("gemm 16×16×16 e4m3·e4m3: {pairs}"))),
        ];
        for ((m, n, k), a, b, message) in cases {
            let found = Op::Gemm(gemm(*m, *n, *k, *a, *b, Bf16)).check().err().map(|error| error.to_string());
            assert_eq!(&found, message);
        }
    }

    #[test]
    fn flops_count_a_multiplication_and_an_addition() {
        let plain = Operand::plain(Dtype::F32, false);
        assert_eq!(Op::Gemm(gemm(3, 5, 7, plain, plain, Dtype::F32)).flops(), 210.0);
    }
}
