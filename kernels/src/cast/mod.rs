//! A copy in another dtype, rounded to nearest even.

pub(crate) mod launch;
mod reference;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec};

/// `y = x` in another dtype; with equal dtypes a plain copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cast {
    /// Shape of both.
    pub shape: Vec<usize>,
    /// Dtype of x.
    pub from: Dtype,
    /// Dtype of y.
    pub to: Dtype,
}

impl Spec for Cast {
    fn signature(&self) -> Vec<Param> {
        vec![Param::read("x", self.from, &self.shape), Param::write("y", self.to, &self.shape)]
    }

    fn class(&self) -> Class {
        Class::Elementwise
    }
}
