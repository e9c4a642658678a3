//! `stepwatch schema`: the JSON Schema of the scenario file.

use std::path::PathBuf;

use super::CommandError;
use crate::exit::Exit;

/// Print the JSON Schema of the scenario file
#[derive(Debug, clap::Args)]
pub struct Schema {
    /// Scenario files.
    #[arg(required = true)]
    pub scenarios: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the scenario, exit 2.
pub fn run(args: &Schema) -> Result<Exit, CommandError> {
    let _ = args;
    Err(CommandError::usage("not there yet"))
}
