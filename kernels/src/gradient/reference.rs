//! What the gradient norm means: sums in fp64, so that the order of summation does not show.

use super::{ClipScale, SumSquares};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;

impl Reference for SumSquares {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let sum: f64 = io.read("g").iter().map(|g| g.f64() * g.f64()).sum();
        io.output("sum")[0] = R::of_f64(sum);
    }
}

impl Reference for ClipScale {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let sum: f64 = (0..self.count).map(|index| io.read(&format!("sum{index}"))[0].f64()).sum();
        let norm = sum.sqrt();
        let off = self.max_norm == 0.0;
        io.output("norm")[0] = R::of_f64(norm);
        io.output("scale")[0] = R::of_f64(if off { 1.0 } else { (self.max_norm / (norm + 1e-6)).min(1.0) });
    }
}
