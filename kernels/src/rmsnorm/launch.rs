//! How RMSNorm is launched.

use super::{Backward, EPSILON, Forward};
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "rmsnorm.cu", text: include_str!("rmsnorm.cu") };

/// Rows of one block of the forward kernel: one a warp.
const ROWS: usize = 8;

impl Launch for Forward {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let (dtype, pack) = (operands.float(self.dtype)?, Operands::pack(self.dtype, self.dim));
        let kernel = Kernel::new(gpu, &SOURCE, &format!("rmsnorm_forward_{dtype}_v{pack}"))?
            .grid(self.rows.div_ceil(ROWS), 1)
            .block(32 * ROWS)
            .pointer(operands.pointer("x"))
            .pointer(operands.pointer("w"))
            .pointer(operands.pointer("y"))
            .pointer(operands.pointer("rstd"))
            .int(self.rows)
            .int(self.dim)
            .float(EPSILON);
        Ok(vec![kernel.ready()?])
    }
}

impl Backward {
    /// Warps of a block: as many as leave room for two blocks' sums on one multiprocessor.
    fn warps(&self) -> usize {
        [8, 4, 2].into_iter().find(|warps| warps * self.dim * 4 <= 96 << 10).unwrap_or(1)
    }

    /// Rows of one block. Fixed by the shape, so that sums do not depend on the chip; about two blocks for each of 132
    /// multiprocessors where there are rows enough.
    fn rows_per_block(&self) -> usize {
        self.rows.div_ceil(264).max(self.warps())
    }

    fn blocks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_block())
    }
}

impl Launch for Backward {
    /// Partial sums of dw: (blocks, dim) fp32.
    fn scratch(&self) -> usize {
        self.blocks() * self.dim * 4
    }

    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let (dtype, pack) = (operands.float(self.dtype)?, Operands::pack(self.dtype, self.dim));
        let rows = Kernel::new(gpu, &SOURCE, &format!("rmsnorm_backward_{dtype}_v{pack}"))?
            .grid(self.blocks(), 1)
            .block(32 * self.warps())
            .shared(self.warps() * self.dim * 4)
            .pointer(operands.pointer("x"))
            .pointer(operands.pointer("w"))
            .pointer(operands.pointer("rstd"))
            .pointer(operands.pointer("dy"))
            .pointer(operands.pointer("dx"))
            .pointer(operands.scratch())
            .int(self.rows)
            .int(self.dim)
            .int(self.rows_per_block());
        let weights = Kernel::new(gpu, &SOURCE, &format!("rmsnorm_weight_{dtype}"))?
            .grid(self.dim.div_ceil(32), 1)
            .pointer(operands.scratch())
            .pointer(operands.pointer("dw"))
            .int(self.blocks())
            .int(self.dim);
        Ok(vec![rows.ready()?, weights.ready()?])
    }
}
