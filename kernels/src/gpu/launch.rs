//! From a spec and its operands to prepared work: the trait that every op's `launch.rs` implements, and the one match over
//! all ops.

use super::{Call, Gpu, GpuError, Prepared, Slice};
use crate::dtype::Dtype;
use crate::op::{Op, Param, Spec};

/// Operands of one op, checked against its signature.
#[derive(Debug)]
pub(crate) struct Operands<'a> {
    pub(crate) op: &'static str,
    pub(crate) params: &'a [Param],
    pub(crate) slices: &'a [Slice],
    pub(crate) scratch: &'a Slice,
}

impl Operands<'_> {
    /// Address of an operand by its name in the signature; 0 where a spec's option leaves it out.
    pub(crate) fn pointer(&self, name: &str) -> u64 {
        let found = self.params.iter().position(|param| param.name == name);
        found.map_or(0, |index| self.slices[index].pointer())
    }

    /// Address of the scratch memory, as large as [`Launch::scratch`] asked.
    pub(crate) fn scratch(&self) -> u64 {
        self.scratch.pointer()
    }

    /// An error about the op.
    pub(crate) fn unsupported<T>(&self, what: impl Into<String>) -> Result<T, GpuError> {
        Err(GpuError::Unsupported { op: self.op.to_owned(), what: what.into() })
    }

    /// Name of a dtype in kernels, if it is one that elementwise kernels take.
    pub(crate) fn float(&self, dtype: Dtype) -> Result<&'static str, GpuError> {
        match dtype {
            Dtype::F32 | Dtype::Bf16 => Ok(dtype.name()),
            _ => self.unsupported(format!("dtype {dtype}: fp32 or bf16 is expected")),
        }
    }

    /// Elements a thread handles at once, where rows of `cols` elements start on 16 bytes; else 1.
    pub(crate) fn pack(dtype: Dtype, cols: usize) -> usize {
        let pack = 16 / dtype.bytes();
        if cols.is_multiple_of(pack) { pack } else { 1 }
    }
}

/// What turns a spec into launches.
pub(crate) trait Launch: Spec {
    /// Device memory that the op needs while it runs, bytes; may be shared by all ops, since they run one after another.
    fn scratch(&self) -> usize {
        0
    }

    /// Its calls, in order.
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError>;
}

/// The one match over all ops.
macro_rules! launch {
    ($op:expr, $spec:ident => $body:expr) => {
        match $op {
            Op::EmbeddingForward($spec) => $body,
            Op::EmbeddingBackward($spec) => $body,
            Op::RmsNormForward($spec) => $body,
            Op::RmsNormBackward($spec) => $body,
            Op::Gemm($spec) => $body,
            Op::Rope($spec) => $body,
            Op::AttentionProduct($spec) => $body,
            Op::SoftmaxForward($spec) => $body,
            Op::SoftmaxBackward($spec) => $body,
            Op::FlashForward($spec) => $body,
            Op::FlashBackward($spec) => $body,
            Op::SwigluForward($spec) => $body,
            Op::SwigluBackward($spec) => $body,
            Op::Add($spec) => $body,
            Op::CrossEntropyForward($spec) => $body,
            Op::CrossEntropyBackward($spec) => $body,
            Op::MeanLoss($spec) => $body,
            Op::SumSquares($spec) => $body,
            Op::ClipScale($spec) => $body,
            Op::AdamW($spec) => $body,
            Op::Advance($spec) => $body,
            Op::Amax($spec) => $body,
            Op::Scale($spec) => $body,
            Op::DelayedScale($spec) => $body,
            Op::Record($spec) => $body,
            Op::Quantise($spec) => $body,
            Op::Transpose($spec) => $body,
            Op::Cast($spec) => $body,
            Op::Fused($spec) => $body,
        }
    };
}

/// Scratch memory that an op needs, bytes.
#[must_use]
pub fn scratch_bytes(op: &Op) -> usize {
    launch!(op, spec => spec.scratch())
}

/// The calls of an op whose operands were checked.
pub(crate) fn calls(gpu: &Gpu, op: &Op, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
    launch!(op, spec => spec.calls(gpu, operands))
}

/// Prepares an op: its operands in the order of its signature, and scratch of at least [`scratch_bytes`]. Compiles and
/// loads what it needs.
///
/// # Errors
/// If the op cannot run on this device, its operands do not fit it, or a kernel or library is missing.
pub fn prepare(gpu: &Gpu, op: &Op, operands: &[Slice], scratch: &Slice) -> Result<Prepared, GpuError> {
    let params = op.signature();
    let wrong =
        |operand: &str, what: String| Err(GpuError::Operand { op: op.name(), operand: operand.to_owned(), what });
    if let Err(error) = op.check() {
        return Err(GpuError::Unsupported { op: op.name().to_owned(), what: error.to_string() });
    }
    if operands.len() != params.len() {
        return wrong("all", format!("{} operands, {} expected", operands.len(), params.len()));
    }
    for (param, slice) in params.iter().zip(operands) {
        if slice.bytes() != param.bytes() {
            return wrong(&param.name, format!("{} bytes, {} expected", slice.bytes(), param.bytes()));
        }
        if !slice.pointer().is_multiple_of(16) {
            return wrong(&param.name, "its address is not a multiple of 16".to_owned());
        }
    }
    if scratch.bytes() < scratch_bytes(op) {
        return wrong("scratch", format!("{} bytes, {} needed", scratch.bytes(), scratch_bytes(op)));
    }
    let bound = Operands { op: op.name(), params: &params, slices: operands, scratch };
    let calls = calls(gpu, op, &bound)?;
    let memory = operands.iter().chain([scratch]).cloned().collect();
    Ok(Prepared::new(calls, memory))
}
