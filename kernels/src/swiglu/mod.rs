//! SwiGLU: `h = silu(gate) ∘ up` on a packed (T, 2·F) tensor, gate first, and its gradients. Source: Shazeer 2020.

pub(crate) mod fused;
pub(crate) mod launch;
mod reference;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec};

/// `h = gate · sigmoid(gate) · up`, rounded once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Rows, T.
    pub rows: usize,
    /// Hidden width, F.
    pub ffn: usize,
    /// Of all tensors; arithmetic is fp32.
    pub dtype: Dtype,
}

impl Spec for Forward {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("gate_up", self.dtype, &[self.rows, 2 * self.ffn]),
            Param::write("h", self.dtype, &[self.rows, self.ffn]),
        ]
    }

    fn class(&self) -> Class {
        Class::Elementwise
    }
}

/// `dgate = dh · up · σ(gate) · (1 + gate · (1 − σ(gate)))`, `dup = dh · gate · σ(gate)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backward {
    /// Rows, T.
    pub rows: usize,
    /// Hidden width, F.
    pub ffn: usize,
    /// Of all tensors; arithmetic is fp32.
    pub dtype: Dtype,
}

impl Spec for Backward {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("gate_up", self.dtype, &[self.rows, 2 * self.ffn]),
            Param::read("dh", self.dtype, &[self.rows, self.ffn]),
            Param::write("dgate_up", self.dtype, &[self.rows, 2 * self.ffn]),
        ]
    }

    fn class(&self) -> Class {
        Class::Elementwise
    }
}
