//! Attention in the op list: the products and softmax of the naive form, or the one op of the tiled forms.

use stepwatch_kernels::attention::{
    FlashBackward, FlashForward, Kernel, Order, Product, ProductKind, Shape, SoftmaxBackward, SoftmaxForward,
};
use stepwatch_kernels::op::Op;

use super::Builder;
use crate::config::Attention;
use crate::ir::TensorId;

/// What attention keeps of its forward pass besides rotated QKV and its context.
#[derive(Debug, Clone, Copy)]
pub(super) enum AttentionTape {
    /// Probabilities, (B, H, S, S).
    Probabilities(TensorId),
    /// Log-sum-exp of the scores, (B, H, S) fp32.
    LogSumExp(TensorId),
}

impl Builder<'_> {
    fn attention_shape(&self) -> Shape {
        let (batch, seq) = (self.config.batch_size, self.config.seq_len);
        Shape::causal(batch, seq, self.dims.heads, self.dims.head_dim(), self.dtype)
    }

    fn kernel(&self) -> Option<Kernel> {
        match self.config.attention {
            Attention::Naive => None,
            Attention::Flash => Some(Kernel::Flash),
            Attention::Cudnn => Some(Kernel::Cudnn),
        }
    }

    /// context (T, C) of rotated qkv (T, 3·C).
    pub(super) fn attention_forward(&mut self, qkv: TensorId) -> (TensorId, AttentionTape) {
        let shape = self.attention_shape();
        let Shape { batch, seq, heads, .. } = shape;
        let context = self.activation("context", &[self.tokens, self.dims.dim]);
        if let Some(kernel) = self.kernel() {
            let lse = self.statistics("lse", &[batch, heads, seq]);
            let op = Op::FlashForward(FlashForward { shape, kernel });
            self.push(op, &[qkv, context, lse], "attention forward");
            return (context, AttentionTape::LogSumExp(lse));
        }
        let square = [batch, heads, seq, seq];
        let scores = self.activation("scores", &square);
        let p = self.activation("p", &square);
        self.attention_product(ProductKind::Scores, &[qkv, scores], "attention scores");
        self.push(Op::SoftmaxForward(SoftmaxForward { shape }), &[scores, p], "softmax forward");
        self.attention_product(ProductKind::Context, &[p, qkv, context], "attention context");
        (context, AttentionTape::Probabilities(p))
    }

    /// dqkv (T, 3·C), still rotated, of dcontext (T, C).
    pub(super) fn attention_backward(
        &mut self,
        qkv: TensorId,
        context: TensorId,
        tape: AttentionTape,
        dcontext: TensorId,
    ) -> TensorId {
        let shape = self.attention_shape();
        let Shape { batch, seq, heads, .. } = shape;
        let dqkv = self.activation("d:qkv", &[self.tokens, 3 * self.dims.dim]);
        match tape {
            AttentionTape::LogSumExp(lse) => {
                let kernel = self.kernel().unwrap_or(Kernel::Flash);
                let order = if self.config.deterministic { Order::Fixed } else { Order::Any };
                let op = Op::FlashBackward(FlashBackward { shape, kernel, order });
                self.push(op, &[qkv, context, lse, dcontext, dqkv], "attention backward");
            }
            AttentionTape::Probabilities(p) => {
                let square = [batch, heads, seq, seq];
                let dp = self.activation("d:p", &square);
                let ds = self.activation("d:scores", &square);
                self.attention_product(ProductKind::ValueGradient, &[p, dcontext, dqkv], "attention value gradient");
                self.attention_product(
                    ProductKind::ProbabilityGradient,
                    &[dcontext, qkv, dp],
                    "attention probability gradient",
                );
                self.push(Op::SoftmaxBackward(SoftmaxBackward { shape }), &[p, dp, ds], "softmax backward");
                self.attention_product(ProductKind::QueryGradient, &[ds, qkv, dqkv], "attention query gradient");
                self.attention_product(ProductKind::KeyGradient, &[ds, qkv, dqkv], "attention key gradient");
            }
        }
        dqkv
    }

    fn attention_product(&mut self, kind: ProductKind, operands: &[TensorId], label: &str) {
        let shape = self.attention_shape();
        self.push(Op::AttentionProduct(Product { shape, kind }), operands, label);
    }
}
