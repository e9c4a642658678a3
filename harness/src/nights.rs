//! The stored runs of a scenario as nights: of every `summary.json` just what a history needs, read on all cores. A year of
//! a large sweep is hundreds of megabytes, so nothing else of it is kept or even parsed.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;
use stepwatch_record::CellId;
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::machine::{Build, Machine};
use stepwatch_record::run::End;
use stepwatch_record::trend::{Night, Value};
use stepwatch_record::version::FormatVersion;
use stepwatch_verdict::history::Series;

use crate::commands::{CommandError, say};
use crate::store::{self, SUMMARY};

/// Folders of runs lie at most so deep: `runs/nightly/<night>/<scenario>/<run>`.
const DEPTH: usize = 3;

/// One run, with the values of the metrics asked for by cell; of a cell that did not complete there are none.
#[derive(Debug, Clone)]
pub struct StoredNight {
    /// The scenario.
    pub scenario: String,
    /// The run.
    pub night: Night,
    values: HashMap<String, Vec<Option<Value>>>,
}

impl StoredNight {
    /// The night of a run that is in hand.
    #[must_use]
    pub fn new(summary: &Summary, metrics: &[String]) -> Self {
        let of_cell = |cell: &CellFigures| {
            let value = |metric: &String| {
                let estimate = &cell.figure(metric)?.estimate;
                Some(Value { point: estimate.point, low: estimate.low, high: estimate.high })
            };
            (cell.cell.id.0.clone(), metrics.iter().map(value).collect())
        };
        let completed = summary.cells.iter().filter(|cell| cell.end == Some(End::Completed));
        Self {
            scenario: summary.scenario.clone(),
            night: night(&summary.run, &summary.started, &summary.machines, &summary.build),
            values: completed.map(of_cell).collect(),
        }
    }
}

/// Reads every summary in and below a folder, oldest first, each run once. One that cannot be read is a gap, and is named.
///
/// # Errors
/// When the folder cannot be read.
pub fn read(folder: &Path, metrics: &[String]) -> Result<Vec<StoredNight>, CommandError> {
    let mut paths = Vec::new();
    find(folder, DEPTH, &mut paths)
        .map_err(|error| CommandError::usage(format!("{} cannot be read: {error}", folder.display())))?;
    paths.sort();
    let mut nights = Vec::with_capacity(paths.len());
    for night in read_all(&paths, metrics) {
        match night {
            Ok(night) => nights.push(night),
            Err(why) => say(format_args!("warning: {why}: left out")),
        }
    }
    Ok(in_order(nights))
}

/// Reads the summaries of the runs beside one, oldest first, up to `most_bytes` of the newest, by their folders' names. One
/// that cannot be read is a gap.
#[must_use]
pub fn beside(run: &Path, metrics: &[String], most_bytes: u64) -> Vec<StoredNight> {
    let run = std::path::absolute(run).unwrap_or_else(|_| run.to_owned());
    let mut paths = Vec::new();
    if let Some(folder) = run.parent() {
        // A folder that cannot be read holds no history.
        let _ = find(folder, 1, &mut paths);
    }
    // Names begin with when a run began.
    paths.retain(|path| path.parent() < Some(&run));
    paths.sort();
    let mut left = most_bytes;
    let mut fits = |path: &PathBuf| {
        let bytes = fs::metadata(path).map_or(0, |file| file.len());
        left.checked_sub(bytes).inspect(|rest| left = *rest).is_some()
    };
    let from = paths.iter().rposition(|path| !fits(path)).map_or(0, |last| last + 1);
    in_order(read_all(&paths[from..], metrics).into_iter().flatten().collect())
}

/// Reads summaries on all cores, in the order given.
fn read_all(paths: &[PathBuf], metrics: &[String]) -> Vec<Result<StoredNight, String>> {
    let (next, read) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(paths.len())));
    std::thread::scope(|scope| {
        let work = || {
            while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                let night = read_one(path, metrics);
                read.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((path, night));
            }
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(paths.len());
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let mut read = read.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Threads end in any order; what is said and what is kept must not depend on it.
    read.sort_by(|a, b| a.0.cmp(b.0));
    read.into_iter().map(|(_, night)| night).collect()
}

/// Oldest first, each run once.
fn in_order(mut nights: Vec<StoredNight>) -> Vec<StoredNight> {
    nights.sort_by(|a, b| order(a).cmp(&order(b)));
    let mut seen = HashSet::new();
    nights.retain(|night| seen.insert(night.night.run.clone()));
    nights
}

/// Where a night stands among others: RFC 3339 in UTC sorts by time.
fn order(night: &StoredNight) -> (&str, &str) {
    (&night.night.started, &night.night.run)
}

/// One series per cell and metric that any night has a value of, by cell in the order given, then by metric.
#[must_use]
pub fn series(nights: &[StoredNight], cells: &[CellId], metrics: &[String]) -> Vec<Series> {
    let mut series = Vec::new();
    for cell in cells {
        let of_cell: Vec<Option<&Vec<Option<Value>>>> = nights.iter().map(|night| night.values.get(&cell.0)).collect();
        for (index, metric) in metrics.iter().enumerate() {
            let values: Vec<Option<Value>> = of_cell.iter().map(|values| (*values)?[index]).collect();
            if values.iter().any(Option::is_some) {
                series.push(Series { cell: cell.clone(), metric: metric.clone(), values });
            }
        }
    }
    series
}

/// Every cell that any night has, sorted.
#[must_use]
pub fn cells(nights: &[StoredNight]) -> Vec<CellId> {
    let mut cells: Vec<CellId> = nights.iter().flat_map(|night| night.values.keys().cloned().map(CellId)).collect();
    cells.sort_unstable();
    cells.dedup();
    cells
}

/// The summaries in a folder and in those below it. A folder of a run holds no further runs.
fn find(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let own = folder.join(SUMMARY);
    if own.is_file() {
        paths.push(own);
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if depth > 0 && path.is_dir() {
            // A folder below that is not ours to read is no run of ours.
            let _ = find(&path, depth - 1, paths);
        }
    }
    Ok(())
}

/// The part of a [`Summary`] that a history needs, borrowed from its text.
#[derive(Deserialize)]
struct Lean<'a> {
    format: FormatVersion,
    run: String,
    scenario: String,
    started: String,
    #[serde(default)]
    machines: Vec<Machine>,
    build: Build,
    #[serde(borrow)]
    cells: Vec<LeanCell<'a>>,
}

#[derive(Deserialize)]
struct LeanCell<'a> {
    #[serde(borrow)]
    cell: LeanId<'a>,
    #[serde(borrow)]
    end: Option<LeanEnd<'a>>,
    #[serde(borrow)]
    figures: Vec<LeanFigure<'a>>,
}

#[derive(Deserialize)]
struct LeanId<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct LeanEnd<'a> {
    #[serde(borrow)]
    end: Cow<'a, str>,
}

#[derive(Deserialize)]
struct LeanFigure<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    estimate: Value,
}

fn read_one(path: &Path, metrics: &[String]) -> Result<StoredNight, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let lean: Lean<'_> = match serde_json::from_str(&text) {
        Ok(lean) => lean,
        // What is wrong with it is said as everywhere, a newer version first.
        Err(error) => {
            let whole = store::parse_versioned::<Summary>(&text, path);
            return Err(whole.err().map_or_else(|| format!("{}: {error}", path.display()), |error| error.to_string()));
        }
    };
    lean.format.readable(&path.display().to_string()).map_err(|error| error.to_string())?;
    let completed = lean.cells.iter().filter(|cell| cell.end.as_ref().is_some_and(|end| end.end == "completed"));
    let of_cell = |cell: &LeanCell<'_>| {
        let value = |metric: &String| cell.figures.iter().find(|f| f.name == *metric).map(|figure| figure.estimate);
        (cell.cell.id.clone().into_owned(), metrics.iter().map(value).collect())
    };
    Ok(StoredNight {
        values: completed.map(of_cell).collect(),
        night: night(&lean.run, &lean.started, &lean.machines, &lean.build),
        scenario: lean.scenario,
    })
}

/// A run's name, time and what a change of its figures may come from.
fn night(run: &str, started: &str, machines: &[Machine], build: &Build) -> Night {
    let mut facts = BTreeMap::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            facts.entry(name.to_owned()).or_insert(value);
        }
    };
    let dirty = if build.dirty { " with uncommitted changes" } else { "" };
    put("commit", build.commit.as_ref().map(|commit| format!("{commit}{dirty}")));
    put("stepwatch", Some(build.binary.clone()));
    for machine in machines {
        put("driver", machine.driver.clone());
        put("host", Some(machine.host.clone()));
        for gpu in &machine.gpus {
            put("GPU", Some(gpu.name.clone()));
            put("power limit", gpu.power_limit_w.map(|watts| format!("{watts} W")));
        }
        for library in &machine.libraries {
            put(&library.name, Some(library.version.clone()));
        }
    }
    Night { run: run.to_owned(), started: started.to_owned(), facts }
}
