//! What tensors hold before the first step, made by all threads in pieces that depend on nothing before them.

use std::ops::Range;

use rayon::prelude::*;
use stepwatch_kernels::real::Real;
use stepwatch_kernels::rope;
use stepwatch_kernels::tensor::Buffer;

use crate::ir::{Start, Tensor};
use crate::random::Random;

/// Elements that one thread makes at a time; even, since normal numbers come in pairs.
const PIECE: usize = 1 << 14;

/// The initial contents of a tensor that lives across steps. Equal seeds give equal values, whatever the dtype they are
/// rounded to.
#[must_use]
pub fn contents<R: Real>(tensor: &Tensor, start: Start, seed: u64) -> Buffer<R> {
    if start == Start::Zeros {
        return Buffer::zeros(tensor.dtype, tensor.elements());
    }
    Buffer::rounded(tensor.dtype, &values(tensor, start, seed, 0..tensor.elements()))
}

/// Some of a tensor's initial values, before they are rounded to its dtype. The range starts at an even element.
#[must_use]
pub fn values<R: Real>(tensor: &Tensor, start: Start, seed: u64, range: Range<usize>) -> Vec<R> {
    debug_assert!(range.start.is_multiple_of(2), "normal numbers come in pairs");
    let half = tensor.shape.get(1).copied().unwrap_or(1).max(1);
    // Of a (S, hd/2) table: position · BASE^(−2i/hd).
    let angle = |at: usize| (at / half) as f64 * rope::BASE.powf(-((at % half) as f64) / half as f64);
    let piece = |from: usize, out: &mut [R]| match start {
        Start::Zeros => out.fill(R::zero()),
        Start::Ones => out.fill(R::one()),
        Start::Normal { std, stream } => {
            let mut random = Random::at(seed, u64::from(stream), from as u64);
            // Rounded to fp32 first, so that a run in fp64 starts from the same weights.
            out.fill_with(|| R::of((random.normal() * std) as f32));
        }
        Start::RopeCos => (from..).zip(out).for_each(|(at, out)| *out = R::of_f64(angle(at).cos())),
        Start::RopeSin => (from..).zip(out).for_each(|(at, out)| *out = R::of_f64(angle(at).sin())),
    };
    let mut values = vec![R::zero(); range.len()];
    let pieces = values.par_chunks_mut(PIECE).enumerate();
    pieces.for_each(|(index, out)| piece(range.start + index * PIECE, out));
    values
}

#[cfg(test)]
mod tests {
    use stepwatch_kernels::Dtype;

    use super::*;
    use crate::ir::TensorClass;

    #[test]
    fn pieces_are_the_whole_and_the_whole_is_the_stream() {
        let shape = vec![PIECE + 5, 3];
        let tensor = Tensor { name: "w".into(), shape, dtype: Dtype::Bf16, class: TensorClass::Weight, start: None };
        let mut random = Random::new(7, 2);
        let start = Start::Normal { std: 0.02, stream: 2 };
        let all: Vec<f32> = (0..tensor.elements()).map(|_| (random.normal() * 0.02) as f32).collect();
        assert_eq!(values::<f32>(&tensor, start, 7, 0..all.len()), all);
        for from in [2, PIECE, PIECE + 10] {
            assert_eq!(values::<f32>(&tensor, start, 7, from..all.len()), all[from..]);
        }
        let cosines = values::<f64>(&tensor, Start::RopeCos, 7, 6..9);
        assert!(cosines[0] - 2.0_f64.cos() == 0.0 && cosines[1] - (2.0 * rope::BASE.powf(-1.0 / 3.0)).cos() == 0.0);
    }
}
