//! `stepwatch init`: writes a first scenario.

use std::path::PathBuf;

use super::CommandError;
use crate::exit::Exit;

/// Write a first scenario for this machine
#[derive(Debug, clap::Args)]
pub struct Init {
    /// Scenario files.
    #[arg(required = true)]
    pub scenarios: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the scenario, exit 2.
pub fn run(args: &Init) -> Result<Exit, CommandError> {
    let _ = args;
    Err(CommandError::usage("not there yet"))
}
