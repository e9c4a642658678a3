//! Cross-entropy forward and backward as one launch: a block keeps its row of logits in shared memory, so that they are read
//! and written once; their gradient leaves as it is, cast to FP8, or both ways. Equal bit by bit to the launches of the parts.

use super::{Backward, Forward};
use crate::dtype::Dtype;
use crate::fused::epilogue::{Casting, Epilogue, Scaling};
use crate::fused::launch::{Bound, FusedKernel, Variant};
use crate::fused::{Fused, Local};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError};
use crate::op::Op;
use crate::precision::{AMAX_EPSILON, Granularity};
use crate::quantise::Axis;
use crate::quantise::launch::largest;

static SOURCE: Source = Source { name: "cross_entropy_fused.cu", text: include_str!("fused.cu") };

/// Threads of a block; the order of the sums depends on it.
const THREADS: usize = 512;

/// Shared memory that a block may have on Hopper, less what the kernel takes for its sums, bytes. Source: CUDA C++
/// Programming Guide, compute capability 9.0: 227 KB.
const MOST_SHARED: usize = 227 * 1024 - 256;

/// One block a multiprocessor with at least so many bytes a row keeps the memory busy, and is 2 % faster than two (H100, rows
/// of 98 KB: 2291 and 2335 µs for 6.6 GB); shorter rows take two, which is what registers allow.
const LONG_ROW: usize = 64 * 1024;

#[derive(Debug)]
struct Loss<'a> {
    fused: &'a Fused,
    spec: &'a Forward,
    logits: Local,
    targets: Local,
    loss: Local,
    /// `None` where nobody reads it.
    lse: Option<Local>,
    /// What becomes of the gradient: stored or not, cast or not.
    epilogue: Epilogue,
}

/// Takes a forward and the backward of the same logits, and a cast of their gradient as it is stored: with a scale that is
/// given, or with its rows' own. Rows that are no multiple of 16 bytes, or do not fit into shared memory, are left to the
/// parts, as are maxima that somebody else reads and transposed casts.
pub(crate) fn loss(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let [forward, backward, ..] = fused.parts.as_slice() else { return None };
    let (Op::CrossEntropyForward(spec), Op::CrossEntropyBackward(gradient)) = (&forward.op, &backward.op) else {
        return None;
    };
    let &[logits, targets, loss, lse] = forward.operands.as_slice() else { return None };
    let &Forward { rows, vocab, padded, dtype } = spec;
    let same = *gradient == Backward { rows, vocab, padded, dtype } && backward.operands == [targets, lse, logits];
    let bytes = padded * dtype.bytes();
    let floats = matches!(dtype, Dtype::F32 | Dtype::Bf16);
    let fits = floats && bytes.is_multiple_of(16) && bytes <= MOST_SHARED && rows > 0;
    let placed = [logits, targets, loss].iter().all(|local| matches!(local, Local::External(_)));
    let lse = fused.stores(lse).then_some(lse);
    let epilogue = Epilogue::of(fused, logits, 2)?;
    (same && fits && placed && casts(&epilogue))
        .then(|| -> Box<dyn FusedKernel + '_> { Box::new(Loss { fused, spec, logits, targets, loss, lse, epilogue }) })
}

/// Whether the kernel makes what follows the gradient.
fn casts(epilogue: &Epilogue) -> bool {
    let unseen = epilogue.maxima.is_none_or(|maxima| maxima.amax.is_none() && maxima.record.is_none());
    let by_rows = epilogue.granularity == Granularity::Row && epilogue.axis == Axis::Rows;
    match epilogue.cast {
        None => epilogue.maxima.is_none(),
        Some(Casting { scaling, q: Some(_), qt: None, .. }) if epilogue.dtype == Dtype::Bf16 => match scaling {
            Scaling::Given(scale) => {
                epilogue.granularity == Granularity::Tensor
                    && epilogue.maxima.is_none()
                    && matches!(scale, Local::External(_))
            }
            Scaling::Own { scale, .. } => by_rows && unseen && matches!(scale, Local::External(_)),
        },
        Some(_) => false,
    }
}

impl Loss<'_> {
    fn row_bytes(&self) -> usize {
        self.spec.padded * self.spec.dtype.bytes()
    }

    fn variant(&self) -> Variant {
        let name = if self.spec.dtype == Dtype::F32 { "loss_fp32" } else { "loss_bf16" };
        let (cast, format) = match self.epilogue.cast {
            None => (0, Dtype::E4m3),
            Some(Casting { format, scaling: Scaling::Given(_), .. }) => (1, format),
            Some(Casting { format, scaling: Scaling::Own { .. }, .. }) => (2, format),
        };
        let stored = u8::from(cast == 0 || self.epilogue.result.is_some());
        let defines = vec![format!("CAST={cast}"), format!("FORMAT={format}"), format!("STORED={stored}")];
        Variant { source: &SOURCE, defines, name }
    }

    /// `struct Casts` of the kernel.
    fn casts(&self, bound: &Bound<'_>) -> Vec<u8> {
        let Some(Casting { format, scaling, q, .. }) = self.epilogue.cast else { return vec![0; 32] };
        let (scale, power_of_two) = match scaling {
            Scaling::Given(scale) => (scale, false),
            Scaling::Own { scale, power_of_two } => (scale, power_of_two),
        };
        let mut bytes: Vec<u8> =
            [bound.optional(q), bound.pointer(scale)].iter().flat_map(|word| word.to_le_bytes()).collect();
        let words = [AMAX_EPSILON.to_bits(), largest(format).to_bits(), u32::from(power_of_two), 0];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }
}

impl FusedKernel for Loss<'_> {
    fn variants(&self) -> Vec<Variant> {
        vec![self.variant()]
    }

    /// The kernel needs none; the parts do on a chip with less shared memory.
    fn scratch(&self) -> usize {
        self.fused.scratch_of_parts()
    }

    #[expect(clippy::cast_precision_loss, reason = "rows are far below 2^24")]
    fn calls(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Vec<Call>, GpuError> {
        if self.row_bytes() + 256 > gpu.facts().shared_bytes_per_block {
            return bound.parts(self.fused, gpu, |_| true);
        }
        // Half of what a cast row moves is left: sums weigh more, and one block's hide behind the other's traffic.
        let both_fit = 2 * (self.row_bytes() + 1024) <= gpu.facts().shared_bytes_per_block;
        let resident = if self.row_bytes() < LONG_ROW || (self.epilogue.cast.is_some() && both_fit) { 2 } else { 1 };
        let kernel = self
            .variant()
            .kernel(gpu)?
            .grid(self.spec.rows.min(gpu.facts().multiprocessors * resident), 1)
            .block(THREADS)
            .shared(self.row_bytes())
            .pointer(bound.pointer(self.logits))
            .pointer(bound.pointer(self.targets))
            .pointer(bound.pointer(self.loss))
            .pointer(bound.optional(self.lse))
            .int(self.spec.rows)
            .int(self.spec.vocab)
            .int(self.spec.padded)
            .float((self.spec.rows as f32).recip())
            .structure(&self.casts(bound));
        Ok(vec![kernel.ready()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fused::{Hidden, Part, Pattern};
    use crate::op::{Param, Spec};
    use crate::quantise::{Amax, Quantise, Scale, Tiling};

    /// Forward and backward of the same logits; the lse is a temporary.
    fn fused(vocab: usize, padded: usize, dtype: Dtype) -> Fused {
        let rows = 3;
        let forward = Forward { rows, vocab, padded, dtype };
        let at = Local::External;
        let (mut params, lse) = (forward.signature(), Local::Hidden(0));
        params.truncate(3);
        let parts = vec![
            Part { op: Op::CrossEntropyForward(forward), operands: vec![at(0), at(1), at(2), lse] },
            Part {
                op: Op::CrossEntropyBackward(Backward { rows, vocab, padded, dtype }),
                operands: vec![at(1), lse, at(0)],
            },
        ];
        let hidden = vec![Hidden { dtype: Dtype::F32, shape: vec![rows] }];
        Fused { pattern: Pattern::Loss, parts, params, hidden, unread: Vec::new() }
    }

    #[test]
    fn rows_that_fit_and_are_whole_packs_are_taken() {
        // vocabulary, padded, dtype, kernel
        let cases = [
            (50_257, 50_304, Dtype::Bf16, Some("loss_bf16")),
            (50_257, 50_304, Dtype::F32, Some("loss_fp32")),
            (1000, 1000, Dtype::Bf16, Some("loss_bf16")),
            (1000, 1004, Dtype::Bf16, None),
            (1000, 1004, Dtype::F32, Some("loss_fp32")),
            (128_256, 128_256, Dtype::Bf16, None),
        ];
        for (vocab, padded, dtype, kernel) in cases {
            let variants = fused(vocab, padded, dtype).variants();
            assert_eq!(variants.first().map(|variant| variant.name), kernel, "{vocab} of {padded} {dtype}");
        }
    }

    /// With a cast of the gradient: of the whole tensor with a scale that is there, or of its rows with their own.
    fn with_cast(tiling: Tiling, own: bool, transposed: bool) -> Fused {
        let Tiling { rows, cols, .. } = tiling;
        let dtype = Dtype::Bf16;
        let mut all = fused(50_257, cols, dtype);
        let add = |fused: &mut Fused, param: Param| {
            fused.params.push(param);
            Local::External(fused.params.len() - 1)
        };
        let logits = Local::External(0);
        let scale = add(&mut all, Param::read("scale", Dtype::F32, &tiling.scales()));
        if own {
            let amax = Local::Hidden(1);
            all.hidden.push(Hidden { dtype: Dtype::F32, shape: tiling.scales() });
            all.parts.push(Part { op: Op::Amax(Amax { tiling, dtype }), operands: vec![logits, amax] });
            let op = Op::Scale(Scale { shape: tiling.scales(), format: Dtype::E4m3, power_of_two: true });
            all.parts.push(Part { op, operands: vec![amax, scale] });
        }
        let mut operands = vec![logits, scale, add(&mut all, Param::write("q", Dtype::E4m3, &[rows, cols]))];
        if transposed {
            operands.push(add(&mut all, Param::write("qt", Dtype::E4m3, &[cols, rows])));
        }
        let op = Op::Quantise(Quantise { tiling, dtype, format: Dtype::E4m3, row_major: true, transposed });
        all.parts.push(Part { op, operands });
        all
    }

    #[test]
    fn casts_that_a_block_with_a_row_can_make_are_taken() {
        let tiling = |granularity, axis| Tiling { rows: 3, cols: 50_304, granularity, axis };
        // granularity, axis, scale made here, transposed; what is compiled
        let cases = [
            (Granularity::Tensor, Axis::Rows, false, false, Some("CAST=1 FORMAT=e4m3 STORED=1")),
            (Granularity::Row, Axis::Rows, true, false, Some("CAST=2 FORMAT=e4m3 STORED=1")),
            (Granularity::Tensor, Axis::Rows, true, false, None),
            (Granularity::Tensor, Axis::Rows, false, true, None),
            (Granularity::Row, Axis::Columns, true, false, None),
            (Granularity::Row, Axis::Rows, false, false, None),
            (Granularity::Block1x128, Axis::Rows, true, false, None),
        ];
        for (granularity, axis, own, transposed, compiled) in cases {
            let fused = with_cast(tiling(granularity, axis), own, transposed);
            let found = fused.variants().first().map(|variant| variant.defines.join(" "));
            assert_eq!(found.as_deref(), compiled, "{granularity:?} {axis:?} own {own} transposed {transposed}");
        }
        // A gradient that nobody reads is not stored.
        let mut fused = with_cast(tiling(Granularity::Tensor, Axis::Rows), false, false);
        fused.unread.push(0);
        assert_eq!(fused.variants()[0].defines[2], "STORED=0");
    }

    #[test]
    fn parts_of_different_tensors_are_not_taken() {
        type Break = fn(&mut Fused);
        let cases: [Break; 3] = [
            |fused| fused.parts[1].operands.swap(0, 2),
            |fused| fused.parts.swap(0, 1),
            |fused| fused.parts.truncate(1),
        ];
        for change in cases {
            let mut fused = fused(16, 16, Dtype::Bf16);
            assert!(!fused.variants().is_empty());
            change(&mut fused);
            assert_eq!(fused.variants(), []);
        }
    }
}
