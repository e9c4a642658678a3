//! What rotary positions mean, in plain loops.

use rayon::prelude::*;

use super::{BASE, Rope};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;

/// The tables `cos` and `sin`, each (S, hd/2): the angle of position p and pair i is `p · BASE^(−2i/hd)`, in fp64.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "positions are far below 2^53")]
pub fn tables<R: Real>(seq: usize, head_dim: usize) -> (Vec<R>, Vec<R>) {
    let angle = |position: usize, pair: usize| position as f64 * BASE.powf(-2.0 * pair as f64 / head_dim as f64);
    let angles: Vec<f64> = (0..seq).flat_map(|p| (0..head_dim / 2).map(move |i| angle(p, i))).collect();
    (angles.iter().map(|a| R::of_f64(a.cos())).collect(), angles.iter().map(|a| R::of_f64(a.sin())).collect())
}

impl Reference for Rope {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (cos, sin) = (io.read("cos"), io.read("sin"));
        let mut qkv = io.update("qkv");
        let (half, width) = (self.head_dim / 2, self.heads * self.head_dim);
        qkv.par_chunks_exact_mut(3 * width).enumerate().for_each(|(row, values)| {
            let position = row % self.seq;
            let (cos, sin) = (&cos[position * half..][..half], &sin[position * half..][..half]);
            // Queries and keys lie before the values.
            for head in values[..2 * width].chunks_exact_mut(self.head_dim) {
                let (first, second) = head.split_at_mut(half);
                for i in 0..half {
                    let sin = if self.backward { -sin[i] } else { sin[i] };
                    let (x, y) = (first[i], second[i]);
                    first[i] = x * cos[i] - y * sin;
                    second[i] = y * cos[i] + x * sin;
                }
            }
        });
    }
}
