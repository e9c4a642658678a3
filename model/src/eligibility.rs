//! Which configurations can run, and which linear layers take FP8 and why others don't.
//!
//! Everything here is arithmetic on a configuration: no device is asked, so every cell is checked before any runs. Whether
//! a backend has what a cell needs is asked when a session opens.

use stepwatch_kernels::Precision;
use stepwatch_kernels::precision::{GemmRecipe, Granularity, Role};

use crate::config::{Attention, Data, DimsError, FastAccumulation, Head, OptimizerState, StepConfig};
use crate::linear::{Linear, ROLES, role_name};

/// Every dimension of an FP8 GEMM must be a multiple of this: cuBLASLt wants 16-byte rows of one-byte elements in both
/// operands, and across the three roles each dimension is a row length once.
pub const FP8_MULTIPLE: usize = 16;

/// What block-scaled operands are cut into; the dimension that is summed over must be a multiple of it.
pub const BLOCK: usize = 128;

/// A configuration that cannot run anywhere.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The dims make no model.
    #[error(transparent)]
    Dims(#[from] DimsError),
    /// A step without tokens.
    #[error("{key} is 0: a step needs at least 1")]
    Zero {
        /// `batch_size` or `seq_len`.
        key: &'static str,
    },
    /// A step with more tokens than 32-bit positions address.
    #[error("batch_size {batch_size} × seq_len {seq_len} is too many tokens for one step: at most 2147483647")]
    TooManyTokens {
        /// Sequences.
        batch_size: usize,
        /// Tokens of each.
        seq_len: usize,
    },
    /// A number of the optimiser that is none.
    #[error("{key} is {value}: {allowed}")]
    Number {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: f64,
        /// What is right.
        allowed: &'static str,
    },
    /// A GEMM that FP8 does not take.
    #[error(
        "{precision} cannot run `{linear} {role}` (m={m}, n={n}, k={k}): {what} {value} is no multiple of {multiple}; \
         change {key} or use bf16"
    )]
    Fp8Shape {
        /// The precision.
        precision: &'static str,
        /// The linear layer.
        linear: &'static str,
        /// Which of its products.
        role: &'static str,
        /// Rows of the result.
        m: usize,
        /// Columns of the result.
        n: usize,
        /// What is summed over.
        k: usize,
        /// The dimension in words.
        what: &'static str,
        /// Its size.
        value: usize,
        /// What it must be a multiple of.
        multiple: usize,
        /// What to change.
        key: &'static str,
    },
    /// cuDNN's attention has limits of its own.
    #[error("attention `cudnn` {limit}, not {value}: use `flash` or `naive`")]
    Cudnn {
        /// What it takes.
        limit: &'static str,
        /// What was asked.
        value: String,
    },
    /// Bytes do not fit into the vocabulary.
    #[error("data from a file is read as bytes and needs vocab of at least 256, not {vocab}")]
    BytesNeedVocab {
        /// The vocabulary.
        vocab: usize,
    },
    /// No product of the precision has it.
    #[error(
        "fast_accumulation `{asked}` asks for products that precision `{precision}` does not have: FP8 recipes with one scale a \
         tensor or a row have them, all others take `forward`"
    )]
    NoFastAccumulation {
        /// What was asked.
        asked: &'static str,
        /// The precision.
        precision: &'static str,
    },
    /// fp32 weights cannot be kept in bf16.
    #[error("optimizer_state `bf16` keeps the weights in bf16, which precision `fp32` contradicts: use `fp32` states")]
    Bf16StatesOfFp32,
}

/// Whether the configuration can run at all.
///
/// # Errors
/// The first thing that cannot work, with the op, its shape and what is allowed.
pub fn check_config(config: &StepConfig) -> Result<(), ConfigError> {
    config.dims.check()?;
    for (key, value) in [("batch_size", config.batch_size), ("seq_len", config.seq_len)] {
        if value == 0 {
            return Err(ConfigError::Zero { key });
        }
    }
    if config.batch_size.checked_mul(config.seq_len).is_none_or(|tokens| tokens > i32::MAX as usize) {
        return Err(ConfigError::TooManyTokens { batch_size: config.batch_size, seq_len: config.seq_len });
    }
    check_numbers(config)?;
    if config.precision == Precision::Fp32 && config.optimizer_state == OptimizerState::Bf16 {
        return Err(ConfigError::Bf16StatesOfFp32);
    }
    if matches!(config.data, Data::File(_)) && config.dims.vocab < 256 {
        return Err(ConfigError::BytesNeedVocab { vocab: config.dims.vocab });
    }
    check_attention(config)?;
    check_accumulation(config)?;
    fp8_candidates(config).into_iter().try_for_each(|linear| check_fp8(config, linear))
}

fn check_numbers(config: &StepConfig) -> Result<(), ConfigError> {
    for (key, value) in
        [("clip", config.clip), ("learning_rate", config.learning_rate), ("weight_decay", config.weight_decay)]
    {
        if !(value.is_finite() && value >= 0.0) {
            return Err(ConfigError::Number { key, value, allowed: "a finite number of at least 0 is needed" });
        }
    }
    Ok(())
}

fn check_attention(config: &StepConfig) -> Result<(), ConfigError> {
    if config.attention != Attention::Cudnn {
        return Ok(());
    }
    if config.precision == Precision::Fp32 {
        return Err(ConfigError::Cudnn { limit: "computes in bf16", value: "fp32".to_owned() });
    }
    let head_dim = config.dims.head_dim();
    if !head_dim.is_multiple_of(8) || head_dim > 128 {
        return Err(ConfigError::Cudnn {
            limit: "takes head dims that are multiples of 8 up to 128",
            value: head_dim.to_string(),
        });
    }
    if config.deterministic {
        return Err(ConfigError::Cudnn { limit: "takes deterministic = false", value: "true".to_owned() });
    }
    Ok(())
}

/// Whether some product changes by what is asked.
fn check_accumulation(config: &StepConfig) -> Result<(), ConfigError> {
    let asked = config.fast_accumulation;
    if asked == FastAccumulation::Forward {
        return Ok(());
    }
    let changes = [Role::InputGradient, Role::WeightGradient].into_iter().any(|role| {
        let recipe = config.precision.recipe(role);
        asked.adds(role) && recipe.accumulated_fast() != recipe
    });
    if changes {
        Ok(())
    } else {
        Err(ConfigError::NoFastAccumulation { asked: asked.name(), precision: config.precision.name() })
    }
}

/// The linears that the configuration asks to run in FP8.
fn fp8_candidates(config: &StepConfig) -> Vec<Linear> {
    if !config.precision.is_fp8() {
        return Vec::new();
    }
    Linear::ALL.into_iter().filter(|linear| *linear != Linear::Head || config.head == Head::Fp8).collect()
}

/// A dimension of a linear layer's products, in the words of the model.
#[derive(Clone, Copy)]
enum Axis {
    Tokens,
    Inputs,
    Outputs,
}

impl Axis {
    /// What the dimension is, and which key sets it.
    const fn words(self, linear: Linear) -> (&'static str, &'static str) {
        match (self, linear) {
            (Self::Tokens, _) => ("the number of tokens of a step", "batch_size or seq_len"),
            (Self::Inputs, Linear::Down) => ("ffn", "ffn"),
            (Self::Outputs, Linear::GateUp) => ("twice ffn", "ffn"),
            (Self::Outputs, Linear::Qkv) => ("three times dim", "dim"),
            (Self::Outputs, Linear::Head) => ("the padded vocabulary", "vocab"),
            (Self::Inputs | Self::Outputs, _) => ("dim", "dim"),
        }
    }
}

/// Whether every FP8 product of one linear has the shape FP8 takes.
fn check_fp8(config: &StepConfig, linear: Linear) -> Result<(), ConfigError> {
    for role in ROLES {
        let GemmRecipe::Fp8 { a, .. } = config.precision.recipe(role) else { continue };
        let blocks = matches!(a.granularity, Granularity::Block1x128 | Granularity::Block128x128);
        let summed = if blocks { BLOCK } else { FP8_MULTIPLE };
        let product = linear.product(&config.dims, config.tokens(), role);
        let (m_axis, n_axis, k_axis) = match role {
            Role::Forward => (Axis::Tokens, Axis::Outputs, Axis::Inputs),
            Role::InputGradient => (Axis::Tokens, Axis::Inputs, Axis::Outputs),
            Role::WeightGradient => (Axis::Outputs, Axis::Inputs, Axis::Tokens),
        };
        for (value, axis, multiple) in
            [(product.k, k_axis, summed), (product.m, m_axis, FP8_MULTIPLE), (product.n, n_axis, FP8_MULTIPLE)]
        {
            if !value.is_multiple_of(multiple) {
                let (what, key) = axis.words(linear);
                return Err(ConfigError::Fp8Shape {
                    precision: config.precision.name(),
                    linear: linear.name(),
                    role: role_name(role),
                    m: product.m,
                    n: product.n,
                    k: product.k,
                    what,
                    value,
                    multiple,
                    key,
                });
            }
        }
    }
    Ok(())
}

/// One kind of linear layer of the model and how many blocks have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearLayers {
    /// `qkv`, `output`, `gate`, `up`, `down` or `head`.
    pub name: &'static str,
    /// Width of its input.
    pub inputs: usize,
    /// Width of its output.
    pub outputs: usize,
    /// How many of it the model has.
    pub count: usize,
}

/// Which linear layers take FP8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fp8Linears {
    /// Those that do.
    pub taken: Vec<LinearLayers>,
    /// Those that don't, and why.
    pub refused: Vec<(LinearLayers, String)>,
}

impl Fp8Linears {
    /// How many linear layers run in FP8; gate and up are two.
    #[must_use]
    pub fn count(&self) -> usize {
        self.taken.iter().map(|layers| layers.count).sum()
    }
}

/// Which linear layers of a configuration take FP8, and why the others don't.
#[must_use]
pub fn fp8_linears(config: &StepConfig) -> Fp8Linears {
    let candidates = fp8_candidates(config);
    let mut found = Fp8Linears { taken: Vec::new(), refused: Vec::new() };
    for linear in Linear::ALL {
        let refusal = if !config.precision.is_fp8() {
            Some(format!("precision {} has no FP8 GEMM", config.precision.name()))
        } else if !candidates.contains(&linear) {
            Some("head = \"bf16\" keeps the classifier out of FP8".to_owned())
        } else {
            check_fp8(config, linear).err().map(|error| error.to_string())
        };
        for name in linear.layers() {
            let layers = LinearLayers {
                name,
                inputs: linear.inputs(&config.dims),
                outputs: linear.outputs(&config.dims) / linear.layers().len(),
                count: linear.count(&config.dims),
            };
            match &refusal {
                None => found.taken.push(layers),
                Some(reason) => found.refused.push((layers, reason.clone())),
            }
        }
    }
    found
}

/// Whether one linear's products run by the FP8 recipe in this configuration (which passed [`check_config`]).
#[must_use]
pub fn runs_in_fp8(config: &StepConfig, linear: Linear) -> bool {
    config.precision.is_fp8() && (linear != Linear::Head || config.head == Head::Fp8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Dims, preset};

    fn config(name: &str, precision: Precision) -> StepConfig {
        StepConfig { precision, ..StepConfig::example(preset(name).unwrap(), 4, 128) }
    }

    #[test]
    fn a_454m_has_120_fp8_linears_and_its_head_says_why_it_is_none() {
        let found = fp8_linears(&config("454m", Precision::Fp8Tensorwise));
        assert_eq!(found.count(), 120);
        assert_eq!(
            found.taken.iter().map(|layers| layers.name).collect::<Vec<_>>(),
            ["qkv", "output", "gate", "up", "down"]
        );
        assert_eq!(found.taken[2], LinearLayers { name: "gate", inputs: 1024, outputs: 4096, count: 24 });
        assert_eq!(found.refused.len(), 1);
        assert_eq!(found.refused[0].1, "head = \"bf16\" keeps the classifier out of FP8");
        let with_head = StepConfig { head: Head::Fp8, ..config("454m", Precision::Fp8Tensorwise) };
        assert_eq!(fp8_linears(&with_head).count(), 121);
        let bf16 = fp8_linears(&config("454m", Precision::Bf16));
        assert_eq!((bf16.count(), bf16.refused.len()), (0, 6));
        assert_eq!(bf16.refused[0].1, "precision bf16 has no FP8 GEMM");
    }

    #[test]
    fn every_preset_runs_in_every_precision_but_block_scales_need_128() {
        for (name, dims) in crate::config::PRESETS {
            for precision in Precision::ALL {
                let refused = precision == Precision::Fp8Block128 && !dims.dim.is_multiple_of(128);
                assert_eq!(check_config(&config(name, precision)).is_err(), refused, "{name} {}", precision.name());
            }
        }
    }

    #[test]
    fn what_cannot_run_says_op_shape_and_what_is_allowed() {
        let tiny = config("tiny", Precision::Fp32);
        let fp8 = |change: &dyn Fn(&mut StepConfig)| {
            let mut config = config("tiny", Precision::Fp8Tensorwise);
            change(&mut config);
            config
        };
        let cases: Vec<(StepConfig, &str)> = vec![
            (StepConfig { batch_size: 0, ..tiny.clone() }, "batch_size is 0: a step needs at least 1"),
            (StepConfig { seq_len: 0, ..tiny.clone() }, "seq_len is 0: a step needs at least 1"),
            (
                StepConfig { batch_size: 1 << 20, seq_len: 1 << 20, ..tiny.clone() },
                "batch_size 1048576 × seq_len 1048576 is too many tokens for one step: at most 2147483647",
            ),
            (StepConfig { clip: -1.0, ..tiny.clone() }, "clip is -1: a finite number of at least 0 is needed"),
            (
                StepConfig { learning_rate: f64::NAN, ..tiny.clone() },
                "learning_rate is NaN: a finite number of at least 0 is needed",
            ),
            (
                StepConfig { dims: Dims { heads: 3, ..tiny.dims }, ..tiny.clone() },
                "3 heads do not divide dim 64: the head dim must be a whole number",
            ),
            (
                fp8(&|config| config.dims.ffn = 100),
                "fp8-tensorwise cannot run `gate-up forward` (m=512, n=200, k=64): twice ffn 200 is no multiple of 16; \
                 change ffn or use bf16",
            ),
            (
                fp8(&|config| config.dims.ffn = 104),
                "fp8-tensorwise cannot run `down forward` (m=512, n=64, k=104): ffn 104 is no multiple of 16; \
                 change ffn or use bf16",
            ),
            (
                fp8(&|config| (config.dims.dim, config.dims.heads) = (72, 4)),
                "fp8-tensorwise cannot run `qkv forward` (m=512, n=216, k=72): dim 72 is no multiple of 16; \
                 change dim or use bf16",
            ),
            (
                fp8(&|config| config.seq_len = 33),
                "fp8-tensorwise cannot run `qkv forward` (m=132, n=192, k=64): the number of tokens of a step 132 is \
                 no multiple of 16; change batch_size or seq_len or use bf16",
            ),
            (
                fp8(&|config| config.precision = Precision::Fp8Block128),
                "fp8-block128 cannot run `qkv forward` (m=512, n=192, k=64): dim 64 is no multiple of 128; change dim \
                 or use bf16",
            ),
            (
                StepConfig { fast_accumulation: FastAccumulation::All, ..config("tiny", Precision::Bf16) },
                "fast_accumulation `all` asks for products that precision `bf16` does not have: FP8 recipes with one scale \
                 a tensor or a row have them, all others take `forward`",
            ),
            (
                StepConfig {
                    fast_accumulation: FastAccumulation::InputGradient,
                    ..config("454m", Precision::Fp8Block128)
                },
                "fast_accumulation `input-gradient` asks for products that precision `fp8-block128` does not have: FP8 \
                 recipes with one scale a tensor or a row have them, all others take `forward`",
            ),
            (
                StepConfig { attention: Attention::Cudnn, ..tiny.clone() },
                "attention `cudnn` computes in bf16, not fp32: use `flash` or `naive`",
            ),
            (
                StepConfig { attention: Attention::Cudnn, deterministic: true, ..config("tiny", Precision::Bf16) },
                "attention `cudnn` takes deterministic = false, not true: use `flash` or `naive`",
            ),
            (
                StepConfig {
                    attention: Attention::Cudnn,
                    dims: Dims { heads: 16, ..tiny.dims },
                    ..config("tiny", Precision::Bf16)
                },
                "attention `cudnn` takes head dims that are multiples of 8 up to 128, not 4: use `flash` or `naive`",
            ),
            (
                StepConfig { data: Data::File("a.txt".into()), dims: Dims { vocab: 100, ..tiny.dims }, ..tiny.clone() },
                "data from a file is read as bytes and needs vocab of at least 256, not 100",
            ),
            (
                StepConfig { optimizer_state: OptimizerState::Bf16, ..tiny.clone() },
                "optimizer_state `bf16` keeps the weights in bf16, which precision `fp32` contradicts: use `fp32` states",
            ),
        ];
        for (config, message) in cases {
            assert_eq!(check_config(&config).unwrap_err().to_string(), message);
        }
        assert_eq!(check_config(&tiny), Ok(()));
    }

    #[test]
    fn tokens_of_a_bf16_step_may_be_odd() {
        assert_eq!(check_config(&StepConfig { seq_len: 33, ..config("tiny", Precision::Bf16) }), Ok(()));
    }
}
