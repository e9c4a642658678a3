//! Heads out of packed tensors and back: where the strides of packed tensors are known.

use super::Shape;
use crate::real::Real;

/// Which third of a packed tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Third {
    Query,
    Key,
    Value,
}

impl Shape {
    /// Batch and head of every independent problem.
    pub(super) fn problems(&self) -> Vec<(usize, usize)> {
        (0..self.batch).flat_map(|batch| (0..self.heads).map(move |head| (batch, head))).collect()
    }

    /// 1/sqrt(hd).
    #[expect(clippy::cast_precision_loss, reason = "head dims are far below 2^53")]
    pub(super) fn scale<R: Real>(&self) -> R {
        R::of_f64(1.0 / (self.head_dim as f64).sqrt())
    }

    /// The first column of what one head of queries reads of a packed row.
    pub(super) fn column(&self, third: Third, head: usize) -> usize {
        let shared = head / self.sharing();
        let at = match third {
            Third::Query => head,
            Third::Key => self.heads + shared,
            Third::Value => self.heads + self.kv_heads + shared,
        };
        at * self.head_dim
    }

    /// One head of a packed tensor as (S, hd).
    pub(super) fn gather<R: Real>(&self, packed: &[R], third: Third, (batch, head): (usize, usize)) -> Vec<R> {
        self.collect(packed, self.packed_width(), batch, self.column(third, head))
    }

    /// One head of a context as (S, hd).
    pub(super) fn gather_context<R: Real>(&self, context: &[R], (batch, head): (usize, usize)) -> Vec<R> {
        self.collect(context, self.heads * self.head_dim, batch, head * self.head_dim)
    }

    fn collect<R: Real>(&self, values: &[R], width: usize, batch: usize, column: usize) -> Vec<R> {
        let rows = values.chunks_exact(width).skip(batch * self.seq).take(self.seq);
        let mut head = Vec::with_capacity(self.seq * self.head_dim);
        for row in rows {
            head.extend_from_slice(&row[column..column + self.head_dim]);
        }
        head
    }

    /// Puts one head back into a packed tensor.
    pub(super) fn scatter<R: Real>(&self, packed: &mut [R], third: Third, at: (usize, usize), values: &[R]) {
        self.place(packed, self.packed_width(), at.0, self.column(third, at.1), values);
    }

    /// Puts one head back into a context.
    pub(super) fn scatter_context<R: Real>(&self, context: &mut [R], at: (usize, usize), values: &[R]) {
        self.place(context, self.heads * self.head_dim, at.0, at.1 * self.head_dim, values);
    }

    fn place<R: Real>(&self, out: &mut [R], width: usize, batch: usize, column: usize, values: &[R]) {
        let rows = out.chunks_exact_mut(width).skip(batch * self.seq).take(self.seq);
        for (row, values) in rows.zip(values.chunks_exact(self.head_dim)) {
            row[column..column + self.head_dim].copy_from_slice(values);
        }
    }
}
