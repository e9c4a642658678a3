//! Several primitives as one launch. The parts stay written down, so that what a fusion means is never in doubt: the CPU
//! runs them one after the other, each rounding to the dtype it always had; a GPU kernel is picked by [`Pattern`] and must
//! equal that.

pub(crate) mod epilogue;
pub mod launch;
mod reference;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Access, Class, Op, Param, Spec, SpecError};

/// Which kernel family a fusion belongs to: its leading work. What is fused behind it (amax, scale, cast) is read off the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// RMSNorm forward, optionally behind a residual add, optionally with amax, scale and cast of its output.
    NormForward,
    /// RMSNorm backward, optionally with the residual gradient's add, amax, scale and cast.
    NormBackward,
    /// SwiGLU forward with amax, scale and cast of its output.
    SwigluForward,
    /// SwiGLU backward with amax, scale and cast of its output.
    SwigluBackward,
    /// Rotary positions turned back on dQKV with amax, scale and cast.
    RopeBackward,
    /// Cross-entropy forward and backward, in place over the logits, read and written once, optionally with a cast of their
    /// gradient.
    Loss,
    /// Sums of squares of all gradients, their norm and the clip factor in one launch.
    GradientNorm,
    /// All AdamW updates in one launch, with the casts of the new weights.
    Optimiser,
    /// All scale updates of delayed scaling in one launch.
    Scales,
    /// Amax, scale and cast of one tensor in one launch (one scale per row or block, held on the chip).
    Cast,
}

/// Where a part finds one of its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Local {
    /// Operand of the fused op, by index.
    External(usize),
    /// A temporary that never leaves the op, by index.
    Hidden(usize),
}

/// One primitive of a fusion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The primitive.
    pub op: Op,
    /// Its operands, in the order of its signature.
    pub operands: Vec<Local>,
}

/// A tensor that lives only inside the op; its dtype is a rounding point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hidden {
    /// Its dtype.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Primitives that run as one op, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fused {
    /// The kernel family.
    pub pattern: Pattern,
    /// The primitives.
    pub parts: Vec<Part>,
    /// The operands of the whole; the names are those of the parts, with the part's index.
    pub params: Vec<Param>,
    /// The temporaries.
    pub hidden: Vec<Hidden>,
    /// Operands, by index, whose contents nobody reads afterwards: a kernel need not write them.
    #[serde(default)]
    pub unread: Vec<usize>,
}

impl Spec for Fused {
    fn signature(&self) -> Vec<Param> {
        self.params.clone()
    }

    fn class(&self) -> Class {
        self.parts.first().map_or(Class::Elementwise, |part| part.op.class())
    }

    fn flops(&self) -> f64 {
        self.parts.iter().map(|part| part.op.flops()).sum()
    }

    /// What nobody reads afterwards is not written.
    #[expect(clippy::cast_precision_loss, reason = "bytes of tensors fit 53 bits")]
    fn bytes(&self) -> f64 {
        let moved = |(index, param): (usize, &Param)| {
            let unwritten = self.unread.contains(&index) && param.access != Access::Read;
            param.moved_bytes() - if unwritten { param.bytes() } else { 0 }
        };
        self.params.iter().enumerate().map(moved).sum::<usize>() as f64
    }

    /// The parts agree with the operands and temporaries, and nothing is read before it is written.
    fn check(&self) -> Result<(), SpecError> {
        let error = |what: String, expected| Err(SpecError { op: "fused", what, expected });
        let mut written = vec![false; self.hidden.len()];
        for part in &self.parts {
            part.op.check()?;
            let signature = part.op.signature();
            if signature.len() != part.operands.len() {
                return error(format!("{:?} part {}", self.pattern, part.op.name()), "one operand per parameter");
            }
            for (param, local) in signature.iter().zip(&part.operands) {
                let what = || format!("{:?} part {} operand `{}`", self.pattern, part.op.name(), param.name);
                let found = match *local {
                    Local::External(index) => self.params.get(index).map(|p| (p.dtype, &p.shape)),
                    Local::Hidden(index) => self.hidden.get(index).map(|h| (h.dtype, &h.shape)),
                };
                if found != Some((param.dtype, &param.shape)) {
                    return error(what(), "dtype and shape as the part's signature says");
                }
                match (*local, param.access) {
                    (Local::External(index), Access::Write | Access::Update)
                        if self.params[index].access == Access::Read =>
                    {
                        return error(what(), "a written operand is not declared as read");
                    }
                    (Local::Hidden(index), Access::Read | Access::Update) if !written[index] => {
                        return error(what(), "a temporary is written before it is read");
                    }
                    (Local::Hidden(index), Access::Write) => written[index] = true,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
