//! `stepwatch model`: what a model size means.

use std::path::PathBuf;

use super::CommandError;
use crate::exit::Exit;

/// Show a model's dims, parameters, FLOPs, bytes and memory
#[derive(Debug, clap::Args)]
pub struct Model {
    /// Scenario files.
    #[arg(required = true)]
    pub scenarios: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the scenario, exit 2.
pub fn run(args: &Model) -> Result<Exit, CommandError> {
    let _ = args;
    Err(CommandError::usage("not there yet"))
}
