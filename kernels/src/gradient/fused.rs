//! The sums of squares of all gradients, their norm and the clip factor as one launch. Equal bit by bit to the launches one by
//! one: partial sums cover the same stretches and are added in the same order.

use super::launch::STRETCH;
use super::{ClipScale, SumSquares};
use crate::dtype::Dtype;
use crate::fused::launch::{Bound, FusedKernel, Variant};
use crate::fused::{Fused, Local};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError};
use crate::op::Op;

static SOURCE: Source = Source { name: "gradient_fused.cu", text: include_str!("fused.cu") };

#[derive(Debug)]
struct Norm<'a> {
    dtype: Dtype,
    /// Each gradient, and its sum where somebody reads it.
    gradients: Vec<(&'a SumSquares, Local, Option<Local>)>,
    clip: &'a ClipScale,
    norm: Local,
    scale: Local,
}

/// Takes one sum of squares per operand of one clip factor, in any order, of gradients of one dtype.
pub(crate) fn norm(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let (last, sums) = fused.parts.split_last()?;
    let Op::ClipScale(clip) = &last.op else { return None };
    let (of_tensors, results) = last.operands.split_at_checked(clip.count)?;
    let &[norm, scale] = results else { return None };
    let squares = |sum: &Local| {
        let part = sums.iter().find(|part| part.operands.get(1) == Some(sum))?;
        let Op::SumSquares(spec) = &part.op else { return None };
        Some((spec, part.operands[0], fused.stores(*sum).then_some(*sum)))
    };
    let gradients = of_tensors.iter().map(squares).collect::<Option<Vec<_>>>()?;
    let dtype = gradients.first()?.0.dtype;
    let alike = gradients.iter().all(|(spec, ..)| spec.dtype == dtype && spec.elements() > 0);
    let placed = gradients.iter().map(|&(_, g, _)| g).chain([norm, scale]).all(|l| matches!(l, Local::External(_)));
    let floats = matches!(dtype, Dtype::F32 | Dtype::Bf16);
    (alike && placed && floats && sums.len() == clip.count)
        .then(|| -> Box<dyn FusedKernel + '_> { Box::new(Norm { dtype, gradients, clip, norm, scale }) })
}

impl Norm<'_> {
    fn variant(&self) -> Variant {
        let name = if self.dtype == Dtype::F32 { "gradient_norm_fp32" } else { "gradient_norm_bf16" };
        Variant { source: &SOURCE, defines: Vec::new(), name }
    }

    fn stretches(&self) -> usize {
        self.gradients.iter().map(|(spec, ..)| spec.stretches()).sum()
    }
}

impl FusedKernel for Norm<'_> {
    fn variants(&self) -> Vec<Variant> {
        vec![self.variant()]
    }

    /// (stretches) fp64, (tensors) fp32.
    fn scratch(&self) -> usize {
        8 * self.stretches() + 4 * self.gradients.len()
    }

    fn calls(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Vec<Call>, GpuError> {
        let word = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        // `struct Gradient` of the kernel: two addresses, i64, two i32.
        let (mut gradients, mut owners) = (Vec::new(), Vec::new());
        let mut first = 0;
        for (index, (spec, g, sum)) in self.gradients.iter().enumerate() {
            let stretches = spec.stretches();
            for value in [bound.pointer(*g), bound.optional(*sum), spec.elements() as u64] {
                gradients.extend(value.to_le_bytes());
            }
            gradients.extend(word(first).into_iter().chain(word(stretches)));
            owners.extend((0..stretches).flat_map(|_| word(index)));
            first += stretches;
        }
        let done = gpu.allocate(4 * (self.gradients.len() + 1))?;
        gpu.fill(&done, 0)?;
        let kernel = self
            .variant()
            .kernel(gpu)?
            .grid(self.stretches(), 1)
            .table(gpu.table(&gradients)?)
            .table(gpu.table(&owners)?)
            .pointer(bound.scratch())
            .pointer(bound.scratch() + 8 * self.stretches() as u64)
            .table(done)
            .int(self.gradients.len())
            .int(STRETCH)
            .double(self.clip.max_norm)
            .pointer(bound.pointer(self.norm))
            .pointer(bound.pointer(self.scale));
        Ok(vec![kernel.ready()?])
    }
}
