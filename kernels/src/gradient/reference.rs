//! What the gradient norm means: sums in fp64, so that the order of summation does not show.

use rayon::prelude::*;

use super::{ClipScale, SumSquares};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;
use crate::tensor::CHUNK;

impl Reference for SumSquares {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let g = io.read("g");
        // Partial sums over chunks of a fixed length, added in their order: the result does not depend on the threads.
        let sums: Vec<f64> = g.par_chunks(CHUNK).map(|g| g.iter().map(|g| g.f64() * g.f64()).sum()).collect();
        io.output("sum")[0] = R::of_f64(sums.into_iter().sum());
    }
}

impl Reference for ClipScale {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let sum: f64 = (0..self.count).map(|index| io.read(&format!("sum{index}"))[0].f64()).sum();
        let norm = sum.sqrt();
        let off = self.max_norm == 0.0;
        io.output("norm")[0] = R::of_f64(norm);
        let scale = self.max_norm / (norm + 1e-6);
        // Not `min`, which would make a 1 of NaN: as in torch, a broken gradient breaks the update for all to see.
        io.output("scale")[0] = R::of_f64(if off || scale > 1.0 { 1.0 } else { scale });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::op::Op;
    use crate::testing::{Random, Tensors, assert_close, dot};

    #[test]
    fn squares_are_summed_in_fp64() {
        let op = |len: usize, dtype| Op::SumSquares(SumSquares { shape: vec![len], dtype });
        let mut small = Tensors::<f32>::new().with("g", Dtype::Bf16, &[3.0, -4.0, 0.5]);
        assert_eq!(small.run(&op(3, Dtype::Bf16)).get("sum"), [25.25]);
        // In fp32 the ones would vanish beside 2^26.
        let mut values = vec![1.0; 100_001];
        values[0] = 8192.0;
        let mut long = Tensors::<f32>::new().with("g", Dtype::F32, &values);
        assert_eq!(long.run(&op(100_001, Dtype::F32)).get("sum"), [67_108_864.0 + 100_000.0]);
        let values = Random::new(1).normals(50_000);
        let mut random = Tensors::<f64>::new().with("g", Dtype::F32, &values);
        assert_close(&random.run(&op(50_000, Dtype::F32)).get("sum"), &[dot(&values, &values)], 1e-13);
    }

    #[test]
    fn the_sum_does_not_depend_on_the_threads() {
        let values = Random::new(2).normals(100_000);
        let sum = |threads: usize| {
            let mut tensors = Tensors::<f64>::new().with("g", Dtype::F32, &values);
            let op = Op::SumSquares(SumSquares { shape: vec![100_000], dtype: Dtype::F32 });
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| tensors.run(&op).get("sum")[0].to_bits())
        };
        assert_eq!([sum(1), sum(2), sum(7)], [sum(3); 3]);
    }

    #[test]
    fn gradients_are_clipped_to_the_largest_norm() {
        // sums, largest norm, norm, scale
        let cases: &[(&[f64], f64, f64, f64)] = &[
            (&[9.0, 16.0], 1.0, 5.0, 1.0 / (5.0 + 1e-6)),
            (&[9.0, 16.0], 10.0, 5.0, 1.0),
            (&[9.0, 16.0], 0.0, 5.0, 1.0),
            (&[0.0], 1.0, 0.0, 1.0),
            (&[f64::INFINITY], 1.0, f64::INFINITY, 0.0),
        ];
        for &(sums, max_norm, norm, scale) in cases {
            let mut tensors = Tensors::<f64>::new();
            for (index, sum) in sums.iter().enumerate() {
                tensors.put(&format!("sum{index}"), Dtype::F32, &[*sum]);
            }
            tensors.run(&Op::ClipScale(ClipScale { count: sums.len(), max_norm }));
            assert_eq!((tensors.get("norm")[0], tensors.get("scale")[0]), (norm, scale), "{sums:?} {max_norm}");
        }
    }

    #[test]
    fn a_broken_gradient_stays_broken() {
        for (max_norm, broken) in [(1.0, true), (0.0, false)] {
            let mut tensors = Tensors::<f32>::new().with("sum0", Dtype::F32, &[f64::NAN]);
            tensors.run(&Op::ClipScale(ClipScale { count: 1, max_norm }));
            assert!(tensors.get("norm")[0].is_nan());
            assert_eq!(tensors.get("scale")[0].is_nan(), broken);
        }
    }
}
