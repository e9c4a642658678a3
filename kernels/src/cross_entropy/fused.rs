//! Cross-entropy forward and backward as one launch: a block keeps its row of logits in shared memory, so that they are read
//! and written once. Equal bit by bit to the two launches.

use super::{Backward, Forward};
use crate::dtype::Dtype;
use crate::fused::launch::{Bound, FusedKernel, Variant};
use crate::fused::{Fused, Local};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError};
use crate::op::Op;

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
}

/// Takes a forward and the backward of the same logits. Rows that are no multiple of 16 bytes, or do not fit into shared
/// memory, are left to the parts.
pub(crate) fn loss(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let [forward, backward] = fused.parts.as_slice() else { return None };
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
    (same && fits && placed)
        .then(|| -> Box<dyn FusedKernel + '_> { Box::new(Loss { fused, spec, logits, targets, loss, lse }) })
}

impl Loss<'_> {
    fn row_bytes(&self) -> usize {
        self.spec.padded * self.spec.dtype.bytes()
    }

    fn variant(&self) -> Variant {
        let name = if self.spec.dtype == Dtype::F32 { "loss_fp32" } else { "loss_bf16" };
        Variant { source: &SOURCE, defines: Vec::new(), name }
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
        let resident = if self.row_bytes() < LONG_ROW { 2 } else { 1 };
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
            .float((self.spec.rows as f32).recip());
        Ok(vec![kernel.ready()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fused::{Hidden, Part, Pattern};
    use crate::op::Spec;

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
