//! What tiled attention means: online softmax over tiles of keys, probabilities made again in backward.
//! Source: Dao 2023 (FlashAttention-2), algorithms 1 and 2.

use rayon::prelude::*;

use super::heads::Third;
use super::{FlashBackward, FlashForward, Shape};
use crate::gemm::product::{Matrix, multiply};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;
use crate::tensor::rounded;

/// Queries and keys of one tile.
const TILE: usize = 64;

/// The tiles of a sequence: first position and length; the last may be partial.
fn tiles(seq: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..seq).step_by(TILE).map(move |from| (from, TILE.min(seq - from)))
}

fn product<R: Real>(dims: (usize, usize, usize), a: (&[R], bool), b: (&[R], bool)) -> Vec<R> {
    let mut out = vec![R::zero(); dims.0 * dims.1];
    let (a, b) = (Matrix { values: a.0, transposed: a.1 }, Matrix { values: b.0, transposed: b.1 });
    multiply(&mut out, dims, a, b, false);
    out
}

impl Reference for FlashForward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let shape = self.shape;
        let qkv = io.read("qkv");
        let (mut context, mut lse) = (io.output("context"), io.output("lse"));
        let problems = shape.problems();
        let heads: Vec<Vec<R>> = lse
            .par_chunks_exact_mut(shape.seq)
            .zip(&problems)
            .map(|(lse, &at)| forward(shape, &qkv, at, lse))
            .collect();
        for (head, at) in heads.iter().zip(problems) {
            shape.scatter_context(&mut context, at, head);
        }
    }
}

/// One head's context, (S, hd), and its log-sum-exp.
fn forward<R: Real>(shape: Shape, qkv: &[R], at: (usize, usize), lse: &mut [R]) -> Vec<R> {
    let (hd, scale) = (shape.head_dim, shape.scale::<R>());
    let [q, k, v] = [Third::Query, Third::Key, Third::Value].map(|third| shape.gather(qkv, third, at));
    let mut context = vec![R::zero(); shape.seq * hd];
    for (from, rows) in tiles(shape.seq) {
        let mut largest = vec![R::neg_infinity(); rows];
        let mut sum = vec![R::zero(); rows];
        let out = &mut context[from * hd..][..rows * hd];
        for (start, cols) in tiles(shape.seq).take_while(|(start, _)| *start < shape.seen(from + rows - 1)) {
            let (q, k, v) =
                (&q[from * hd..][..rows * hd], &k[start * hd..][..cols * hd], &v[start * hd..][..cols * hd]);
            let mut p = product((rows, cols, hd), (q, false), (k, false));
            for (row, p) in p.chunks_exact_mut(cols).enumerate() {
                // Keys of this tile that the query may see.
                let seen = shape.seen(from + row).saturating_sub(start).min(cols);
                let tile_largest = p[..seen].iter().fold(largest[row], |a, &b| a.max(b * scale));
                let shrink = if seen == 0 { R::one() } else { (largest[row] - tile_largest).exp() };
                p[..seen].iter_mut().for_each(|p| *p = (*p * scale - tile_largest).exp());
                p[seen..].fill(R::zero());
                sum[row] = sum[row] * shrink + p.iter().copied().sum::<R>();
                largest[row] = tile_largest;
                out[row * hd..][..hd].iter_mut().for_each(|out| *out = *out * shrink);
                p.iter_mut().for_each(|p| *p = rounded(shape.dtype, *p));
            }
            let add = product((rows, hd, cols), (&p, false), (v, true));
            out.iter_mut().zip(add).for_each(|(out, add)| *out += add);
        }
        for row in 0..rows {
            out[row * hd..][..hd].iter_mut().for_each(|out| *out = *out / sum[row]);
            lse[from + row] = largest[row] + sum[row].ln();
        }
    }
    context
}

impl Reference for FlashBackward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let shape = self.shape;
        let (qkv, context, lse) = (io.read("qkv"), io.read("context"), io.read("lse"));
        let dcontext = io.read("dcontext");
        let mut dqkv = io.output("dqkv");
        let problems = shape.problems();
        let heads: Vec<[Vec<R>; 3]> = lse
            .par_chunks_exact(shape.seq)
            .zip(&problems)
            .map(|(lse, &at)| backward(shape, (&qkv, &context, &dcontext), lse, at))
            .collect();
        for (shared, at) in heads.chunks(shape.sharing()).zip(problems.chunks(shape.sharing())) {
            for ([dq, ..], at) in shared.iter().zip(at) {
                shape.scatter(&mut dqkv, Third::Query, *at, dq);
            }
            for (third, index) in [(Third::Key, 1), (Third::Value, 2)] {
                let mut sum = shared[0][index].clone();
                for head in &shared[1..] {
                    sum.iter_mut().zip(&head[index]).for_each(|(sum, value)| *sum += *value);
                }
                shape.scatter(&mut dqkv, third, at[0], &sum);
            }
        }
    }
}

/// One head's dQ, dK and dV, each (S, hd).
fn backward<R: Real>(
    shape: Shape,
    (qkv, context, dcontext): (&[R], &[R], &[R]),
    lse: &[R],
    at: (usize, usize),
) -> [Vec<R>; 3] {
    let (hd, scale) = (shape.head_dim, shape.scale::<R>());
    let [q, k, v] = [Third::Query, Third::Key, Third::Value].map(|third| shape.gather(qkv, third, at));
    let (out, dout) = (shape.gather_context(context, at), shape.gather_context(dcontext, at));
    let delta: Vec<R> = out
        .chunks_exact(hd)
        .zip(dout.chunks_exact(hd))
        .map(|(out, dout)| out.iter().zip(dout).map(|(&a, &b)| a * b).sum())
        .collect();
    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![R::zero(); shape.seq * hd]);
    let add = |out: &mut [R], values: Vec<R>| out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
    for (start, cols) in tiles(shape.seq) {
        let (k, v) = (&k[start * hd..][..cols * hd], &v[start * hd..][..cols * hd]);
        for (from, rows) in tiles(shape.seq).skip_while(|(from, rows)| from + rows <= shape.seen_from(start)) {
            let (q, dout) = (&q[from * hd..][..rows * hd], &dout[from * hd..][..rows * hd]);
            let mut p = product((rows, cols, hd), (q, false), (k, false));
            let mut ds = product((rows, cols, hd), (dout, false), (v, false));
            for (row, (p, ds)) in p.chunks_exact_mut(cols).zip(ds.chunks_exact_mut(cols)).enumerate() {
                let seen = shape.seen(from + row).saturating_sub(start).min(cols);
                for (p, ds) in p[..seen].iter_mut().zip(&mut ds[..seen]) {
                    *p = (*p * scale - lse[from + row]).exp();
                    *ds = rounded(shape.dtype, *p * (*ds - delta[from + row]) * scale);
                    *p = rounded(shape.dtype, *p);
                }
                p[seen..].fill(R::zero());
                ds[seen..].fill(R::zero());
            }
            add(&mut dv[start * hd..][..cols * hd], product((cols, hd, rows), (&p, true), (dout, true)));
            add(&mut dq[from * hd..][..rows * hd], product((rows, hd, cols), (&ds, false), (k, true)));
            add(&mut dk[start * hd..][..cols * hd], product((cols, hd, rows), (&ds, true), (q, true)));
        }
    }
    [dq, dk, dv]
}
