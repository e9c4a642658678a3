//! What a cast loses at the ends of its format's range: on the CPU and by a kernel, for whoever checks numbers.

use super::Quantise;
use crate::dtype::Dtype;
use crate::gpu::source::Source;
use crate::gpu::{Gpu, GpuError, Kernel, Prepared, Slice};
use crate::tensor::rounded;

pub(crate) static SOURCE: Source = Source { name: "count.cu", text: include_str!("count.cu") };

/// What one cast lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Values that saturated: beyond the largest finite value by more than half a step, so that rounding alone would not
    /// bring them back to it. A scale made of the tensor's own amax saturates none.
    pub overflows: u64,
    /// Values that were not zero and became zero.
    pub underflows: u64,
}

impl Quantise {
    /// From where on a scaled value is out of range: half a step above the largest finite value.
    const fn beyond(&self) -> f32 {
        match self.format {
            Dtype::E4m3 => 464.0,
            _ => 61_440.0,
        }
    }

    /// Counts over x, (rows, cols), and the scales of its tiling.
    ///
    /// # Panics
    /// If the slices do not have the sizes of the spec: that is a bug in the caller.
    #[must_use]
    pub fn losses(&self, x: &[f32], scale: &[f32]) -> Losses {
        assert_eq!(x.len(), self.tiling.rows * self.tiling.cols, "x fills the spec");
        let inverse: Vec<f32> = scale.iter().map(|scale| scale.recip()).collect();
        let mut losses = Losses::default();
        for (row, x) in x.chunks_exact(self.tiling.cols).enumerate() {
            for (col, value) in x.iter().enumerate() {
                let scaled = value * inverse[self.tiling.scale_index(row, col)];
                losses.overflows += u64::from(scaled.abs() > self.beyond());
                losses.underflows += u64::from(*value != 0.0 && rounded(self.format, scaled) == 0.0);
            }
        }
        losses
    }

    /// [`Self::losses`] of operands on the device, waiting for everything enqueued before.
    ///
    /// # Errors
    /// If their sizes are not those of the spec, the kernel does not compile, or work before it has failed.
    pub fn losses_on_gpu(&self, gpu: &Gpu, x: &Slice, scale: &Slice) -> Result<Losses, GpuError> {
        let n = self.tiling.rows * self.tiling.cols;
        let sizes = (n * self.dtype.bytes(), 4 * self.tiling.scales().iter().product::<usize>());
        if (x.bytes(), scale.bytes()) != sizes {
            let what = format!("{} and {} bytes, {} and {} expected", x.bytes(), scale.bytes(), sizes.0, sizes.1);
            return Err(GpuError::Operand { op: "count of losses", operand: "x and scale".to_owned(), what });
        }
        let counts = gpu.allocate(16)?;
        gpu.fill(&counts, 0)?;
        let kernel = Kernel::new(gpu, &SOURCE, &format!("count_losses_{}_{}", self.dtype, self.format))?
            .grid(n.div_ceil(256 * 8).clamp(1, 2048), 1)
            .pointer(x.pointer())
            .pointer(scale.pointer())
            .float(self.beyond())
            .pointer(counts.pointer())
            .structure(&self.tiling.map());
        gpu.enqueue(&Prepared::new(vec![kernel.ready()?], vec![x.clone(), scale.clone(), counts.clone()]))?;
        let mut bytes = [0; 16];
        gpu.download(&counts, &mut bytes)?;
        let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0_u64, |word, &byte| word << 8 | u64::from(byte));
        Ok(Losses { overflows: word(0), underflows: word(8) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::Granularity;
    use crate::quantise::{Axis, Tiling};

    #[test]
    fn saturated_and_vanished_values_are_counted_by_hand() {
        let quantise = |format, granularity, rows, cols| Quantise {
            tiling: Tiling { rows, cols, granularity, axis: Axis::Rows },
            dtype: Dtype::F32,
            format,
            row_major: true,
            transposed: false,
        };
        // E4M3: 464 rounds to 448, the next value up does not; 2⁻¹⁰ is half the smallest value and ties to 0.
        let x = [448.0, 464.0, -464.1, f32::INFINITY, f32::NAN, 0.0, -0.0, 2f32.powi(-10), 2f32.powi(-9), -1e-30];
        let e4m3 = quantise(Dtype::E4m3, Granularity::Tensor, 2, 5);
        assert_eq!(e4m3.losses(&x, &[1.0]), Losses { overflows: 2, underflows: 2 });
        assert_eq!(e4m3.losses(&x, &[4.0]), Losses { overflows: 1, underflows: 3 });
        let x = [57_344.0, 61_440.0, 61_441.0, 2f32.powi(-17), 2f32.powi(-16), 1e-10];
        assert_eq!(
            quantise(Dtype::E5m2, Granularity::Tensor, 1, 6).losses(&x, &[1.0]),
            Losses { overflows: 1, underflows: 2 }
        );
        // Each row by its own scale.
        let rows = quantise(Dtype::E4m3, Granularity::Row, 2, 2);
        assert_eq!(rows.losses(&[500.0, 1.0, 500.0, 1.0], &[1.0, 2.0]), Losses { overflows: 1, underflows: 0 });
    }
}
