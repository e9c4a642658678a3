//! `stepwatch history`: where the figures of a scenario changed over its stored runs. Reads summaries only; the verdict
//! crate finds the changes.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use stepwatch_record::trend::{self, Trend};
use stepwatch_verdict::history::{FEWEST_NIGHTS, trends};

use super::{CommandError, emit, one_line, say};
use crate::exit::Exit;
use crate::nights::{self, StoredNight};
use crate::store::SUMMARY;
use crate::summaries::unusual;

/// Says where the figures of a scenario changed over its stored runs.
#[derive(Debug, clap::Args)]
pub struct History {
    /// The folder that holds the runs of one scenario, such as `runs/nightly`.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The metric.
    #[arg(long, default_value = "tokens_per_second")]
    metric: String,
    /// What is written to stdout.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Event {
    /// The cell's id; absent for a shift that cells share.
    cell: Option<String>,
    /// `step`, `drift`, `outlier` or `common-shift`.
    kind: &'static str,
    /// The first run after it.
    run: String,
    /// The first run that it may have begun in.
    earliest: String,
    /// The last one.
    latest: String,
    /// Relative change of the level; absent for an outlier.
    effect: Option<f64>,
    /// How many cells have it.
    cells: usize,
}

/// Finds and writes them.
///
/// # Errors
/// When the folder holds no summary that can be read, of one scenario, with this metric.
pub fn run(args: &History) -> Result<Exit, CommandError> {
    let metrics = [args.metric.clone()];
    let nights = of_one_scenario(&args.folder, &metrics)?;
    let found = search(&nights, &metrics);
    if found.trends.is_empty() {
        return Err(CommandError::usage(format!(
            "no run in {} has a figure of `{}`: name another with --metric",
            args.folder.display(),
            args.metric
        )));
    }
    let events = events(&found);
    emit(&match args.format {
        Format::Text => text(&events, nights.len(), &args.metric),
        Format::Json => {
            let json = serde_json::to_string_pretty(&events);
            json.map_err(|error| CommandError::new(Exit::Bug, format!("history as JSON: {error}")))? + "\n"
        }
    })?;
    Ok(Exit::Good)
}

/// The runs under a folder, oldest first.
fn of_one_scenario(folder: &Path, metrics: &[String]) -> Result<Vec<StoredNight>, CommandError> {
    let nights = nights::read(folder, metrics)?;
    let Some(newest) = nights.last() else {
        return Err(CommandError::usage(format!(
            "{} holds no run with a {SUMMARY} that can be read: name the folder of one scenario, such as runs/nightly",
            folder.display()
        )));
    };
    if let Some(other) = nights.iter().find(|night| night.scenario != newest.scenario) {
        return Err(CommandError::usage(format!(
            "{} holds runs of {} and of {}: name the folder of one scenario",
            folder.display(),
            newest.scenario,
            other.scenario
        )));
    }
    let runs: Vec<(&str, &str)> =
        nights.iter().map(|night| (night.night.run.as_str(), night.night.started.as_str())).collect();
    unusual(&runs).iter().for_each(|note| say(format_args!("warning: {note}")));
    if nights.len() < FEWEST_NIGHTS {
        say(format_args!(
            "note: {} of the {FEWEST_NIGHTS} runs that a search needs: nothing is searched",
            nights.len()
        ));
    }
    Ok(nights)
}

/// Every cell that any run has; one that did not complete, or was not in the matrix, is a gap.
fn search(nights: &[StoredNight], metrics: &[String]) -> trend::History {
    let series = nights::series(nights, &nights::cells(nights), metrics);
    trends(nights.iter().map(|night| night.night.clone()).collect(), series)
}

fn events(found: &trend::History) -> Vec<Event> {
    let run = |index: usize| found.nights[index].run.clone();
    let shared = found.shifts.iter().map(|shift| Event {
        cell: None,
        kind: "common-shift",
        run: run(shift.night),
        earliest: run(shift.night),
        latest: run(shift.night),
        effect: Some(shift.effect),
        cells: shift.cells.len(),
    });
    let of_cell = |trend: &Trend| -> Vec<Event> {
        let event = |kind, [night, earliest, latest]: [usize; 3], effect| Event {
            cell: Some(trend.cell.0.clone()),
            kind,
            run: run(night),
            earliest: run(earliest),
            latest: run(latest),
            effect,
            cells: 1,
        };
        let changes =
            trend.changes.iter().map(|c| event(c.shape.word(), [c.night, c.earliest, c.latest], Some(c.effect)));
        let outliers = trend.outliers.iter().map(|night| event("outlier", [*night; 3], None));
        changes.chain(outliers).collect()
    };
    shared.chain(found.trends.iter().flat_map(of_cell)).collect()
}

fn text(events: &[Event], runs: usize, metric: &str) -> String {
    let mut text = format!("{metric} over {runs} runs\n");
    if events.is_empty() {
        text.push_str("no lasting change found\n");
    }
    for event in events {
        let cell = event.cell.as_deref().map_or_else(|| format!("{} cells", event.cells), one_line);
        let effect = event.effect.map_or_else(String::new, |effect| format!("{:+.2} %", 100.0 * effect));
        let range = if event.earliest == event.latest {
            one_line(&event.run)
        } else {
            format!("{} ({} to {})", one_line(&event.run), one_line(&event.earliest), one_line(&event.latest))
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}\t{cell}\t{effect}\t{range}", event.kind);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A run folder with one cell at `value`, in its place in time by `night`.
    fn store(folder: &Path, night: usize, scenario: &str, value: f64) {
        let run = folder.join(format!("run-{night:03}"));
        let text = format!(
            r#"{{"format":1,"run":"run-{night:03}","scenario":"{scenario}","started":"2026-01-01T00:{:02}:{:02}Z",
            "backend":"cpu","machines":[],"build":{{"version":"0","binary":""}},"cells":[{{"cell":{{"id":"a","workload":"w","parameters":{{}}}},
            "end":{{"end":"completed"}},"rounds":1,"figures":[{{"name":"tokens_per_second","unit":"1/s","better":"higher",
            "estimate":{{"point":{value},"low":1.0,"high":1.0,"confidence":0.95,"rounds":[],"samples":1,"round_sd_log":0.0,
            "step_sd_log":0.0}}}}]}}]}}"#,
            night / 60,
            night % 60
        );
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join(SUMMARY), text).unwrap();
    }

    #[test]
    fn a_step_is_named_by_its_run_and_an_unreadable_summary_is_a_gap() {
        let folder = tempfile::tempdir().unwrap();
        for night in 0..80 {
            let level = if night < 50 { 100.0 } else { 90.0 };
            store(folder.path(), night, "nightly", level + (night * 7 % 5) as f64 * 0.1);
        }
        fs::write(folder.path().join("run-010").join(SUMMARY), "{").unwrap();
        let metrics = ["tokens_per_second".to_owned()];
        let nights = of_one_scenario(folder.path(), &metrics).unwrap();
        assert_eq!(nights.len(), 79);
        let events = events(&search(&nights, &metrics));
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!((events[0].kind, events[0].run.as_str()), ("step", "run-050"));
        assert!(text(&events, 79, "tokens_per_second").contains("step\ta\t-9.98 %\trun-050\n"), "{events:?}");
        let none = ["no_such_metric".to_owned()];
        assert!(search(&of_one_scenario(folder.path(), &none).unwrap(), &none).trends.is_empty());
    }

    #[test]
    fn a_folder_of_two_scenarios_or_of_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(of_one_scenario(folder.path(), &[]).unwrap_err().text.contains("holds no run"));
        store(folder.path(), 0, "nightly", 1.0);
        store(folder.path(), 1, "study", 1.0);
        assert!(of_one_scenario(folder.path(), &[]).unwrap_err().text.contains("holds runs of study and of nightly"));
    }
}
