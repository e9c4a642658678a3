//! `stepwatch model`: what a model is made of and what one step of it costs, by counting alone; and dims for a wanted size.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use stepwatch_model::Precision;
use stepwatch_model::config::{self, Dims, StepConfig};
use stepwatch_model::eligibility::fp8_linears;
use stepwatch_model::linear::role_name;
use stepwatch_model::{check_config, count, solve};

use super::list::bytes;
use super::{CommandError, emit};
use crate::exit::Exit;
use crate::scenario::{self, models};

/// Show a model's dims, parameters, FLOPs, bytes and memory, and which linears take FP8; or search dims for a size
#[derive(Debug, clap::Args)]
pub struct Model {
    /// A preset, or a model of --scenario
    pub name: Option<String>,
    /// Search dims with so many parameters, such as 350M
    #[arg(long, value_name = "PARAMETERS")]
    pub target: Option<String>,
    /// The model whose layers, head dim and ratios the search keeps
    #[arg(long, value_name = "NAME", requires = "target", default_value = "454m")]
    pub like: String,
    /// A scenario file whose `[models]` count too
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// The precision of the step that is counted
    #[arg(long, default_value = "fp8-tensorwise")]
    pub precision: String,
    /// Sequences of the step
    #[arg(long, default_value_t = 8)]
    pub batch_size: usize,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 1024)]
    pub seq_len: usize,
}

/// Prints the model, or the proposals.
///
/// # Errors
/// A name, size or precision that is none, exit 2.
pub fn run(args: &Model) -> Result<Exit, CommandError> {
    let text = match (&args.target, &args.name) {
        (Some(target), _) => proposals(target, &dims(&args.like, args.scenario.as_deref())?)?,
        (None, Some(name)) => described(name, &step(name, args)?),
        (None, None) => presets(),
    };
    emit(&text)?;
    Ok(Exit::Good)
}

fn dims(name: &str, scenario: Option<&Path>) -> Result<Dims, CommandError> {
    let own = match scenario {
        Some(file) => scenario::model_dims(file).map_err(|errors| CommandError::rendered(errors.for_stderr()))?,
        None => Vec::new(),
    };
    let found = own.iter().find(|(own, _)| own == name).map(|(_, dims)| *dims).or_else(|| config::preset(name));
    found.ok_or_else(|| {
        let names: Vec<&str> =
            config::PRESETS.iter().map(|(name, _)| *name).chain(own.iter().map(|(name, _)| name.as_str())).collect();
        CommandError::usage(format!(
            "there is no model `{}`: models are {}; --scenario FILE adds those of a scenario",
            name.escape_debug(),
            names.join(", ")
        ))
    })
}

fn step(name: &str, args: &Model) -> Result<StepConfig, CommandError> {
    let precision = Precision::from_name(&args.precision).ok_or_else(|| {
        let names = Precision::ALL.map(Precision::name).join(", ");
        CommandError::usage(format!("--precision {}: one of {names} is needed", args.precision.escape_debug()))
    })?;
    let dims = dims(name, args.scenario.as_deref())?;
    let mut config = StepConfig::example(dims, args.batch_size, args.seq_len);
    config.precision = precision;
    config.attention = config::Attention::Flash;
    // Shapes that FP8 does not take are shown as such; a step that makes no sense at all is refused.
    let plain = StepConfig { precision: Precision::Bf16, ..config.clone() };
    check_config(&plain).map_err(|error| CommandError::usage(format!("model {name}: {error}")))?;
    Ok(config)
}

fn presets() -> String {
    let mut text = String::new();
    for (name, dims) in config::PRESETS {
        let _ = writeln!(text, "{name:<9} {:>8}  {dims}", models::millions(count::count(&dims).total));
    }
    text
}

fn proposals(target: &str, like: &Dims) -> Result<String, CommandError> {
    let wanted = models::parse_count(target).ok_or_else(|| {
        CommandError::usage(format!("--target {}: a count such as 350M or 1.2B is needed", target.escape_debug()))
    })?;
    let mut text = format!("Dims near {target} parameters, like {like}:\n");
    for proposal in solve::search(wanted as u64, like) {
        let _ = writeln!(
            text,
            "  {:>8} ({:+.1} %)  {}  {}",
            models::millions(proposal.parameters),
            proposal.deviation * 100.0,
            proposal.dims,
            proposal.kept
        );
    }
    Ok(text)
}

/// Everything about one model, section by section.
fn described(name: &str, config: &StepConfig) -> String {
    let dims = &config.dims;
    let mut text =
        format!("{name}: {dims} (head dim {}, vocabulary padded to {})\n", dims.head_dim(), dims.padded_vocab());
    parameters(&mut text, dims);
    let step = count::step(config);
    let _ = writeln!(
        text,
        "\nA step of {} × {} = {} tokens in {}\n  {:.3} GFLOP a token ({:.3} by the convention 6N + 6·L·d·S)",
        config.batch_size,
        config.seq_len,
        step.tokens,
        config.precision.name(),
        step.flops_per_token / 1e9,
        step.model_flops_per_token / 1e9
    );
    for role in &step.by_role {
        let _ = writeln!(
            text,
            "  {:<16} {:>10.3} MFLOP a token {:>10.1} KB a token at the least",
            role_name(role.role),
            role.flops_per_token / 1e6,
            role.bytes_per_token / 1e3
        );
    }
    let attention = step.attention_forward_flops_per_token + step.attention_backward_flops_per_token;
    let _ = writeln!(text, "  {:<16} {:>10.3} MFLOP a token", "attention", attention / 1e6);
    let _ = writeln!(text, "\nMemory {} (activations and scratch are estimates)", bytes(step.memory.total));
    for (class, size) in step.memory.classes() {
        let _ = writeln!(text, "  {class:<16} {:>10}", bytes(size));
    }
    fp8(&mut text, config);
    text
}

fn parameters(text: &mut String, dims: &Dims) {
    let count = count::count(dims);
    let _ = writeln!(text, "\nParameters {} ({})", models::millions(count.total), count.total);
    for (part, parameters) in [
        ("embedding", count.embedding),
        ("qkv", count.qkv),
        ("attention output", count.output),
        ("gate and up", count.gate_up),
        ("down", count.down),
        ("norms", count.norms),
    ] {
        let _ =
            writeln!(text, "  {part:<16} {parameters:>12}  {:>5.1} %", parameters as f64 / count.total as f64 * 100.0);
    }
}

fn fp8(text: &mut String, config: &StepConfig) {
    let linears = fp8_linears(config);
    let _ = writeln!(text, "\nFP8 linears {}", linears.taken.iter().map(|taken| taken.count).sum::<usize>());
    for taken in &linears.taken {
        let _ = writeln!(text, "  takes FP8: {} × {}", taken.count, taken.name);
    }
    for (refused, why) in &linears.refused {
        let _ = writeln!(text, "  does not:  {} × {}: {why}", refused.count, refused.name);
    }
}
