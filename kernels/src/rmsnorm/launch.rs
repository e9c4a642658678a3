//! How RMSNorm is launched: by the kernel that also takes what surrounds it, where that takes the width; else, for fp32 and
//! odd widths, by one that takes any.

use super::fused::{Addresses, Norm};
use super::{Backward, EPSILON, Forward};
use crate::dtype::Dtype;
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "rmsnorm.cu", text: include_str!("rmsnorm.cu") };

/// Packs of a row that one thread holds: `HELD` of the kernel.
const HELD: usize = 4;

/// How threads share rows.
struct Layout {
    /// Elements of a pack.
    pack: usize,
    /// Warps that share a row.
    warps: usize,
    /// Rows that a block works on at once.
    rows: usize,
}

impl Layout {
    fn of(dtype: Dtype, dim: usize) -> Self {
        let pack = Operands::pack(dtype, dim);
        let warps = dim.div_ceil(32 * pack * HELD);
        // Narrow rows: four warps make a block, each with a row of its own.
        let rows = if warps == 1 { 4 } else { 1 };
        Self { pack, warps, rows }
    }

    const fn threads(&self) -> usize {
        32 * self.warps * self.rows
    }

    fn check(&self, dim: usize, operands: &Operands<'_>) -> Result<(), GpuError> {
        if self.warps <= 32 {
            return Ok(());
        }
        operands.unsupported(format!("width {dim}: at most {} is expected", 32 * 32 * self.pack * HELD))
    }
}

impl Launch for Forward {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        if let Some(norm) = Norm::plain(self.rows, self.dim, self.dtype, false) {
            let at = |name| operands.pointer(name);
            let at = Addresses { x: at("x"), w: at("w"), result: at("y"), rstd: at("rstd"), ..Addresses::default() };
            return norm.calls(gpu, &at, None);
        }
        let (dtype, layout) = (operands.float(self.dtype)?, Layout::of(self.dtype, self.dim));
        layout.check(self.dim, operands)?;
        let kernel = Kernel::new(gpu, &SOURCE, &format!("rmsnorm_forward_{dtype}_v{}", layout.pack))?
            .grid(self.rows.div_ceil(layout.rows), 1)
            .block(layout.threads())
            .pointer(operands.pointer("x"))
            .pointer(operands.pointer("w"))
            .pointer(operands.pointer("y"))
            .pointer(operands.pointer("rstd"))
            .int(self.rows)
            .int(self.dim)
            .float(EPSILON)
            .int(layout.warps);
        Ok(vec![kernel.ready()?])
    }
}

impl Backward {
    /// Rows of one block. Fixed by the shape, so that sums do not depend on the chip; about five blocks for each of 132
    /// multiprocessors where there are rows enough.
    fn rows_per_block(&self) -> usize {
        self.rows.div_ceil(660).next_multiple_of(Layout::of(self.dtype, self.dim).rows)
    }

    fn blocks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_block())
    }
}

impl Launch for Backward {
    /// Partial sums of dw: (blocks, dim) fp32.
    fn scratch(&self) -> usize {
        let norm = Norm::plain(self.rows, self.dim, self.dtype, true);
        norm.map_or_else(|| self.blocks() * self.dim * 4, |norm| norm.scratch())
    }

    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        if let Some(norm) = Norm::plain(self.rows, self.dim, self.dtype, true) {
            let at = |name| operands.pointer(name);
            let at = Addresses {
                x: at("x"),
                w: at("w"),
                rstd: at("rstd"),
                dy: at("dy"),
                result: at("dx"),
                dw: at("dw"),
                partial: operands.scratch(),
                ..Addresses::default()
            };
            return norm.calls(gpu, &at, None);
        }
        let (dtype, layout) = (operands.float(self.dtype)?, Layout::of(self.dtype, self.dim));
        layout.check(self.dim, operands)?;
        let sums = if layout.rows > 1 { layout.rows * self.dim * 4 } else { 0 };
        let rows = Kernel::new(gpu, &SOURCE, &format!("rmsnorm_backward_{dtype}_v{}", layout.pack))?
            .grid(self.blocks(), 1)
            .block(layout.threads())
            .shared(sums)
            .pointer(operands.pointer("x"))
            .pointer(operands.pointer("w"))
            .pointer(operands.pointer("rstd"))
            .pointer(operands.pointer("dy"))
            .pointer(operands.pointer("dx"))
            .pointer(operands.scratch())
            .int(self.rows)
            .int(self.dim)
            .int(self.rows_per_block())
            .int(layout.warps);
        let weights = Kernel::new(gpu, &SOURCE, &format!("rmsnorm_weight_{dtype}"))?
            .grid(self.dim.div_ceil(32), 1)
            .pointer(operands.scratch())
            .pointer(operands.pointer("dw"))
            .int(self.blocks())
            .int(self.dim);
        Ok(vec![rows.ready()?, weights.ready()?])
    }
}
