//! Single elements of products, attention and casts, made again in fp64 from the operands as they lie, with the error that right
//! arithmetic may have. For checking a kernel at full size, where the whole of a reference is out of reach.
//!
//! What an element means and how far a right kernel may be off stands in `sample.rs` of the op's folder.

use crate::dtype::Dtype;
use crate::fused::{Fused, Local};
use crate::op::{Access, Op};
use crate::real::Real;
use crate::tensor::View;

/// Reads pieces of an op's operands as they lie after it ran.
pub trait Pieces {
    /// Why a piece cannot be read.
    type Error;

    /// From each of `starts`, `len` elements of an operand that lie `stride` apart; exact, one start after the other.
    ///
    /// # Errors
    /// Whatever ends the device that holds them.
    fn pieces(&mut self, operand: usize, starts: &[usize], stride: usize, len: usize) -> Result<Vec<f64>, Self::Error>;
}

/// One element of a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The operand's name within the op.
    pub operand: &'static str,
    /// Its index in the operand, row-major.
    pub element: usize,
    /// As it lies.
    pub found: f64,
    /// As fp64 has it, not rounded to the operand's dtype.
    pub expected: f64,
    /// The most that right arithmetic can be off.
    pub tolerance: f64,
}

impl Sampled {
    /// Its error as a share of the tolerance; infinite where it is no number.
    #[must_use]
    pub fn error(&self) -> f64 {
        let share = (self.found - self.expected).abs() / self.tolerance;
        if share.is_nan() { f64::INFINITY } else { share }
    }

    /// Whether it is right.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.error() <= 1.0
    }
}

/// `count` elements (or a few more: attention is checked by whole rows of a head) of the results of a product, of attention
/// or of a cast, the corners always among them; of a fusion, the results of such parts that lie in memory with all that
/// they were made of; none of other ops. `below(n)` draws from 0..n.
///
/// # Errors
/// Whatever [`Pieces`] could not read.
pub fn sample<P: Pieces>(
    op: &Op,
    count: usize,
    below: &mut dyn FnMut(usize) -> usize,
    pieces: &mut P,
) -> Result<Vec<Sampled>, P::Error> {
    match op {
        Op::Gemm(gemm) => gemm.sample(count, below, pieces),
        Op::AttentionProduct(product) => product.sample(count, below, pieces),
        Op::SoftmaxForward(softmax) => softmax.sample(count, below, pieces),
        Op::SoftmaxBackward(softmax) => softmax.sample(count, below, pieces),
        Op::FlashForward(flash) => flash.sample(count, below, pieces),
        Op::FlashBackward(flash) => flash.sample(count, below, pieces),
        Op::Quantise(quantise) => quantise.sample(count, below, pieces),
        Op::Fused(fused) => {
            let mut found = Vec::new();
            for (operands, op) in external_parts(fused) {
                // No part is a fusion: this ends. The adapter is a type of its own, so its type must not grow either.
                let mut part = OfPart {
                    operands: &operands,
                    pieces: &mut |at, starts, stride, len| pieces.pieces(at, starts, stride, len),
                };
                found.extend(match op {
                    Op::Quantise(quantise) => quantise.sample(count, below, &mut part)?,
                    Op::Gemm(gemm) => gemm.sample(count, below, &mut part)?,
                    _ => Vec::new(),
                });
            }
            Ok(found)
        }
        _ => Ok(Vec::new()),
    }
}

/// Whether [`sample`] finds anything in an op.
#[must_use]
pub fn is_sampled(op: &Op) -> bool {
    match op {
        Op::Gemm(_)
        | Op::AttentionProduct(_)
        | Op::SoftmaxForward(_)
        | Op::SoftmaxBackward(_)
        | Op::FlashForward(_)
        | Op::FlashBackward(_)
        | Op::Quantise(_) => true,
        Op::Fused(fused) => external_parts(fused).next().is_some(),
        _ => false,
    }
}

/// The parts of a fusion that are sampled: casts and products whose operands all lie in memory and stay as they were.
fn external_parts(fused: &Fused) -> impl Iterator<Item = (Vec<usize>, &Op)> {
    fused.parts.iter().enumerate().filter_map(|(at, part)| {
        if !matches!(part.op, Op::Quantise(_) | Op::Gemm(_)) {
            return None;
        }
        let operand = |local: &Local| match *local {
            Local::External(index) if !fused.unread.contains(&index) => Some(index),
            _ => None,
        };
        let operands: Vec<usize> = part.operands.iter().map(operand).collect::<Option<_>>()?;
        let rewritten = fused.parts[at + 1..].iter().any(|later| {
            let signature = later.op.signature();
            signature
                .iter()
                .zip(&later.operands)
                .any(|(param, local)| param.access != Access::Read && part.operands.contains(local))
        });
        (!rewritten).then_some((operands, &part.op))
    })
}

/// A part's operands among those of its fusion.
struct OfPart<'a, E> {
    operands: &'a [usize],
    pieces: &'a mut Fetch<'a, E>,
}

type Fetch<'a, E> = dyn FnMut(usize, &[usize], usize, usize) -> Result<Vec<f64>, E> + 'a;

impl<E> Pieces for OfPart<'_, E> {
    type Error = E;

    fn pieces(&mut self, operand: usize, starts: &[usize], stride: usize, len: usize) -> Result<Vec<f64>, E> {
        (self.pieces)(self.operands[operand], starts, stride, len)
    }
}

/// [`Pieces::pieces`] of a tensor on the host.
///
/// # Panics
/// If a piece reaches past the end: that is a bug in the caller.
#[must_use]
pub fn gather<R: Real>(view: View<'_, R>, starts: &[usize], stride: usize, len: usize) -> Vec<f64> {
    let of = |element: &dyn Fn(usize) -> f64| {
        starts.iter().flat_map(|start| (0..len).map(move |at| start + at * stride)).map(element).collect()
    };
    match view {
        View::Real(values) => of(&|at| values[at].f64()),
        View::Bf16(values) => of(&|at| f64::from(values[at].to_f32())),
        View::E4m3(values) => of(&|at| f64::from(values[at].to_f32())),
        View::E5m2(values) => of(&|at| f64::from(values[at].to_f32())),
        View::I32(values) => of(&|at| f64::from(values[at])),
    }
}

/// Half a unit in the last place of a dtype, relative: the most that one rounding to nearest changes a normal value.
pub(crate) fn unit_roundoff(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 | Dtype::I32 => 2f64.powi(-24),
        Dtype::Bf16 => 2f64.powi(-8),
        Dtype::E4m3 => 2f64.powi(-4),
        Dtype::E5m2 => 2f64.powi(-3),
    }
}

/// How partial sums lose bits: operands of `group` products are added at a time, and each such addition is off by at most
/// `unit` times the largest of its addends. After `promoted` products the partial sum moves on to fp32 additions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accumulation {
    pub(crate) group: usize,
    pub(crate) unit: f64,
    pub(crate) promoted: usize,
}

impl Accumulation {
    /// Sums of products of operands of a dtype.
    ///
    /// fp32 multiplies and adds one by one, each rounded (2⁻²⁴; no TF32). Tensor cores align the products of one instruction
    /// (16 of bf16, 32 of FP8) and the partial sum to the largest of them and cut off what lies below: 24 bits and more for
    /// bf16, about 14 for FP8 (DeepSeek-V3, arXiv 2412.19437, section 3.5.2), where up to 32 addends lose up to a unit each
    /// with random sign: 4 units. FP8 sums stay there for the whole k with fast accumulation, for 128 products without.
    pub(crate) const fn of(dtype: Dtype, fast: bool) -> Self {
        const U24: f64 = 1.0 / 16_777_216.0;
        match dtype {
            Dtype::F32 | Dtype::I32 => Self { group: 1, unit: U24, promoted: usize::MAX },
            Dtype::Bf16 => Self { group: 16, unit: 4.0 * U24, promoted: usize::MAX },
            Dtype::E4m3 | Dtype::E5m2 => {
                Self { group: 32, unit: 4.0 / 8192.0, promoted: if fast { usize::MAX } else { 128 } }
            }
        }
    }

    /// The sum of products and the most that accumulating them can be off.
    ///
    /// The error of every addition is bounded by the partial sums that really occur, in the order of k. A kernel may add in
    /// another order (split k, tiles): its partial sums are of the same size, and a factor of 2 is left for that. This is far
    /// below the bound from Σ|products|, which is √k times the result itself and would hide a scale that is off by a third.
    pub(crate) fn sum(&self, products: impl Iterator<Item = f64>) -> (f64, f64) {
        let (mut total, mut partial, mut largest) = (0.0, 0.0, 0.0_f64);
        let mut path = 0.0;
        let mut fp32_path = 0.0;
        let mut index = 0;
        for product in products {
            partial += product;
            largest = largest.max(product.abs());
            index += 1;
            if index % self.group == 0 {
                path += largest.max(f64::abs(partial));
                largest = 0.0;
            }
            if index % self.promoted == 0 {
                total += partial;
                fp32_path += f64::abs(total);
                partial = 0.0;
            }
        }
        if index % self.group != 0 {
            path += largest.max(f64::abs(partial));
        }
        total += partial;
        (total, 2.0 * (self.unit * path + 2f64.powi(-24) * fp32_path))
    }
}

/// The most that a value may be off that is computed with `error` and then rounded to a dtype.
pub(crate) fn rounded_tolerance(dtype: Dtype, expected: f64, error: f64) -> f64 {
    // The smallest normal number of fp32 and bf16: below it units do not shrink any more, or values are flushed to zero.
    error + unit_roundoff(dtype) * (expected.abs() + error) + f64::from(f32::MIN_POSITIVE)
}

/// `count` indices below `len`: the first, the last and random ones.
pub(crate) fn indices(count: usize, len: usize, below: &mut dyn FnMut(usize) -> usize) -> Vec<usize> {
    let mut found: Vec<usize> = [0, len - 1].into_iter().take(len.min(2)).collect();
    while found.len() < count.max(2) {
        found.push(below(len));
    }
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{Random, Tensors};

    /// An op's operands under the names of its signature.
    pub(crate) struct Named<'a> {
        pub(crate) op: &'a Op,
        pub(crate) tensors: &'a Tensors<f32>,
    }

    impl Pieces for Named<'_> {
        type Error = std::convert::Infallible;

        fn pieces(
            &mut self,
            operand: usize,
            starts: &[usize],
            stride: usize,
            len: usize,
        ) -> Result<Vec<f64>, Self::Error> {
            let values = self.tensors.get(&self.op.signature()[operand].name);
            Ok(starts
                .iter()
                .flat_map(|start| (0..len).map(|at| values[start + at * stride]).collect::<Vec<_>>())
                .collect())
        }
    }

    /// Samples an op whose results lie in `tensors`.
    pub(crate) fn sampled(op: &Op, tensors: &Tensors<f32>, count: usize) -> Vec<Sampled> {
        let mut random = Random::new(99);
        let mut below = |n: usize| usize::try_from(random.next() % n as u64).unwrap();
        let Ok(found) = sample(op, count, &mut below, &mut Named { op, tensors });
        found
    }

    /// The largest error as a share of its tolerance.
    pub(crate) fn worst(sampled: &[Sampled]) -> f64 {
        sampled.iter().map(Sampled::error).fold(0.0, f64::max)
    }

    /// The written operands of an op.
    pub(crate) fn results(op: &Op) -> Vec<String> {
        op.signature().iter().filter(|p| p.access != Access::Read).map(|p| p.name.to_string()).collect()
    }

    #[test]
    fn what_is_no_number_does_not_hold() {
        let element = |found, tolerance| Sampled { operand: "d", element: 0, found, expected: 1.0, tolerance };
        assert!(element(1.5, 0.5).holds() && !element(1.6, 0.5).holds());
        assert!(!element(f64::NAN, 0.5).holds() && !element(f64::INFINITY, 0.5).holds());
        assert!(!element(1.0, f64::NAN).holds());
    }

    #[test]
    fn the_path_of_partial_sums_bounds_the_error() {
        // 1 + 1 + 1 + 1 one by one: partial sums 1, 2, 3, 4.
        let (sum, error) = Accumulation::of(Dtype::F32, false).sum([1.0; 4].into_iter());
        assert_eq!((sum, error), (4.0, 2.0 * 10.0 * 2f64.powi(-24)));
        // In groups of 16: two whole groups and what is left.
        let (sum, error) = Accumulation::of(Dtype::Bf16, false).sum([1.0; 40].into_iter());
        assert_eq!((sum, error), (40.0, 2.0 * (16.0 + 32.0 + 40.0) * 2f64.powi(-22)));
        // FP8 starts anew after 128 products, unless it accumulates fast.
        let slow = Accumulation::of(Dtype::E4m3, false).sum([1.0; 256].into_iter()).1;
        let fast = Accumulation::of(Dtype::E4m3, true).sum([1.0; 256].into_iter()).1;
        assert_eq!(fast, 2.0 * 36.0 * 32.0 * 2f64.powi(-11));
        assert!((slow / (2.0 * 2.0 * 10.0 * 32.0 * 2f64.powi(-11)) - 1.0).abs() < 1e-2 && slow < fast);
    }

    #[test]
    fn indices_hold_both_ends() {
        let mut draw = |n: usize| n / 2;
        assert_eq!(indices(4, 10, &mut draw), [0, 9, 5, 5]);
        assert_eq!(indices(1, 1, &mut draw), [0, 0]);
    }
}
