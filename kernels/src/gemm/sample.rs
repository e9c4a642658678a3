//! Single elements of a product in fp64.

use super::{Gemm, Operand};
use crate::precision::Granularity;
use crate::sample::{Accumulation, Pieces, Sampled, rounded_tolerance};

/// Elements whose rows and columns are fetched at once: bounds the host's memory (k doubles for each side of each).
const AT_ONCE: usize = 64;

/// Elements along a side of a block that shares a scale.
const BLOCK: usize = 128;

impl Gemm {
    /// The four corners (the last partial tile among them) and random elements.
    pub(crate) fn sample<P: Pieces>(
        &self,
        count: usize,
        below: &mut dyn FnMut(usize) -> usize,
        pieces: &mut P,
    ) -> Result<Vec<Sampled>, P::Error> {
        let (m, n) = (self.m, self.n);
        let mut at = vec![(0, 0), (0, n - 1), (m - 1, 0), (m - 1, n - 1)];
        while at.len() < count {
            at.push((below(m), below(n)));
        }
        self.sample_at(&at, pieces)
    }

    /// The elements at these rows and columns.
    pub(crate) fn sample_at<P: Pieces>(&self, at: &[(usize, usize)], pieces: &mut P) -> Result<Vec<Sampled>, P::Error> {
        let mut found = Vec::with_capacity(at.len());
        for at in at.chunks(AT_ONCE) {
            found.extend(self.elements(at, pieces)?);
        }
        Ok(found)
    }

    fn elements<P: Pieces>(&self, at: &[(usize, usize)], pieces: &mut P) -> Result<Vec<Sampled>, P::Error> {
        let (n, k) = (self.n, self.k);
        // Each row and column is fetched once, however many elements share it.
        let distinct = |of: fn(&(usize, usize)) -> usize| {
            let mut all: Vec<usize> = at.iter().map(of).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let (rows, cols) = (distinct(|at| at.0), distinct(|at| at.1));
        let a_scale = self.a.scaling.map(|_| 2);
        let b_scale = self.b.scaling.map(|_| 2 + usize::from(a_scale.is_some()));
        let c = 2 + usize::from(a_scale.is_some()) + usize::from(b_scale.is_some());
        let d = c + usize::from(self.accumulate);
        let a = dequantised(pieces, (0, a_scale), self.a, (self.m, k), &rows)?;
        let b = dequantised(pieces, (1, b_scale), self.b, (n, k), &cols)?;
        let places: Vec<usize> = at.iter().map(|(row, col)| row * n + col).collect();
        let addends = if self.accumulate { pieces.pieces(c, &places, 1, 1)? } else { vec![0.0; at.len()] };
        let results = pieces.pieces(d, &places, 1, 1)?;
        let accumulation = Accumulation::of(self.a.dtype, self.fast_accumulation);
        let element = |index: usize| {
            let (row, col) = at[index];
            let (a, b) =
                (&a[rows.partition_point(|r| *r < row) * k..][..k], &b[cols.partition_point(|c| *c < col) * k..][..k]);
            let (product, error) = accumulation.sum(a.iter().zip(b).map(|(a, b)| a * b));
            let expected = product + addends[index];
            // Scales and C meet the sum in fp32: three roundings.
            let error = error + 3.0 * 2f64.powi(-24) * (product.abs() + expected.abs());
            let tolerance = rounded_tolerance(self.d, expected, error);
            Sampled { operand: "d", element: places[index], found: results[index], expected, tolerance }
        };
        Ok((0..at.len()).map(element).collect())
    }
}

/// Rows of an operand with their scales applied, each of k values.
fn dequantised<P: Pieces>(
    pieces: &mut P,
    (operand, scale): (usize, Option<usize>),
    spec: Operand,
    (height, k): (usize, usize),
    rows: &[usize],
) -> Result<Vec<f64>, P::Error> {
    let mut values = if spec.transposed {
        pieces.pieces(operand, rows, height, k)?
    } else {
        let starts: Vec<usize> = rows.iter().map(|row| row * k).collect();
        pieces.pieces(operand, &starts, 1, k)?
    };
    if let (Some(scale), Some(granularity)) = (scale, spec.scaling) {
        let per_row = k.div_ceil(BLOCK);
        let start = |row: &usize| match granularity {
            Granularity::Tensor => 0,
            Granularity::Row => *row,
            Granularity::Block1x128 => row * per_row,
            Granularity::Block128x128 => row / BLOCK * per_row,
        };
        let (len, covered) = match granularity {
            Granularity::Tensor | Granularity::Row => (1, k),
            Granularity::Block1x128 | Granularity::Block128x128 => (per_row, BLOCK),
        };
        let starts: Vec<usize> = rows.iter().map(start).collect();
        let scales = pieces.pieces(scale, &starts, 1, len)?;
        for (values, scales) in values.chunks_exact_mut(k).zip(scales.chunks_exact(len)) {
            for (values, scale) in values.chunks_mut(covered).zip(scales) {
                values.iter_mut().for_each(|value| *value *= scale);
            }
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use crate::dtype::Dtype;
    use crate::gemm::{Gemm, Operand, scale_shape};
    use crate::op::{Op, Spec};
    use crate::precision::Granularity::{self, Block1x128, Block128x128, Row, Tensor};
    use crate::sample::tests::{sampled, worst};
    use crate::testing::{Random, Tensors};

    /// Random operands of a product, its result beside them.
    fn run(gemm: &Gemm) -> Tensors<f32> {
        let mut random = Random::new(41);
        let mut tensors = Tensors::new();
        for param in Op::Gemm(gemm.clone()).signature() {
            // Scales of very different size: one that reaches the wrong row or block shows.
            let values: Vec<f64> = match param.name.as_ref() {
                "a_scale" | "b_scale" => {
                    (0..param.elements()).map(|_| f64::from(1 << (random.next() % 5)) / 8.0).collect()
                }
                _ => random.normals(param.elements()),
            };
            tensors.put(&param.name, param.dtype, &values);
        }
        tensors.run(&Op::Gemm(gemm.clone()));
        tensors
    }

    fn gemm(a: Operand, b: Operand, d: Dtype) -> Gemm {
        Gemm { m: 144, n: 160, k: 272, a, b, d, accumulate: false, fast_accumulation: false }
    }

    fn cases() -> Vec<Gemm> {
        let mut cases = Vec::new();
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for (at, bt) in [(false, false), (true, false), (false, true), (true, true)] {
                cases.push(gemm(Operand::plain(dtype, at), Operand::plain(dtype, bt), dtype));
            }
        }
        let pairs: [(Granularity, Granularity); 5] = [
            (Tensor, Tensor),
            (Row, Row),
            (Block1x128, Block1x128),
            (Block1x128, Block128x128),
            (Block128x128, Block1x128),
        ];
        for (a, b) in pairs {
            cases.push(gemm(Operand::scaled(Dtype::E5m2, a), Operand::scaled(Dtype::E4m3, b), Dtype::Bf16));
        }
        let accumulating = cases.iter().map(|gemm| Gemm { accumulate: true, ..gemm.clone() }).collect::<Vec<_>>();
        cases.extend(accumulating);
        cases
    }

    #[test]
    fn right_products_hold_with_room_to_spare_and_no_more() {
        for gemm in cases() {
            let op = Op::Gemm(gemm.clone());
            let found = sampled(&op, &run(&gemm), 256);
            assert_eq!(found.len(), 256);
            let worst = worst(&found);
            assert!(worst <= 1.0, "{gemm:?}: {worst}");
            // The result's own rounding is most of the tolerance of bf16, so it must be seen in it.
            if gemm.d == Dtype::Bf16 && !gemm.a.dtype.is_fp8() {
                assert!(worst > 0.3, "{gemm:?}: the tolerance is {} times what occurs", 1.0 / worst);
            }
        }
    }

    #[test]
    fn tolerances_stay_small_against_the_result() {
        for gemm in cases() {
            let found = sampled(&Op::Gemm(gemm.clone()), &run(&gemm), 256);
            let rms = (found.iter().map(|e| e.expected * e.expected).sum::<f64>() / 256.0).sqrt();
            let largest = found.iter().map(|e| e.tolerance).fold(0.0, f64::max);
            let share = if gemm.a.dtype.is_fp8() {
                0.06
            } else if gemm.d == Dtype::Bf16 {
                0.02
            } else {
                1e-4
            };
            assert!(largest < share * rms, "{gemm:?}: {largest} of {rms}");
        }
    }

    /// What is wrong, and how the tensors of a right product become those of a wrong one.
    type Break = (&'static str, fn(&Gemm, &mut Tensors<f32>));

    fn scaled_by(tensors: &mut Tensors<f32>, name: &str, factor: f64) {
        let dtype = tensors.buffer(name).view().dtype();
        let values: Vec<f64> = tensors.get(name).iter().map(|value| value * factor).collect();
        tensors.put(name, dtype, &values);
    }

    /// The result of another product in place of this one's.
    fn result_of(other: &Gemm, tensors: &mut Tensors<f32>) {
        let mut theirs = tensors.clone();
        theirs.run(&Op::Gemm(other.clone()));
        tensors.insert("d", theirs.buffer("d").clone());
    }

    #[test]
    fn wrong_products_are_found() {
        let breaks: &[Break] = &[
            ("a scale that is off by an eighth", |_, tensors| scaled_by(tensors, "d", 1.125)),
            ("the wrong sign", |_, tensors| scaled_by(tensors, "d", -1.0)),
            ("a kernel that never ran", |_, tensors| scaled_by(tensors, "d", 0.0)),
            ("the last slab of k left out", |gemm, tensors| {
                let keep = gemm.k - 32;
                let values: Vec<f64> = tensors.get("a");
                let mut short = tensors.clone();
                let cut = |index: usize| if gemm.a.transposed { index / gemm.m } else { index % gemm.k };
                let left: Vec<f64> =
                    values.iter().enumerate().map(|(i, v)| if cut(i) < keep { *v } else { 0.0 }).collect();
                short.put("a", gemm.a.dtype, &left);
                short.run(&Op::Gemm(gemm.clone()));
                tensors.insert("d", short.buffer("d").clone());
            }),
            ("a missing C, or one too many", |gemm, tensors| {
                let other = Gemm { accumulate: !gemm.accumulate, ..gemm.clone() };
                if other.accumulate {
                    tensors.put("c", gemm.d, &vec![0.5; gemm.m * gemm.n]);
                }
                result_of(&other, tensors);
            }),
            ("one row that is another's", |gemm, tensors| {
                let mut values = tensors.get("d");
                values.copy_within((gemm.m - 2) * gemm.n..(gemm.m - 1) * gemm.n, (gemm.m - 1) * gemm.n);
                tensors.put("d", gemm.d, &values);
            }),
        ];
        for gemm in cases() {
            for (what, change) in breaks {
                let mut tensors = run(&gemm);
                change(&gemm, &mut tensors);
                let found = sampled(&Op::Gemm(gemm.clone()), &tensors, 256);
                assert!(worst(&found) > 1.0, "{gemm:?}: {what} was not found");
            }
        }
    }

    #[test]
    fn a_swapped_operand_a_dropped_transposition_and_a_wrong_scale_shape_are_found() {
        // Square, so that every shape still fits.
        let square = |gemm: Gemm| Gemm { m: 256, n: 256, k: 256, ..gemm };
        let plain =
            |at, bt| square(gemm(Operand::plain(Dtype::Bf16, at), Operand::plain(Dtype::Bf16, bt), Dtype::Bf16));
        let right = plain(false, true);
        for wrong in [plain(true, true), plain(false, false), plain(true, false)] {
            let mut tensors = run(&right);
            result_of(&wrong, &mut tensors);
            assert!(worst(&sampled(&Op::Gemm(right.clone()), &tensors, 256)) > 1.0, "{wrong:?}");
        }
        let fp8 = |granularity| {
            square(gemm(
                Operand::scaled(Dtype::E4m3, granularity),
                Operand::scaled(Dtype::E4m3, granularity),
                Dtype::Bf16,
            ))
        };
        let right = fp8(Row);
        let mut tensors = run(&right);
        // A and B change places: the result is transposed.
        let (a, b, a_scale, b_scale) =
            (tensors.get("a"), tensors.get("b"), tensors.get("a_scale"), tensors.get("b_scale"));
        let mut swapped = tensors.clone();
        swapped.put("a", Dtype::E4m3, &b);
        swapped.put("b", Dtype::E4m3, &a);
        swapped.put("a_scale", Dtype::F32, &b_scale);
        swapped.put("b_scale", Dtype::F32, &a_scale);
        swapped.run(&Op::Gemm(right.clone()));
        tensors.insert("d", swapped.buffer("d").clone());
        assert!(worst(&sampled(&Op::Gemm(right.clone()), &tensors, 256)) > 1.0);
        // One scale for all where every row has its own.
        let wrong = fp8(Tensor);
        let mut tensors = run(&right);
        let mut theirs = tensors.clone();
        theirs.put("a_scale", Dtype::F32, &[a_scale[0]]);
        theirs.put("b_scale", Dtype::F32, &[b_scale[0]]);
        theirs.run(&Op::Gemm(wrong));
        tensors.insert("d", theirs.buffer("d").clone());
        assert!(worst(&sampled(&Op::Gemm(right.clone()), &tensors, 256)) > 1.0);
        assert_eq!(right.signature()[2].shape, scale_shape(Row, 256, 256));
    }
}
