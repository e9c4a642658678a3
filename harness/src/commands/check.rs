//! `stepwatch check`: validates scenarios.

use std::path::PathBuf;

use super::CommandError;
use crate::exit::Exit;

/// Check scenarios: every error with file, line and what is allowed
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Scenario files.
    #[arg(required = true)]
    pub scenarios: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the scenario, exit 2.
pub fn run(args: &Check) -> Result<Exit, CommandError> {
    let _ = args;
    Err(CommandError::usage("not there yet"))
}
