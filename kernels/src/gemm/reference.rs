//! What a product means: operands dequantised, summed in the arithmetic type, rounded once.

use std::borrow::Cow;

use rayon::prelude::*;

use super::product::{Matrix, multiply};
use super::{Gemm, Operand};
use crate::io::Io;
use crate::op::Reference;
use crate::precision::Granularity;
use crate::real::Real;

impl Reference for Gemm {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (m, n, k) = (self.m, self.n, self.k);
        let scale = |operand: Operand, name| operand.scaling.map(|granularity| (granularity, io.read(name)));
        let (a_scale, b_scale) = (scale(self.a, "a_scale"), scale(self.b, "b_scale"));
        let a = blockwise(io.read("a"), a_scale.as_ref(), k);
        let b = blockwise(io.read("b"), b_scale.as_ref(), k);
        let addend = self.accumulate.then(|| io.read("c"));
        let mut d = io.output("d");
        let a = Matrix { values: &a, transposed: self.a.transposed };
        let b = Matrix { values: &b, transposed: self.b.transposed };
        multiply(&mut d, (m, n, k), a, b, true);
        // One scale per tensor or row leaves the sum and is applied to it, as the tensor cores' epilogue does.
        if let (Some(a), Some(b)) = (outer(a_scale.as_ref(), m), outer(b_scale.as_ref(), n)) {
            d.par_chunks_exact_mut(n).zip(a).for_each(|(row, a)| {
                row.iter_mut().zip(&b).for_each(|(d, &b)| *d = *d * (a * b));
            });
        }
        if let Some(addend) = addend {
            d.iter_mut().zip(addend.iter()).for_each(|(d, &c)| *d += c);
        }
    }
}

/// Applies scales finer than a row to the operand itself.
fn blockwise<'a, R: Real>(values: Cow<'a, [R]>, scale: Option<&(Granularity, Cow<'_, [R]>)>, k: usize) -> Cow<'a, [R]> {
    let Some((granularity @ (Granularity::Block1x128 | Granularity::Block128x128), scales)) = scale else {
        return values;
    };
    let rows_per_scale = if *granularity == Granularity::Block1x128 { 1 } else { 128 };
    let per_row = k.div_ceil(128);
    let mut values = values.into_owned();
    values.par_chunks_exact_mut(k).enumerate().for_each(|(row, values)| {
        let scales = &scales[row / rows_per_scale * per_row..][..per_row];
        for (block, &scale) in values.chunks_mut(128).zip(scales) {
            block.iter_mut().for_each(|value| *value = *value * scale);
        }
    });
    Cow::Owned(values)
}

/// The scale of each row, where the granularity is a tensor or a row.
fn outer<R: Real>(scale: Option<&(Granularity, Cow<'_, [R]>)>, rows: usize) -> Option<Vec<R>> {
    match scale {
        Some((Granularity::Tensor, scales)) => Some(vec![scales[0]; rows]),
        Some((Granularity::Row, scales)) => Some(scales.to_vec()),
        _ => None,
    }
}
