//! What the embedding means, in plain loops.

use super::{Backward, Forward};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;

#[expect(clippy::cast_sign_loss, reason = "token ids are never negative: the data source makes them")]
const fn row(id: i32) -> usize {
    id as usize
}

impl Reference for Forward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (ids, table) = (io.integers("ids"), io.read("table"));
        let mut x = io.output("x");
        for (out, &id) in x.chunks_exact_mut(self.dim).zip(ids) {
            out.copy_from_slice(&table[row(id) * self.dim..][..self.dim]);
        }
    }
}

impl Reference for Backward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (ids, dx) = (io.integers("ids"), io.read("dx"));
        let mut dtable = io.update("dtable");
        let mut sums = vec![R::zero(); self.vocab * self.dim];
        for (dx, &id) in dx.chunks_exact(self.dim).zip(ids) {
            for (sum, &dx) in sums[row(id) * self.dim..][..self.dim].iter_mut().zip(dx) {
                *sum += dx;
            }
        }
        for (old, sum) in dtable.iter_mut().zip(sums) {
            *old += sum;
        }
    }
}
