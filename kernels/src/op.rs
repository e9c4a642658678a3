//! The op list's alphabet: every operation as one enum over the folders' specs, and what a spec says of itself.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::io::Io;
use crate::real::Real;
use crate::{
    adamw, attention, cast, cross_entropy, embedding, fused, gemm, gradient, quantise, residual, rmsnorm, rope,
};
use crate::{swiglu, transpose};

/// What an op does with an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes all of it, whatever it held.
    Write,
    /// Reads and writes it in place.
    Update,
}

/// One operand as a spec demands it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Param {
    /// The operand's name within the op.
    pub name: Cow<'static, str>,
    /// What the op does with it.
    pub access: Access,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
}

impl Param {
    fn new(name: &'static str, access: Access, dtype: Dtype, shape: &[usize]) -> Self {
        Self { name: Cow::Borrowed(name), access, dtype, shape: shape.to_vec() }
    }

    /// An operand that is read.
    #[must_use]
    pub fn read(name: &'static str, dtype: Dtype, shape: &[usize]) -> Self {
        Self::new(name, Access::Read, dtype, shape)
    }

    /// An operand that is written whole.
    #[must_use]
    pub fn write(name: &'static str, dtype: Dtype, shape: &[usize]) -> Self {
        Self::new(name, Access::Write, dtype, shape)
    }

    /// An operand that is changed in place.
    #[must_use]
    pub fn update(name: &'static str, dtype: Dtype, shape: &[usize]) -> Self {
        Self::new(name, Access::Update, dtype, shape)
    }

    /// How many elements it has.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its size, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }

    /// The least that an op moves of it, bytes: once, or twice where it reads and writes it.
    #[must_use]
    pub fn moved_bytes(&self) -> usize {
        if self.access == Access::Update { 2 * self.bytes() } else { self.bytes() }
    }
}

/// The class an op's time is booked under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Matrix products of the linears and the classifier.
    Gemm,
    /// Attention, its products included.
    Attention,
    /// Casts to FP8.
    Quantise,
    /// Transposes.
    Transpose,
    /// Amax reductions and scale updates.
    Scale,
    /// RMSNorm.
    Norm,
    /// Everything else per element: rotary positions, SwiGLU, residual, embedding, casts.
    Elementwise,
    /// Cross-entropy.
    Loss,
    /// Gradient norm and AdamW.
    Optimiser,
}

impl Class {
    /// Its name in records and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gemm => "gemm",
            Self::Attention => "attention",
            Self::Quantise => "quantise",
            Self::Transpose => "transpose",
            Self::Scale => "scale",
            Self::Norm => "norm",
            Self::Elementwise => "elementwise",
            Self::Loss => "loss",
            Self::Optimiser => "optimiser",
        }
    }
}

/// A spec that no kernel could run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op} {what}: {expected}")]
pub struct SpecError {
    /// The op.
    pub op: &'static str,
    /// What was asked, with its numbers.
    pub what: String,
    /// What is right.
    pub expected: &'static str,
}

/// What every spec says of itself.
pub trait Spec {
    /// Its operands, in order.
    fn signature(&self) -> Vec<Param>;

    /// The class its time is booked under.
    fn class(&self) -> Class;

    /// Floating-point operations; 0 where memory is what costs.
    fn flops(&self) -> f64 {
        0.0
    }

    /// Least bytes it moves: every operand once, updates twice, unless the op knows better.
    #[expect(clippy::cast_precision_loss, reason = "bytes of tensors fit 53 bits")]
    fn bytes(&self) -> f64 {
        self.signature().iter().map(Param::moved_bytes).sum::<usize>() as f64
    }

    /// Whether any kernel could run it.
    ///
    /// # Errors
    /// What does not fit, and what would.
    fn check(&self) -> Result<(), SpecError> {
        Ok(())
    }
}

/// The meaning of an op, run on the CPU.
pub trait Reference: Spec {
    /// Reads and writes the operands of its signature.
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>);
}

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident($spec:ty),)*) => {
        /// One operation of a step: primitives first, then what passes make of them.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum Op {
            $($(#[$doc])* $name($spec),)*
        }

        impl Op {
            /// The variant's name, as written in plans.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }

            /// Its operands, in order.
            #[must_use]
            pub fn signature(&self) -> Vec<Param> {
                match self { $(Self::$name(spec) => spec.signature(),)* }
            }

            /// The class its time is booked under.
            #[must_use]
            pub fn class(&self) -> Class {
                match self { $(Self::$name(spec) => spec.class(),)* }
            }

            /// Floating-point operations.
            #[must_use]
            pub fn flops(&self) -> f64 {
                match self { $(Self::$name(spec) => spec.flops(),)* }
            }

            /// Least bytes it moves.
            #[must_use]
            pub fn bytes(&self) -> f64 {
                match self { $(Self::$name(spec) => spec.bytes(),)* }
            }

            /// Whether any kernel could run it.
            ///
            /// # Errors
            /// What does not fit, and what would.
            pub fn check(&self) -> Result<(), SpecError> {
                match self { $(Self::$name(spec) => spec.check(),)* }
            }

            /// Runs it on the CPU.
            pub fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
                match self { $(Self::$name(spec) => spec.run(io),)* }
            }
        }
    };
}

ops! {
    /// Rows of the embedding table.
    EmbeddingForward(embedding::Forward),
    /// Adds gradients of rows to the table's gradient.
    EmbeddingBackward(embedding::Backward),
    /// Root-mean-square normalisation.
    RmsNormForward(rmsnorm::Forward),
    /// Its gradients.
    RmsNormBackward(rmsnorm::Backward),
    /// A matrix product.
    Gemm(gemm::Gemm),
    /// Rotary positions, in place, either direction.
    Rope(rope::Rope),
    /// One of the batched products of naive attention.
    AttentionProduct(attention::Product),
    /// Scaled, masked softmax over materialised scores.
    SoftmaxForward(attention::SoftmaxForward),
    /// Its gradient.
    SoftmaxBackward(attention::SoftmaxBackward),
    /// Attention in one op, scores never materialised.
    FlashForward(attention::FlashForward),
    /// Its gradients.
    FlashBackward(attention::FlashBackward),
    /// SwiGLU.
    SwigluForward(swiglu::Forward),
    /// Its gradients.
    SwigluBackward(swiglu::Backward),
    /// The sum of two tensors.
    Add(residual::Add),
    /// Loss and log-sum-exp of each row of logits.
    CrossEntropyForward(cross_entropy::Forward),
    /// Gradient of the mean loss by the logits.
    CrossEntropyBackward(cross_entropy::Backward),
    /// The mean loss.
    MeanLoss(cross_entropy::Mean),
    /// Sum of squares of one gradient.
    SumSquares(gradient::SumSquares),
    /// Norm of all gradients and the factor that clips it.
    ClipScale(gradient::ClipScale),
    /// One AdamW update.
    AdamW(adamw::AdamW),
    /// Advances the step counter.
    Advance(adamw::Advance),
    /// Largest magnitudes.
    Amax(quantise::Amax),
    /// Scales from magnitudes.
    Scale(quantise::Scale),
    /// A scale from a history of magnitudes.
    DelayedScale(quantise::DelayedScale),
    /// Records a magnitude into its history.
    Record(quantise::Record),
    /// A cast to FP8, in one or both layouts.
    Quantise(quantise::Quantise),
    /// A transposed copy.
    Transpose(transpose::Transpose),
    /// A copy in another dtype.
    Cast(cast::Cast),
    /// Several primitives as one launch.
    Fused(fused::Fused),
}
