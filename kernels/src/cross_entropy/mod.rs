//! Cross-entropy of logits against target tokens, its gradient, and the mean. Columns beyond the vocabulary are padding:
//! they take no part in the softmax and their gradient is 0.

pub(crate) mod fused;
pub(crate) mod launch;
mod reference;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec};

/// `lse[t] = ln Σ exp(logits[t, v])` over v below `vocab`; `loss[t] = lse[t] − logits[t, targets[t]]`, nats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Rows, T.
    pub rows: usize,
    /// Distinct tokens.
    pub vocab: usize,
    /// Columns of the logits, the vocabulary padded.
    pub padded: usize,
    /// Of the logits; arithmetic, losses and lse are fp32.
    pub dtype: Dtype,
}

impl Spec for Forward {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("logits", self.dtype, &[self.rows, self.padded]),
            Param::read("targets", Dtype::I32, &[self.rows]),
            Param::write("loss", Dtype::F32, &[self.rows]),
            Param::write("lse", Dtype::F32, &[self.rows]),
        ]
    }

    fn class(&self) -> Class {
        Class::Loss
    }
}

/// `dlogits[t, v] = (exp(logits[t, v] − lse[t]) − [v = targets[t]]) / T`, 0 in padding. In place: `logits` becomes `dlogits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backward {
    /// Rows, T.
    pub rows: usize,
    /// Distinct tokens.
    pub vocab: usize,
    /// Columns of the logits, the vocabulary padded.
    pub padded: usize,
    /// Of the logits and their gradient.
    pub dtype: Dtype,
}

impl Spec for Backward {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("targets", Dtype::I32, &[self.rows]),
            Param::read("lse", Dtype::F32, &[self.rows]),
            Param::update("logits", self.dtype, &[self.rows, self.padded]),
        ]
    }

    fn class(&self) -> Class {
        Class::Loss
    }
}

/// `mean = Σ loss[t] / T`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mean {
    /// Rows, T.
    pub rows: usize,
}

impl Spec for Mean {
    fn signature(&self) -> Vec<Param> {
        vec![Param::read("loss", Dtype::F32, &[self.rows]), Param::write("mean", Dtype::F32, &[1])]
    }

    fn class(&self) -> Class {
        Class::Loss
    }
}
