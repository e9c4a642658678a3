//! `stepwatch schema`: the JSON Schema of the scenario file, for editors.

use super::{CommandError, emit};
use crate::exit::Exit;
use crate::scenario;

/// Print the JSON Schema of the scenario file; editors complete and check with it
#[derive(Debug, clap::Args)]
pub struct Schema {}

/// Prints the schema.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(_: &Schema) -> Result<Exit, CommandError> {
    emit(&format!("{:#}\n", scenario::schema::schema()))?;
    Ok(Exit::Good)
}
