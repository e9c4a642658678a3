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
