//! What casting to FP8 means, in plain loops.

use rayon::prelude::*;

use super::{Amax, Axis, DelayedScale, Quantise, Record, Scale, Tiling};
use crate::dtype::Dtype;
use crate::fp8;
use crate::io::Io;
use crate::op::Reference;
use crate::precision::{AMAX_EPSILON, Granularity};
use crate::real::Real;
use crate::tensor::{Buffer, CHUNK, ViewMut, same_dtype};
use crate::transpose::reference::transpose;

/// Elements along a side of a block.
const BLOCK: usize = 128;

impl Tiling {
    /// Which scale element (row, col) belongs to.
    pub(super) fn scale_index(&self, row: usize, col: usize) -> usize {
        let (row, col, cols) = match self.axis {
            Axis::Rows => (row, col, self.cols),
            Axis::Columns => (col, row, self.rows),
        };
        match self.granularity {
            Granularity::Tensor => 0,
            Granularity::Row => row,
            Granularity::Block1x128 => row * cols.div_ceil(BLOCK) + col / BLOCK,
            Granularity::Block128x128 => row / BLOCK * cols.div_ceil(BLOCK) + col / BLOCK,
        }
    }
}

/// The scale of an amax. NaN stays NaN: a broken tensor must not look healthy.
fn scale_of<R: Real>(amax: R, format: Dtype, power_of_two: bool) -> R {
    let amax = if amax.f32() < AMAX_EPSILON { AMAX_EPSILON } else { amax.f32() };
    let scale = amax / format.max_finite().unwrap_or(1.0);
    R::of(if power_of_two { next_power_of_two(scale) } else { scale })
}

/// The smallest power of two not below a positive normal value.
fn next_power_of_two(value: f32) -> f32 {
    if !value.is_normal() || value.to_bits() & 0x007f_ffff == 0 {
        return value;
    }
    f32::from_bits((value.to_bits() & 0x7f80_0000) + 0x0080_0000)
}

/// The larger of two, NaN if either is.
fn larger<R: Real>(a: R, b: R) -> R {
    if a.is_nan() || a > b { a } else { b }
}

/// The largest magnitude, in lanes so that it vectorises.
fn largest<R: Real>(values: &[R]) -> R {
    let mut lanes = [R::zero(); 16];
    let mut chunks = values.chunks_exact(16);
    for chunk in &mut chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane = larger(*lane, value.abs()));
    }
    lanes.iter().chain(chunks.remainder()).fold(R::zero(), |a, b| larger(a, b.abs()))
}

impl Reference for Amax {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let x = io.read("x");
        let mut amax = io.output("amax");
        let cols = self.tiling.cols;
        match (self.tiling.granularity, self.tiling.axis) {
            (Granularity::Tensor, _) => {
                amax[0] = x.par_chunks(CHUNK).map(largest).reduce(R::zero, larger);
            }
            (Granularity::Row, Axis::Rows) => {
                amax.par_iter_mut().zip(x.par_chunks_exact(cols)).for_each(|(amax, row)| *amax = largest(row));
            }
            (Granularity::Block1x128, Axis::Rows) => {
                amax.par_chunks_exact_mut(cols.div_ceil(BLOCK)).zip(x.par_chunks_exact(cols)).for_each(
                    |(amax, row)| {
                        amax.iter_mut().zip(row.chunks(BLOCK)).for_each(|(amax, block)| *amax = largest(block));
                    },
                );
            }
            (Granularity::Row | Granularity::Block1x128 | Granularity::Block128x128, _) => self.by_bands(&x, &mut amax),
        }
    }
}

impl Amax {
    /// The granularities that span rows: each band of 128 rows is reduced to one row of magnitudes, and that to its scales.
    fn by_bands<R: Real>(&self, x: &[R], amax: &mut [R]) {
        let Tiling { cols, .. } = self.tiling;
        let bands: Vec<Vec<R>> = x
            .par_chunks(BLOCK * cols)
            .map(|band| {
                let mut out = vec![R::zero(); cols];
                for row in band.chunks_exact(cols) {
                    out.iter_mut().zip(row).for_each(|(out, value)| *out = larger(*out, value.abs()));
                }
                out
            })
            .collect();
        amax.fill(R::zero());
        for (band, values) in bands.into_iter().enumerate() {
            for (col, value) in values.into_iter().enumerate() {
                let out = &mut amax[self.tiling.scale_index(band * BLOCK, col)];
                *out = larger(*out, value);
            }
        }
    }
}

impl Reference for Scale {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let amax = io.read("amax");
        let mut scale = io.output("scale");
        for (scale, &amax) in scale.iter_mut().zip(amax.iter()) {
            *scale = scale_of(amax, self.format, self.power_of_two);
        }
    }
}

impl Reference for DelayedScale {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let history = io.read("history");
        let amax = history.iter().fold(R::zero(), |a, &b| larger(a, b));
        io.output("scale")[0] = scale_of(amax, self.format, false);
    }
}

impl Reference for Record {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (amax, step) = (io.read("amax")[0], io.integers("step")[0]);
        let mut history = io.update("history");
        let slot = usize::try_from(step).unwrap_or_default() % history.len();
        history[slot] = amax;
    }
}

impl Reference for Quantise {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (x, scale) = (io.read("x"), io.read("scale"));
        let Tiling { rows, cols, .. } = self.tiling;
        let inverse: Vec<R> = scale.iter().map(|scale| scale.recip()).collect();
        let mut codes = Buffer::<R>::zeros(self.format, rows * cols);
        match codes.view_mut() {
            ViewMut::E4m3(out) => self.cast(&x, &inverse, out, |value| fp8::e4m3(value.narrow())),
            ViewMut::E5m2(out) => self.cast(&x, &inverse, out, |value| fp8::e5m2(value.narrow())),
            _ => unreachable!("the format is FP8, as `check` demands"),
        }
        if self.transposed {
            same_dtype!(codes.view(), io.view_mut("qt"), |codes, qt| transpose(codes, (rows, cols), qt));
        }
        if self.row_major {
            same_dtype!(codes.view(), io.view_mut("q"), |codes, q| q.copy_from_slice(codes));
        }
    }
}

impl Quantise {
    /// Casts row by row.
    fn cast<R: Real, T: Send>(&self, x: &[R], inverse: &[R], out: &mut [T], to_code: impl Fn(R) -> T + Sync) {
        let Tiling { cols, granularity, axis, .. } = self.tiling;
        out.par_chunks_exact_mut(cols).zip(x.par_chunks_exact(cols)).enumerate().for_each(|(row, (out, x))| {
            let one = |out: &mut [T], x: &[R], inverse: R| {
                out.iter_mut().zip(x).for_each(|(out, &x)| *out = to_code(x * inverse));
            };
            match (granularity, axis) {
                (Granularity::Tensor, _) | (Granularity::Row, Axis::Rows) => {
                    one(out, x, inverse[self.tiling.scale_index(row, 0)]);
                }
                (Granularity::Block1x128, Axis::Rows) | (Granularity::Block128x128, _) => {
                    for (block, (out, x)) in out.chunks_mut(BLOCK).zip(x.chunks(BLOCK)).enumerate() {
                        one(out, x, inverse[self.tiling.scale_index(row, block * BLOCK)]);
                    }
                }
                (Granularity::Row, Axis::Columns) => {
                    out.iter_mut().zip(x).zip(inverse).for_each(|((out, &x), &inverse)| *out = to_code(x * inverse));
                }
                (Granularity::Block1x128, Axis::Columns) => {
                    let per_column = self.tiling.rows.div_ceil(BLOCK);
                    let inverse = inverse[row / BLOCK..].iter().step_by(per_column);
                    out.iter_mut().zip(x).zip(inverse).for_each(|((out, &x), &inverse)| *out = to_code(x * inverse));
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::op::Op;
    use crate::precision::DELAYED_HISTORY;
    use crate::testing::{Random, Tensors};

    const GRANULARITIES: [Granularity; 4] =
        [Granularity::Tensor, Granularity::Row, Granularity::Block1x128, Granularity::Block128x128];
    const FORMATS: [Dtype; 2] = [Dtype::E4m3, Dtype::E5m2];

    fn tilings(rows: usize, cols: usize) -> impl Iterator<Item = Tiling> {
        let axes = [Axis::Rows, Axis::Columns];
        GRANULARITIES.into_iter().flat_map(move |granularity| axes.map(|axis| Tiling { rows, cols, granularity, axis }))
    }

    /// The scale of an element from the words of the specification: the GEMM operand is the tensor or its transpose; a scale
    /// covers all of it, a row of it, 128 elements of a row, or 128 × 128.
    fn scale_of_element(tiling: Tiling, row: usize, col: usize) -> usize {
        let transposed = tiling.axis == Axis::Columns;
        let (row, col) = if transposed { (col, row) } else { (row, col) };
        let width = if transposed { tiling.rows } else { tiling.cols };
        let (height, length) = match tiling.granularity {
            Granularity::Tensor => (usize::MAX, usize::MAX),
            Granularity::Row => (1, usize::MAX),
            Granularity::Block1x128 => (1, 128),
            Granularity::Block128x128 => (128, 128),
        };
        (row / height) * width.div_ceil(length) + col / length
    }

    fn amax_op(tiling: Tiling, dtype: Dtype) -> Op {
        Op::Amax(Amax { tiling, dtype })
    }

    fn scale_op(tiling: Tiling, format: Dtype, power_of_two: bool) -> Op {
        Op::Scale(Scale { shape: tiling.scales(), format, power_of_two })
    }

    fn quantise_op(tiling: Tiling, dtype: Dtype, format: Dtype) -> Op {
        Op::Quantise(Quantise { tiling, dtype, format, row_major: true, transposed: true })
    }

    /// Amax, scale and cast of a tensor.
    fn cast<R: Real>(x: &[f64], tiling: Tiling, dtype: Dtype, format: Dtype, power_of_two: bool) -> Tensors<R> {
        let mut tensors = Tensors::new().with("x", dtype, x);
        tensors
            .run(&amax_op(tiling, dtype))
            .run(&scale_op(tiling, format, power_of_two))
            .run(&quantise_op(tiling, dtype, format));
        tensors
    }

    /// Values over many magnitudes, so that every block has its own scale.
    fn spread(len: usize, seed: u64) -> Vec<f64> {
        let mut random = Random::new(seed);
        (0..len).map(|_| random.normal() * 2f64.powf(6.0 * random.normal())).collect()
    }

    #[test]
    fn every_granularity_and_axis_equals_brute_force() {
        for (rows, cols) in [(1, 1), (3, 5), (128, 128), (129, 127), (70, 300), (300, 70), (260, 131)] {
            let values = spread(rows * cols, 20);
            for (tiling, format) in tilings(rows, cols).flat_map(|tiling| FORMATS.map(|format| (tiling, format))) {
                for dtype in [Dtype::F32, Dtype::Bf16] {
                    let found = cast::<f32>(&values, tiling, dtype, format, false);
                    let x = found.get("x");
                    let count = tiling.scales().iter().product();
                    let mut amax = vec![0f64; count];
                    for (index, value) in x.iter().enumerate() {
                        let scale = scale_of_element(tiling, index / cols, index % cols);
                        amax[scale] = amax[scale].max(value.abs());
                    }
                    assert_eq!(found.get("amax"), amax, "{tiling:?} {dtype}");
                    let largest = f64::from(format.max_finite().unwrap());
                    // fp32 arithmetic, one operation at a time.
                    #[expect(clippy::cast_possible_truncation, reason = "as the reference rounds")]
                    let scale: Vec<f32> = amax.iter().map(|amax| (amax.max(1e-12) / largest) as f32).collect();
                    assert_eq!(found.get("scale"), scale.iter().map(|s| f64::from(*s)).collect::<Vec<_>>());
                    let (q, qt) = (found.get("q"), found.get("qt"));
                    for (index, value) in x.iter().enumerate() {
                        let (row, col) = (index / cols, index % cols);
                        #[expect(clippy::cast_possible_truncation, reason = "as the reference rounds")]
                        let value = *value as f32 * (1.0 / scale[scale_of_element(tiling, row, col)]);
                        let expected = f64::from(crate::tensor::rounded(format, value));
                        assert_eq!(q[index], expected, "{tiling:?} {dtype} ({row}, {col})");
                        assert_eq!(qt[col * rows + row], expected, "{tiling:?} {dtype} ({col}, {row}) transposed");
                    }
                }
            }
        }
    }

    #[test]
    fn one_layout_alone_is_the_same() {
        let tiling = Tiling { rows: 33, cols: 40, granularity: Granularity::Row, axis: Axis::Rows };
        let both = cast::<f32>(&spread(33 * 40, 21), tiling, Dtype::Bf16, Dtype::E4m3, true);
        for (row_major, transposed, name) in [(true, false, "q"), (false, true, "qt")] {
            let mut one = both.clone();
            one.put(name, Dtype::E4m3, &vec![0.0; 33 * 40]);
            let (dtype, format) = (Dtype::Bf16, Dtype::E4m3);
            one.run(&Op::Quantise(Quantise { tiling, dtype, format, row_major, transposed }));
            assert_eq!(one.get(name), both.get(name));
        }
    }

    #[test]
    fn scales_by_hand() {
        // amax, format, power of two, scale
        let cases: &[(f32, Dtype, bool, f32)] = &[
            (448.0, Dtype::E4m3, false, 1.0),
            (896.0, Dtype::E4m3, false, 2.0),
            (57_344.0, Dtype::E5m2, false, 1.0),
            (448.0, Dtype::E4m3, true, 1.0),
            (448.000_03, Dtype::E4m3, true, 2.0),
            (447.0, Dtype::E4m3, true, 1.0),
            (224.0, Dtype::E4m3, true, 0.5),
            (0.0, Dtype::E4m3, false, 1e-12 / 448.0),
            (1e-20, Dtype::E5m2, false, 1e-12 / 57_344.0),
            (f32::MAX, Dtype::E4m3, true, 1.701_411_8e38 / 224.0 * 1.75),
        ];
        for &(amax, format, power_of_two, expected) in cases {
            let mut tensors = Tensors::<f32>::new().with("amax", Dtype::F32, &[f64::from(amax)]);
            let scale = tensors.run(&Op::Scale(Scale { shape: vec![1], format, power_of_two })).get("scale")[0];
            assert_eq!(scale, f64::from(expected), "{amax:e} {format} {power_of_two}");
        }
    }

    #[test]
    fn zeros_have_a_finite_scale_and_stay_zeros() {
        for (tiling, format) in tilings(5, 130).flat_map(|tiling| FORMATS.map(|format| (tiling, format))) {
            let found = cast::<f32>(&[0.0; 5 * 130], tiling, Dtype::Bf16, format, true);
            assert!(found.get("scale").iter().all(|scale| scale.is_finite() && *scale > 0.0));
            assert_eq!(found.get("q"), [0.0; 5 * 130]);
        }
    }

    #[test]
    fn a_nan_breaks_what_shares_its_scale_and_nothing_else() {
        let (rows, cols) = (140, 150);
        for at in [0, 17 * cols + 3, rows * cols - 1] {
            for tiling in tilings(rows, cols) {
                let mut x = spread(rows * cols, 22);
                x[at] = f64::NAN;
                let found = cast::<f32>(&x, tiling, Dtype::F32, Dtype::E4m3, true);
                let broken = scale_of_element(tiling, at / cols, at % cols);
                for (index, scale) in found.get("scale").iter().enumerate() {
                    assert_eq!(scale.is_nan(), index == broken, "{tiling:?} scale {index}");
                }
                for (index, q) in found.get("q").iter().enumerate() {
                    let shares = scale_of_element(tiling, index / cols, index % cols) == broken;
                    assert_eq!(q.is_nan(), shares, "{tiling:?} element {index}");
                }
            }
        }
    }

    #[test]
    fn the_largest_magnitude_does_not_depend_on_the_threads() {
        let x = spread(700 * 90, 23);
        for tiling in tilings(700, 90) {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let found = pool.install(|| cast::<f32>(&x, tiling, Dtype::Bf16, Dtype::E4m3, true));
                (found.get("amax"), found.get("q"), found.get("qt"))
            };
            assert_eq!(run(1), run(5));
        }
    }

    #[test]
    fn delayed_scales_follow_the_last_sixteen_steps() {
        let mut tensors =
            Tensors::<f32>::new().with("history", Dtype::F32, &[0.0; DELAYED_HISTORY]).with("step", Dtype::I32, &[0.0]);
        let mut seen: Vec<f64> = Vec::new();
        for step in 0u32..20 {
            // Step 2 holds the largest, which is forgotten in step 18.
            let amax = if step == 2 { 1000.0 } else { 1.0 + f64::from(step * 7 % 11) };
            seen.push(amax);
            tensors.put("amax", Dtype::F32, &[amax]);
            tensors.put("step", Dtype::I32, &[f64::from(step)]);
            tensors.run(&Op::Record(Record {})).run(&Op::DelayedScale(DelayedScale { format: Dtype::E5m2 }));
            let window = &seen[seen.len().saturating_sub(DELAYED_HISTORY)..];
            let largest = window.iter().fold(0f64, |a, b| a.max(*b));
            #[expect(clippy::cast_possible_truncation, reason = "as the reference rounds")]
            let expected = f64::from(largest as f32 / 57_344.0);
            assert_eq!(tensors.get("scale"), [expected], "step {step}");
            assert_eq!(tensors.get("history")[usize::try_from(step).unwrap() % DELAYED_HISTORY], amax);
        }
    }

    #[test]
    fn a_nan_in_the_history_breaks_the_scale() {
        let mut history = [1.0; DELAYED_HISTORY];
        history[7] = f64::NAN;
        let mut tensors = Tensors::<f32>::new().with("history", Dtype::F32, &history);
        assert!(tensors.run(&Op::DelayedScale(DelayedScale { format: Dtype::E4m3 })).get("scale")[0].is_nan());
    }

    #[test]
    fn casts_that_cannot_be_are_refused() {
        let tiling = Tiling { rows: 4, cols: 8, granularity: Granularity::Tensor, axis: Axis::Rows };
        let spec = |format, row_major| {
            Op::Quantise(Quantise { tiling, dtype: Dtype::Bf16, format, row_major, transposed: false })
        };
        assert!(spec(Dtype::E4m3, true).check().is_ok());
        assert_eq!(
            spec(Dtype::Bf16, true).check().unwrap_err().to_string(),
            "quantise 4×8 to bf16: the format is E4M3 or E5M2"
        );
        assert_eq!(
            spec(Dtype::E5m2, false).check().unwrap_err().to_string(),
            "quantise 4×8 to e5m2: at least one layout is written"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The error of a cast is half a step of the format at the value, or half its smallest step times the scale.
        #[test]
        fn the_error_of_a_cast_is_bounded(
            seed in any::<u64>(), rows in 1usize..150, cols in 1usize..150, which in 0usize..8, five in any::<bool>(),
            power_of_two in any::<bool>(),
        ) {
            let tiling = tilings(rows, cols).nth(which).unwrap();
            let format = FORMATS[usize::from(five)];
            let (relative, smallest) =
                if five { (2f64.powi(-3), 2f64.powi(-16)) } else { (2f64.powi(-4), 2f64.powi(-9)) };
            let found = cast::<f32>(&spread(rows * cols, seed), tiling, Dtype::F32, format, power_of_two);
            let (x, q, scale) = (found.get("x"), found.get("q"), found.get("scale"));
            for (index, (x, q)) in x.iter().zip(q).enumerate() {
                let scale = scale[scale_of_element(tiling, index / cols, index % cols)];
                let bound = (x.abs() * relative).max(smallest * scale / 2.0) * (1.0 + 1e-6);
                prop_assert!((x - q * scale).abs() <= bound, "{} became {} · {}", x, q, scale);
            }
        }

        /// A power of two is at least the exact scale and less than twice it, so nothing saturates and one bit at most is lost.
        #[test]
        fn powers_of_two_never_saturate(amax in 1e-11f32..1e30, five in any::<bool>()) {
            let format = FORMATS[usize::from(five)];
            let largest = format.max_finite().unwrap();
            let (exact, power) = (scale_of(amax, format, false), scale_of(amax, format, true));
            prop_assert!(power >= exact && power < 2.0 * exact);
            prop_assert_eq!(power.to_bits() & 0x007f_ffff, 0);
            prop_assert!(amax * power.recip() <= largest);
        }
    }
}
