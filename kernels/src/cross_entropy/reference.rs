//! What cross-entropy means, in plain loops.

use rayon::prelude::*;

use super::{Backward, Forward, Mean};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;

#[expect(clippy::cast_sign_loss, reason = "targets are never negative: the data source makes them")]
const fn column(target: i32) -> usize {
    target as usize
}

#[expect(clippy::cast_precision_loss, reason = "rows are far below 2^53")]
fn count<R: Real>(rows: usize) -> R {
    R::of_f64(rows as f64)
}

impl Reference for Forward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (logits, targets) = (io.read("logits"), io.integers("targets"));
        let (mut loss, mut lse) = (io.output("loss"), io.output("lse"));
        let rows = logits.par_chunks_exact(self.padded).zip(targets).zip(loss.par_iter_mut()).zip(lse.par_iter_mut());
        rows.for_each(|(((logits, &target), loss), lse)| {
            let seen = &logits[..self.vocab];
            let largest = seen.iter().fold(R::neg_infinity(), |a, &b| a.max(b));
            let sum: R = seen.iter().map(|&logit| (logit - largest).exp()).sum();
            *lse = largest + sum.ln();
            *loss = *lse - logits[column(target)];
        });
    }
}

impl Reference for Backward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (targets, lse) = (io.integers("targets"), io.read("lse"));
        let mut logits = io.update("logits");
        let share = count::<R>(self.rows).recip();
        logits.par_chunks_exact_mut(self.padded).zip(targets).zip(lse.par_iter()).for_each(|((row, &target), &lse)| {
            for (v, logit) in row[..self.vocab].iter_mut().enumerate() {
                let hit = if v == column(target) { R::one() } else { R::zero() };
                *logit = ((*logit - lse).exp() - hit) * share;
            }
            row[self.vocab..].fill(R::zero());
        });
    }
}

impl Reference for Mean {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let loss = io.read("loss");
        let sum: f64 = loss.iter().map(|loss| loss.f64()).sum();
        io.output("mean")[0] = R::of_f64(sum) / count(self.rows);
    }
}
