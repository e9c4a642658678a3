//! The launches of casts and scales fused with what surrounds them: which kernel takes which parts, and what it is given.

use crate::dtype::Dtype;
use crate::fused::epilogue::{Casting, Epilogue, Maxima, Scaling};
use crate::fused::launch::{Bound, FusedKernel, Variant};
use crate::fused::{Fused, Local, Part};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};
use crate::op::Op;
use crate::precision::{AMAX_EPSILON, DELAYED_HISTORY, Granularity};

use super::launch::{SOURCE, largest};
use super::{Axis, DelayedScale};

static TILES: Source = Source { name: "fused_tiles.cu", text: include_str!("fused_tiles.cu") };
static COLUMNS: Source = Source { name: "fused_columns.cu", text: include_str!("fused_columns.cu") };
static ROWS: Source = Source { name: "fused_rows.cu", text: include_str!("fused_rows.cu") };

/// Elements along a side of a block, and of a tile.
const BLOCK: usize = 128;

/// Where a scale covers a column: rows of a tile's section, and columns of a tile.
const SECTION: usize = 256;
const PANEL: usize = 64;

/// Elements from which on tiles have two sections: then more of them wait than a chip holds in registers.
const TWO_SECTIONS: usize = 1 << 24;

/// Tiles of one panel per multiprocessor that wait for each other: fewer than the 4 that are there at a time.
const WAITING: usize = 3;

/// Most threads that hold a row, and most packs of 8 columns that each holds.
const MOST_THREADS: usize = 256;
const MOST_PACKS: usize = 8;

/// All delayed scales of a step.
struct Scales<'a> {
    // History, scale, format.
    all: Vec<(Local, Local, &'a DelayedScale)>,
}

pub(crate) fn scales(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let all = fused.parts.iter().map(|part| match &part.op {
        Op::DelayedScale(spec) => Some((part.operands[0], part.operands[1], spec)),
        _ => None,
    });
    Some(Box::new(Scales { all: all.collect::<Option<Vec<_>>>()? }))
}

impl FusedKernel for Scales<'_> {
    fn variants(&self) -> Vec<Variant> {
        vec![Variant { source: &SOURCE, defines: Vec::new(), name: "scales_from_histories" }]
    }

    fn calls(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Vec<Call>, GpuError> {
        let mut bytes: Vec<u8> = Vec::new();
        for &(history, scale, spec) in &self.all {
            bytes.extend(bound.pointer(history).to_le_bytes());
            bytes.extend(bound.pointer(scale).to_le_bytes());
            // A float, filled up to the structure's alignment.
            bytes.extend(u64::from(largest(spec.format).to_bits()).to_le_bytes());
        }
        let kernel = self.variants()[0]
            .kernel(gpu)?
            .block(32)
            .grid(self.all.len().div_ceil(32), 1)
            .table(gpu.table(&bytes)?)
            .int(self.all.len())
            .int(DELAYED_HISTORY)
            .float(AMAX_EPSILON);
        Ok(vec![kernel.ready()?])
    }
}

/// How a cast is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// The tensor's scale is given, and its maximum is for later steps.
    Given,
    /// The tensor's maximum is given.
    Current,
    /// Scales over blocks of 128 × 128.
    Blocks,
    /// Scales over 128 rows of a column.
    ColumnBlocks,
    /// Scales over columns, by tiles of so many sections.
    Columns { sections: usize },
    /// Scales over `width` columns of a row: that many threads hold them, with so many packs of 8 columns each, so many at once.
    Rows { width: usize, threads: usize, packs: usize, segments: usize },
}

/// A tensor of `epilogue.rows` × `epilogue.cols` in bf16 that is there, and what becomes of it.
struct Cast {
    x: Local,
    epilogue: Epilogue,
    /// The given maximum.
    current: Option<Local>,
    plan: Plan,
}

pub(crate) fn cast(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let x = fused.parts.iter().find_map(|part| match part.op {
        Op::Amax(_) | Op::Quantise(_) => Some(part.operands[0]),
        _ => None,
    })?;
    // A scale in front comes from a maximum that was there before; what follows it reads as with a given scale.
    let (first, current) = match &fused.parts[0] {
        Part { op: Op::Scale(spec), operands } => (1, Some((operands[0], operands[1], spec))),
        _ => (0, None),
    };
    let mut epilogue = Epilogue::of(fused, x, first)?;
    if let Some((_, scale, spec)) = current {
        let Casting { format, scaling, .. } = epilogue.cast.as_mut()?;
        (*scaling == Scaling::Given(scale) && *format == spec.format && epilogue.maxima.is_none()).then_some(())?;
        *scaling = Scaling::Own { scale, power_of_two: spec.power_of_two };
    }
    // Whoever reads the cast reads its scale.
    let (Scaling::Given(scale) | Scaling::Own { scale, .. }) =
        epilogue.cast.map_or(Scaling::Given(x), |cast| cast.scaling);
    let inputs = [Some(x), Some(scale), current.map(|(amax, ..)| amax)];
    inputs.iter().flatten().all(|local| matches!(local, Local::External(_))).then_some(())?;
    let aligned = epilogue.rows.is_multiple_of(16) && epilogue.cols.is_multiple_of(16);
    (aligned && epilogue.dtype == Dtype::Bf16).then_some(())?;
    let plan = plan(&epilogue, current.is_some())?;
    Some(Box::new(Cast { x, epilogue, current: current.map(|(amax, ..)| amax), plan }))
}

fn plan(epilogue: &Epilogue, current: bool) -> Option<Plan> {
    let own = matches!(epilogue.cast, Some(Casting { scaling: Scaling::Own { .. }, .. }));
    let recorded = epilogue.maxima.is_some_and(|maxima| maxima.record.is_some());
    let rows_only = epilogue.cast.is_some_and(|cast| cast.qt.is_none());
    match (epilogue.granularity, epilogue.axis) {
        (Granularity::Tensor, _) if current => Some(Plan::Current),
        (Granularity::Tensor, _) if !own => Some(Plan::Given),
        // Scales of parts that are not the launch's own: nothing is gained by fusing.
        _ if current || !own || recorded => None,
        (Granularity::Block128x128, _) => Some(Plan::Blocks),
        (Granularity::Block1x128, Axis::Columns) => Some(Plan::ColumnBlocks),
        (Granularity::Row, Axis::Columns) => {
            let sections = if epilogue.rows * epilogue.cols < TWO_SECTIONS { 1 } else { 2 };
            Some(Plan::Columns { sections })
        }
        (Granularity::Block1x128, Axis::Rows) if rows_only => {
            Some(Plan::Rows { width: BLOCK, threads: 16, packs: 1, segments: 4 })
        }
        (Granularity::Row, Axis::Rows) if rows_only => {
            let width = epilogue.cols;
            let all = width.div_ceil(8);
            let threads = all.div_ceil(4).next_power_of_two().clamp(32, MOST_THREADS);
            let packs = all.div_ceil(threads);
            (packs <= MOST_PACKS).then_some(Plan::Rows { width, threads, packs, segments: (4 / packs).max(1) })
        }
        (Granularity::Tensor | Granularity::Block1x128 | Granularity::Row, _) => None,
    }
}

impl FusedKernel for Cast {
    fn variants(&self) -> Vec<Variant> {
        let cast = self.epilogue.cast;
        let format = cast.map_or(Dtype::E4m3, |cast| cast.format);
        let mut defines = vec![format!("FORMAT={format}")];
        let writes = |layout: Option<Local>| u8::from(layout.is_some());
        let layouts = [
            format!("ROW_MAJOR={}", writes(cast.and_then(|cast| cast.q))),
            format!("TRANSPOSED={}", writes(cast.and_then(|cast| cast.qt))),
        ];
        let kind = match self.plan {
            Plan::Rows { threads, packs, segments, .. } => {
                let held = [("THREADS", threads), ("PACKS", packs), ("SEGMENTS", segments)];
                defines.extend(held.map(|(name, value)| format!("{name}={value}")));
                return vec![Variant { source: &ROWS, defines, name: "cast_rows" }];
            }
            Plan::Columns { sections } => {
                defines.extend(layouts);
                defines.push(format!("SECTIONS={sections}"));
                return vec![Variant { source: &COLUMNS, defines, name: "cast_columns" }];
            }
            Plan::Given => "GIVEN",
            Plan::Current => "CURRENT",
            Plan::Blocks => "BLOCKS",
            Plan::ColumnBlocks => "COLUMN_BLOCKS",
        };
        defines.push(format!("KIND={kind}"));
        defines.extend(layouts);
        vec![Variant { source: &TILES, defines, name: "cast_tiles" }]
    }

    fn calls(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Vec<Call>, GpuError> {
        match self.plan {
            Plan::Rows { width, threads, segments, .. } => self.rows(gpu, bound, width, threads, segments),
            Plan::Columns { sections } => self.columns(gpu, bound, sections),
            Plan::Given | Plan::Current | Plan::Blocks | Plan::ColumnBlocks => self.tiles(gpu, bound),
        }
    }
}

impl Cast {
    fn scale(&self) -> Option<Local> {
        let (Scaling::Given(scale) | Scaling::Own { scale, .. }) = self.epilogue.cast?.scaling;
        Some(scale)
    }

    /// `struct Rule` of `scale.cuh`.
    fn rule(&self) -> Vec<u8> {
        let cast = self.epilogue.cast;
        let power_of_two = matches!(cast, Some(Casting { scaling: Scaling::Own { power_of_two: true, .. }, .. }));
        let largest = cast.map_or(1.0, |cast| largest(cast.format));
        let words = [AMAX_EPSILON.to_bits(), largest.to_bits(), u32::from(power_of_two)];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The maxima that are read, or stored beside the scales.
    fn amax(&self) -> Option<Local> {
        self.current.or_else(|| self.epilogue.maxima.and_then(|Maxima { amax, .. }| amax))
    }

    fn rows(
        &self,
        gpu: &Gpu,
        bound: &Bound<'_>,
        width: usize,
        threads: usize,
        segments: usize,
    ) -> Result<Vec<Call>, GpuError> {
        let Epilogue { rows, cols, cast, .. } = self.epilogue;
        let per_row = cols.div_ceil(width);
        let kernel = self.variants()[0]
            .kernel(gpu)?
            .grid((rows * per_row).div_ceil(MOST_THREADS / threads * segments), 1)
            .pointer(bound.pointer(self.x))
            .pointer(bound.optional(cast.and_then(|cast| cast.q)))
            .pointer(bound.optional(self.scale()))
            .pointer(bound.optional(self.amax()))
            .int(rows * per_row)
            .int(per_row)
            .int(width)
            .int(cols)
            .structure(&self.rule());
        Ok(vec![kernel.ready()?])
    }

    /// The kernel with what tiles read and write, and the tensor's shape.
    fn tensors(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Kernel, GpuError> {
        let Epilogue { rows, cols, cast, .. } = self.epilogue;
        let kernel = self.variants()[0]
            .kernel(gpu)?
            .pointer(bound.pointer(self.x))
            .pointer(bound.optional(cast.and_then(|cast| cast.q)))
            .pointer(bound.optional(cast.and_then(|cast| cast.qt)))
            .pointer(bound.optional(self.scale()))
            .pointer(bound.optional(self.amax()))
            .int(rows)
            .int(cols);
        Ok(kernel)
    }

    fn tiles(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Vec<Call>, GpuError> {
        let (down, across) = (self.epilogue.rows.div_ceil(BLOCK), self.epilogue.cols.div_ceil(BLOCK));
        // How far apart the scales of tiles are that lie below and beside each other.
        let (row_stride, col_stride) = match (self.plan, self.epilogue.axis) {
            (Plan::Blocks, Axis::Rows) => (across, 1),
            (Plan::Blocks | Plan::ColumnBlocks, _) => (1, down),
            _ => (0, 0),
        };
        let kernel =
            self.tensors(gpu, bound)?.grid(across, down).int(row_stride).int(col_stride).structure(&self.rule());
        let kernel = if self.plan == Plan::Given {
            let (maximum, own) = self.epilogue.maximum(gpu, bound, down * across)?;
            kernel.structure(&maximum).holds(own)
        } else {
            kernel.structure(&[0; 48])
        };
        Ok(vec![kernel.ready()?])
    }

    /// One launch whose tiles wait for the others of their columns, where so many fit the chip at a time; else one that takes
    /// the maxima and one that casts.
    fn columns(&self, gpu: &Gpu, bound: &Bound<'_>, sections: usize) -> Result<Vec<Call>, GpuError> {
        let (row_tiles, panels) = (self.epilogue.rows.div_ceil(SECTION * sections), self.epilogue.cols.div_ceil(PANEL));
        // Cells, and two counters for each panel.
        let own = gpu.allocate(4 * panels * (PANEL + 2))?;
        gpu.fill(&own, 0)?;
        let word = |index: usize| own.pointer() + 4 * index as u64;
        let addresses = [word(0), word(panels * PANEL), word(panels * (PANEL + 1))];
        let waits = row_tiles <= WAITING * gpu.facts().multiprocessors;
        let launches: &[[u32; 2]] = if waits { &[[1, 1]] } else { &[[1, 0], [0, 1]] };
        let call = |&[takes_maxima, casts]: &[u32; 2]| {
            let mut bytes: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
            for field in [u32::try_from(row_tiles).unwrap_or(u32::MAX), takes_maxima, casts, 0] {
                bytes.extend(field.to_le_bytes());
            }
            let kernel = self.tensors(gpu, bound)?.grid(row_tiles * panels, 1);
            kernel.structure(&self.rule()).structure(&bytes).holds(own.clone()).ready()
        };
        launches.iter().map(call).collect()
    }
}
