//! `stepwatch init`: a first scenario for this machine, commented so that it teaches how to write the next one.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{CommandError, say};
use crate::exit::Exit;
use crate::scenario::{self, LoadOptions};

/// Write a first scenario for this machine; with a command, a scenario that measures it
#[derive(Debug, clap::Args)]
pub struct Init {
    /// The command to measure, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// The file to write
    #[arg(short = 'o', long = "output", value_name = "FILE", default_value = "scenario.toml")]
    pub output: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
}

/// Writes the scenario and says what comes next.
///
/// # Errors
/// When the file is there already or cannot be written, exit 2.
pub fn run(args: &Init) -> Result<Exit, CommandError> {
    let text = if args.command.is_empty() { builtin() } else { command(&args.command) };
    // A file that `check` refuses would be a bad teacher.
    scenario::parse(&args.output, &text, &LoadOptions::default())
        .map_err(|errors| CommandError::rendered(errors.for_stderr()))?;
    write(&args.output, &text, args.force)?;
    let file = args.output.display();
    say(format_args!("wrote {file}\n  look at it:  stepwatch list {file}\n  run it:      stepwatch run {file}"));
    Ok(Exit::Good)
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), CommandError> {
    let mut options = OpenOptions::new();
    options.write(true);
    // Whether the file is there is asked and answered in one act.
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    options.open(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        let path = path.display();
        CommandError::usage(match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("{path} is there already: --force writes over it, -o names another")
            }
            _ => format!("{path} cannot be written: {error}"),
        })
    })
}

/// A GPU gets a model that fills it; a CPU one that ends within minutes.
fn builtin() -> String {
    let gpu = crate::device::cuda(None).is_ok();
    let (model, batch_size, seq_len) = if gpu { ("454m", 16, 2048) } else { ("tiny", 4, 128) };
    let found = if gpu { "a GPU was found: a model that fills it" } else { "no GPU was found: a model for CPUs" };
    format!(
        r#"# A first scenario. `stepwatch list` shows its cells, `stepwatch run` measures them, `stepwatch schema` has every key.

[scenario]
name    = "first"
title   = "Is FP8 faster than BF16 here?"
backend = "auto"                      # auto | cuda | cpu

[[matrix]]                            # the cells are the product of these; another [[matrix]] adds its own
model     = "{model}"                 # {found}
precision = ["bf16", "fp8-tensorwise"]
compile   = ["none", "full"]

[step]                                # for all cells; each key may be an axis of a [[matrix]] instead
batch_size = {batch_size}
seq_len    = {seq_len}

[measure]
rounds  = {{ min = 5, max = 15 }}       # worker processes per cell
samples = 30                          # steps that count, of each

[[claim]]                             # confirmed, refuted or undecided
text     = "compiled FP8 is faster than compiled BF16"
of       = {{ precision = "fp8-tensorwise", compile = "full" }}
over     = {{ precision = "bf16", compile = "full" }}
at_least = 1.0
"#
    )
}

/// A command is measured by a figure that it prints. Which one is for its author to say: the regex here finds the usual
/// spellings of a throughput, and a comment says how to change it.
fn command(words: &[String]) -> String {
    let quoted: Vec<String> =
        words.iter().map(|word| toml::Value::from(word.replace('{', "{{").replace('}', "}}")).to_string()).collect();
    format!(
        r#"# Measures a command. `stepwatch list` shows its cells, `stepwatch run` measures them, `stepwatch schema` has every key.

[scenario]
name = "command"

[[matrix]]
workload = "mine"

[workloads.mine]
# Program and arguments, no shell. To compare settings, write {{parameter}} where one goes, declare its values, and list
# them in the [[matrix]]:
#   command = ["train", "--precision={{precision}}"]
#   axes    = {{ precision = ["bf16", "fp8"] }}
command = [{}]

# What it prints: the first group is the number, every match is a sample. Change the regex to fit what it prints.
metrics.tokens_per_second = {{ regex = '(?i)tok(?:en)?s?(?:/s(?:ec)?| per second)\s*[:=]?\s*([\d,.]+)', unit = "1/s", better = "higher" }}

[measure]
rounds  = {{ min = 5, max = 15 }}       # runs of the command
timeout = "5min"                      # of one run

[policy]
gate = ["tokens_per_second"]          # what can be a regression
"#,
        quoted.join(", ")
    )
}
