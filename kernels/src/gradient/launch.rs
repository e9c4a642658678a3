//! How the gradient norm is launched.

use super::{ClipScale, SumSquares};
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "gradient.cu", text: include_str!("gradient.cu") };

/// Elements of one partial sum: fixed, so that the sum does not depend on the chip.
pub(super) const STRETCH: usize = 16_384;

impl SumSquares {
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub(super) fn stretches(&self) -> usize {
        self.elements().div_ceil(STRETCH)
    }
}

impl Launch for SumSquares {
    /// Partial sums: (stretches) fp64.
    fn scratch(&self) -> usize {
        8 * self.stretches()
    }

    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let dtype = operands.float(self.dtype)?;
        let partial = Kernel::new(gpu, &SOURCE, &format!("sum_squares_{dtype}"))?
            .grid(self.stretches(), 1)
            .pointer(operands.pointer("g"))
            .pointer(operands.scratch())
            .long(self.elements())
            .int(STRETCH);
        let total = Kernel::new(gpu, &SOURCE, "sum_partials")?
            .pointer(operands.scratch())
            .pointer(operands.pointer("sum"))
            .int(self.stretches());
        Ok(vec![partial.ready()?, total.ready()?])
    }
}

impl Launch for ClipScale {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let addresses: Vec<u8> =
            (0..self.count).flat_map(|index| operands.pointer(&format!("sum{index}")).to_le_bytes()).collect();
        let kernel = Kernel::new(gpu, &SOURCE, "clip_scale")?
            .table(gpu.table(&addresses)?)
            .pointer(operands.pointer("norm"))
            .pointer(operands.pointer("scale"))
            .int(self.count)
            .double(self.max_norm);
        Ok(vec![kernel.ready()?])
    }
}
