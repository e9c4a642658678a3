//! `stepwatch export`: the figures of a stored run as data.

use super::{CommandError, Places, emit};
use crate::exit::Exit;
use crate::judgement::{Against, Judgement, unrendered};
use crate::store;

/// Writes a run's figures: one line per cell, parameters then figures.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The run: a folder, an id, `latest` or `prev`.
    run: String,
    /// What is written to stdout.
    #[arg(long, value_enum)]
    format: Format,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Csv,
    Json,
}

/// Writes them.
///
/// # Errors
/// When the run cannot be read.
pub fn run(args: &Export) -> Result<Exit, CommandError> {
    let folder = store::find(&args.run, &args.places.out).map_err(CommandError::usage)?;
    let against = Against::Accepted(args.places.baselines.clone());
    let judgement = Judgement::again(&folder, &against, &args.places.known()?)?;
    let view = judgement.view();
    let text = match args.format {
        Format::Csv => stepwatch_reports::csv::render(&view),
        Format::Json => stepwatch_reports::json::render(&view),
    };
    emit(&text.map_err(unrendered)?)?;
    Ok(Exit::Good)
}
