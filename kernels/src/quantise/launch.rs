//! How amaxes, scales and casts to FP8 are launched.

use super::{Amax, Axis, DelayedScale, Quantise, Record, Scale, Tiling};
use crate::dtype::Dtype;
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};
use crate::precision::{AMAX_EPSILON, DELAYED_HISTORY, Granularity};

pub(crate) static SOURCE: Source = Source { name: "quantise.cu", text: include_str!("quantise.cu") };

/// A shift that maps every index to 0.
const WHOLE: usize = 31;

impl Tiling {
    /// `struct Tiling` of the kernels: the map from an element to its scale, along rows and columns as stored.
    pub(super) fn map(&self) -> Vec<u8> {
        let summed = match self.axis {
            Axis::Rows => self.cols,
            Axis::Columns => self.rows,
        };
        // Shift and stride along the operand's own rows, then along the dimension summed over.
        let (own, over) = match self.granularity {
            Granularity::Tensor => ((WHOLE, 0), (WHOLE, 0)),
            Granularity::Row => ((0, 1), (WHOLE, 0)),
            Granularity::Block1x128 => ((0, summed.div_ceil(128)), (7, 1)),
            Granularity::Block128x128 => ((7, summed.div_ceil(128)), (7, 1)),
        };
        let (row, col) = if self.axis == Axis::Rows { (own, over) } else { (over, own) };
        let fields = [self.rows, self.cols, row.0, row.1, col.0, col.1];
        fields.iter().flat_map(|&field| u32::try_from(field).unwrap_or(u32::MAX).to_le_bytes()).collect()
    }
}

pub(crate) fn largest(format: Dtype) -> f32 {
    format.max_finite().unwrap_or(1.0)
}

impl Launch for Amax {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let dtype = operands.float(self.dtype)?;
        let Tiling { rows, cols, granularity, axis } = self.tiling;
        let (x, amax) = (operands.pointer("x"), operands.pointer("amax"));
        let zero = Call::zero(amax, 4 * self.tiling.scales().iter().product::<usize>());
        let kernel = if granularity == Granularity::Tensor {
            Kernel::new(gpu, &SOURCE, &format!("amax_tensor_{dtype}"))?
                .grid((rows * cols).div_ceil(256 * 8).min(2048), 1)
                .pointer(x)
                .pointer(amax)
                .long(rows * cols)
        } else {
            let by = match (granularity, axis) {
                (Granularity::Block128x128, _) => "blocks",
                (_, Axis::Rows) => "rows",
                (_, Axis::Columns) => "columns",
            };
            let pack = if cols.is_multiple_of(8) { 8 } else { 1 };
            Kernel::new(gpu, &SOURCE, &format!("amax_{by}_{dtype}_v{pack}"))?
                .grid(rows.div_ceil(128), cols.div_ceil(128))
                .pointer(x)
                .pointer(amax)
                .structure(&self.tiling.map())
        };
        Ok(vec![zero, kernel.ready()?])
    }
}

impl Launch for Scale {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let n: usize = self.shape.iter().product();
        let kernel = Kernel::new(gpu, &SOURCE, "scale_from_amax")?
            .grid(n.div_ceil(256), 1)
            .pointer(operands.pointer("amax"))
            .pointer(operands.pointer("scale"))
            .int(n)
            .float(AMAX_EPSILON)
            .float(largest(self.format))
            .int(usize::from(self.power_of_two));
        Ok(vec![kernel.ready()?])
    }
}

impl Launch for DelayedScale {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let kernel = Kernel::new(gpu, &SOURCE, "scale_from_history")?
            .block(1)
            .pointer(operands.pointer("history"))
            .pointer(operands.pointer("scale"))
            .int(DELAYED_HISTORY)
            .float(AMAX_EPSILON)
            .float(largest(self.format));
        Ok(vec![kernel.ready()?])
    }
}

impl Launch for Record {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let kernel = Kernel::new(gpu, &SOURCE, "record_amax")?
            .block(1)
            .pointer(operands.pointer("amax"))
            .pointer(operands.pointer("step"))
            .pointer(operands.pointer("history"))
            .int(DELAYED_HISTORY);
        Ok(vec![kernel.ready()?])
    }
}

impl Launch for Quantise {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let dtype = operands.float(self.dtype)?;
        let Tiling { rows, cols, .. } = self.tiling;
        let tiled = rows.is_multiple_of(16) && cols.is_multiple_of(16);
        let (layout, grid) = match (tiled, self.row_major, self.transposed) {
            (false, ..) => ("any", (rows, cols.div_ceil(256))),
            (true, true, true) => ("both", (cols.div_ceil(64), rows.div_ceil(128))),
            (true, _, true) => ("transposed", (cols.div_ceil(64), rows.div_ceil(128))),
            (true, ..) => ("row", (cols.div_ceil(128), rows.div_ceil(64))),
        };
        let kernel = Kernel::new(gpu, &SOURCE, &format!("quantise_{dtype}_{}_{layout}", self.format))?
            .grid(grid.0, grid.1)
            .pointer(operands.pointer("x"))
            .pointer(operands.pointer("scale"))
            .pointer(operands.pointer("q"))
            .pointer(operands.pointer("qt"))
            .structure(&self.tiling.map());
        Ok(vec![kernel.ready()?])
    }
}
