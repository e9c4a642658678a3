//! The linear layers of the model: their names, their sizes and the GEMMs that a step makes of them.
//!
//! One table that counting, checking and building all ask; it knows no recipe and no memory.

use serde::{Deserialize, Serialize};
use stepwatch_kernels::precision::Role;

use crate::config::Dims;

/// The GEMMs of a model, by what they compute. Gate and up share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Linear {
    /// Queries, keys and values in one product.
    Qkv,
    /// The attention's output projection.
    Output,
    /// The two halves of the SwiGLU hidden layer in one product.
    GateUp,
    /// Back from the hidden layer to the residual stream.
    Down,
    /// The classifier, tied to the embedding.
    Head,
}

/// The three products of one linear layer, in the order in which a step runs them.
pub const ROLES: [Role; 3] = [Role::Forward, Role::InputGradient, Role::WeightGradient];

impl Linear {
    /// The linears of a block, in the order of the forward pass.
    pub const BLOCK: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];

    /// All linears, in the order of the forward pass.
    pub const ALL: [Self; 5] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down, Self::Head];

    /// Its name in op labels and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qkv => "qkv",
            Self::Output => "output",
            Self::GateUp => "gate-up",
            Self::Down => "down",
            Self::Head => "head",
        }
    }

    /// The linear layers, as a model's author counts them, in this product.
    #[must_use]
    pub const fn layers(self) -> &'static [&'static str] {
        match self {
            Self::Qkv => &["qkv"],
            Self::Output => &["output"],
            Self::GateUp => &["gate", "up"],
            Self::Down => &["down"],
            Self::Head => &["head"],
        }
    }

    /// Width of its input (K of the forward product).
    #[must_use]
    pub const fn inputs(self, dims: &Dims) -> usize {
        match self {
            Self::Down => dims.ffn,
            _ => dims.dim,
        }
    }

    /// Width of its output (N of the forward product), the padded vocabulary for the head.
    #[must_use]
    pub const fn outputs(self, dims: &Dims) -> usize {
        match self {
            Self::Qkv => 3 * dims.dim,
            Self::Output | Self::Down => dims.dim,
            Self::GateUp => 2 * dims.ffn,
            Self::Head => dims.padded_vocab(),
        }
    }

    /// How many of it the model has.
    #[must_use]
    pub const fn count(self, dims: &Dims) -> usize {
        match self {
            Self::Head => 1,
            _ => dims.layers,
        }
    }

    /// The product of one role over `tokens` tokens: rows and columns of the result, and what is summed over.
    #[must_use]
    pub const fn product(self, dims: &Dims, tokens: usize, role: Role) -> Product {
        let (inputs, outputs) = (self.inputs(dims), self.outputs(dims));
        match role {
            Role::Forward => Product { m: tokens, n: outputs, k: inputs },
            Role::InputGradient => Product { m: tokens, n: inputs, k: outputs },
            Role::WeightGradient => Product { m: outputs, n: inputs, k: tokens },
        }
    }
}

/// A matrix product (m, k) · (k, n) → (m, n).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Product {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// The dimension that is summed over.
    pub k: usize,
}

impl Product {
    /// Multiplications and additions.
    #[must_use]
    pub fn flops(&self) -> f64 {
        2.0 * self.m as f64 * self.n as f64 * self.k as f64
    }
}

/// The name of a role in labels and messages.
#[must_use]
pub const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Forward => "forward",
        Role::InputGradient => "input gradient",
        Role::WeightGradient => "weight gradient",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::preset;

    #[test]
    fn products_of_454m_are_those_of_the_paper() {
        let dims = preset("454m").unwrap();
        let product = |linear: Linear, role| linear.product(&dims, 32768, role);
        assert_eq!(product(Linear::Qkv, Role::Forward), Product { m: 32768, n: 3072, k: 1024 });
        assert_eq!(product(Linear::GateUp, Role::InputGradient), Product { m: 32768, n: 1024, k: 8192 });
        assert_eq!(product(Linear::Down, Role::WeightGradient), Product { m: 1024, n: 4096, k: 32768 });
        assert_eq!(product(Linear::Head, Role::Forward).n, 50304);
        // Every role multiplies the same three numbers.
        for linear in Linear::ALL {
            assert_eq!(product(linear, Role::Forward).flops(), product(linear, Role::WeightGradient).flops());
        }
    }
}
