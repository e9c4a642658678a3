//! Token embedding: rows of a table, and the gradient of the table.

pub(crate) mod launch;
mod reference;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec};

/// `x[t] = table[ids[t]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Tokens, T.
    pub tokens: usize,
    /// Rows of the table, V (padded; ids stay below the unpadded vocabulary).
    pub vocab: usize,
    /// Width, C.
    pub dim: usize,
    /// Of table and output.
    pub dtype: Dtype,
}

impl Spec for Forward {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("ids", Dtype::I32, &[self.tokens]),
            Param::read("table", self.dtype, &[self.vocab, self.dim]),
            Param::write("x", self.dtype, &[self.tokens, self.dim]),
        ]
    }

    fn class(&self) -> Class {
        Class::Elementwise
    }
}

/// Tokens of one id whose gradients are summed as one segment.
pub const SEGMENT: usize = 64;

/// `dtable[v] += Σ over t with ids[t] = v of dx[t]`: summed in the arithmetic type in the order of t, by segments of
/// [`SEGMENT`] tokens whose sums are added in their order, then added to the old value, rounded once. The table is tied to the classifier, whose weight gradient is what is updated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backward {
    /// Tokens, T.
    pub tokens: usize,
    /// Rows of the table, V.
    pub vocab: usize,
    /// Width, C.
    pub dim: usize,
    /// Of both gradients.
    pub dtype: Dtype,
}

impl Spec for Backward {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("ids", Dtype::I32, &[self.tokens]),
            Param::read("dx", self.dtype, &[self.tokens, self.dim]),
            Param::update("dtable", self.dtype, &[self.vocab, self.dim]),
        ]
    }

    fn class(&self) -> Class {
        Class::Elementwise
    }
}
