//! What the residual connection means.

use super::Add;
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;

impl Reference for Add {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (a, b) = (io.read("a"), io.read("b"));
        let mut y = io.output("y");
        for ((y, &a), &b) in y.iter_mut().zip(a.iter()).zip(b.iter()) {
            *y = a + b;
        }
    }
}
