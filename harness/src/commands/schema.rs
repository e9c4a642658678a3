//! `stepwatch schema`: the JSON Schema of the scenario file, or of the files beside the accepted runs, for editors; and of the
//! report as JSON, for programs.

use super::{CommandError, emit};
use crate::exit::Exit;
use crate::scenario;

/// Print the JSON Schema of the scenario file, waivers.toml, annotations.toml or the report as JSON
#[derive(Debug, clap::Args)]
pub struct Schema {
    /// Of which file.
    #[arg(value_enum, default_value = "scenario")]
    of: Of,
}

/// A file with a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Of {
    /// A scenario.
    Scenario,
    /// `waivers.toml`.
    Waivers,
    /// `annotations.toml`.
    Annotations,
    /// What `compare --format json` and `export --format json` write.
    Report,
}

/// Prints the schema.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(args: &Schema) -> Result<Exit, CommandError> {
    let schema = match args.of {
        Of::Scenario => scenario::schema::schema(),
        Of::Waivers => scenario::schema::waivers(),
        Of::Annotations => scenario::schema::annotations(),
        Of::Report => stepwatch_reports::json::schema(),
    };
    emit(&format!("{schema:#}\n"))?;
    Ok(Exit::Good)
}
