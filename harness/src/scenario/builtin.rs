//! The parameters of the built-in training step: one table with name, meaning, default, what is accepted, and how a value
//! enters the typed configuration.
//!
//! `[step]`, the axes of `[[matrix]]`, `--filter`, `schema`, the documentation and the worker's way back from parameters
//! all read this table. A default never changes, since ids leave defaults out: its replacement is a new key.
//! Long because it is that table, with a line of meaning for each.

use std::path::PathBuf;

use stepwatch_model::Precision;
use stepwatch_model::config::{
    self, Attention, Compile, Data, Dims, FastAccumulation, Head, OptimizerState, StepConfig,
};
use stepwatch_record::{Parameters, Scalar};

use super::diagnostic::list;

/// A default as the table holds it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Default {
    Text(&'static str),
    Integer(i64),
    Float(f64),
    Bool(bool),
}

impl Default {
    pub(super) fn scalar(self) -> Scalar {
        match self {
            Self::Text(value) => value.into(),
            Self::Integer(value) => value.into(),
            Self::Float(value) => value.into(),
            Self::Bool(value) => value.into(),
        }
    }
}

/// What a parameter accepts, as `schema` tells it to editors.
#[derive(Debug, Clone, Copy)]
pub(super) enum Accepts {
    /// The name of a model.
    Model,
    /// `compile`: words, joined words, or a boolean.
    Compile,
    /// `data`: a word or a table with a file.
    Data,
    /// One of these words.
    Words(fn() -> Vec<&'static str>),
    /// A whole number in this range.
    Integer(i64, i64),
    /// A number in this range.
    Number(f64, f64),
    /// `true` or `false`.
    Bool,
}

/// One parameter of the built-in step.
pub(super) struct Parameter {
    /// Its key in `[[matrix]]`, `[step]`, ids, filters and records.
    pub(super) name: &'static str,
    /// Whether it may stand in `[step]`; the others are axes only.
    pub(super) in_step: bool,
    /// Its value where nothing is said.
    pub(super) default: Default,
    /// What is accepted.
    pub(super) accepts: Accepts,
    /// What it means, for the reader of a schema.
    pub(super) doc: &'static str,
    /// Puts a value that is accepted into the configuration.
    set: fn(&mut StepConfig, &Scalar),
}

/// The largest value of any count: keeps products of them far from overflow.
const MOST: i64 = 1 << 24;

/// Every parameter of the built-in step, in the order of the documentation.
pub(super) const PARAMETERS: [Parameter; 16] = [
    Parameter {
        name: "model",
        in_step: false,
        default: Default::Text("tiny"),
        accepts: Accepts::Model,
        doc: "The model: a preset, or a name from [models].",
        set: |_, _| (),
    },
    Parameter {
        name: "precision",
        in_step: false,
        default: Default::Text("bf16"),
        accepts: Accepts::Words(|| Precision::ALL.map(Precision::name).to_vec()),
        doc: "How GEMMs are computed: fp32 (no TF32), bf16, or an FP8 recipe.",
        set: |config, value| {
            if let Some(precision) = text(value).and_then(Precision::from_name) {
                config.precision = precision;
            }
        },
    },
    Parameter {
        name: "attention",
        in_step: false,
        default: Default::Text("flash"),
        accepts: Accepts::Words(|| ATTENTION.map(|(name, _)| name).to_vec()),
        doc: "The attention kernel: naive (scores materialised), flash (own kernels, tiled), cudnn (CUDA only).",
        set: |config, value| config.attention = pick(&ATTENTION, value).unwrap_or(config.attention),
    },
    Parameter {
        name: "compile",
        in_step: false,
        default: Default::Text("none"),
        accepts: Accepts::Compile,
        doc: "The passes over the op list: none (one kernel per primitive), full (all the backend has), or layout, \
              fusion, place, search, graph joined by +. false and true are read as none and full.",
        set: |config, value| {
            if let Some(Ok(compile)) = text(value).map(Compile::parse) {
                config.compile = compile;
            }
        },
    },
    Parameter {
        name: "batch_size",
        in_step: true,
        default: Default::Integer(8),
        accepts: Accepts::Integer(1, MOST),
        doc: "Sequences per device.",
        set: |config, value| config.batch_size = count(value),
    },
    Parameter {
        name: "seq_len",
        in_step: true,
        default: Default::Integer(1024),
        accepts: Accepts::Integer(1, MOST),
        doc: "Tokens per sequence.",
        set: |config, value| config.seq_len = count(value),
    },
    Parameter {
        name: "recompute",
        in_step: true,
        default: Default::Bool(false),
        accepts: Accepts::Bool,
        doc: "Activation checkpointing: keep block inputs only and run each block's forward again in backward.",
        set: |config, value| config.recompute = *value == Scalar::Bool(true),
    },
    Parameter {
        name: "deterministic",
        in_step: true,
        default: Default::Bool(false),
        accepts: Accepts::Bool,
        doc: "Results that repeat bit for bit on a GPU too: attention's backward adds in a fixed order. That of `flash` on \
              Hopper does so anyway; cuDNN's has none.",
        set: |config, value| config.deterministic = *value == Scalar::Bool(true),
    },
    Parameter {
        name: "optimizer_state",
        in_step: true,
        default: Default::Text("fp32"),
        accepts: Accepts::Words(|| OPTIMIZER_STATE.map(|(name, _)| name).to_vec()),
        doc: "AdamW's states: fp32 (master weights and moments) or bf16 (weights and moments, no master copy).",
        set: |config, value| config.optimizer_state = pick(&OPTIMIZER_STATE, value).unwrap_or(config.optimizer_state),
    },
    Parameter {
        name: "clip",
        in_step: true,
        default: Default::Float(1.0),
        accepts: Accepts::Number(0.0, 1e6),
        doc: "The largest gradient norm; 0 is off.",
        set: |config, value| config.clip = number(value),
    },
    Parameter {
        name: "head",
        in_step: true,
        default: Default::Text("bf16"),
        accepts: Accepts::Words(|| HEAD.map(|(name, _)| name).to_vec()),
        doc: "The classifier's GEMMs: bf16 (as the activations, also in FP8 recipes) or fp8 (by the recipe).",
        set: |config, value| config.head = pick(&HEAD, value).unwrap_or(config.head),
    },
    Parameter {
        name: "fast_accumulation",
        in_step: true,
        default: Default::Text("forward"),
        accepts: Accepts::Words(|| FAST_ACCUMULATION.map(|(name, _)| name).to_vec()),
        doc: "Which FP8 products keep partial sums in the tensor cores' reduced precision: forward (as the recipe says), \
              input-gradient (those too) or all (weight gradients as well).",
        set: |config, value| {
            config.fast_accumulation = pick(&FAST_ACCUMULATION, value).unwrap_or(config.fast_accumulation);
        },
    },
    Parameter {
        name: "data",
        in_step: true,
        default: Default::Text("zipf"),
        accepts: Accepts::Data,
        doc: "The tokens: zipf (seeded, Zipf-distributed) or { file = \"corpus.txt\" }, read as bytes; the path is \
              relative to the scenario file.",
        set: |config, value| {
            config.data = match text(value).and_then(|value| value.strip_prefix(FILE_PREFIX)) {
                Some(file) => Data::File(PathBuf::from(file)),
                None => Data::Zipf,
            };
        },
    },
    Parameter {
        name: "learning_rate",
        in_step: true,
        default: Default::Float(3e-4),
        accepts: Accepts::Number(0.0, 10.0),
        doc: "AdamW's learning rate after warm-up.",
        set: |config, value| config.learning_rate = number(value),
    },
    Parameter {
        name: "lr_warmup_steps",
        in_step: true,
        default: Default::Integer(0),
        accepts: Accepts::Integer(0, MOST),
        doc: "Steps of linear learning-rate warm-up.",
        set: |config, value| config.lr_warmup_steps = u32::try_from(count(value)).unwrap_or(u32::MAX),
    },
    Parameter {
        name: "weight_decay",
        in_step: true,
        default: Default::Float(0.1),
        accepts: Accepts::Number(0.0, 10.0),
        doc: "AdamW's decoupled weight decay, on matrices only.",
        set: |config, value| config.weight_decay = number(value),
    },
];

/// How `data = { file = "x" }` is written as one word in ids, filters and records.
pub(super) const FILE_PREFIX: &str = "file:";

const ATTENTION: [(&str, Attention); 3] =
    [("naive", Attention::Naive), ("flash", Attention::Flash), ("cudnn", Attention::Cudnn)];
const OPTIMIZER_STATE: [(&str, OptimizerState); 2] = [("fp32", OptimizerState::Fp32), ("bf16", OptimizerState::Bf16)];
const FAST_ACCUMULATION: [(&str, FastAccumulation); 3] = [
    (FastAccumulation::Forward.name(), FastAccumulation::Forward),
    (FastAccumulation::InputGradient.name(), FastAccumulation::InputGradient),
    (FastAccumulation::All.name(), FastAccumulation::All),
];
const HEAD: [(&str, Head); 2] = [("bf16", Head::Bf16), ("fp8", Head::Fp8)];

/// The dims of a cell's model stand beside its name in its parameters, so that a worker needs no scenario file.
const DIMS: [&str; 5] = ["dim", "layers", "heads", "ffn", "vocab"];

/// Whether a parameter is one of the model's dims.
pub(super) fn is_dim(name: &str) -> bool {
    DIMS.contains(&name)
}

fn text(value: &Scalar) -> Option<&str> {
    match value {
        Scalar::Text(text) => Some(text),
        _ => None,
    }
}

fn count(value: &Scalar) -> usize {
    match value {
        Scalar::Integer(value) => usize::try_from(*value).unwrap_or(0),
        _ => 0,
    }
}

fn number(value: &Scalar) -> f64 {
    match value {
        Scalar::Float(value) => *value,
        _ => 0.0,
    }
}

fn pick<T: Copy>(table: &[(&str, T)], value: &Scalar) -> Option<T> {
    let value = text(value)?;
    table.iter().find(|(name, _)| *name == value).map(|(_, meaning)| *meaning)
}

/// The parameter of this name.
pub(super) fn parameter(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.name == name)
}

impl Parameter {
    /// A value in its one written form (`true` as `full`, `1` as `1.0` where a number is meant), if it is accepted.
    /// Names of models are known to the scenario only: any text passes here.
    ///
    /// # Errors
    /// What is accepted, to follow "expected".
    pub(super) fn canonical(&self, value: &Scalar) -> Result<Scalar, String> {
        match (self.accepts, value) {
            (Accepts::Model, Scalar::Text(_)) => Ok(value.clone()),
            (Accepts::Compile, Scalar::Bool(on)) => Ok(if *on { "full" } else { "none" }.into()),
            (Accepts::Compile, Scalar::Text(word)) => {
                Compile::parse(word).map(|compile| compile.to_string().into()).map_err(|_| self.expected())
            }
            (Accepts::Data, Scalar::Text(word))
                if word == "zipf" || word.strip_prefix(FILE_PREFIX).is_some_and(|file| !file.is_empty()) =>
            {
                Ok(value.clone())
            }
            (Accepts::Words(words), Scalar::Text(word)) if words().contains(&word.as_str()) => Ok(value.clone()),
            (Accepts::Integer(least, most), Scalar::Integer(number)) if (least..=most).contains(number) => {
                Ok(value.clone())
            }
            (Accepts::Number(least, most), Scalar::Integer(number)) if (least..=most).contains(&(*number as f64)) => {
                Ok(Scalar::Float(*number as f64))
            }
            (Accepts::Number(least, most), Scalar::Float(number)) if (least..=most).contains(number) => {
                Ok(value.clone())
            }
            (Accepts::Bool, Scalar::Bool(_)) => Ok(value.clone()),
            _ => Err(self.expected()),
        }
    }

    /// What is accepted, in words, to follow "expected".
    pub(super) fn expected(&self) -> String {
        match self.accepts {
            Accepts::Model => format!("the name of a model: {}", list(config::PRESETS.map(|(name, _)| name))),
            Accepts::Compile => {
                "`none`, `full`, or `layout`, `fusion`, `place`, `search`, `graph` joined by `+`".to_owned()
            }
            Accepts::Data => "`zipf` or { file = \"corpus.txt\" }".to_owned(),
            Accepts::Words(words) => format!("one of {}", list(words())),
            Accepts::Integer(least, most) => format!("a whole number from {least} to {most}"),
            Accepts::Number(least, most) => format!("a number from {least} to {most}"),
            Accepts::Bool => "`true` or `false`".to_owned(),
        }
    }

    /// The words that are accepted, for "did you mean".
    pub(super) fn words(&self) -> Vec<&'static str> {
        match self.accepts {
            Accepts::Words(words) => words(),
            Accepts::Compile => vec!["none", "full", "layout", "fusion", "place", "search", "graph", "layout+fusion"],
            Accepts::Data => vec!["zipf"],
            _ => Vec::new(),
        }
    }
}

/// The parameters that say which model it is: its dims beside its name.
pub(super) fn dims_parameters(dims: &Dims) -> [(&'static str, i64); 5] {
    let values = [dims.dim, dims.layers, dims.heads, dims.ffn, dims.vocab];
    let signed = values.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    [(DIMS[0], signed[0]), (DIMS[1], signed[1]), (DIMS[2], signed[2]), (DIMS[3], signed[3]), (DIMS[4], signed[4])]
}

/// The configuration of canonical parameters; what is missing has its default.
pub(super) fn configure(dims: Dims, parameters: &Parameters) -> StepConfig {
    let mut config = StepConfig::example(dims, 1, 1);
    for parameter in &PARAMETERS {
        match parameters.get(parameter.name) {
            Some(value) => (parameter.set)(&mut config, value),
            None => (parameter.set)(&mut config, &parameter.default.scalar()),
        }
    }
    config
}

/// The way back from a cell's parameters to the typed configuration, as the built-in worker needs it.
///
/// The dims are read from `dim`, `layers`, `heads`, `ffn` and `vocab`; where none of these is given, `model` must name a
/// preset. What else is missing has its default.
///
/// # Errors
/// The parameter that is missing or not understood, with what is allowed.
pub fn config_of(parameters: &Parameters) -> Result<StepConfig, String> {
    let mut canonical = Parameters::new();
    for (name, value) in parameters {
        if DIMS.contains(&name.as_str()) {
            continue;
        }
        let parameter = parameter(name).ok_or_else(|| {
            format!("the built-in step has no parameter `{name}`; it has {}", list(PARAMETERS.map(|p| p.name)))
        })?;
        let value = parameter
            .canonical(value)
            .map_err(|expected| format!("parameter `{name}` is `{value}`, expected {expected}"))?;
        canonical.insert(name.clone(), value);
    }
    let config = configure(dims_of(parameters)?, &canonical);
    stepwatch_model::check_config(&config).map_err(|error| error.to_string())?;
    Ok(config)
}

fn dims_of(parameters: &Parameters) -> Result<Dims, String> {
    if !DIMS.iter().any(|name| parameters.contains_key(*name)) {
        let default = PARAMETERS[0].default.scalar();
        let model = parameters.get("model").unwrap_or(&default).to_string();
        return config::preset(&model).ok_or_else(|| {
            format!(
                "`{model}` is no preset ({}) and its dims are not given",
                list(config::PRESETS.map(|(name, _)| name))
            )
        });
    }
    let read = |name: &str| match parameters.get(name) {
        Some(Scalar::Integer(value)) => usize::try_from(*value).map_err(|_| format!("parameter `{name}` is {value}")),
        Some(value) => Err(format!("parameter `{name}` is `{value}`, expected a whole number")),
        None => Err(format!("parameter `{name}` is missing: a model has {}", list(DIMS))),
    };
    let dims = Dims {
        dim: read("dim")?,
        layers: read("layers")?,
        heads: read("heads")?,
        ffn: read("ffn")?,
        vocab: read("vocab")?,
    };
    dims.check().map_err(|error| error.to_string())?;
    Ok(dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, Scalar)]) -> Parameters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn every_default_is_accepted_and_pinned() {
        let defaults: Vec<String> = PARAMETERS
            .iter()
            .map(|parameter| {
                let value = parameter.default.scalar();
                assert_eq!(parameter.canonical(&value).as_ref(), Ok(&value), "{}", parameter.name);
                format!("{}={value}", parameter.name)
            })
            .collect();
        // Pinned: a change of a default gives other work the same id.
        assert_eq!(
            defaults.join(" "),
            "model=tiny precision=bf16 attention=flash compile=none batch_size=8 seq_len=1024 recompute=false \
             deterministic=false optimizer_state=fp32 clip=1 head=bf16 fast_accumulation=forward data=zipf learning_rate=0.0003 lr_warmup_steps=0 weight_decay=0.1"
        );
    }

    #[test]
    fn every_word_reaches_the_configuration() {
        let config = config_of(&parameters(&[
            ("model", "454m".into()),
            ("precision", "fp8-rowwise-gw-hp".into()),
            ("attention", "naive".into()),
            ("compile", "fusion+layout".into()),
            ("batch_size", 3.into()),
            ("seq_len", 64.into()),
            ("recompute", true.into()),
            ("deterministic", true.into()),
            ("optimizer_state", "bf16".into()),
            ("clip", 0.into()),
            ("head", "fp8".into()),
            ("fast_accumulation", "input-gradient".into()),
            ("data", "file:a/b.txt".into()),
            ("learning_rate", 0.01.into()),
            ("lr_warmup_steps", 7.into()),
            ("weight_decay", 0.into()),
        ]))
        .unwrap();
        assert_eq!(config.dims, config::preset("454m").unwrap());
        assert_eq!(config.precision, Precision::Fp8RowwiseGwHp);
        assert_eq!(config.attention, Attention::Naive);
        assert_eq!(config.compile.to_string(), "layout+fusion");
        assert_eq!((config.batch_size, config.seq_len, config.recompute, config.deterministic), (3, 64, true, true));
        assert_eq!((config.optimizer_state, config.head), (OptimizerState::Bf16, Head::Fp8));
        assert_eq!(config.fast_accumulation, FastAccumulation::InputGradient);
        assert_eq!((config.clip, config.weight_decay, config.learning_rate), (0.0, 0.0, 0.01));
        assert_eq!(config.lr_warmup_steps, 7);
        assert_eq!(config.data, Data::File(PathBuf::from("a/b.txt")));
    }

    #[test]
    fn a_worker_is_told_what_it_cannot_read() {
        let cases: [(&[(&str, Scalar)], &str); 5] = [
            (
                &[("precision", "fp9".into())],
                "parameter `precision` is `fp9`, expected one of `fp32`, `bf16`, `fp8-tensorwise`, `fp8-delayed`, \
                 `fp8-rowwise`, `fp8-rowwise-gw-hp`, `fp8-block128`",
            ),
            (&[("batch_size", 0.into())], "parameter `batch_size` is `0`, expected a whole number from 1 to 16777216"),
            (
                &[("model", "mine".into())],
                "`mine` is no preset (`tiny`, `mini`, `350m`, `454m`, `1b`, `8b-slice`) and its dims are not given",
            ),
            (
                &[("dim", 64.into())],
                "parameter `layers` is missing: a model has `dim`, `layers`, `heads`, `ffn`, `vocab`",
            ),
            (&[("clip", (-1.0).into())], "parameter `clip` is `-1`, expected a number from 0 to 1000000"),
        ];
        for (given, message) in cases {
            assert_eq!(config_of(&parameters(given)).unwrap_err(), message);
        }
    }

    #[test]
    fn a_step_that_cannot_run_is_refused_with_op_and_shape() {
        let given =
            parameters(&[("precision", "fp8-tensorwise".into()), ("batch_size", 3.into()), ("seq_len", 5.into())]);
        assert_eq!(
            config_of(&given).unwrap_err(),
            "fp8-tensorwise cannot run `qkv forward` (m=15, n=192, k=64): the number of tokens of a step 15 is no multiple of \
             16; change batch_size or seq_len or use bf16"
        );
    }
}
