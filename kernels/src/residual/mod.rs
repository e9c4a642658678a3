//! The residual connection: a sum, used forward for activations and backward for gradients.

pub(crate) mod launch;
mod reference;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec};

/// `y = a + b`, rounded once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// Rows, T.
    pub rows: usize,
    /// Width, C.
    pub dim: usize,
    /// Of all three.
    pub dtype: Dtype,
}

impl Spec for Add {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("a", self.dtype, &[self.rows, self.dim]),
            Param::read("b", self.dtype, &[self.rows, self.dim]),
            Param::write("y", self.dtype, &[self.rows, self.dim]),
        ]
    }

    fn class(&self) -> Class {
        Class::Elementwise
    }
}
