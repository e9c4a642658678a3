//! `stepwatch report`: the HTML report of a stored run, made again.

use std::path::PathBuf;

use super::{CommandError, Places, emit, say};
use crate::exit::Exit;
use crate::judgement::{Against, Judgement, unrendered, unwritable};
use crate::store;

/// Writes one self-contained HTML file for each run.
#[derive(Debug, clap::Args)]
pub struct Report {
    /// The runs: folders, ids, `latest` or `prev`.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<String>,
    /// Where to write it, with one RUN; otherwise `report.html` in each run's folder.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Compare with this run instead of the accepted baseline.
    #[arg(long, value_name = "RUN")]
    baseline: Option<String>,
    #[command(flatten)]
    places: Places,
}

/// Makes the reports and says on stdout where they are.
///
/// # Errors
/// When a run cannot be read or a report cannot be written.
pub fn run(args: &Report) -> Result<Exit, CommandError> {
    if args.output.is_some() && args.runs.len() > 1 {
        return Err(CommandError::usage(
            "-o names one file, and several runs were given: leave it out, or name one RUN",
        ));
    }
    let against = match &args.baseline {
        Some(name) => super::compare::named(name, &args.places.out)?,
        None => Against::Accepted(args.places.baselines.clone()),
    };
    for name in &args.runs {
        let folder = store::find(name, &args.places.out).map_err(CommandError::usage)?;
        let judgement = Judgement::new(super::load(&folder)?, &against, &args.places.known()?)?;
        let path = match &args.output {
            Some(path) => {
                let html = stepwatch_reports::html::render(&judgement.view()).map_err(unrendered)?;
                store::write_whole(path, html.as_bytes()).map_err(unwritable)?;
                path.clone()
            }
            None => judgement.store(&folder)?,
        };
        emit(&format!("{}\n", path.display()))?;
        say(&judgement.conclusion.headline);
    }
    Ok(Exit::Good)
}
