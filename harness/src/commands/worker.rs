//! `stepwatch worker`: being built.

use super::CommandError;
use crate::exit::Exit;

/// Being built.
#[derive(Debug, clap::Args)]
pub struct Worker {}

/// Being built.
///
/// # Errors
/// Always, for now.
pub fn run(_args: &Worker) -> Result<Exit, CommandError> {
    Err(CommandError::new(Exit::Bug, "not built yet"))
}
