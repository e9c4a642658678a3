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

    /// Whether no scale is made in the launch.
    pub(crate) fn scale_is_given(&self) -> bool {
        self.scales == Scales::Given
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fused::epilogue::{Casting, Maxima};

    /// A hidden tensor of 400 × 512 with its maximum recorded and both casts with a given scale.
    fn delayed() -> Epilogue {
        let scaling = Scaling::Given(Local::External(0));
        let (q, qt) = (Some(Local::External(1)), Some(Local::External(2)));
        Epilogue {
            rows: 400,
            cols: 512,
            dtype: Dtype::Bf16,
            result: None,
            granularity: Granularity::Tensor,
            axis: Axis::Rows,
            maxima: Some(Maxima { amax: None, record: Some((Local::External(3), Local::External(4))) }),
            cast: Some(Casting { format: Dtype::E5m2, scaling, q, qt }),
        }
    }

    /// The same stored, cast as it is with scales of its own.
    fn own(granularity: Granularity) -> Epilogue {
        let scaling = Scaling::Own { scale: Local::External(0), power_of_two: true };
        let cast = Casting { format: Dtype::E4m3, scaling, q: Some(Local::External(1)), qt: None };
        let maxima = Some(Maxima { amax: None, record: None });
        Epilogue { result: Some(Local::External(5)), granularity, maxima, cast: Some(cast), ..delayed() }
    }

    fn defines(epilogue: Epilogue, outputs: usize) -> Option<String> {
        static SOURCE: Source = Source { name: "a.cu", text: "" };
        Behind::of(epilogue, outputs).map(|behind| behind.variant(&SOURCE, "a").defines.join(" "))
    }

    #[test]
    fn what_the_parts_say_is_what_is_compiled() {
        let both = "FORMAT=e5m2 RESULT=0 ROW_MAJOR=1 TRANSPOSED=1 MAXIMUM=1 SCALES=GIVEN THREADS=256 PACKS=1";
        assert_eq!(defines(delayed(), 2).as_deref(), Some(both));
        let amax = "FORMAT=none RESULT=1 ROW_MAJOR=0 TRANSPOSED=0 MAXIMUM=1 SCALES=GIVEN THREADS=256 PACKS=1";
        let stored = Epilogue { cast: None, result: Some(Local::External(0)), ..delayed() };
        assert_eq!(defines(stored, 1).as_deref(), Some(amax));
        let blocks = "FORMAT=e4m3 RESULT=1 ROW_MAJOR=1 TRANSPOSED=0 MAXIMUM=0 SCALES=OF_BLOCKS THREADS=256 PACKS=1";
        assert_eq!(defines(own(Granularity::Block1x128), 2).as_deref(), Some(blocks));
        // columns of the result, outputs, threads and packs of a block that has a row
        for (cols, outputs, threads, packs) in [(512, 2, 128, 1), (8192, 2, 128, 4), (14_336, 1, 512, 4)] {
            let found = defines(Epilogue { cols, ..own(Granularity::Row) }, outputs).unwrap();
            let expected = format!("MAXIMUM=0 SCALES=OF_ROWS THREADS={threads} PACKS={packs}");
            assert!(found.ends_with(&expected), "{found}");
        }
    }

    #[test]
    fn what_no_kernel_does_runs_part_by_part() {
        let transposed = |epilogue: Epilogue| {
            let cast = epilogue.cast.map(|cast| Casting { qt: Some(Local::External(2)), ..cast });
            Epilogue { cast, ..epilogue }
        };
        let (rows, blocks) = (own(Granularity::Row), own(Granularity::Block1x128));
        // epilogue, outputs
        let cases = [
            (Epilogue { dtype: Dtype::F32, ..delayed() }, 1),
            (Epilogue { rows: 408, ..delayed() }, 1),
            (Epilogue { cols: 520, ..delayed() }, 1),
            // Halves of 8 more than a multiple of 16, and halves that share a block.
            (Epilogue { cols: 528, ..delayed() }, 2),
            (Epilogue { cols: 544 + 256, ..blocks }, 2),
            (own(Granularity::Tensor), 1),
            (own(Granularity::Block128x128), 1),
            (transposed(rows), 1),
            (transposed(blocks), 1),
            (Epilogue { axis: Axis::Columns, ..rows }, 1),
            (Epilogue { maxima: Some(Maxima { amax: Some(Local::External(6)), record: None }), ..rows }, 1),
            (Epilogue { cols: 16_400, ..rows }, 1),
        ];
        for (epilogue, outputs) in cases {
            assert_eq!(defines(epilogue, outputs), None, "{epilogue:?} of {outputs}");
        }
    }
}
