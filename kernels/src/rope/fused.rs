//! The launch of rotary positions turned back fused with what becomes of dQKV: which fusions `fused.cu` takes and what it is
//! told.

use super::Rope;
use crate::fused::epilogue::Epilogue;
use crate::fused::launch::{Bound, FusedKernel, Variant};
use crate::fused::{Fused, Local, Part};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError};
use crate::op::Op;
use crate::quantise::tile::Behind;

static SOURCE: Source = Source { name: "rope_fused.cu", text: include_str!("fused.cu") };

/// Rotary positions turned back and what is behind them.
struct Backward<'a> {
    spec: &'a Rope,
    cos: Local,
    sin: Local,
    dqkv: Local,
    behind: Behind,
}

/// `None` also for head widths that 16 threads of 8 columns do not hold as whole heads.
pub(crate) fn backward(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let Part { op: Op::Rope(spec), operands } = fused.parts.first()? else { return None };
    let &[cos, sin, dqkv] = operands.as_slice() else { return None };
    if !spec.backward || ![16, 32, 64, 128].contains(&spec.head_dim) {
        return None;
    }
    let behind = Behind::of(Epilogue::of(fused, dqkv, 1)?, 1)?;
    Some(Box::new(Backward { spec, cos, sin, dqkv, behind }))
}

impl FusedKernel for Backward<'_> {
    fn variants(&self) -> Vec<Variant> {
        vec![self.behind.variant(&SOURCE, "rope_backward")]
    }

    fn calls(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Vec<Call>, GpuError> {
        let addresses = [self.cos, self.sin, self.dqkv].map(|local| bound.pointer(local));
        let mut producer: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
        let Rope { seq, heads, head_dim, .. } = *self.spec;
        for size in [seq, head_dim / 2, 2 * heads * head_dim, 3 * heads * head_dim] {
            producer.extend(u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
        }
        let kernel = self.behind.kernel(gpu, bound, &self.behind.variant(&SOURCE, "rope_backward"))?;
        Ok(vec![kernel.structure(&producer).ready()?])
    }
}
