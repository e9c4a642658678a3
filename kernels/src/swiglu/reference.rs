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
