//! What RMSNorm means, in plain loops.

use rayon::prelude::*;

use super::{Backward, EPSILON, Forward};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;

/// Rows that share one partial sum of `dw`: fixed, so that the result does not depend on the number of threads.
const ROWS_PER_SUM: usize = 64;

fn width<R: Real>(dim: usize) -> R {
    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^53")]
    R::of_f64(dim as f64)
}

impl Reference for Forward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (x, w) = (io.read("x"), io.read("w"));
        let (mut y, mut rstd) = (io.output("y"), io.output("rstd"));
        let rows = x.par_chunks_exact(self.dim).zip(y.par_chunks_exact_mut(self.dim)).zip(rstd.par_iter_mut());
        rows.for_each(|((x, y), rstd)| {
            let squares: R = x.iter().map(|&x| x * x).sum();
            *rstd = (squares / width(self.dim) + R::of(EPSILON)).sqrt().recip();
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(w.iter()) {
                *y = x * *rstd * w;
            }
        });
    }
}

impl Reference for Backward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (x, w, rstd, dy) = (io.read("x"), io.read("w"), io.read("rstd"), io.read("dy"));
        let (mut dx, mut dw) = (io.output("dx"), io.output("dw"));
        let group = ROWS_PER_SUM * self.dim;
        let groups = x.par_chunks(group).zip(dy.par_chunks(group)).zip(dx.par_chunks_mut(group));
        let sums: Vec<Vec<R>> = groups
            .zip(rstd.par_chunks(ROWS_PER_SUM))
            .map(|(((x, dy), dx), rstd)| {
                let mut sum = vec![R::zero(); self.dim];
                let rows = x.chunks_exact(self.dim).zip(dy.chunks_exact(self.dim)).zip(dx.chunks_exact_mut(self.dim));
                for (((x, dy), dx), &rstd) in rows.zip(rstd) {
                    let mut dot = R::zero();
                    for i in 0..self.dim {
                        let normed = x[i] * rstd;
                        dot += dy[i] * w[i] * normed;
                        sum[i] += dy[i] * normed;
                    }
                    let mean = dot / width(self.dim);
                    for i in 0..self.dim {
                        dx[i] = rstd * (dy[i] * w[i] - x[i] * rstd * mean);
                    }
                }
                sum
            })
            .collect();
        dw.fill(R::zero());
        for sum in sums {
            for (dw, sum) in dw.iter_mut().zip(sum) {
                *dw += sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::op::Op;
    use crate::testing::{Random, Tensors, assert_close, assert_gradient, dot};

    fn forward(rows: usize, dim: usize, dtype: Dtype) -> Op {
        Op::RmsNormForward(Forward { rows, dim, dtype })
    }

    #[test]
    fn a_row_by_hand() {
        // mean(x²) = (1 + 4 + 4 + 16) / 4 = 6.25, the root is 2.5.
        let mut tensors = Tensors::<f64>::new().with("x", Dtype::F32, &[1.0, -2.0, 2.0, 4.0]).with(
            "w",
            Dtype::F32,
            &[1.0, 1.0, 0.5, 2.0],
        );
        tensors.run(&forward(1, 4, Dtype::F32));
        let rstd = 1.0 / (6.25 + f64::from(EPSILON)).sqrt();
        assert_close(&tensors.get("rstd"), &[rstd], 1e-15);
        assert_close(&tensors.get("y"), &[rstd, -2.0 * rstd, rstd, 8.0 * rstd], 1e-15);
        assert_close(&tensors.get("y"), &[0.4, -0.8, 0.4, 3.2], 1e-5);
    }

    #[test]
    fn a_row_of_zeros_stays_finite() {
        let mut tensors = Tensors::<f32>::new().with("x", Dtype::Bf16, &[0.0; 4]).with("w", Dtype::Bf16, &[1.0; 4]);
        tensors.run(&forward(1, 4, Dtype::Bf16));
        assert_eq!(tensors.get("y"), [0.0; 4]);
        assert_close(&tensors.get("rstd"), &[316.227_77], 1e-6);
    }

    #[test]
    fn the_backward_is_the_gradient_by_x_and_w() {
        // 130 rows: three groups of partial sums, the last not full.
        for (rows, dim) in [(1, 1), (3, 5), (130, 4)] {
            let mut random = Random::new(5);
            let (x, w, dy) = (random.normals(rows * dim), random.normals(dim), random.normals(rows * dim));
            let loss = |x: &[f64], w: &[f64]| {
                let mut tensors = Tensors::<f64>::new().with("x", Dtype::F32, x).with("w", Dtype::F32, w);
                dot(&tensors.run(&forward(rows, dim, Dtype::F32)).get("y"), &dy)
            };
            let mut tensors =
                Tensors::<f64>::new().with("x", Dtype::F32, &x).with("w", Dtype::F32, &w).with("dy", Dtype::F32, &dy);
            tensors.run(&forward(rows, dim, Dtype::F32));
            tensors.run(&Op::RmsNormBackward(Backward { rows, dim, dtype: Dtype::F32 }));
            assert_gradient(&x, &tensors.get("dx"), |x| loss(x, &w));
            assert_gradient(&w, &tensors.get("dw"), |w| loss(&x, w));
        }
    }

    #[test]
    fn bf16_differs_by_its_rounding_only() {
        let (rows, dim) = (7, 96);
        let mut random = Random::new(6);
        let (x, w, dy) = (random.normals(rows * dim), random.normals(dim), random.normals(rows * dim));
        let mut rough = Tensors::<f32>::new();
        let mut exact = Tensors::<f64>::new();
        for (name, values) in [("x", &x), ("w", &w), ("dy", &dy)] {
            rough.put(name, Dtype::Bf16, values);
            let rounded = rough.get(name);
            exact.put(name, Dtype::F32, &rounded);
        }
        rough.run(&forward(rows, dim, Dtype::Bf16));
        rough.run(&Op::RmsNormBackward(Backward { rows, dim, dtype: Dtype::Bf16 }));
        exact.run(&forward(rows, dim, Dtype::F32));
        exact.run(&Op::RmsNormBackward(Backward { rows, dim, dtype: Dtype::F32 }));
        for name in ["y", "dx", "dw"] {
            assert_close(&rough.get(name), &exact.get(name), 1.0 / 256.0);
        }
        assert_close(&rough.get("rstd"), &exact.get("rstd"), 1e-6);
    }
}
