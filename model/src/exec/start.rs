//! What tensors hold before the first step.

use stepwatch_kernels::real::Real;
use stepwatch_kernels::rope;
use stepwatch_kernels::tensor::Buffer;

use crate::ir::{Start, Tensor};
use crate::random::Random;

/// The initial contents of a tensor that lives across steps. Equal seeds give equal values, whatever the dtype they are
/// rounded to.
#[must_use]
pub fn contents<R: Real>(tensor: &Tensor, start: Start, seed: u64) -> Buffer<R> {
    let elements = tensor.elements();
    let values: Vec<R> = match start {
        Start::Zeros => return Buffer::zeros(tensor.dtype, elements),
        Start::Ones => vec![R::one(); elements],
        Start::Normal { std, stream } => {
            let mut random = Random::new(seed, u64::from(stream));
            // Rounded to fp32 first, so that a run in fp64 starts from the same weights.
            (0..elements).map(|_| R::of((random.normal() * std) as f32)).collect()
        }
        Start::RopeCos => angles(tensor).map(|angle| R::of_f64(angle.cos())).collect(),
        Start::RopeSin => angles(tensor).map(|angle| R::of_f64(angle.sin())).collect(),
    };
    Buffer::rounded(tensor.dtype, &values)
}

/// Angles of a (S, hd/2) table: position · BASE^(−2i/hd).
fn angles(tensor: &Tensor) -> impl Iterator<Item = f64> {
    let half = tensor.shape.get(1).copied().unwrap_or(1);
    (0..tensor.elements()).map(move |index| {
        let (position, pair) = (index / half, index % half);
        position as f64 * rope::BASE.powf(-(pair as f64) / half as f64)
    })
}
