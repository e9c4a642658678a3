//! What an AdamW update means, in plain loops.

use super::{AdamW, Advance, BETA1, BETA2, EPSILON};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;

impl AdamW {
    /// Learning rate and the two bias corrections `1 − βᵗ` at update `t`, counted from 1.
    fn at(&self, t: i32) -> (f64, f64, f64) {
        let warm = if self.warmup == 0 { 1.0 } else { (f64::from(t) / f64::from(self.warmup)).min(1.0) };
        (self.learning_rate * warm, 1.0 - BETA1.powi(t), 1.0 - BETA2.powi(t))
    }
}

impl Reference for AdamW {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (g, clip, step) = (io.read("g"), io.read("clip")[0], io.integers("step")[0]);
        let (learning_rate, correction1, correction2) = self.at(step + 1);
        let [rate, correction1, correction2, decay] =
            [learning_rate, correction1, correction2, self.weight_decay].map(R::of_f64);
        let [beta1, rest1, beta2, rest2, epsilon] = [BETA1, 1.0 - BETA1, BETA2, 1.0 - BETA2, EPSILON].map(R::of_f64);
        let mut copy = io.has("copy").then(|| io.output("copy"));
        let (mut w, mut m, mut v) = (io.update("w"), io.update("m"), io.update("v"));
        let states = w.iter_mut().zip(m.iter_mut()).zip(v.iter_mut()).zip(g.iter());
        for (((w, m), v), &g) in states {
            let g = g * clip;
            *m = beta1 * *m + rest1 * g;
            *v = beta2 * *v + rest2 * g * g;
            let direction = (*m / correction1) / ((*v / correction2).sqrt() + epsilon);
            *w = *w - rate * (direction + decay * *w);
        }
        if let Some(copy) = &mut copy {
            copy.copy_from_slice(&w);
        }
    }
}

impl Reference for Advance {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let mut step = io.update("step");
        step[0] += R::one();
    }
}
