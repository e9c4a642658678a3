//! The launches of SwiGLU fused with what becomes of its results: which fusions `fused.cu` takes and what it is told.

use crate::dtype::Dtype;
use crate::fused::epilogue::Epilogue;
use crate::fused::launch::{Bound, FusedKernel, Variant};
use crate::fused::{Fused, Local, Part};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError};
use crate::op::Op;
use crate::precision::Granularity;
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
    /// h made again beside the backward pass.
    again: Option<Again>,
}

/// What becomes of h made again.
enum Again {
    /// Its transposed cast, with a scale that is there.
    Cast { format: Dtype, scale: Local, qt: Local },
    /// It is stored, (rows, ffn).
    Stored { h: Local, rows: usize },
}

pub(crate) fn forward(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let Part { op: Op::SwigluForward(spec), operands } = fused.parts.first()? else { return None };
    let behind = Behind::of(Epilogue::of(fused, operands[1], 1)?, 1)?;
    Some(Box::new(Swiglu { name: "swiglu_forward", read: vec![operands[0]], ffn: spec.ffn, behind, again: None }))
}

pub(crate) fn backward(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let again = match fused.parts.first()?.op {
        Op::SwigluForward(_) => Some(again(fused)?),
        _ => None,
    };
    let at = match again {
        Some(Again::Cast { .. }) => 2,
        Some(Again::Stored { .. }) => 1,
        None => 0,
    };
    let Part { op: Op::SwigluBackward(spec), operands } = fused.parts.get(at)? else { return None };
    let behind = Behind::of(Epilogue::of(fused, operands[2], at + 1)?, 2)?;
    let name = match again {
        // A cast of h is of the whole tensor, and so is that of the gradients then.
        Some(Again::Cast { .. }) if !behind.scale_is_given() => return None,
        Some(_) if fused.parts[0].operands[0] != operands[0] => return None,
        Some(Again::Cast { .. }) => "swiglu_backward_again",
        Some(Again::Stored { .. }) => "swiglu_backward_and_h",
        None => "swiglu_backward",
    };
    Some(Box::new(Swiglu { name, read: operands[..2].to_vec(), ffn: spec.ffn, behind, again }))
}

/// The first parts as h made again: for a transposed cast with a scale that is there and nothing else, or stored.
fn again(fused: &Fused) -> Option<Again> {
    let [Part { op: Op::SwigluForward(spec), operands: made }, second, ..] = fused.parts.as_slice() else {
        return None;
    };
    let h = made[1];
    let Part { op: Op::Quantise(cast), operands } = second else {
        return fused.stores(h).then_some(Again::Stored { h, rows: spec.rows });
    };
    let &[cast_of, scale, qt] = operands.as_slice() else { return None };
    let taken = cast.transposed && !cast.row_major && cast.tiling.granularity == Granularity::Tensor;
    let alone =
        h == cast_of && matches!(h, Local::Hidden(_)) && matches!(scale, Local::External(_)) && fused.stores(qt);
    (taken && alone).then_some(Again::Cast { format: cast.format, scale, qt })
}

impl Swiglu {
    fn variant(&self) -> Variant {
        let mut variant = self.behind.variant(&SOURCE, self.name);
        variant.defines.extend(self.again.as_ref().map(|again| match again {
            Again::Cast { format, .. } => format!("AGAIN={}", format.name()),
            Again::Stored { .. } => "STORES_H=1".to_owned(),
        }));
        variant
    }
}

impl FusedKernel for Swiglu {
    fn variants(&self) -> Vec<Variant> {
        vec![self.variant()]
    }

    fn calls(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Vec<Call>, GpuError> {
        let mut producer: Vec<u8> = self.read.iter().flat_map(|&local| bound.pointer(local).to_le_bytes()).collect();
        producer.extend((self.ffn as u64).to_le_bytes());
        if let Some(Again::Stored { h, rows }) = &self.again {
            // `struct BackwardAndH` goes on so.
            producer.extend([bound.pointer(*h), *rows as u64].map(u64::to_le_bytes).concat());
        }
        let kernel = self.behind.kernel(gpu, bound, &self.variant())?.structure(&producer);
        let kernel = match &self.again {
            Some(Again::Cast { scale, qt, .. }) => {
                let words = [bound.pointer(*scale), bound.pointer(*qt)];
                kernel.structure(&words.map(u64::to_le_bytes).concat())
            }
            _ => kernel,
        };
        Ok(vec![kernel.ready()?])
    }
}
