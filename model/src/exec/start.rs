//! What tensors hold before the first step, made by all threads in pieces that depend on nothing before them.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;
use stepwatch_kernels::real::Real;
use stepwatch_kernels::rope;
use stepwatch_kernels::tensor::Buffer;

use crate::ir::{Start, Step, Tensor};
use crate::random::Random;

/// Elements that one thread makes at a time; even, since normal numbers come in pairs.
const PIECE: usize = 1 << 14;

/// Normal numbers that are made before they are rounded; even too.
const AT_ONCE: usize = 256;

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
        Start::Filled { value } => out.fill(R::of_f64(value)),
        Start::Normal { std, stream } => {
            let mut random = Random::at(seed, u64::from(stream), from as u64);
            let mut normals = [0.0; AT_ONCE];
            for out in out.chunks_mut(AT_ONCE) {
                let normals = &mut normals[..out.len()];
                random.normals(normals);
                // Rounded to fp32 first, so that a run in fp64 starts from the same weights.
                out.iter_mut().zip(normals).for_each(|(out, normal)| *out = R::of((*normal * std) as f32));
            }
        }
        Start::RopeCos => (from..).zip(out).for_each(|(at, out)| *out = R::of_f64(angle(at).cos())),
        Start::RopeSin => (from..).zip(out).for_each(|(at, out)| *out = R::of_f64(angle(at).sin())),
    };
    let mut values = vec![R::zero(); range.len()];
    let pieces = values.par_chunks_mut(PIECE).enumerate();
    pieces.for_each(|(index, out)| piece(range.start + index * PIECE, out));
    values
}

/// Which tensors any op works on, by index.
#[must_use]
pub fn touched(step: &Step) -> Vec<bool> {
    let mut touched = vec![false; step.tensors.len()];
    for node in step.init.iter().chain(&step.ops) {
        node.operands.iter().for_each(|id| touched[id.index()] = true);
    }
    touched
}

/// Elements of a [`Piece`] at most, and how many pieces may wait: bounds the host's memory to about 2 GiB.
const PIECE_ELEMENTS: usize = 1 << 23;
const PIECES_AHEAD: usize = 64;

/// Part of a tensor's initial contents.
#[derive(Debug)]
pub struct Piece {
    /// Which tensor, by index.
    pub index: usize,
    /// Its first element.
    pub from: usize,
    /// Its values in the tensor's dtype.
    pub values: Buffer<f32>,
}

/// The initial contents of a step's tensors, zeros left out, made by other threads while this one does something else.
#[derive(Debug)]
pub struct Contents {
    take: Receiver<Piece>,
}

impl Contents {
    /// Begins to make them.
    #[must_use]
    pub fn make(step: &Step, seed: u64) -> Self {
        let mut groups: Vec<(Start, Vec<(usize, Tensor)>)> = Vec::new();
        for (index, (tensor, touched)) in step.tensors.iter().zip(touched(step)).enumerate() {
            let Some(start) = tensor.start.filter(|start| touched && *start != Start::Zeros) else { continue };
            // Weights and their master copies start from one stream: it is made once.
            match groups.iter_mut().find(|(other, group)| *other == start && group[0].1.shape == tensor.shape) {
                Some((_, group)) => group.push((index, tensor.clone())),
                None => groups.push((start, vec![(index, tensor.clone())])),
            }
        }
        let (give, take) = sync_channel(PIECES_AHEAD);
        std::thread::spawn(move || groups.iter().all(|(start, group)| give_all(*start, group, seed, &give)));
        Self { take }
    }

    /// The pieces, as they come.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.take.iter()
    }
}

/// Makes tensors that start alike, piece by piece; whether anybody still takes them.
fn give_all(start: Start, group: &[(usize, Tensor)], seed: u64, give: &SyncSender<Piece>) -> bool {
    let (_, first) = &group[0];
    let mut starts = (0..first.elements()).step_by(PIECE_ELEMENTS);
    starts.all(|from| {
        let values = values::<f32>(first, start, seed, from..first.elements().min(from + PIECE_ELEMENTS));
        let piece = |(index, tensor): &(usize, Tensor)| Piece {
            index: *index,
            from,
            values: Buffer::rounded(tensor.dtype, &values),
        };
        group.iter().all(|tensor| give.send(piece(tensor)).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use stepwatch_kernels::Dtype;

    use super::*;
    use crate::build::build;
    use crate::config::{StepConfig, preset};
    use crate::ir::TensorClass;

    #[test]
    fn pieces_make_every_tensor_that_does_not_start_from_zeros() {
        let step = build(&StepConfig::example(preset("tiny").unwrap(), 1, 16));
        let mut left: Vec<usize> = step.tensors.iter().map(Tensor::elements).collect();
        for Piece { index, from, values } in Contents::make(&step, 3).pieces() {
            let tensor = &step.tensors[index];
            assert_eq!((from, &values), (0, &contents::<f32>(tensor, tensor.start.unwrap(), 3)), "{}", tensor.name);
            left[index] -= values.len();
        }
        for ((tensor, left), touched) in step.tensors.iter().zip(left).zip(touched(&step)) {
            let made = touched && tensor.start.is_some_and(|start| start != Start::Zeros);
            assert_eq!(left == 0, made, "{}", tensor.name);
        }
    }

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
