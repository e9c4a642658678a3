//! How the gradient norm is launched.

use super::{ClipScale, SumSquares};
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "gradient.cu", text: include_str!("gradient.cu") };

impl SumSquares {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Blocks of the first stage: fixed by the size, so that the sum does not depend on the chip.
    fn blocks(&self) -> usize {
        self.elements().div_ceil(256 * 8).min(1024)
    }
}

impl Launch for SumSquares {
    /// Partial sums: (blocks) fp64.
    fn scratch(&self) -> usize {
        8 * self.blocks()
    }

    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let dtype = operands.float(self.dtype)?;
        let partial = Kernel::new(gpu, &SOURCE, &format!("sum_squares_{dtype}"))?
            .grid(self.blocks(), 1)
            .pointer(operands.pointer("g"))
            .pointer(operands.scratch())
            .long(self.elements());
        let total = Kernel::new(gpu, &SOURCE, "sum_partials")?
            .pointer(operands.scratch())
            .pointer(operands.pointer("sum"))
            .int(self.blocks());
        Ok(vec![partial.ready()?, total.ready()?])
    }
}

impl Launch for ClipScale {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let addresses: Vec<u8> =
            (0..self.count).flat_map(|index| operands.pointer(&format!("sum{index}")).to_le_bytes()).collect();
        let table = gpu.allocate(addresses.len())?;
        gpu.upload(&table, &addresses)?;
        let kernel = Kernel::new(gpu, &SOURCE, "clip_scale")?
            .table(table)
            .pointer(operands.pointer("norm"))
            .pointer(operands.pointer("scale"))
            .int(self.count)
            .double(self.max_norm);
        Ok(vec![kernel.ready()?])
    }
}
