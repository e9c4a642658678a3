//! `stepwatch compare`: a stored run judged against another, or against the accepted baseline of its scenario.

use std::path::{Path, PathBuf};

use super::{CommandError, Places, emit, say};
use crate::exit::Exit;
use crate::judgement::{Against, Judgement, unrendered};
use crate::store;

/// Judges a stored run: a verdict for each cell and metric.
#[derive(Debug, clap::Args)]
pub struct Compare {
    /// The run to judge, after the run to compare it with if not with the accepted baseline. A RUN is a folder, an id, `latest` or `prev`.
    #[arg(value_name = "[REFERENCE] RUN", num_args = 1..=2, required = true)]
    runs: Vec<String>,
    /// What is written to stdout.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Look for lasting changes in the runs in and below this folder, instead of saying what was told of them when the run ended.
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
    #[command(flatten)]
    places: Places,
}

/// What a judgement is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a terminal.
    Text,
    /// All of it, for programs.
    Json,
    /// For a pull request.
    Markdown,
    /// For a CI server.
    Junit,
}

/// Judges and writes.
///
/// # Errors
/// When a run cannot be read.
pub fn run(args: &Compare) -> Result<Exit, CommandError> {
    let (against, name) = match args.runs.as_slice() {
        [reference, run] => (named(reference, &args.places.out)?, run),
        [run, ..] => (Against::Accepted(args.places.baselines.clone()), run),
        [] => return Err(CommandError::usage("name the run to judge")),
    };
    let folder = store::find(name, &args.places.out).map_err(CommandError::usage)?;
    let known = args.places.known()?;
    let mut judgement = Judgement::again(&folder, &against, &known)?;
    if let Some(nights) = &args.history {
        let history = judgement.nights(nights, &known)?;
        judgement = judgement.over(&history);
    }
    if judgement.conclusion.reference.runs.is_empty() {
        say(format_args!(
            "note: {} has no accepted baseline: nothing is compared (`stepwatch baseline accept`)",
            judgement.run.manifest.scenario
        ));
    }
    emit(&render(&judgement, args.format)?)?;
    Ok(judgement.exit())
}

/// A run that the user named to compare with.
///
/// # Errors
/// When there is none: a named baseline that is not there must not be passed over.
pub fn named(name: &str, out: &Path) -> Result<Against, CommandError> {
    let folder = store::find(name, out).map_err(CommandError::usage)?;
    Ok(Against::Named { name: name.to_owned(), folder })
}

/// Writes a judgement in a format.
///
/// # Errors
/// When the format cannot express it, which is a bug.
pub fn render(judgement: &Judgement, format: Format) -> Result<String, CommandError> {
    let view = judgement.view();
    Ok(match format {
        Format::Text => stepwatch_reports::text::render(&view, super::colored_stdout()),
        Format::Markdown => stepwatch_reports::markdown::render(&view),
        Format::Json => stepwatch_reports::json::render(&view).map_err(unrendered)?,
        Format::Junit => stepwatch_reports::junit::render(&view).map_err(unrendered)?,
    })
}
