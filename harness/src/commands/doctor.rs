//! `stepwatch doctor`: what this machine has to measure with, what is missing, what that costs and how to get it.

use std::fmt::Write;

use super::{CommandError, emit};
use crate::exit::Exit;
use crate::{device, machine};

/// Shows what this machine can measure with, and what is missing.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Exit 7 unless this backend can run here.
    #[arg(long, value_enum)]
    require: Option<Backend>,
    /// Show the host's name instead of its hash.
    #[arg(long)]
    identify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    Cpu,
    Cuda,
}

/// Looks and tells.
///
/// # Errors
/// [`Exit::NoDevice`] when the required backend cannot run.
pub fn run(args: &Doctor) -> Result<Exit, CommandError> {
    let usable = device::cuda();
    emit(&text(&machine::describe(args.identify), &device::parts(), &usable))?;
    match (args.require, usable) {
        (Some(Backend::Cuda), Err(why)) => Err(no_cuda(&why)),
        _ => Ok(Exit::Good),
    }
}

/// The error of whoever needs CUDA and does not have it.
#[must_use]
pub fn no_cuda(why: &str) -> CommandError {
    CommandError::new(Exit::NoDevice, format!("the cuda backend cannot run here: {why}"))
}

fn text(machine: &stepwatch_record::machine::Machine, parts: &[device::Part], usable: &Result<(), String>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "host     {}", machine.host);
    let _ = writeln!(text, "system   {}", machine.os);
    let _ = writeln!(text, "cpu      {} ({} cores usable)", machine.cpu, machine.cpu_cores);
    #[allow(clippy::cast_precision_loss)]
    let gib = machine.memory_bytes as f64 / f64::from(1 << 30);
    let _ = writeln!(text, "memory   {gib:.1} GiB");
    let _ =
        writeln!(text, "cuda     {}", usable.as_ref().map_or_else(|why| format!("no: {why}"), |()| "yes".to_owned()));
    let _ = writeln!(text, "\nlibraries");
    for part in parts {
        match &part.path {
            Some(path) => {
                let _ = writeln!(text, "  {:<11}{}", part.name, path.display());
            }
            None => {
                let _ = writeln!(text, "  {:<11}missing ({})", part.name, part.file);
                let _ = writeln!(text, "             costs: {}", part.costs);
                let _ = writeln!(text, "             to get it: {}", part.remedy);
            }
        }
    }
    text
}
