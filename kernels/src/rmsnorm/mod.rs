//! RMSNorm: `y = x / sqrt(mean(x²) + ε) · w`, and its gradients. Source: Zhang & Sennrich 2019.

pub(crate) mod fused;
pub(crate) mod launch;
mod reference;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec};

/// ε under the root, as in LLaMA.
pub const EPSILON: f32 = 1e-5;

/// `rstd[t] = 1/sqrt(mean(x[t]²) + ε)`, `y[t] = x[t] · rstd[t] · w`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Rows, T.
    pub rows: usize,
    /// Width, C.
    pub dim: usize,
    /// Of x, w and y; arithmetic and rstd are fp32.
    pub dtype: Dtype,
}

impl Spec for Forward {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("x", self.dtype, &[self.rows, self.dim]),
            Param::read("w", self.dtype, &[self.dim]),
            Param::write("y", self.dtype, &[self.rows, self.dim]),
            Param::write("rstd", Dtype::F32, &[self.rows]),
        ]
    }

    fn class(&self) -> Class {
        Class::Norm
    }
}

/// `dx = rstd · (dy·w − x̂ · mean(dy·w·x̂))` with `x̂ = x · rstd`; `dw = Σ over rows of dy · x̂`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backward {
    /// Rows, T.
    pub rows: usize,
    /// Width, C.
    pub dim: usize,
    /// Of x, w, dy, dx and dw; arithmetic and rstd are fp32.
    pub dtype: Dtype,
}

impl Spec for Backward {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("x", self.dtype, &[self.rows, self.dim]),
            Param::read("w", self.dtype, &[self.dim]),
            Param::read("rstd", Dtype::F32, &[self.rows]),
            Param::read("dy", self.dtype, &[self.rows, self.dim]),
            Param::write("dx", self.dtype, &[self.rows, self.dim]),
            Param::write("dw", self.dtype, &[self.dim]),
        ]
    }

    fn class(&self) -> Class {
        Class::Norm
    }
}
