//! `stepwatch list`: the cells with estimated time and memory, nothing run.

use std::path::PathBuf;

use super::CommandError;
use crate::exit::Exit;

/// List the cells of a scenario with estimated time and memory; nothing is run
#[derive(Debug, clap::Args)]
pub struct List {
    /// Scenario files.
    #[arg(required = true)]
    pub scenarios: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the scenario, exit 2.
pub fn run(args: &List) -> Result<Exit, CommandError> {
    let _ = args;
    Err(CommandError::usage("not there yet"))
}
