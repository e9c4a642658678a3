//! What the primitives of naive attention mean.

use rayon::prelude::*;

use super::heads::Third;
use super::{Product, ProductKind, SoftmaxBackward, SoftmaxForward};
use crate::gemm::product::{Matrix, multiply};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;

const fn plain<R>(values: &[R]) -> Matrix<'_, R> {
    Matrix { values, transposed: false }
}

const fn transposed<R>(values: &[R]) -> Matrix<'_, R> {
    Matrix { values, transposed: true }
}

impl Reference for Product {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        match self.kind {
            ProductKind::Scores => self.scores(io, "scores"),
            ProductKind::ProbabilityGradient => self.scores(io, "dp"),
            ProductKind::Context => self.context(io),
            ProductKind::ValueGradient => self.packed_gradient(io, Third::Value),
            ProductKind::QueryGradient => self.packed_gradient(io, Third::Query),
            ProductKind::KeyGradient => self.packed_gradient(io, Third::Key),
        }
    }
}

impl Product {
    /// `Q · Kᵀ` or `dContext · Vᵀ`.
    fn scores<R: Real>(&self, io: &mut Io<'_, '_, R>, out: &str) {
        let shape = self.shape;
        let (seq, hd) = (shape.seq, shape.head_dim);
        let qkv = io.read("qkv");
        let dcontext = (out == "dp").then(|| io.read("dcontext"));
        let mut out = io.output(out);
        out.par_chunks_exact_mut(seq * seq).zip(shape.problems()).for_each(|(out, at)| {
            let (rows, cols) = match &dcontext {
                Some(dcontext) => (shape.gather_context(dcontext, at), shape.gather(&qkv, Third::Value, at)),
                None => (shape.gather(&qkv, Third::Query, at), shape.gather(&qkv, Third::Key, at)),
            };
            multiply(out, (seq, seq, hd), plain(&rows), plain(&cols), false);
        });
    }

    /// `P · V`.
    fn context<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let shape = self.shape;
        let (seq, hd) = (shape.seq, shape.head_dim);
        let (p, qkv) = (io.read("p"), io.read("qkv"));
        let mut context = io.output("context");
        let problems = shape.problems();
        let heads: Vec<Vec<R>> = p
            .par_chunks_exact(seq * seq)
            .zip(&problems)
            .map(|(p, &at)| {
                let mut out = vec![R::zero(); seq * hd];
                multiply(&mut out, (seq, hd, seq), plain(p), transposed(&shape.gather(&qkv, Third::Value, at)), false);
                out
            })
            .collect();
        for (head, at) in heads.iter().zip(problems) {
            shape.scatter_context(&mut context, at, head);
        }
    }

    /// `Pᵀ · dContext`, `dS · K` or `dSᵀ · Q`, into its third of dqkv.
    fn packed_gradient<R: Real>(&self, io: &mut Io<'_, '_, R>, third: Third) {
        let shape = self.shape;
        let (seq, hd) = (shape.seq, shape.head_dim);
        let pairs = if third == Third::Value { io.read("p") } else { io.read("ds") };
        let other = if third == Third::Value { io.read("dcontext") } else { io.read("qkv") };
        let mut dqkv = if third == Third::Value { io.output("dqkv") } else { io.update("dqkv") };
        if third == Third::Value {
            dqkv.fill(R::zero());
        }
        let problems = shape.problems();
        let heads: Vec<Vec<R>> = pairs
            .par_chunks_exact(seq * seq)
            .zip(&problems)
            .map(|(pairs, &at)| {
                let (pairs, other) = match third {
                    Third::Value => (transposed(pairs), shape.gather_context(&other, at)),
                    Third::Query => (plain(pairs), shape.gather(&other, Third::Key, at)),
                    Third::Key => (transposed(pairs), shape.gather(&other, Third::Query, at)),
                };
                let mut out = vec![R::zero(); seq * hd];
                multiply(&mut out, (seq, hd, seq), pairs, transposed(&other), false);
                out
            })
            .collect();
        for (head, at) in heads.iter().zip(problems) {
            shape.scatter(&mut dqkv, third, at, head);
        }
    }
}

impl Reference for SoftmaxForward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (seq, scale) = (self.shape.seq, self.shape.scale::<R>());
        let scores = io.read("scores");
        let mut p = io.output("p");
        p.par_chunks_exact_mut(seq).zip(scores.par_chunks_exact(seq)).enumerate().for_each(|(row, (p, scores))| {
            let seen = row % seq + 1;
            let largest = scores[..seen].iter().fold(R::neg_infinity(), |a, &b| a.max(b));
            for (p, &score) in p[..seen].iter_mut().zip(scores) {
                *p = ((score - largest) * scale).exp();
            }
            let sum: R = p[..seen].iter().copied().sum();
            p[..seen].iter_mut().for_each(|p| *p = *p / sum);
            p[seen..].fill(R::zero());
        });
    }
}

impl Reference for SoftmaxBackward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (seq, scale) = (self.shape.seq, self.shape.scale::<R>());
        let (p, dp) = (io.read("p"), io.read("dp"));
        let mut ds = io.output("ds");
        ds.par_chunks_exact_mut(seq).zip(p.par_chunks_exact(seq)).zip(dp.par_chunks_exact(seq)).for_each(
            |((ds, p), dp)| {
                let dot: R = p.iter().zip(dp).map(|(&p, &dp)| p * dp).sum();
                for ((ds, &p), &dp) in ds.iter_mut().zip(p).zip(dp) {
                    *ds = p * (dp - dot) * scale;
                }
            },
        );
    }
}
