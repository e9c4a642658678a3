//! What a transpose means.

use super::Transpose;
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;

impl Reference for Transpose {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let x = io.read("x");
        let mut y = io.output("y");
        for row in 0..self.rows {
            for col in 0..self.cols {
                y[col * self.rows + row] = x[row * self.cols + col];
            }
        }
    }
}
