//! Self-attention on packed QKV: the primitives of the naive form, and the tiled form in one op.
//!
//! Packed tensors are (B·S, (H + 2·Hkv)·hd): queries, then keys, then values; contexts are (B·S, H·hd); scores are (B, H, S, S).
//! Query head h reads the keys and values of head h / (H / Hkv). The naive form and cuDNN take Hkv = H and the causal mask alone.

pub mod cudnn;
mod flash;
mod heads;
pub(crate) mod hopper;
pub(crate) mod hopper_backward;
pub(crate) mod launch;
mod naive;
mod sample;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec, SpecError};

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mask {
    /// Those up to its own position.
    Causal,
    /// All.
    Full,
}

/// The shape every attention op shares. The softmax scale is 1/sqrt(hd).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Sequences, B.
    pub batch: usize,
    /// Tokens of one sequence, S.
    pub seq: usize,
    /// Heads of queries, H.
    pub heads: usize,
    /// Heads of keys and of values, Hkv: divides `heads`, and is less where queries share them.
    pub kv_heads: usize,
    /// Width of a head, hd.
    pub head_dim: usize,
    /// Which keys a query sees.
    pub mask: Mask,
    /// Of all tensors but statistics; arithmetic is fp32.
    pub dtype: Dtype,
}

impl Shape {
    /// Causal, every query head with keys and values of its own.
    #[must_use]
    pub const fn causal(batch: usize, seq: usize, heads: usize, head_dim: usize, dtype: Dtype) -> Self {
        Self { batch, seq, heads, kv_heads: heads, head_dim, mask: Mask::Causal, dtype }
    }

    /// Columns of a packed row.
    const fn packed_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn packed(&self) -> [usize; 2] {
        [self.batch * self.seq, self.packed_width()]
    }

    /// Query heads that read the same keys and values.
    const fn sharing(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Keys that the query at a position sees, from the first on.
    fn seen(&self, position: usize) -> usize {
        match self.mask {
            Mask::Causal => position + 1,
            Mask::Full => self.seq,
        }
    }

    /// The first query that sees the key at a position.
    fn seen_from(&self, position: usize) -> usize {
        match self.mask {
            Mask::Causal => position,
            Mask::Full => 0,
        }
    }

    /// What share of all pairs of positions are seen, as FLOPs are counted.
    const fn share_seen(&self) -> f64 {
        match self.mask {
            Mask::Causal => 0.5,
            Mask::Full => 1.0,
        }
    }

    /// Whether there is anything to attend to, and heads can be shared so.
    fn check(&self, op: &'static str) -> Result<(), SpecError> {
        let Self { batch, seq, heads, head_dim, .. } = *self;
        if [batch, seq, heads, head_dim].contains(&0) {
            let what = format!("of {batch} sequences of {seq} tokens, {heads} heads of {head_dim}");
            return Err(SpecError { op, what, expected: "none of these is 0" });
        }
        if self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads) {
            return Ok(());
        }
        let what = format!("with {} heads of queries and {} of keys and values", self.heads, self.kv_heads);
        Err(SpecError { op, what, expected: "the second divides the first" })
    }

    /// Whether this is what the naive form and cuDNN take.
    fn check_plain(&self, op: &'static str) -> Result<(), SpecError> {
        self.check(op)?;
        if self.kv_heads == self.heads && self.mask == Mask::Causal {
            return Ok(());
        }
        let (mask, heads, kv_heads) = (self.mask, self.heads, self.kv_heads);
        let what = format!("with mask {mask:?}, {heads} heads of queries and {kv_heads} of keys and values");
        Err(SpecError {
            op,
            what,
            expected: "it is causal, and keys have as many heads as queries: only `flash` takes others",
        })
    }

    fn context(&self) -> [usize; 2] {
        [self.batch * self.seq, self.heads * self.head_dim]
    }

    fn scores(&self) -> [usize; 4] {
        [self.batch, self.heads, self.seq, self.seq]
    }

    fn statistics(&self) -> [usize; 3] {
        [self.batch, self.heads, self.seq]
    }

    /// FLOPs of one product over all pairs of positions.
    #[expect(clippy::cast_precision_loss, reason = "dims are far below 2^53")]
    fn product_flops(&self) -> f64 {
        2.0 * (self.batch * self.heads * self.head_dim) as f64 * (self.seq as f64) * (self.seq as f64)
    }
}

/// Which product of naive attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProductKind {
    /// `scores = Q · Kᵀ`: reads qkv, writes scores.
    Scores,
    /// `context = P · V`: reads p, qkv, writes context.
    Context,
    /// `dP = dContext · Vᵀ`: reads dcontext, qkv, writes dp.
    ProbabilityGradient,
    /// `dV = Pᵀ · dContext`: reads p, dcontext, updates the value part of dqkv.
    ValueGradient,
    /// `dQ = dS · K`: reads ds, qkv, updates the query part of dqkv.
    QueryGradient,
    /// `dK = dSᵀ · Q`: reads ds, qkv, updates the key part of dqkv.
    KeyGradient,
}

/// A batched product of naive attention, over all pairs of positions (the mask is the softmax's business). The three
/// gradients write disjoint parts of one packed dqkv: [`ProductKind::ValueGradient`] comes first and writes the rest as 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// The shape.
    pub shape: Shape,
    /// Which product.
    pub kind: ProductKind,
}

impl Spec for Product {
    fn signature(&self) -> Vec<Param> {
        let s = self.shape;
        let t = s.dtype;
        let packed = |name| Param::read(name, t, &s.packed());
        let scores = |name| Param::read(name, t, &s.scores());
        match self.kind {
            ProductKind::Scores => vec![packed("qkv"), Param::write("scores", t, &s.scores())],
            ProductKind::Context => vec![scores("p"), packed("qkv"), Param::write("context", t, &s.context())],
            ProductKind::ProbabilityGradient => {
                vec![Param::read("dcontext", t, &s.context()), packed("qkv"), Param::write("dp", t, &s.scores())]
            }
            ProductKind::ValueGradient => {
                vec![scores("p"), Param::read("dcontext", t, &s.context()), Param::write("dqkv", t, &s.packed())]
            }
            ProductKind::QueryGradient | ProductKind::KeyGradient => {
                vec![scores("ds"), packed("qkv"), Param::update("dqkv", t, &s.packed())]
            }
        }
    }

    fn class(&self) -> Class {
        Class::Attention
    }

    fn flops(&self) -> f64 {
        self.shape.product_flops()
    }

    fn check(&self) -> Result<(), SpecError> {
        self.shape.check_plain("attention product")
    }
}

/// `p = softmax(scores / sqrt(hd))` over positions up to the query's own; 0 after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoftmaxForward {
    /// The shape.
    pub shape: Shape,
}

impl Spec for SoftmaxForward {
    fn signature(&self) -> Vec<Param> {
        let s = self.shape;
        vec![Param::read("scores", s.dtype, &s.scores()), Param::write("p", s.dtype, &s.scores())]
    }

    fn class(&self) -> Class {
        Class::Attention
    }
}

/// `ds = p ∘ (dp − Σ p ∘ dp) / sqrt(hd)`, 0 where p is masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoftmaxBackward {
    /// The shape.
    pub shape: Shape,
}

impl Spec for SoftmaxBackward {
    fn signature(&self) -> Vec<Param> {
        let s = self.shape;
        vec![
            Param::read("p", s.dtype, &s.scores()),
            Param::read("dp", s.dtype, &s.scores()),
            Param::write("ds", s.dtype, &s.scores()),
        ]
    }

    fn class(&self) -> Class {
        Class::Attention
    }
}

/// Who runs the tiled form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kernel {
    /// Ours: online softmax over tiles.
    Flash,
    /// cuDNN's (CUDA only).
    Cudnn,
}

impl Kernel {
    fn check(self, shape: &Shape, op: &'static str) -> Result<(), SpecError> {
        shape.check(op)?;
        match self {
            Self::Flash => Ok(()),
            Self::Cudnn => shape.check_plain(op),
        }
    }
}

/// Attention without materialised scores: `context`, and the log-sum-exp of each query's scaled scores.
/// Probabilities are rounded to the dtype before they meet V, as the tensor cores need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlashForward {
    /// The shape.
    pub shape: Shape,
    /// Who runs it.
    pub kernel: Kernel,
}

impl Spec for FlashForward {
    fn signature(&self) -> Vec<Param> {
        let s = self.shape;
        vec![
            Param::read("qkv", s.dtype, &s.packed()),
            Param::write("context", s.dtype, &s.context()),
            Param::write("lse", Dtype::F32, &s.statistics()),
        ]
    }

    fn class(&self) -> Class {
        Class::Attention
    }

    /// Two products; causal ones over half of all pairs.
    fn flops(&self) -> f64 {
        2.0 * self.shape.share_seen() * self.shape.product_flops()
    }

    fn check(&self) -> Result<(), SpecError> {
        self.kernel.check(&self.shape, "attention forward")
    }
}

/// In which order a tiled backward adds the tiles' parts of a query's gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// As is fastest: where they are added as they come, the last bits of dQ differ from run to run.
    Any,
    /// One after the other: results repeat bit for bit.
    Fixed,
}

/// Its gradients: probabilities are made again from the log-sum-exp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlashBackward {
    /// The shape.
    pub shape: Shape,
    /// Who runs it.
    pub kernel: Kernel,
    /// In which order it adds.
    pub order: Order,
}

impl Spec for FlashBackward {
    fn signature(&self) -> Vec<Param> {
        let s = self.shape;
        vec![
            Param::read("qkv", s.dtype, &s.packed()),
            Param::read("context", s.dtype, &s.context()),
            Param::read("lse", Dtype::F32, &s.statistics()),
            Param::read("dcontext", s.dtype, &s.context()),
            Param::write("dqkv", s.dtype, &s.packed()),
        ]
    }

    fn class(&self) -> Class {
        Class::Attention
    }

    /// Five products; causal ones over half of all pairs.
    fn flops(&self) -> f64 {
        5.0 * self.shape.share_seen() * self.shape.product_flops()
    }

    fn check(&self) -> Result<(), SpecError> {
        if self.kernel == Kernel::Cudnn && self.order == Order::Fixed {
            let what = "by cuDNN in a fixed order".to_owned();
            return Err(SpecError { op: "attention backward", what, expected: "any order, or `flash`" });
        }
        self.kernel.check(&self.shape, "attention backward")
    }
}
