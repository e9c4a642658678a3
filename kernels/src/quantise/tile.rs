//! The launch side of `tile.cuh`: which epilogues its kernels take, what is defined for them, their grid and what they are
//! told. It knows nothing of what makes the elements.

use super::Axis;
use super::launch::largest;
use crate::dtype::Dtype;
use crate::fused::Local;
use crate::fused::epilogue::{Epilogue, Scaling};
use crate::fused::launch::{Bound, Variant};
use crate::gpu::source::Source;
use crate::gpu::{Gpu, GpuError, Kernel};
use crate::precision::{AMAX_EPSILON, Granularity};

/// Rows and columns of a tile.
const TILE: usize = 128;
/// Elements that a thread makes at once.
const PACK: usize = 8;
/// Most packs of one row that a thread holds.
const MOST_PACKS: usize = 4;

/// Who makes the scale of the cast, as `tile.cuh` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scales {
    /// One for the tensor, there before the launch; or there is no cast.
    Given,
    /// The launch, one per 1×128 block.
    OfBlocks,
    /// The launch, one per row.
    OfRows,
}

/// The kernel behind a producer that makes `outputs` tensors of equal width side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behind {
    epilogue: Epilogue,
    outputs: usize,
    scales: Scales,
}

impl Behind {
    /// `None` for what the kernels do not do: dtypes other than bf16; rows or widths that are no multiples of 16, so that
    /// the transposed tensor's rows would not start on 16 bytes; a scale of the whole tensor from its own maximum, which no
    /// block knows; scales made along columns, or both a scale of a row and a transposed cast; rows that do not fit into
    /// the registers of a block.
    pub(crate) fn of(epilogue: Epilogue, outputs: usize) -> Option<Self> {
        let Epilogue { rows, cols, dtype, granularity, axis, maxima, cast, .. } = epilogue;
        let width = cols / outputs;
        if dtype != Dtype::Bf16 || !rows.is_multiple_of(16) || !width.is_multiple_of(16) {
            return None;
        }
        let leaves = maxima.is_some_and(|maxima| maxima.amax.is_some() || maxima.record.is_some());
        let scales = match cast.map(|cast| (cast.scaling, cast.qt)) {
            None | Some((Scaling::Given(_), _)) if granularity == Granularity::Tensor => Scales::Given,
            // Maxima of rows and blocks stay on the chip.
            Some((Scaling::Own { scale: Local::External(_), .. }, None)) if axis == Axis::Rows && !leaves => {
                match granularity {
                    Granularity::Block1x128 if outputs == 1 || width.is_multiple_of(TILE) => Scales::OfBlocks,
                    Granularity::Row => Scales::OfRows,
                    _ => return None,
                }
            }
            _ => return None,
        };
        let found = Self { epilogue, outputs, scales };
        (scales != Scales::OfRows || found.rows_shape().1 <= MOST_PACKS).then_some(found)
    }

    /// Threads of a block that has a row, and packs that each holds.
    fn rows_shape(&self) -> (usize, usize) {
        let packs = (self.epilogue.cols / self.outputs).div_ceil(PACK);
        let threads = [128, 256, 512].into_iter().find(|threads| packs <= threads * MOST_PACKS).unwrap_or(512);
        (threads, packs.div_ceil(threads))
    }

    fn shape(&self) -> (usize, usize) {
        if self.scales == Scales::OfRows { self.rows_shape() } else { (256, 1) }
    }

    /// Its kernel in a producer's source.
    pub(crate) fn variant(&self, source: &'static Source, name: &'static str) -> Variant {
        let Epilogue { result, cast, .. } = self.epilogue;
        let (threads, packs) = self.shape();
        let flag = |name: &str, value: bool| format!("{name}={}", u8::from(value));
        let scales = match self.scales {
            Scales::Given => "GIVEN",
            Scales::OfBlocks => "OF_BLOCKS",
            Scales::OfRows => "OF_ROWS",
        };
        let defines = vec![
            format!("FORMAT={}", cast.map_or("none", |cast| cast.format.name())),
            flag("RESULT", result.is_some()),
            flag("ROW_MAJOR", cast.is_some_and(|cast| cast.q.is_some())),
            flag("TRANSPOSED", cast.is_some_and(|cast| cast.qt.is_some())),
            flag("MAXIMUM", self.takes_maximum()),
            format!("SCALES={scales}"),
            format!("THREADS={threads}"),
            format!("PACKS={packs}"),
        ];
        Variant { source, defines, name }
    }

    fn takes_maximum(&self) -> bool {
        self.scales == Scales::Given && self.epilogue.maxima.is_some()
    }

    /// The launch with its first argument, `Ends`; the producer's structure comes next.
    pub(crate) fn kernel(&self, gpu: &Gpu, bound: &Bound<'_>, variant: &Variant) -> Result<Kernel, GpuError> {
        let Epilogue { rows, cols, result, cast, .. } = self.epilogue;
        let blocks = match self.scales {
            Scales::OfRows => rows,
            _ => rows.div_ceil(TILE) * (cols / self.outputs).div_ceil(TILE),
        };
        let (scale, power_of_two) = match cast.map(|cast| cast.scaling) {
            None => (0, false),
            Some(Scaling::Given(scale)) => (bound.pointer(scale), false),
            Some(Scaling::Own { scale, power_of_two }) => (bound.pointer(scale), power_of_two),
        };
        let (q, qt) = cast.map_or((None, None), |cast| (cast.q, cast.qt));
        let words = [bound.optional(result), bound.optional(q), bound.optional(qt), scale];
        let mut ends: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let numbers = [u32::try_from(rows).unwrap_or(u32::MAX), u32::try_from(cols).unwrap_or(u32::MAX)];
        let floats = [AMAX_EPSILON, cast.map_or(1.0, |cast| largest(cast.format))].map(f32::to_bits);
        for word in numbers.into_iter().chain(floats).chain([u32::from(power_of_two), 0]) {
            ends.extend(word.to_le_bytes());
        }
        let (maximum, own) = self.epilogue.maximum(gpu, bound, blocks)?;
        ends.extend(maximum);
        Ok(variant.kernel(gpu)?.grid(blocks, 1).block(self.shape().0).structure(&ends).holds(own))
    }
}
