//! How a fusion is launched: by the kernel written for its pattern where one takes its shapes, else part by part, with the
//! temporaries in scratch memory. Both give the same bits.

use super::{Fused, Local, Pattern};
use crate::gpu::launch::{Launch, Operands, calls, scratch_bytes};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel, Slice};
use crate::op::Param;
use crate::{adamw, cross_entropy, gradient, quantise, rmsnorm, rope, swiglu};

/// Temporaries start at multiples of this, bytes.
const ALIGNMENT: usize = 256;

/// One kernel of a source, compiled for one purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// The source.
    pub source: &'static Source,
    /// What is defined for it, as `NAME=value`.
    pub defines: Vec<String>,
    /// The kernel.
    pub name: &'static str,
}

impl Variant {
    /// The kernel, loaded.
    pub(crate) fn kernel(&self, gpu: &Gpu) -> Result<Kernel, GpuError> {
        Kernel::specialised(gpu, self.source, &self.defines, self.name)
    }
}

/// A kernel written for a pattern.
pub(crate) trait FusedKernel {
    /// What it consists of, so that all can be compiled where there is no GPU.
    fn variants(&self) -> Vec<Variant>;

    /// Device memory needed while it runs, bytes.
    fn scratch(&self) -> usize {
        0
    }

    /// Its calls, in order.
    fn calls(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Vec<Call>, GpuError>;
}

/// The operands of a fusion.
#[derive(Debug)]
pub(crate) struct Bound<'a> {
    operands: &'a Operands<'a>,
}

impl Bound<'_> {
    /// Address of an operand; 0 for a temporary.
    pub(crate) fn pointer(&self, local: Local) -> u64 {
        match local {
            Local::External(index) => self.operands.slices[index].pointer(),
            Local::Hidden(_) => 0,
        }
    }

    /// Address of an operand that may be left out; 0 if it is.
    pub(crate) fn optional(&self, local: Option<Local>) -> u64 {
        local.map_or(0, |local| self.pointer(local))
    }

    /// Address of the scratch memory, as large as [`FusedKernel::scratch`] asked.
    pub(crate) fn scratch(&self) -> u64 {
        self.operands.scratch()
    }

    /// The calls of some parts of the fusion, by index, as they would run alone: for what a kernel leaves to them. Scratch must
    /// be as large as [`Fused::scratch_of_parts`].
    pub(crate) fn parts(
        &self,
        fused: &Fused,
        gpu: &Gpu,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<Vec<Call>, GpuError> {
        fused.part_by_part(gpu, self.operands, wanted)
    }
}

impl Fused {
    /// Whether somebody reads an operand after the fusion, so that it must be written.
    pub(crate) fn stores(&self, local: Local) -> bool {
        matches!(local, Local::External(index) if !self.unread.contains(&index))
    }

    /// The kernel for this fusion, if one is written that takes its parts and shapes.
    fn kernel(&self) -> Option<Box<dyn FusedKernel + '_>> {
        match self.pattern {
            Pattern::NormForward => rmsnorm::fused::forward(self),
            Pattern::NormBackward => rmsnorm::fused::backward(self),
            Pattern::SwigluForward => swiglu::fused::forward(self),
            Pattern::SwigluBackward => swiglu::fused::backward(self),
            Pattern::RopeBackward => rope::fused::backward(self),
            Pattern::Loss => cross_entropy::fused::loss(self),
            Pattern::GradientNorm => gradient::fused::norm(self),
            Pattern::Optimiser => adamw::fused::optimiser(self),
            Pattern::Scales => quantise::fused::scales(self),
            Pattern::Cast => quantise::fused::cast(self),
        }
    }

    /// The kernels that this fusion is launched as; empty where it runs part by part.
    #[must_use]
    pub fn variants(&self) -> Vec<Variant> {
        self.kernel().map_or_else(Vec::new, |kernel| kernel.variants())
    }

    /// Where each temporary starts in scratch memory, and where they end.
    fn places(&self) -> (Vec<usize>, usize) {
        let mut end = 0;
        let place = |hidden: &super::Hidden| {
            let start = end;
            end = (start + hidden.dtype.bytes() * hidden.shape.iter().product::<usize>()).next_multiple_of(ALIGNMENT);
            start
        };
        let starts = self.hidden.iter().map(place).collect();
        (starts, end)
    }

    /// Device memory that the parts need when they run alone: temporaries and their own, bytes.
    pub(crate) fn scratch_of_parts(&self) -> usize {
        self.places().1 + self.parts.iter().map(|part| scratch_bytes(&part.op)).max().unwrap_or(0)
    }

    /// Parts as they would run alone, by index.
    fn part_by_part(
        &self,
        gpu: &Gpu,
        operands: &Operands<'_>,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<Vec<Call>, GpuError> {
        let (starts, end) = self.places();
        let within = |start: usize, bytes: usize| {
            operands.scratch.slice(start, bytes).ok_or_else(|| GpuError::Operand {
                op: operands.op,
                operand: "scratch".to_owned(),
                what: format!("{} bytes, {} needed", operands.scratch.bytes(), start + bytes),
            })
        };
        let mut all = Vec::new();
        for (_, part) in self.parts.iter().enumerate().filter(|(index, _)| wanted(*index)) {
            let params: Vec<Param> = part.op.signature();
            let slice = |(param, local): (&Param, &Local)| match *local {
                Local::External(index) => Ok(operands.slices[index].clone()),
                Local::Hidden(index) => within(starts[index], param.bytes()),
            };
            let slices = params.iter().zip(&part.operands).map(slice).collect::<Result<Vec<Slice>, GpuError>>()?;
            let scratch = within(end, scratch_bytes(&part.op))?;
            let bound = Operands { op: part.op.name(), params: &params, slices: &slices, scratch: &scratch };
            all.extend(calls(gpu, &part.op, &bound)?);
        }
        Ok(all)
    }
}

impl Launch for Fused {
    fn scratch(&self) -> usize {
        self.kernel().map_or_else(|| self.scratch_of_parts(), |kernel| kernel.scratch())
    }

    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        match self.kernel() {
            Some(kernel) => kernel.calls(gpu, &Bound { operands }),
            None => self.part_by_part(gpu, operands, |_| true),
        }
    }
}
