//! What an AdamW update means, in plain loops.

use rayon::prelude::*;

use super::{AdamW, Advance, BETA1, BETA2, EPSILON};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;
use crate::tensor::CHUNK;

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
        let states = w.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
        states.zip(g.par_chunks(CHUNK)).for_each(|(((w, m), v), g)| {
            for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(g) {
                let g = g * clip;
                *m = beta1 * *m + rest1 * g;
                *v = beta2 * *v + rest2 * g * g;
                let direction = (*m / correction1) / ((*v / correction2).sqrt() + epsilon);
                *w = *w - rate * (direction + decay * *w);
            }
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::op::Op;
    use crate::testing::{Random, Tensors, assert_close};

    fn adamw(len: usize, state: Dtype, copy: Option<Dtype>) -> AdamW {
        let (learning_rate, warmup, weight_decay) = (0.1, 2, 0.5);
        AdamW { shape: vec![len], gradient: Dtype::F32, state, copy, learning_rate, warmup, weight_decay }
    }

    fn start(w: &[f64], state: Dtype) -> Tensors<f64> {
        let zeros = vec![0.0; w.len()];
        Tensors::new()
            .with("step", Dtype::I32, &[0.0])
            .with("clip", Dtype::F32, &[0.5])
            .with("w", state, w)
            .with("m", state, &zeros)
            .with("v", state, &zeros)
    }

    #[test]
    fn three_steps_by_hand() {
        let mut tensors = start(&[1.0], Dtype::F32);
        let op = Op::AdamW(adamw(1, Dtype::F32, None));
        // Gradients 2, 2, −2, clipped by half to 1, 1, −1; learning rates 0.05, 0.1, 0.1; worked out by hand:
        // m = 0.1, 0.19, 0.071;  1 − β₁ᵗ = 0.1, 0.19, 0.271;  v̂ = 1 throughout.
        let w1 = 1.0 - 0.05 * (1.0 + 0.5);
        let w2 = w1 - 0.1 * (1.0 + 0.5 * w1);
        let w3 = w2 - 0.1 * (0.071 / 0.271 + 0.5 * w2);
        for (gradient, m, v, w) in [(2.0, 0.1, 0.05, w1), (2.0, 0.19, 0.0975, w2), (-2.0, 0.071, 0.142_625, w3)] {
            tensors.put("g", Dtype::F32, &[gradient]);
            tensors.run(&op).run(&Op::Advance(Advance {}));
            assert_close(&tensors.get("m"), &[m], 1e-15);
            assert_close(&tensors.get("v"), &[v], 1e-15);
            assert_close(&tensors.get("w"), &[w], 2e-8); // ε = 1e-8 is what the hand left out
        }
        assert_close(&[w1, w2, w3], &[0.925, 0.778_75, 0.713_613_238], 1e-9);
        assert_eq!(tensors.get("step"), [3.0]);
    }

    #[test]
    fn warm_up_is_linear_and_ends() {
        // step, warm-up, learning rate over 0.1
        for (step, warmup, share) in [(0, 4, 0.25), (2, 4, 0.75), (3, 4, 1.0), (9, 4, 1.0), (0, 0, 1.0), (0, 1, 1.0)] {
            let spec = AdamW { warmup, ..adamw(1, Dtype::F32, None) };
            assert_close(&[spec.at(step + 1).0], &[0.1 * share], 1e-16);
        }
    }

    #[test]
    fn epsilon_bounds_the_update_of_tiny_gradients() {
        let spec = AdamW { warmup: 0, weight_decay: 0.0, ..adamw(2, Dtype::F32, None) };
        let mut tensors = start(&[1.0, 1.0], Dtype::F32).with("g", Dtype::F32, &[0.0, 2e-8]);
        // Clipped to 1e-8: m̂ / (√v̂ + ε) = 1e-8 / 2e-8.
        assert_close(&tensors.run(&Op::AdamW(spec)).get("w"), &[1.0, 0.95], 1e-14);
    }

    #[test]
    fn a_master_in_fp32_leaves_a_rounded_copy() {
        let op = Op::AdamW(adamw(3, Dtype::F32, Some(Dtype::Bf16)));
        let mut tensors = start(&[1.0, -2.0, 3.0], Dtype::F32).with("g", Dtype::F32, &[1.0, 2.0, -3.0]);
        tensors.run(&op);
        let (w, copy) = (tensors.get("w"), tensors.get("copy"));
        assert_eq!(copy, Tensors::<f64>::new().with("w", Dtype::Bf16, &w).get("w"));
        assert_ne!(copy, w);
    }

    #[test]
    fn bf16_states_are_rounded_after_each_step() {
        let op = Op::AdamW(adamw(1, Dtype::Bf16, None));
        let mut tensors = start(&[1.0], Dtype::Bf16);
        let round = |value: f64| crate::tensor::rounded(Dtype::Bf16, value);
        let (mut w, mut m, mut v) = (1.0, 0.0, 0.0);
        for (t, gradient) in [(1, 2.0), (2, 0.625), (3, -0.5)] {
            tensors.put("g", Dtype::F32, &[gradient]);
            tensors.run(&op).run(&Op::Advance(Advance {}));
            // Written out again, rounding where the states are stored; the update itself sees what is not yet rounded.
            let g = gradient * 0.5;
            let rate = if t == 1 { 0.05 } else { 0.1 };
            (m, v) = (0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g);
            let direction = (m / (1.0 - 0.9f64.powi(t))) / ((v / (1.0 - 0.95f64.powi(t))).sqrt() + 1e-8);
            (w, m, v) = (round(w - rate * (direction + 0.5 * w)), round(m), round(v));
            assert_eq!((tensors.get("w")[0], tensors.get("m")[0], tensors.get("v")[0]), (w, m, v), "step {t}");
        }
    }

    #[test]
    fn every_element_is_updated_alone() {
        let len = 20_000;
        let mut random = Random::new(11);
        let (w, g) = (random.normals(len), random.normals(len));
        let mut all = start(&w, Dtype::F32).with("g", Dtype::F32, &g);
        let updated = all.run(&Op::AdamW(adamw(len, Dtype::F32, None))).get("w");
        for index in [0, 1, 16_383, 16_384, len - 1] {
            let mut one = start(&w[index..=index], Dtype::F32).with("g", Dtype::F32, &g[index..=index]);
            assert_eq!(one.run(&Op::AdamW(adamw(1, Dtype::F32, None))).get("w"), updated[index..=index]);
        }
    }
}
