//! The forward pass: embedding, blocks, final norm, classifier, loss. It keeps on a tape what backward reads.

use stepwatch_kernels::Dtype;
use stepwatch_kernels::op::Op;
use stepwatch_kernels::{cast, cross_entropy, embedding, residual, rmsnorm, rope, swiglu};

use super::attention::AttentionTape;
use super::{Builder, Mode};
use crate::ir::{Phase, TensorClass, TensorId};
use crate::linear::Linear;

/// What one block's backward pass reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockTape {
    /// Block input, (T, C).
    pub(super) x: TensorId,
    pub(super) norm1: TensorId,
    pub(super) rstd1: TensorId,
    /// Rotated, (T, 3·C).
    pub(super) qkv: TensorId,
    pub(super) context: TensorId,
    pub(super) attention: AttentionTape,
    /// The residual stream between attention and MLP, (T, C).
    pub(super) mid: TensorId,
    pub(super) norm2: TensorId,
    pub(super) rstd2: TensorId,
    /// (T, 2·F).
    pub(super) gate_up: TensorId,
    /// (T, F).
    pub(super) h: TensorId,
}

/// What the backward pass reads.
#[derive(Debug, Clone)]
pub(super) struct Tape {
    pub(super) blocks: Vec<BlockTape>,
    /// Output of the last block, (T, C).
    pub(super) x: TensorId,
    pub(super) norm: TensorId,
    pub(super) rstd: TensorId,
    /// (T, V), V padded.
    pub(super) logits: TensorId,
    /// Log-sum-exp of each row, (T) fp32.
    pub(super) lse: TensorId,
}

impl Builder<'_> {
    /// Weights as the GEMMs read them, from the masters: once, before the first step.
    pub(super) fn cast_masters(&mut self) {
        self.mode = Mode::Calibration;
        for parameter in self.step.parameters.clone() {
            if parameter.master == parameter.weight {
                continue;
            }
            let shape = self.step.tensor(parameter.master).shape.clone();
            let op = cast::Cast { shape, from: self.step.tensor(parameter.master).dtype, to: self.dtype };
            self.push(Op::Cast(op), &[parameter.master, parameter.weight], "weight cast");
        }
        self.mode = Mode::Step;
    }

    /// 1. embedding; 2. the blocks; 3. final norm; 4. classifier; 5. loss.
    pub(super) fn forward(&mut self) -> Tape {
        self.phase = Phase::Forward;
        let (tokens, dims, dtype) = (self.tokens, self.dims, self.dtype);
        let mut x = self.activation("x0", &[tokens, dims.dim]);
        let op = embedding::Forward { tokens, vocab: dims.padded_vocab(), dim: dims.dim, dtype };
        let table = self.weight(self.embedding);
        self.push(Op::EmbeddingForward(op), &[self.step.ports.ids, table, x], "embedding forward");

        let mut blocks = Vec::with_capacity(dims.layers);
        for layer in 0..dims.layers {
            self.layer = Some(layer);
            let tape = self.block_forward(layer, x);
            x = self.block_output(&tape, layer);
            blocks.push(tape);
        }
        self.layer = None;

        let (norm, rstd) = self.norm_forward(x, self.final_norm, "norm");
        let vocab = dims.padded_vocab();
        let logits = self.per_step("logits", &[tokens, vocab], dtype, TensorClass::Logits);
        self.linear_forward(Linear::Head, norm, self.embedding, logits);
        let losses = self.statistics("losses", &[tokens]);
        let lse = self.statistics("logits.lse", &[tokens]);
        let op = cross_entropy::Forward { rows: tokens, vocab: dims.vocab, padded: vocab, dtype };
        let operands = [logits, self.step.ports.targets, losses, lse];
        self.push(Op::CrossEntropyForward(op), &operands, "cross-entropy forward");
        let loss = self.per_step("loss", &[1], Dtype::F32, TensorClass::Activation);
        self.push(Op::MeanLoss(cross_entropy::Mean { rows: tokens }), &[losses, loss], "mean loss");
        if self.mode == Mode::Step {
            self.step.ports.loss = loss;
            self.step.outputs.push(loss);
        }
        Tape { blocks, x, norm, rstd, logits, lse }
    }

    /// One block up to the SwiGLU product: 1. norm; 2. qkv; 3. rotary positions; 4. attention; 5. output projection;
    /// 6. residual; 7. norm; 8. gate and up; 9. SwiGLU.
    pub(super) fn block_forward(&mut self, layer: usize, x: TensorId) -> BlockTape {
        let (tokens, dims, dtype, weights) = (self.tokens, self.dims, self.dtype, self.blocks[layer]);
        let (norm1, rstd1) = self.norm_forward(x, weights.norm1, "norm1");
        let qkv = self.activation("qkv", &[tokens, 3 * dims.dim]);
        self.linear_forward(Linear::Qkv, norm1, weights.qkv, qkv);
        self.rope(qkv, false);
        let (context, attention) = self.attention_forward(qkv);
        let output = self.activation("output", &[tokens, dims.dim]);
        self.linear_forward(Linear::Output, context, weights.output, output);
        let mid = self.residual(x, output, "mid", "residual forward");
        let (norm2, rstd2) = self.norm_forward(mid, weights.norm2, "norm2");
        let gate_up = self.activation("gate_up", &[tokens, 2 * dims.ffn]);
        self.linear_forward(Linear::GateUp, norm2, weights.gate_up, gate_up);
        let h = self.activation("h", &[tokens, dims.ffn]);
        let op = swiglu::Forward { rows: tokens, ffn: dims.ffn, dtype };
        self.push(Op::SwigluForward(op), &[gate_up, h], "swiglu forward");
        BlockTape { x, norm1, rstd1, qkv, context, attention, mid, norm2, rstd2, gate_up, h }
    }

    /// The end of a block: 10. down projection; 11. residual.
    fn block_output(&mut self, tape: &BlockTape, layer: usize) -> TensorId {
        let down = self.activation("down", &[self.tokens, self.dims.dim]);
        self.linear_forward(Linear::Down, tape.h, self.blocks[layer].down, down);
        self.residual(tape.mid, down, "x", "residual forward")
    }

    fn norm_forward(&mut self, x: TensorId, parameter: usize, name: &str) -> (TensorId, TensorId) {
        let (rows, dim) = (self.tokens, self.dims.dim);
        let y = self.activation(name, &[rows, dim]);
        let rstd = self.statistics(&format!("{name}.rstd"), &[rows]);
        let op = rmsnorm::Forward { rows, dim, dtype: self.dtype };
        let w = self.weight(parameter);
        self.push(Op::RmsNormForward(op), &[x, w, y, rstd], "norm forward");
        (y, rstd)
    }

    /// `a + b`.
    pub(super) fn residual(&mut self, a: TensorId, b: TensorId, name: &str, label: &str) -> TensorId {
        let (rows, dim) = (self.tokens, self.dims.dim);
        let y = self.activation(name, &[rows, dim]);
        self.push(Op::Add(residual::Add { rows, dim, dtype: self.dtype }), &[a, b, y], label);
        y
    }

    /// Turns queries and keys in place.
    pub(super) fn rope(&mut self, qkv: TensorId, backward: bool) {
        let (batch, seq) = (self.config.batch_size, self.config.seq_len);
        let (heads, head_dim) = (self.dims.heads, self.dims.head_dim());
        let op = rope::Rope { batch, seq, heads, head_dim, dtype: self.dtype, backward };
        let label = if backward { "rope backward" } else { "rope forward" };
        self.push(Op::Rope(op), &[self.cos, self.sin, qkv], label);
    }
}
