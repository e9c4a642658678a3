//! The launches of SwiGLU fused with what becomes of its results: which fusions `fused.cu` takes and what it is told.

use crate::fused::epilogue::Epilogue;
use crate::fused::launch::{Bound, FusedKernel, Variant};
use crate::fused::{Fused, Local, Part};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError};
use crate::op::Op;
use crate::quantise::tile::Behind;

static SOURCE: Source = Source { name: "swiglu_fused.cu", text: include_str!("fused.cu") };

/// SwiGLU, forward or backward, and what is behind it.
struct Swiglu {
    /// Name of the kernel.
    name: &'static str,
    /// What it reads: gate and up, and the gradient of h backward.
    read: Vec<Local>,
    ffn: usize,
    behind: Behind,
}

pub(crate) fn forward(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let Part { op: Op::SwigluForward(spec), operands } = fused.parts.first()? else { return None };
    let behind = Behind::of(Epilogue::of(fused, operands[1], 1)?, 1)?;
    Some(Box::new(Swiglu { name: "swiglu_forward", read: vec![operands[0]], ffn: spec.ffn, behind }))
}

pub(crate) fn backward(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let Part { op: Op::SwigluBackward(spec), operands } = fused.parts.first()? else { return None };
    let behind = Behind::of(Epilogue::of(fused, operands[2], 1)?, 2)?;
    Some(Box::new(Swiglu { name: "swiglu_backward", read: operands[..2].to_vec(), ffn: spec.ffn, behind }))
}

impl FusedKernel for Swiglu {
    fn variants(&self) -> Vec<Variant> {
        vec![self.behind.variant(&SOURCE, self.name)]
    }

    fn calls(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Vec<Call>, GpuError> {
        let mut producer: Vec<u8> = self.read.iter().flat_map(|&local| bound.pointer(local).to_le_bytes()).collect();
        producer.extend((self.ffn as u64).to_le_bytes());
        let kernel = self.behind.kernel(gpu, bound, &self.behind.variant(&SOURCE, self.name))?;
        Ok(vec![kernel.structure(&producer).ready()?])
    }
}
