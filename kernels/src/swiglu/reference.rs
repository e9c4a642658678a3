//! What SwiGLU means, in plain loops.

use rayon::prelude::*;

use super::{Backward, Forward};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;

fn sigmoid<R: Real>(x: R) -> R {
    (R::one() + (-x).exp()).recip()
}

impl Reference for Forward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let gate_up = io.read("gate_up");
        let mut h = io.output("h");
        h.par_chunks_exact_mut(self.ffn).zip(gate_up.par_chunks_exact(2 * self.ffn)).for_each(|(h, gate_up)| {
            let (gate, up) = gate_up.split_at(self.ffn);
            for ((h, &gate), &up) in h.iter_mut().zip(gate).zip(up) {
                *h = gate * sigmoid(gate) * up;
            }
        });
    }
}

impl Reference for Backward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (gate_up, dh) = (io.read("gate_up"), io.read("dh"));
        let mut dgate_up = io.output("dgate_up");
        let rows = dgate_up.par_chunks_exact_mut(2 * self.ffn).zip(gate_up.par_chunks_exact(2 * self.ffn));
        rows.zip(dh.par_chunks_exact(self.ffn)).for_each(|((dgate_up, gate_up), dh)| {
            let (gate, up) = gate_up.split_at(self.ffn);
            let (dgate, dup) = dgate_up.split_at_mut(self.ffn);
            for i in 0..self.ffn {
                let s = sigmoid(gate[i]);
                dgate[i] = dh[i] * up[i] * s * (R::one() + gate[i] * (R::one() - s));
                dup[i] = dh[i] * gate[i] * s;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::op::Op;
    use crate::testing::{Random, Tensors, assert_close, assert_gradient, dot};

    fn forward(rows: usize, ffn: usize, dtype: Dtype) -> Op {
        Op::SwigluForward(Forward { rows, ffn, dtype })
    }

    #[test]
    fn a_row_by_hand() {
        // Gates 0, ln 3, −ln 3: sigmoids 1/2, 3/4, 1/4.
        let ln3 = 3f64.ln();
        let mut tensors = Tensors::<f64>::new().with("gate_up", Dtype::F32, &[0.0, ln3, -ln3, 5.0, 2.0, 4.0]);
        assert_close(&tensors.run(&forward(1, 3, Dtype::F32)).get("h"), &[0.0, 1.5 * ln3, -ln3], 1e-15);
        tensors.put("dh", Dtype::F32, &[1.0, 1.0, 2.0]);
        tensors.run(&Op::SwigluBackward(Backward { rows: 1, ffn: 3, dtype: Dtype::F32 }));
        let expected = [2.5, 1.5 * (1.0 + ln3 / 4.0), 2.0 * (1.0 - ln3 * 0.75), 0.0, 0.75 * ln3, -0.5 * ln3];
        assert_close(&tensors.get("dgate_up"), &expected, 1e-15);
    }

    #[test]
    fn large_gates_stay_finite() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let mut tensors = Tensors::<f32>::new().with("gate_up", dtype, &[200.0, -200.0, 2.0, 2.0]);
            assert_eq!(tensors.run(&forward(1, 2, dtype)).get("h"), [400.0, 0.0]);
            tensors.put("dh", dtype, &[1.0, 1.0]);
            tensors.run(&Op::SwigluBackward(Backward { rows: 1, ffn: 2, dtype }));
            assert_eq!(tensors.get("dgate_up"), [2.0, 0.0, 200.0, 0.0]);
        }
    }

    #[test]
    fn the_backward_is_the_gradient() {
        let (rows, ffn) = (4, 7);
        let mut random = Random::new(9);
        let (gate_up, dh) = (random.normals(rows * 2 * ffn), random.normals(rows * ffn));
        let mut tensors = Tensors::<f64>::new().with("gate_up", Dtype::F32, &gate_up).with("dh", Dtype::F32, &dh);
        tensors.run(&Op::SwigluBackward(Backward { rows, ffn, dtype: Dtype::F32 }));
        assert_gradient(&gate_up, &tensors.get("dgate_up"), |gate_up| {
            let mut tensors = Tensors::<f64>::new().with("gate_up", Dtype::F32, gate_up);
            dot(&tensors.run(&forward(rows, ffn, Dtype::F32)).get("h"), &dh)
        });
    }
}
