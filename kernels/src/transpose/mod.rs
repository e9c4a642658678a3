//! A transposed copy, for products that take one layout only.

pub(crate) mod launch;
pub(crate) mod reference;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec};

/// `y[j, i] = x[i, j]`, bit for bit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transpose {
    /// Rows of x.
    pub rows: usize,
    /// Columns of x.
    pub cols: usize,
    /// Of both.
    pub dtype: Dtype,
}

impl Spec for Transpose {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("x", self.dtype, &[self.rows, self.cols]),
            Param::write("y", self.dtype, &[self.cols, self.rows]),
        ]
    }

    fn class(&self) -> Class {
        Class::Transpose
    }
}
