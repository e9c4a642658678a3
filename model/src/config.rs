//! Hop one of every built-in parameter: the typed configuration of one step, and the presets of model sizes.
//!
//! Nothing after this file reads a string to learn what a user meant.

use std::fmt;

use serde::{Deserialize, Serialize};
use stepwatch_kernels::precision::{Precision, Role};

/// The dimensions of a model: decoder-only, tied embeddings, RMSNorm, rotary positions, fused QKV, SwiGLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Dims {
    /// Width of the residual stream.
    pub dim: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads; the head dim is `dim / heads`.
    pub heads: usize,
    /// Width of the SwiGLU hidden layer (gate and up each).
    pub ffn: usize,
    /// Distinct tokens. Padded to a multiple of [`VOCAB_MULTIPLE`] for the GEMMs.
    pub vocab: usize,
}

/// The vocabulary is padded to a multiple of this, so that the classifier's GEMMs are aligned.
pub const VOCAB_MULTIPLE: usize = 64;

/// A preset: its name and dims.
pub const PRESETS: [(&str, Dims); 6] = [
    ("tiny", Dims { dim: 64, layers: 2, heads: 4, ffn: 256, vocab: 256 }),
    ("mini", Dims { dim: 256, layers: 4, heads: 4, ffn: 1024, vocab: 256 }),
    ("350m", Dims { dim: 896, layers: 24, heads: 14, ffn: 3584, vocab: 50257 }),
    ("454m", Dims { dim: 1024, layers: 24, heads: 16, ffn: 4096, vocab: 50257 }),
    ("1b", Dims { dim: 2048, layers: 16, heads: 32, ffn: 8192, vocab: 50257 }),
    ("8b-slice", Dims { dim: 4096, layers: 8, heads: 32, ffn: 14336, vocab: 50257 }),
];

/// The dims of a preset.
#[must_use]
pub fn preset(name: &str) -> Option<Dims> {
    PRESETS.iter().find(|(preset, _)| *preset == name).map(|(_, dims)| *dims)
}

impl Dims {
    /// Width of one head.
    #[must_use]
    pub const fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// The vocabulary as the GEMMs see it.
    #[must_use]
    pub const fn padded_vocab(&self) -> usize {
        self.vocab.div_ceil(VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    }

    /// Whether the dims make a model at all.
    ///
    /// # Errors
    /// The first dimension that does not fit, with its value and what is right.
    pub fn check(&self) -> Result<(), DimsError> {
        for (name, value) in [
            ("dim", self.dim),
            ("layers", self.layers),
            ("heads", self.heads),
            ("ffn", self.ffn),
            ("vocab", self.vocab),
        ] {
            if value == 0 {
                return Err(DimsError::Zero { name });
            }
            if value > 1 << 24 {
                return Err(DimsError::TooLarge { name, value });
            }
        }
        if !self.dim.is_multiple_of(self.heads) {
            return Err(DimsError::HeadsDoNotDivide { heads: self.heads, dim: self.dim });
        }
        if !self.head_dim().is_multiple_of(2) {
            return Err(DimsError::OddHeadDim { head_dim: self.head_dim() });
        }
        Ok(())
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dim, layers, heads, ffn, vocab } = self;
        write!(f, "dim={dim},layers={layers},heads={heads},ffn={ffn},vocab={vocab}")
    }
}

/// Dims that make no model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DimsError {
    /// A dimension is zero.
    #[error("{name} is 0: every dimension is at least 1")]
    Zero {
        /// Which.
        name: &'static str,
    },
    /// A dimension is beyond anything that could be meant.
    #[error("{name} is {value}: at most 16777216 is accepted")]
    TooLarge {
        /// Which.
        name: &'static str,
        /// Its value.
        value: usize,
    },
    /// Heads do not divide dim.
    #[error("{heads} heads do not divide dim {dim}: the head dim must be a whole number")]
    HeadsDoNotDivide {
        /// Heads.
        heads: usize,
        /// Dim.
        dim: usize,
    },
    /// Rotary positions need pairs.
    #[error("head dim {head_dim} is odd: rotary positions turn pairs, so dim / heads must be even")]
    OddHeadDim {
        /// The head dim.
        head_dim: usize,
    },
}

/// What a user writes as `attention`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attention {
    /// Scores materialised.
    Naive,
    /// Tiled, online softmax: own kernels.
    Flash,
    /// cuDNN's fused attention (CUDA only).
    Cudnn,
}

/// A pass over the op list, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// Both operand layouts of FP8 GEMMs written once, by whoever casts; no separate transposes.
    Layout,
    /// Producers, casts and residual adds in one op.
    Fusion,
    /// Lifetimes into one arena.
    Place,
    /// GEMM algorithms timed, verified and pinned.
    Search,
    /// The step as one CUDA graph.
    Graph,
}

impl Pass {
    /// All passes, in the order in which they run.
    pub const ALL: [Self; 5] = [Self::Layout, Self::Fusion, Self::Place, Self::Search, Self::Graph];

    /// Its name as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Layout => "layout",
            Self::Fusion => "fusion",
            Self::Place => "place",
            Self::Search => "search",
            Self::Graph => "graph",
        }
    }
}

/// What a user writes as `compile`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Compile {
    /// One kernel per primitive op.
    None,
    /// These passes, sorted in running order, without repeats.
    Passes(Vec<Pass>),
    /// Every pass the backend has.
    Full,
}

impl Compile {
    /// Reads `none`, `full`, `false`, `true` or pass names joined by `+`.
    ///
    /// # Errors
    /// The part that is no pass, with what is allowed.
    pub fn parse(text: &str) -> Result<Self, CompileError> {
        match text {
            "none" | "false" => return Ok(Self::None),
            "full" | "true" => return Ok(Self::Full),
            _ => {}
        }
        let mut passes = Vec::new();
        for part in text.split('+') {
            let pass = Pass::ALL
                .into_iter()
                .find(|pass| pass.name() == part)
                .ok_or_else(|| CompileError { part: part.to_owned() })?;
            if !passes.contains(&pass) {
                passes.push(pass);
            }
        }
        passes.sort_unstable();
        Ok(Self::Passes(passes))
    }
}

impl fmt::Display for Compile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Full => f.write_str("full"),
            Self::Passes(passes) => {
                let names: Vec<&str> = passes.iter().map(|pass| pass.name()).collect();
                f.write_str(&names.join("+"))
            }
        }
    }
}

/// A part of `compile` that is no pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{part}` is no pass: write `none`, `full`, or `layout`, `fusion`, `place`, `search`, `graph` joined by `+`")]
pub struct CompileError {
    /// The part.
    pub part: String,
}

/// The dtype of the optimiser's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerState {
    /// fp32 master weights and moments.
    Fp32,
    /// bf16 weights and moments, no master copy (as PyTorch's AdamW over bf16 parameters).
    Bf16,
}

/// The dtype of the classifier's GEMMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// As the activations, also in FP8 recipes.
    Bf16,
    /// By the FP8 recipe.
    Fp8,
}

/// Which FP8 products keep their partial sums in the tensor cores' reduced precision (cuBLASLt's `FAST_ACCUM`, torchao's
/// `use_fast_accum`), where the recipe's scales allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FastAccumulation {
    /// As the recipe says: the forward products of most.
    Forward,
    /// Those and the input gradients.
    InputGradient,
    /// Those and the weight gradients, which sum over all tokens, but for the classifier's.
    All,
}

impl FastAccumulation {
    /// Its name as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::InputGradient => "input-gradient",
            Self::All => "all",
        }
    }

    /// Whether products of a role have it beyond what the recipe says.
    #[must_use]
    pub const fn adds(self, role: Role) -> bool {
        match role {
            Role::Forward => false,
            Role::InputGradient => matches!(self, Self::InputGradient | Self::All),
            Role::WeightGradient => matches!(self, Self::All),
        }
    }
}

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// Seeded tokens, Zipf-distributed over the vocabulary.
    Zipf,
    /// The bytes of a file, windows drawn by the seed.
    File(std::path::PathBuf),
}

/// One training step, resolved: every default applied, every word understood.
#[derive(Debug, Clone, PartialEq)]
pub struct StepConfig {
    /// The model's dims.
    pub dims: Dims,
    /// The precision recipe.
    pub precision: Precision,
    /// The attention kernel.
    pub attention: Attention,
    /// The passes.
    pub compile: Compile,
    /// Sequences per device.
    pub batch_size: usize,
    /// Tokens per sequence.
    pub seq_len: usize,
    /// Activation checkpointing: keep block inputs only, run each block's forward again in backward.
    pub recompute: bool,
    /// Whether results repeat bit for bit on a GPU too: attention's backward adds in a fixed order.
    pub deterministic: bool,
    /// The optimiser's states.
    pub optimizer_state: OptimizerState,
    /// Largest gradient norm; 0 is off.
    pub clip: f64,
    /// The classifier's dtype.
    pub head: Head,
    /// Which FP8 products accumulate fast.
    pub fast_accumulation: FastAccumulation,
    /// The tokens.
    pub data: Data,
    /// AdamW's learning rate after warm-up.
    pub learning_rate: f64,
    /// Steps of linear learning-rate warm-up.
    pub lr_warmup_steps: u32,
    /// AdamW's decoupled weight decay, on matrices only.
    pub weight_decay: f64,
}

impl StepConfig {
    /// Tokens of one step.
    #[must_use]
    pub const fn tokens(&self) -> usize {
        self.batch_size * self.seq_len
    }

    /// A step of these dims with every default, for tests and documentation: fp32, naive attention, uncompiled.
    #[must_use]
    pub fn example(dims: Dims, batch_size: usize, seq_len: usize) -> Self {
        Self {
            dims,
            precision: Precision::Fp32,
            attention: Attention::Naive,
            compile: Compile::None,
            batch_size,
            seq_len,
            recompute: false,
            deterministic: false,
            optimizer_state: OptimizerState::Fp32,
            clip: 1.0,
            head: Head::Bf16,
            fast_accumulation: FastAccumulation::Forward,
            data: Data::Zipf,
            learning_rate: 3e-4,
            lr_warmup_steps: 0,
            weight_decay: 0.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_models_and_have_the_sizes_of_the_contract() {
        for (name, dims) in PRESETS {
            assert_eq!(dims.check(), Ok(()), "{name}");
        }
        assert_eq!(preset("454m").map(|dims| dims.padded_vocab()), Some(50304));
        assert_eq!(preset("454M"), None);
    }

    #[test]
    fn wrong_dims_say_what_is_right() {
        let good = Dims { dim: 64, layers: 2, heads: 4, ffn: 256, vocab: 256 };
        let cases = [
            (Dims { layers: 0, ..good }, "layers is 0: every dimension is at least 1"),
            (Dims { heads: 3, ..good }, "3 heads do not divide dim 64: the head dim must be a whole number"),
            (Dims { heads: 64, ..good }, "head dim 1 is odd: rotary positions turn pairs, so dim / heads must be even"),
            (Dims { dim: 1 << 30, ..good }, "dim is 1073741824: at most 16777216 is accepted"),
        ];
        for (dims, message) in cases {
            assert_eq!(dims.check().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn compile_is_read_in_any_order_and_written_in_one() {
        let cases = [
            ("none", "none"),
            ("false", "none"),
            ("true", "full"),
            ("fusion+layout", "layout+fusion"),
            ("graph+graph", "graph"),
        ];
        for (text, written) in cases {
            assert_eq!(Compile::parse(text).unwrap().to_string(), written);
        }
        assert_eq!(
            Compile::parse("layout+fuse").unwrap_err().to_string(),
            "`fuse` is no pass: write `none`, `full`, or `layout`, `fusion`, `place`, `search`, `graph` joined by `+`"
        );
        assert!(Compile::parse("").is_err());
    }
}
