//! `stepwatch report`: the HTML report of a stored run, made again; with the nights before it, and opened, where asked for.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{CommandError, Places, emit, say};
use crate::exit::Exit;
use crate::judgement::{Against, Judgement, unwritable};
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
    /// Add the runs of the same scenario in and below this folder, up to the run: a line per cell over the nights.
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
    /// Open it in a browser: the one that BROWSER names, or the desktop's.
    #[arg(long)]
    open: bool,
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
    let known = args.places.known()?;
    for name in &args.runs {
        let folder = store::find(name, &args.places.out).map_err(CommandError::usage)?;
        let judgement = Judgement::again(&folder, &against, &known)?;
        let history = args.history.as_deref().map(|nights| judgement.nights(nights, &known)).transpose()?;
        let path = match &args.output {
            Some(path) => {
                store::write_whole(path, judgement.html(history.as_ref())?.as_bytes()).map_err(unwritable)?;
                path.clone()
            }
            None => judgement.store(&folder, history.as_ref())?,
        };
        emit(&format!("{}\n", path.display()))?;
        say(&judgement.conclusion.headline);
        if args.open {
            open(&path);
        }
    }
    Ok(Exit::Good)
}

/// Shows a file in a browser. The report is there either way, so that one that does not start is said and no more.
fn open(path: &Path) {
    let named = std::env::var_os("BROWSER").filter(|name| !name.is_empty());
    let programs: Vec<std::ffi::OsString> =
        named.into_iter().chain(["xdg-open", "open"].map(std::ffi::OsString::from)).collect();
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for program in &programs {
        let mut command = Command::new(program);
        command.arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if command.spawn().is_ok() {
            return;
        }
    }
    say(format_args!("note: no browser could be started: set BROWSER to one, or open {} yourself", path.display()));
}
