//! Causal attention as the two graphs that cuDNN's fused engines recognise, on packed QKV as it lies.
//!
//! The engines match these graphs as a whole: order, dtypes of what is virtual, and which tensors have memory are part of
//! the pattern. Statistics, softmax sums and the accumulator of dQ must be dense: other strides are accepted and give wrong
//! gradients. Source of the pattern: cudnn-frontend 1.32, scaled_dot_product_flash_attention.h.

use std::rc::Rc;

use super::CudnnError;
use super::descriptor::{DataType, Mode, Reduction};
use super::graph::{Graph, Tensor, dense, transposed};
use super::library::Library;
use crate::attention::Shape;
use crate::attention::heads::Third;

/// Axes of scores, (B, H, S, S): query, key.
const QUERY_KEY: (i64, i64) = (2, 3);

const BF16_BYTES: i64 = 2;

/// The shape as cuDNN counts.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: i64,
    heads: i64,
    seq: i64,
    head_dim: i64,
    scale: f32,
}

impl Sizes {
    fn of(shape: Shape) -> Self {
        let int = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
        Self {
            batch: int(shape.batch),
            heads: int(shape.heads),
            seq: int(shape.seq),
            head_dim: int(shape.head_dim),
            scale: shape.scale(),
        }
    }

    /// (B, H, S, hd): the order cuDNN names dims in, whatever their order in memory.
    const fn heads(self) -> [i64; 4] {
        [self.batch, self.heads, self.seq, self.head_dim]
    }

    const fn statistics(self) -> [i64; 4] {
        [self.batch, self.heads, self.seq, 1]
    }

    /// Strides of (B, H, S, hd) in rows of `width` elements.
    const fn strides(self, width: i64) -> [i64; 4] {
        [self.seq * width, self.head_dim, width, 1]
    }

    const fn width(self) -> i64 {
        self.heads * self.head_dim
    }

    /// A third of a packed (B·S, 3·C) tensor.
    fn packed(self, graph: &mut Graph, name: &'static str, third: Third) -> Result<Tensor, CudnnError> {
        let offset = (third as i64 * self.width() * BF16_BYTES).cast_unsigned();
        graph.operand(self.heads(), self.strides(3 * self.width()), DataType::Bfloat16, (name, offset))
    }

    /// The same, transposed to (B, H, hd, S).
    fn packed_transposed(self, graph: &mut Graph, name: &'static str, third: Third) -> Result<Tensor, CudnnError> {
        let offset = (third as i64 * self.width() * BF16_BYTES).cast_unsigned();
        let strides = transposed(self.strides(3 * self.width()));
        graph.operand(transposed(self.heads()), strides, DataType::Bfloat16, (name, offset))
    }

    /// A (B·S, C) tensor.
    fn context(self, graph: &mut Graph, name: &'static str) -> Result<Tensor, CudnnError> {
        graph.operand(self.heads(), self.strides(self.width()), DataType::Bfloat16, (name, 0))
    }

    fn lse(self, graph: &mut Graph) -> Result<Tensor, CudnnError> {
        graph.operand(self.statistics(), dense(self.statistics()), DataType::Float, ("lse", 0))
    }

    /// Strides of scores with queries and keys exchanged.
    const fn transposed_scores(self) -> [i64; 4] {
        transposed(dense([self.batch, self.heads, self.seq, self.seq]))
    }
}

/// `context = softmax(mask(Q · Kᵀ · scale)) · V` and `lse`.
pub(super) fn forward(library: &Rc<Library>, shape: Shape) -> Result<Graph, CudnnError> {
    let (sizes, mut graph) = (Sizes::of(shape), Graph::new(library));
    let g = &mut graph;
    let q = sizes.packed(g, "qkv", Third::Query)?;
    let k = sizes.packed_transposed(g, "qkv", Third::Key)?;
    let v = sizes.packed(g, "qkv", Third::Value)?;
    let context = sizes.context(g, "context")?;
    let lse = sizes.lse(g)?;
    let scale = g.scalar(sizes.scale)?;
    let minus_infinity = g.scalar(f32::NEG_INFINITY)?;

    let scores = g.product(q, k)?;
    let scores = g.binary(Mode::Mul, scores, scale)?;
    let scores = g.lower_triangle(scores, QUERY_KEY, minus_infinity)?;
    let largest = g.reduction(Reduction::Max, scores)?;
    let shifted = g.binary(Mode::Sub, scores, largest)?;
    let exp = g.unary(Mode::Exp, shifted)?;
    let sum = g.reduction(Reduction::Add, exp)?;
    let log = g.unary(Mode::Log, sum)?;
    g.binary_into(Mode::Add, largest, log, lse)?;
    let p = g.virtual_tensor([sizes.batch, sizes.heads, sizes.seq, sizes.seq], DataType::Bfloat16)?;
    let p = g.binary_into(Mode::Div, exp, sum, p)?;
    g.product_into(p, v, context)?;
    Ok(graph)
}

/// `dqkv`, with P made again from `lse`.
pub(super) fn backward(library: &Rc<Library>, shape: Shape) -> Result<Graph, CudnnError> {
    let (sizes, mut graph) = (Sizes::of(shape), Graph::new(library));
    let g = &mut graph;
    let q = sizes.packed(g, "qkv", Third::Query)?;
    let k = sizes.packed_transposed(g, "qkv", Third::Key)?;
    let v = sizes.packed_transposed(g, "qkv", Third::Value)?;
    let context = sizes.context(g, "context")?;
    let dcontext = sizes.context(g, "dcontext")?;
    let lse = sizes.lse(g)?;
    let dq = sizes.packed(g, "dqkv", Third::Query)?;
    let dk = sizes.packed(g, "dqkv", Third::Key)?;
    let dv = sizes.packed(g, "dqkv", Third::Value)?;
    let scale = g.scalar(sizes.scale)?;
    let one = g.scalar(1.0)?;
    let minus_infinity = g.scalar(f32::NEG_INFINITY)?;

    // delta = rowsum(dO ∘ O); the factor of one is the pattern's place for dropout.
    let delta = g.binary(Mode::Mul, dcontext, context)?;
    let delta = g.reduction(Reduction::Add, delta)?;
    let sum = g.scratch_tensor(sizes.statistics())?;
    let delta = g.binary_into(Mode::Mul, delta, one, sum)?;

    // P = exp(Q · Kᵀ · scale − lse), masked; dV = Pᵀ · dO
    let scores = g.product(q, k)?;
    let scores = g.binary(Mode::Mul, scores, scale)?;
    let scores = g.binary(Mode::Sub, scores, lse)?;
    let scores = g.lower_triangle(scores, QUERY_KEY, minus_infinity)?;
    let p = g.unary(Mode::Exp, scores)?;
    let p_transposed = g.transpose(p, sizes.transposed_scores(), DataType::Bfloat16)?;
    g.product_into(p_transposed, dcontext, dv)?;

    // dS = P ∘ (dO · Vᵀ − delta) · scale; dK = dSᵀ · Q
    let dp = g.product(dcontext, v)?;
    let ds = g.binary(Mode::Sub, dp, delta)?;
    let ds = g.binary(Mode::Mul, ds, p)?;
    let ds = g.binary(Mode::Mul, ds, scale)?;
    let ds_transposed = g.transpose(ds, sizes.transposed_scores(), DataType::Bfloat16)?;
    g.product_into(ds_transposed, q, dk)?;

    // dQ = dS · K, accumulated in fp32 by blocks of keys, then rounded
    let keys = g.transpose(k, sizes.strides(3 * sizes.width()), DataType::Bfloat16)?;
    let accumulated = g.scratch_tensor(sizes.heads())?;
    let accumulated = g.product_into(ds, keys, accumulated)?;
    g.unary_into(Mode::Identity, accumulated, dq)?;
    Ok(graph)
}
