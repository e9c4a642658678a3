//! Rotary positions on packed QKV, in place, forward or backward. Source: Su et al. 2021; halves as in GPT-NeoX.

pub(crate) mod fused;
pub(crate) mod launch;
mod reference;

pub use reference::tables;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec};

/// Base of the angles.
pub const BASE: f64 = 10_000.0;

/// Turns the pairs (i, i + hd/2) of every query and key head by the angle of its position; values are left alone.
/// Backward turns gradients back. `cos` and `sin` are fp32 tables of (S, hd/2); the result is rounded once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rope {
    /// Sequences, B.
    pub batch: usize,
    /// Tokens of one sequence, S.
    pub seq: usize,
    /// Heads, H.
    pub heads: usize,
    /// Width of a head, hd.
    pub head_dim: usize,
    /// Of the packed tensor.
    pub dtype: Dtype,
    /// Turns back instead.
    pub backward: bool,
}

impl Spec for Rope {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("cos", Dtype::F32, &[self.seq, self.head_dim / 2]),
            Param::read("sin", Dtype::F32, &[self.seq, self.head_dim / 2]),
            // (B·S, 3·H·hd): query, key, value
            Param::update("qkv", self.dtype, &[self.batch * self.seq, 3 * self.heads * self.head_dim]),
        ]
    }

    fn class(&self) -> Class {
        Class::Elementwise
    }

    /// Values, a third of the packed tensor, are left alone.
    #[expect(clippy::cast_precision_loss, reason = "bytes of tensors fit 53 bits")]
    fn bytes(&self) -> f64 {
        let values = self.batch * self.seq * self.heads * self.head_dim * self.dtype.bytes();
        let all: usize = self.signature().iter().map(Param::moved_bytes).sum();
        (all - 2 * values) as f64
    }
}
