//! `stepwatch report`: the HTML report of a stored run, made again; with the nights before it, and opened, where asked for.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use stepwatch_record::trend::History;
use stepwatch_verdict::history::trends;
use stepwatch_verdict::policy::waive::{annotations_between, day};

use super::{CommandError, Places, emit, say};
use crate::exit::Exit;
use crate::judgement::{Against, Judgement, unwritable};
use crate::nights::{self, StoredNight};
use crate::scenario::known::KnownFiles;
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
        let judgement = Judgement::new(super::load(&folder)?, &against, &known)?;
        let history = args.history.as_deref().map(|nights| before(&judgement, nights, &known)).transpose()?;
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

/// The nights of a run's scenario up to the run itself, which ends them whether its own folder is among them or not. Later
/// runs are left out, so that a report made again says what it said.
fn before(judgement: &Judgement, folder: &Path, known: &KnownFiles) -> Result<History, CommandError> {
    let manifest = &judgement.run.manifest;
    let metrics = metrics(judgement);
    let mut nights = nights::read(folder, &metrics)?;
    nights.retain(|night| {
        night.scenario == manifest.scenario && night.night.run != manifest.id && night.night.started <= manifest.started
    });
    if nights.is_empty() {
        say(format_args!("note: {} holds no earlier run of {}", folder.display(), manifest.scenario));
    }
    nights.push(StoredNight::new(&judgement.summary, &metrics));
    let cells: Vec<_> = manifest.cells.iter().map(|cell| cell.id.clone()).collect();
    let series = nights::series(&nights, &cells, &metrics);
    let nights: Vec<_> = nights.into_iter().map(|night| night.night).collect();
    let ends = [nights.first(), nights.last()].map(|night| night.map_or("", |night| day(&night.started)));
    let annotations = annotations_between(&known.of_run(manifest).annotations, ends[0], ends[1]);
    Ok(History { annotations, ..trends(nights, series) })
}

/// The metrics that have trends: those that gate; the first of a run of which none does.
fn metrics(judgement: &Judgement) -> Vec<String> {
    let manifest = &judgement.run.manifest;
    let gated: Vec<String> = manifest
        .metrics
        .iter()
        .map(|metric| metric.name.clone())
        .filter(|name| manifest.policy.gate.contains(name))
        .collect();
    if gated.is_empty() { manifest.metrics.iter().take(1).map(|metric| metric.name.clone()).collect() } else { gated }
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
