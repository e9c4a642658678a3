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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::op::Op;
    use crate::testing::{Random, Tensors, assert_close, assert_gradient, dot};

    const BATCH: usize = 2;
    const SEQ: usize = 5;
    const HEADS: usize = 3;
    const HEAD_DIM: usize = 8;
    const WIDTH: usize = HEADS * HEAD_DIM;

    fn rope(backward: bool) -> Op {
        let (batch, seq, heads, head_dim) = (BATCH, SEQ, HEADS, HEAD_DIM);
        Op::Rope(Rope { batch, seq, heads, head_dim, dtype: Dtype::F32, backward })
    }

    fn tensors(qkv: &[f64]) -> Tensors<f64> {
        let (cos, sin) = tables::<f64>(SEQ, HEAD_DIM);
        Tensors::new().with("cos", Dtype::F32, &cos).with("sin", Dtype::F32, &sin).with("qkv", Dtype::F32, qkv)
    }

    fn random() -> Vec<f64> {
        Random::new(7).normals(BATCH * SEQ * 3 * WIDTH)
    }

    #[test]
    fn pairs_turn_by_the_angle_of_their_position() {
        // One head of width 4: pairs (0, 2) and (1, 3), at position 1 by 1 and by 1/100 radian.
        let (cos, sin) = tables::<f64>(2, 4);
        assert_close(&cos, &[1.0, 1.0, 1f64.cos(), 0.01f64.cos()], 1e-15);
        assert_close(&sin, &[0.0, 0.0, 1f64.sin(), 0.01f64.sin()], 1e-15);
        let row = [1.0, 0.0, 0.0, 2.0, 0.0, 3.0, 4.0, 0.0, 5.0, 6.0, 7.0, 8.0];
        let mut tensors = Tensors::<f64>::new().with("cos", Dtype::F32, &cos).with("sin", Dtype::F32, &sin).with(
            "qkv",
            Dtype::F32,
            &[row, row].concat(),
        );
        let dtype = Dtype::F32;
        tensors.run(&Op::Rope(Rope { batch: 1, seq: 2, heads: 1, head_dim: 4, dtype, backward: false }));
        let ((s, c), (t, d)) = (1f64.sin_cos(), 0.01f64.sin_cos());
        let turned = [c, -2.0 * t, s, 2.0 * d, -4.0 * s, 3.0 * d, 4.0 * c, 3.0 * t, 5.0, 6.0, 7.0, 8.0];
        assert_close(&tensors.get("qkv"), &[row, turned].concat(), 1e-15);
    }

    #[test]
    fn forward_then_backward_is_nothing_and_lengths_stay() {
        let qkv = random();
        let mut tensors = tensors(&qkv);
        let turned = tensors.run(&rope(false)).get("qkv");
        assert_close(&tensors.run(&rope(true)).get("qkv"), &qkv, 1e-14);
        let moved = turned.iter().zip(&qkv).filter(|(a, b)| a != b).count();
        assert_eq!(moved, BATCH * (SEQ - 1) * 2 * WIDTH, "all but position 0 and the values turn");
        for (turned, old) in turned.chunks(HEAD_DIM).zip(qkv.chunks(HEAD_DIM)) {
            assert_close(&[dot(turned, turned)], &[dot(old, old)], 1e-14);
        }
    }

    #[test]
    fn scores_depend_on_the_distance_only() {
        // The same query and key at every position: turned, their product depends on the distance alone.
        let row = &random()[..3 * WIDTH];
        let turned = tensors(&row.repeat(BATCH * SEQ)).run(&rope(false)).get("qkv");
        let at = |position: usize, third: usize| &turned[(position * 3 + third) * WIDTH..][..HEAD_DIM];
        let score = |query: usize, key: usize| dot(at(query, 0), at(key, 1));
        assert_close(&[score(4, 2), score(2, 0)], &[score(3, 1); 2], 1e-13);
        assert!((score(4, 2) - score(4, 1)).abs() > 1e-3);
    }

    #[test]
    fn the_backward_is_the_gradient() {
        let qkv = random();
        let gradient = Random::new(8).normals(qkv.len());
        let dqkv = tensors(&gradient).run(&rope(true)).get("qkv");
        assert_gradient(&qkv, &dqkv, |qkv| dot(&tensors(qkv).run(&rope(false)).get("qkv"), &gradient));
    }
}
