//! The backward pass: the forward pass in reverse, each linear's input gradient before its weight gradient.
//!
//! With `recompute` a block's forward runs again from its input before its backward. The tied embedding's gradient is the
//! classifier's weight gradient, to which the embedding's own backward adds.

use stepwatch_kernels::op::Op;
use stepwatch_kernels::{cross_entropy, embedding, rmsnorm, swiglu};

use super::Builder;
use super::forward::{BlockTape, Tape};
use crate::ir::{Phase, TensorId};
use crate::linear::Linear;

impl Builder<'_> {
    /// 1. loss; 2. classifier; 3. final norm; 4. the blocks, last first; 5. embedding.
    pub(super) fn backward(&mut self, tape: &Tape) {
        self.phase = Phase::Backward;
        let (tokens, dims, dtype) = (self.tokens, self.dims, self.dtype);
        let vocab = dims.padded_vocab();
        let op = cross_entropy::Backward { rows: tokens, vocab: dims.vocab, padded: vocab, dtype };
        let operands = [self.step.ports.targets, tape.lse, tape.logits];
        self.push(Op::CrossEntropyBackward(op), &operands, "cross-entropy backward");

        let dnorm = self.activation("d:norm", &[tokens, dims.dim]);
        self.linear_input_gradient(Linear::Head, tape.logits, self.embedding, dnorm);
        self.linear_weight_gradient(Linear::Head, tape.logits, tape.norm, self.embedding);
        let mut dx = self.norm_backward(tape.x, self.final_norm, tape.rstd, dnorm, "d:x");

        for layer in (0..dims.layers).rev() {
            self.layer = Some(layer);
            let mut block = tape.blocks[layer];
            if self.config.recompute {
                self.again = true;
                block = self.block_forward(layer, block.x);
                self.again = false;
            }
            dx = self.block_backward(layer, &block, dx);
        }
        self.layer = None;

        let op = embedding::Backward { tokens, vocab, dim: dims.dim, dtype };
        let dtable = self.gradient(self.embedding);
        // Calibration has no weight gradient to add to, and needs none.
        if self.mode == super::Mode::Step {
            self.push(Op::EmbeddingBackward(op), &[self.step.ports.ids, dx, dtable], "embedding backward");
        }
    }

    /// dx (T, C), the gradient of the block's input, of dy (T, C), the gradient of its output.
    ///
    /// 1. down; 2. SwiGLU; 3. gate and up; 4. norm; 5. residual; 6. output projection; 7. attention; 8. rotary positions;
    /// 9. qkv; 10. norm; 11. residual.
    fn block_backward(&mut self, layer: usize, tape: &BlockTape, dy: TensorId) -> TensorId {
        let (tokens, dims, dtype, weights) = (self.tokens, self.dims, self.dtype, self.blocks[layer]);
        let dh = self.activation("d:h", &[tokens, dims.ffn]);
        self.linear_input_gradient(Linear::Down, dy, weights.down, dh);
        self.linear_weight_gradient(Linear::Down, dy, tape.h, weights.down);
        let dgate_up = self.activation("d:gate_up", &[tokens, 2 * dims.ffn]);
        let op = swiglu::Backward { rows: tokens, ffn: dims.ffn, dtype };
        self.push(Op::SwigluBackward(op), &[tape.gate_up, dh, dgate_up], "swiglu backward");
        let dnorm2 = self.activation("d:norm2", &[tokens, dims.dim]);
        self.linear_input_gradient(Linear::GateUp, dgate_up, weights.gate_up, dnorm2);
        self.linear_weight_gradient(Linear::GateUp, dgate_up, tape.norm2, weights.gate_up);
        let through = self.norm_backward(tape.mid, weights.norm2, tape.rstd2, dnorm2, "d:norm2.x");
        let dmid = self.residual(dy, through, "d:mid", "residual backward");

        let dcontext = self.activation("d:context", &[tokens, dims.dim]);
        self.linear_input_gradient(Linear::Output, dmid, weights.output, dcontext);
        self.linear_weight_gradient(Linear::Output, dmid, tape.context, weights.output);
        let dqkv = self.attention_backward(tape.qkv, tape.context, tape.attention, dcontext);
        self.rope(dqkv, true);
        let dnorm1 = self.activation("d:norm1", &[tokens, dims.dim]);
        self.linear_input_gradient(Linear::Qkv, dqkv, weights.qkv, dnorm1);
        self.linear_weight_gradient(Linear::Qkv, dqkv, tape.norm1, weights.qkv);
        let through = self.norm_backward(tape.x, weights.norm1, tape.rstd1, dnorm1, "d:norm1.x");
        self.residual(dmid, through, "d:x", "residual backward")
    }

    fn norm_backward(&mut self, x: TensorId, parameter: usize, rstd: TensorId, dy: TensorId, name: &str) -> TensorId {
        let (rows, dim) = (self.tokens, self.dims.dim);
        let dx = self.activation(name, &[rows, dim]);
        let (w, dw) = (self.weight(parameter), self.gradient(parameter));
        let op = rmsnorm::Backward { rows, dim, dtype: self.dtype };
        self.push(Op::RmsNormBackward(op), &[x, w, rstd, dy, dx, dw], "norm backward");
        dx
    }
}
