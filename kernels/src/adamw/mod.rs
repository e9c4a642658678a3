//! AdamW with decoupled weight decay, step counter and learning-rate warm-up on the device. Source: Loshchilov & Hutter 2019.

pub(crate) mod fused;
pub(crate) mod launch;
mod reference;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec};

/// β₁, β₂ and ε as usual for language models (GPT-3, LLaMA).
pub const BETA1: f64 = 0.9;
/// See [`BETA1`].
pub const BETA2: f64 = 0.95;
/// See [`BETA1`].
pub const EPSILON: f64 = 1e-8;

/// One update of one parameter, with t = step + 1, g = gradient · clip:
/// `m = β₁m + (1−β₁)g`, `v = β₂v + (1−β₂)g²`, `w −= lr · (m̂/(√v̂ + ε) + decay · w)`, where
/// `lr = learning_rate · min(1, t / warmup)`. Arithmetic in fp32; w, m and v are rounded to their dtypes, to nearest even.
/// With fp32 states and bf16 weights, `w` is the fp32 master and `copy` the bf16 weight that the next step reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Shape of the parameter.
    pub shape: Vec<usize>,
    /// Of the gradient.
    pub gradient: Dtype,
    /// Of w, m and v.
    pub state: Dtype,
    /// Writes a copy of w in this dtype.
    pub copy: Option<Dtype>,
    /// Learning rate after warm-up.
    pub learning_rate: f64,
    /// Steps of linear warm-up; 0 is none.
    pub warmup: u32,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Spec for AdamW {
    fn signature(&self) -> Vec<Param> {
        let mut params = vec![
            Param::read("g", self.gradient, &self.shape),
            Param::read("clip", Dtype::F32, &[1]),
            Param::read("step", Dtype::I32, &[1]),
            Param::update("w", self.state, &self.shape),
            Param::update("m", self.state, &self.shape),
            Param::update("v", self.state, &self.shape),
        ];
        if let Some(dtype) = self.copy {
            params.push(Param::write("copy", dtype, &self.shape));
        }
        params
    }

    fn class(&self) -> Class {
        Class::Optimiser
    }
}

/// `step += 1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advance {}

impl Spec for Advance {
    fn signature(&self) -> Vec<Param> {
        vec![Param::update("step", Dtype::I32, &[1])]
    }

    fn class(&self) -> Class {
        Class::Optimiser
    }
}
