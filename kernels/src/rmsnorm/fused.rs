//! RMSNorm in one launch with what surrounds it: which fusions a kernel takes, how it is compiled and launched. The plain norm
//! of the same widths is the same kernel with nothing around it, so that sums have one order and bits agree.

use super::EPSILON;
use crate::dtype::Dtype;
use crate::fused::epilogue::{Casting, Epilogue, Scaling};
use crate::fused::launch::{Bound, FusedKernel, Variant};
use crate::fused::{Fused, Local, Part};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel, Slice};
use crate::op::Op;
use crate::precision::{AMAX_EPSILON, Granularity};
use crate::quantise::Axis;

static SOURCE: Source = Source { name: "rmsnorm_fused.cu", text: include_str!("fused.cu") };

/// Threads of a block: `THREADS` of the kernel.
const THREADS: usize = 256;

/// Shared memory of a multiprocessor that dynamic memory of its blocks can have; each block keeps some for itself.
const SHARED: usize = 228 * 1024;
const SHARED_OF_BLOCK: usize = 2 * 1024;

/// Multiprocessors that work is shared out for. Fixed, so that sums do not depend on the chip.
const MULTIPROCESSORS: usize = 132;

/// What the cast takes its scale from: `CAST` of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cast {
    None = 0,
    Given = 1,
    Row = 2,
    Block = 3,
}

/// What a launch does, as far as it decides the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Norm {
    rows: usize,
    dim: usize,
    backward: bool,
    /// With the residual sum before it (forward), or the residual gradient's after it (backward).
    add: bool,
    maximum: bool,
    cast: Cast,
    format: Dtype,
    transposed: bool,
}

/// How it is compiled to use shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fit {
    /// Rows of the transposed tile: most of a chunk.
    tile: usize,
    /// Rows on their way to each warp.
    stages: usize,
    /// Blocks that share a multiprocessor.
    resident: usize,
    /// Dynamic shared memory of a block, bytes.
    bytes: usize,
}

/// Addresses of a launch; 0 for what is left out.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    pub x: u64,
    pub w: u64,
    pub rstd: u64,
    /// Backward only.
    pub dy: u64,
    pub addend: u64,
    /// Forward: the residual sum.
    pub sum: u64,
    /// y, dx, or dx and the residual gradient's sum.
    pub result: u64,
    /// 0 where nobody wants it.
    pub dw: u64,
    pub scale: u64,
    pub q: u64,
    pub qt: u64,
    /// Partial sums of dw, (blocks, dim) fp32.
    pub partial: u64,
    pub power_of_two: bool,
}

impl Norm {
    /// The plain norm, where the kernel takes its dtype and width: rows of 16-byte packs, at most 4 a thread.
    pub(super) fn plain(rows: usize, dim: usize, dtype: Dtype, backward: bool) -> Option<Self> {
        let (add, maximum, cast, format, transposed) = (false, false, Cast::None, Dtype::E4m3, false);
        let norm = Self { rows, dim, backward, add, maximum, cast, format, transposed };
        (dtype == Dtype::Bf16 && dim.is_multiple_of(8) && dim <= 8192).then_some(norm)
    }

    /// The same with a result that goes on as `epilogue` says. Not taken: a tensor-wide scale made in the launch (every block
    /// would wait for all), maxima of rows or blocks that somebody else reads, scales along columns, and a transposed cast of
    /// rows that 16-byte stores cannot write or of a width whose tile does not fit.
    fn with(self, add: bool, epilogue: &Epilogue) -> Option<Self> {
        let whole = epilogue.granularity == Granularity::Tensor;
        let (cast, format, transposed) = match epilogue.cast {
            None => (Cast::None, self.format, false),
            Some(Casting { format, scaling: Scaling::Given(_), q: _, qt }) if whole => {
                (Cast::Given, format, qt.is_some())
            }
            Some(Casting { format, scaling: Scaling::Own { .. }, q: Some(_), qt: None }) => {
                let cast = match epilogue.granularity {
                    Granularity::Row => Cast::Row,
                    Granularity::Block1x128 => Cast::Block,
                    Granularity::Tensor | Granularity::Block128x128 => return None,
                };
                let unseen = epilogue.maxima.is_some_and(|maxima| maxima.amax.is_none() && maxima.record.is_none());
                (epilogue.axis == Axis::Rows && unseen).then_some((cast, format, false))?
            }
            Some(_) => return None,
        };
        let maximum = whole && epilogue.maxima.is_some();
        if !whole && cast == Cast::None {
            return None;
        }
        if transposed && !(self.rows.is_multiple_of(16) && self.dim.is_multiple_of(64) && self.dim <= 4096) {
            return None;
        }
        Some(Self { add, maximum, cast, format, transposed, ..self })
    }

    /// Warps that share a row: `ROW_WARPS` of the kernel.
    fn row_warps(&self) -> usize {
        self.dim.div_ceil(1024).next_power_of_two()
    }

    /// As many blocks as keep two rows or more on their way to each warp. Backward it is one: sums of weight gradients take
    /// its registers, and rows their way ahead of few warps.
    fn fit(&self) -> Fit {
        let packs = self.dim.div_ceil(256 * self.row_warps());
        let inputs = if self.backward { 2 } else { 1 } + usize::from(self.add);
        let numbers = if self.backward { THREADS * 4 } else { 0 };
        let stage = inputs * packs * THREADS * 16 + numbers;
        let tile = self.most_rows();
        let turned = if self.transposed { tile * self.dim } else { 0 };
        let most = if self.backward { 1 } else { 3 };
        let stages = |resident: usize| (SHARED / resident - SHARED_OF_BLOCK).saturating_sub(turned) / stage;
        let resident = (1..=most).rev().find(|&resident| stages(resident) >= 2).unwrap_or(1);
        let stages = stages(resident).clamp(1, 4);
        Fit { tile, stages, resident, bytes: turned + stages * stage }
    }

    /// Most rows of a chunk: 64-byte segments of transposed columns, or half that where the tile would not fit.
    fn most_rows(&self) -> usize {
        if self.dim <= 2048 { 64 } else { 32 }
    }

    /// Rows of a chunk, a power of two. Backward they decide the order of sums and depend on nothing that is fused.
    fn chunk(&self) -> usize {
        if !self.backward && !self.transposed {
            return 8;
        }
        self.rows.div_ceil(MULTIPROCESSORS).next_power_of_two().clamp(16, self.most_rows())
    }

    /// As many as are resident; each takes chunk after chunk.
    fn blocks(&self) -> usize {
        self.rows.div_ceil(self.chunk()).min(MULTIPROCESSORS * self.fit().resident)
    }

    fn variant(&self, name: &'static str) -> Variant {
        let fit = self.fit();
        let mut defines: Vec<String> = [
            ("DIM", self.dim),
            ("BACKWARD", usize::from(self.backward)),
            ("ADD", usize::from(self.add)),
            ("MAXIMUM", usize::from(self.maximum)),
            ("CAST", self.cast as usize),
            ("TRANSPOSED", usize::from(self.transposed)),
            ("TILE", fit.tile),
            ("STAGES", fit.stages),
            ("RESIDENT", fit.resident),
        ]
        .map(|(name, value)| format!("{name}={value}"))
        .into();
        defines.push(format!("FORMAT={}", self.format));
        Variant { source: &SOURCE, defines, name }
    }

    pub(super) fn variants(&self) -> Vec<Variant> {
        let names: &[&str] = if self.backward { &["norm_backward", "norm_weight"] } else { &["norm_forward"] };
        names.iter().map(|name| self.variant(name)).collect()
    }

    /// Partial sums of dw: (blocks, dim) fp32.
    pub(super) fn scratch(&self) -> usize {
        if self.backward { self.blocks() * self.dim * 4 } else { 0 }
    }

    /// `maximum`: `struct Maximum` with its memory, where one is taken.
    pub(super) fn calls(
        &self,
        gpu: &Gpu,
        at: &Addresses,
        maximum: Option<(Vec<u8>, Slice)>,
    ) -> Result<Vec<Call>, GpuError> {
        let rows = if self.backward { self.backward(gpu, at)? } else { self.forward(gpu, at)? };
        let rows = match maximum {
            Some((bytes, memory)) => rows.structure(&bytes).holds(memory),
            None => rows.structure(&[0; 48]),
        };
        let rows = rows
            .float(AMAX_EPSILON)
            .float(self.format.max_finite().unwrap_or(1.0))
            .int(usize::from(at.power_of_two))
            .ready()?;
        // Calibration throws the weights' gradients away.
        if !self.backward || at.dw == 0 {
            return Ok(vec![rows]);
        }
        let weights = self
            .variant("norm_weight")
            .kernel(gpu)?
            .grid(self.dim.div_ceil(32), 1)
            .block(1024)
            .pointer(at.partial)
            .pointer(at.dw)
            .int(self.blocks());
        Ok(vec![rows, weights.ready()?])
    }

    fn rows(&self, gpu: &Gpu, name: &'static str) -> Result<Kernel, GpuError> {
        let kernel = self.variant(name).kernel(gpu)?;
        Ok(kernel.grid(self.blocks(), 1).block(THREADS).shared(self.fit().bytes))
    }

    fn forward(&self, gpu: &Gpu, at: &Addresses) -> Result<Kernel, GpuError> {
        let pointers = [at.x, at.addend, at.w, at.sum, at.result, at.rstd, at.scale, at.q, at.qt];
        let kernel = pointers.into_iter().fold(self.rows(gpu, "norm_forward")?, Kernel::pointer);
        Ok(kernel.int(self.rows).int(self.chunk()).float(EPSILON))
    }

    fn backward(&self, gpu: &Gpu, at: &Addresses) -> Result<Kernel, GpuError> {
        let pointers = [at.x, at.w, at.rstd, at.dy, at.addend, at.result, at.partial, at.scale, at.q, at.qt];
        let kernel = pointers.into_iter().fold(self.rows(gpu, "norm_backward")?, Kernel::pointer);
        Ok(kernel.int(self.rows).int(self.chunk()))
    }
}

/// A fusion that the kernel takes: the operands beside those of its [`Epilogue`].
struct Taken {
    norm: Norm,
    epilogue: Epilogue,
    x: Local,
    w: Local,
    rstd: Local,
    dy: Option<Local>,
    addend: Option<Local>,
    sum: Option<Local>,
    dw: Option<Local>,
}

impl FusedKernel for Taken {
    fn variants(&self) -> Vec<Variant> {
        self.norm.variants()
    }

    fn scratch(&self) -> usize {
        self.norm.scratch()
    }

    fn calls(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Vec<Call>, GpuError> {
        let cast = self.epilogue.cast;
        let (scale, power_of_two) = match cast.map(|cast| cast.scaling) {
            Some(Scaling::Given(scale)) => (Some(scale), false),
            Some(Scaling::Own { scale, power_of_two }) => (Some(scale), power_of_two),
            None => (None, false),
        };
        let at = Addresses {
            x: bound.pointer(self.x),
            w: bound.pointer(self.w),
            rstd: bound.pointer(self.rstd),
            dy: bound.optional(self.dy),
            addend: bound.optional(self.addend),
            sum: bound.optional(self.sum),
            result: bound.optional(self.epilogue.result),
            dw: bound.optional(self.dw),
            scale: bound.optional(scale),
            q: bound.optional(cast.and_then(|cast| cast.q)),
            qt: bound.optional(cast.and_then(|cast| cast.qt)),
            partial: bound.scratch(),
            power_of_two,
        };
        let taken = self.norm.maximum.then(|| self.epilogue.maximum(gpu, bound, self.norm.blocks())).transpose()?;
        self.norm.calls(gpu, &at, taken)
    }
}

/// Every operand that a kernel reads or must write lies in memory.
fn outside(locals: &[Local]) -> Option<()> {
    locals.iter().all(|local| matches!(local, Local::External(_))).then_some(())
}

/// RMSNorm forward, behind a residual sum or not.
pub(crate) fn forward(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let (added, at) = match fused.parts.as_slice() {
        [Part { op: Op::Add(_), operands }, ..] => (Some(operands), 1),
        _ => (None, 0),
    };
    let Part { op: Op::RmsNormForward(spec), operands } = fused.parts.get(at)? else { return None };
    let &[x, w, y, rstd] = operands.as_slice() else { return None };
    let (x, addend, sum) = match added.map(Vec::as_slice) {
        Some(&[a, b, sum]) if sum == x => (a, Some(b), fused.stores(sum).then_some(sum)),
        Some(_) => return None,
        None => (x, None, None),
    };
    outside(&[x, w, rstd, addend.unwrap_or(x)])?;
    let epilogue = Epilogue::of(fused, y, at + 1)?;
    let norm = Norm::plain(spec.rows, spec.dim, spec.dtype, false)?.with(addend.is_some(), &epilogue)?;
    Some(Box::new(Taken { norm, epilogue, x, w, rstd, dy: None, addend, sum, dw: None }))
}

/// RMSNorm backward, with the residual gradient added to dx or not. Not taken: dx stored beside the sum.
pub(crate) fn backward(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let Part { op: Op::RmsNormBackward(spec), operands } = fused.parts.first()? else { return None };
    let &[x, w, rstd, dy, dx, dw] = operands.as_slice() else { return None };
    let (addend, result, next) = match fused.parts.get(1) {
        Some(Part { op: Op::Add(_), operands }) => match *operands.as_slice() {
            [a, b, sum] if a != b && (a == dx || b == dx) && !fused.stores(dx) => {
                (Some(if a == dx { b } else { a }), sum, 2)
            }
            _ => return None,
        },
        _ => (None, dx, 1),
    };
    outside(&[x, w, rstd, dy, addend.unwrap_or(x)])?;
    let epilogue = Epilogue::of(fused, result, next)?;
    let norm = Norm::plain(spec.rows, spec.dim, spec.dtype, true)?.with(addend.is_some(), &epilogue)?;
    Some(Box::new(Taken { norm, epilogue, x, w, rstd, dy: Some(dy), addend, sum: None, dw: Some(dw) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvrtc;

    fn plain(rows: usize, dim: usize, backward: bool) -> Norm {
        Norm::plain(rows, dim, Dtype::Bf16, backward).unwrap()
    }

    #[test]
    fn what_is_fused_fits_a_multiprocessor_and_does_not_change_the_order_of_sums() {
        for dim in [64, 256, 896, 1024, 2048, 3072, 4096] {
            for backward in [false, true] {
                for (add, transposed) in [(false, false), (true, false), (false, true), (true, true)] {
                    let norm = Norm { add, transposed, ..plain(32_768, dim, backward) };
                    let fit = norm.fit();
                    assert!(fit.stages >= 2, "{norm:?} {fit:?}");
                    assert!(fit.bytes <= 226 * 1024, "{norm:?} {fit:?}");
                    assert!(fit.resident * (fit.bytes + SHARED_OF_BLOCK) <= SHARED, "{norm:?} {fit:?}");
                    for rows in [1, 37, 2048, 8192, 32_768] {
                        let (norm, plain) = (Norm { rows, ..norm }, plain(rows, dim, backward));
                        assert!(norm.chunk().is_power_of_two() && norm.chunk() >= 8, "{norm:?}");
                        assert!(!transposed || (norm.chunk() >= 16 && norm.chunk() <= fit.tile), "{norm:?}");
                        assert!(!backward || (norm.chunk(), norm.blocks()) == (plain.chunk(), plain.blocks()));
                    }
                }
            }
        }
    }

    #[test]
    fn the_plain_kernel_is_not_taken_where_it_would_be_wrong() {
        for (dim, dtype) in [(1024, Dtype::F32), (1020, Dtype::Bf16), (8200, Dtype::Bf16)] {
            assert_eq!(Norm::plain(8, dim, dtype, false), None, "{dim} {dtype}");
        }
    }

    #[test]
    fn plain_kernels_compile_for_hopper_without_spills() {
        if nvrtc::version().is_err() {
            let required = std::env::var("STEPWATCH_REQUIRE_NVRTC").is_ok_and(|value| value == "1");
            assert!(!required, "STEPWATCH_REQUIRE_NVRTC=1, and no compiler");
            println!("NOT RUN: no run-time compiler");
            return;
        }
        for dim in [8, 896, 1024, 2048, 3072, 8192] {
            for variant in [false, true].into_iter().flat_map(|backward| plain(64, dim, backward).variants()) {
                let mut options: Vec<String> =
                    variant.defines.iter().map(|define| format!("--define-macro={define}")).collect();
                options.push("--ptxas-options=-v".to_owned());
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                let compiled = nvrtc::compile(variant.source, "sm_90a", &options).unwrap();
                let found = nvrtc::resources(&compiled.log);
                let kernel = found.iter().find(|kernel| kernel.name == variant.name).unwrap();
                assert_eq!(kernel.spilled_bytes, 0, "{} {:?}", variant.name, variant.defines);
            }
        }
    }
}
