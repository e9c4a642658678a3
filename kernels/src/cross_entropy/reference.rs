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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::op::Op;
    use crate::testing::{Random, Tensors, assert_close, assert_gradient, dot};

    fn forward(rows: usize, vocab: usize, padded: usize, dtype: Dtype) -> Op {
        Op::CrossEntropyForward(Forward { rows, vocab, padded, dtype })
    }

    fn backward(rows: usize, vocab: usize, padded: usize, dtype: Dtype) -> Op {
        Op::CrossEntropyBackward(Backward { rows, vocab, padded, dtype })
    }

    #[test]
    fn two_rows_by_hand_with_padding() {
        let ln = |value: f64| value.ln();
        // Probabilities (1/6, 2/6, 3/6) and (1/3, 1/3, 1/3); the fourth column is padding and holds a huge logit.
        let logits = [0.0, ln(2.0), ln(3.0), 1e30, 5.0, 5.0, 5.0, -1e30];
        let mut tensors =
            Tensors::<f64>::new().with("logits", Dtype::F32, &logits).with("targets", Dtype::I32, &[1.0, 2.0]);
        tensors.run(&forward(2, 3, 4, Dtype::F32));
        assert_close(&tensors.get("loss"), &[ln(3.0), ln(3.0)], 1e-15);
        assert_close(&tensors.get("lse"), &[ln(6.0), 5.0 + ln(3.0)], 1e-15);
        tensors.run(&Op::MeanLoss(Mean { rows: 2 }));
        assert_close(&tensors.get("mean"), &[ln(3.0)], 1e-15);
        tensors.run(&backward(2, 3, 4, Dtype::F32));
        let (sixth, third) = (1.0 / 6.0, 1.0 / 3.0);
        let expected = [sixth / 2.0, -third, 0.25, 0.0, sixth, sixth, -third, 0.0];
        assert_close(&tensors.get("logits"), &expected, 1e-15);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let mut tensors = Tensors::<f32>::new().with("logits", dtype, &[3e4, 3e4, -3e4, -3e4, -3e4, -3e4]).with(
                "targets",
                Dtype::I32,
                &[0.0, 2.0],
            );
            tensors.run(&forward(2, 3, 3, dtype));
            let shift = tensors.get("logits")[0];
            assert_close(&tensors.get("loss"), &[2f64.ln(), 3f64.ln()], 4e-3);
            assert_close(&tensors.get("lse"), &[shift + 2f64.ln(), -shift + 3f64.ln()], 1e-6);
            let dlogits = tensors.run(&backward(2, 3, 3, dtype)).get("logits");
            assert_close(&dlogits, &[-0.25, 0.25, 0.0, 1.0 / 6.0, 1.0 / 6.0, -1.0 / 3.0], 2e-3);
        }
    }

    #[test]
    fn a_broken_logit_breaks_the_loss() {
        let mut tensors = Tensors::<f32>::new().with("logits", Dtype::Bf16, &[1.0, f64::NAN, 1.0, 1.0]).with(
            "targets",
            Dtype::I32,
            &[0.0, 1.0],
        );
        tensors.run(&forward(2, 2, 2, Dtype::Bf16));
        let loss = tensors.get("loss");
        assert!(loss[0].is_nan() && !loss[1].is_nan());
    }

    #[test]
    fn the_backward_is_the_gradient_of_the_mean() {
        let (rows, vocab, padded) = (5, 11, 16);
        let mut random = Random::new(10);
        let (logits, targets) = (random.normals(rows * padded), random.integers(rows, 11));
        let tensors = Tensors::<f64>::new().with("targets", Dtype::I32, &targets);
        let op = forward(rows, vocab, padded, Dtype::F32);
        let mut full = tensors.clone().with("logits", Dtype::F32, &logits);
        let dlogits = full.run(&op).run(&backward(rows, vocab, padded, Dtype::F32)).get("logits");
        assert_gradient(&logits, &dlogits, |logits| {
            let mut tensors = tensors.clone().with("logits", Dtype::F32, logits);
            tensors.run(&op).run(&Op::MeanLoss(Mean { rows })).get("mean")[0]
        });
        for row in dlogits.chunks(padded) {
            assert_close(&[row.iter().sum()], &[0.0], 1e-15);
            assert_eq!(row[vocab..], [0.0; 5]);
        }
        assert!(dot(&dlogits, &dlogits) > 1e-3);
    }
}
