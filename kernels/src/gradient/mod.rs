//! The norm of all gradients and the factor that clips it.

pub(crate) mod fused;
pub(crate) mod launch;
mod reference;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec};

/// `sums[index] = Σ g²` of one gradient, summed in the arithmetic type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumSquares {
    /// Shape of the gradient.
    pub shape: Vec<usize>,
    /// Its dtype.
    pub dtype: Dtype,
}

impl Spec for SumSquares {
    fn signature(&self) -> Vec<Param> {
        vec![Param::read("g", self.dtype, &self.shape), Param::write("sum", Dtype::F32, &[1])]
    }

    fn class(&self) -> Class {
        Class::Optimiser
    }
}

/// `norm = sqrt(Σ sums)`, `scale = min(1, max_norm / (norm + 1e-6))`; 1 where `max_norm` is 0 (clipping off). Source of the
/// 1e-6: `torch.nn.utils.clip_grad_norm_`. Operands `sum0`, `sum1`, … in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipScale {
    /// How many sums.
    pub count: usize,
    /// Largest norm; 0 is off.
    pub max_norm: f64,
}

impl Spec for ClipScale {
    fn signature(&self) -> Vec<Param> {
        let mut params: Vec<Param> = (0..self.count)
            .map(|index| Param { name: format!("sum{index}").into(), ..Param::read("sum", Dtype::F32, &[1]) })
            .collect();
        params.push(Param::write("norm", Dtype::F32, &[1]));
        params.push(Param::write("scale", Dtype::F32, &[1]));
        params
    }

    fn class(&self) -> Class {
        Class::Optimiser
    }
}
