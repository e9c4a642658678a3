//! `stepwatch backtest`: a policy replayed over the stored runs of a scenario, as they are and with slowdowns put in.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use stepwatch_record::figure::Summary;
use stepwatch_record::run::{Metric, Policy};
use stepwatch_verdict::backtest::{Backtest, FEWEST, HORIZON, Injection, backtest};
use stepwatch_verdict::wording::{count, percent};

use super::{CommandError, emit, one_line, say};
use crate::exit::Exit;
use crate::summaries::Summaries;
use crate::{scenario, store};

/// Alarms that are written out; the rest is counted.
const MOST_SHOWN: usize = 20;

/// Replays a policy over stored runs: how often it would have cried, what it would have found, and when.
#[derive(Debug, clap::Args)]
pub struct Replay {
    /// The folder whose subfolders are the runs of one scenario, such as `runs/nightly`.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Take the policy of this scenario file, not that of the newest run.
    #[arg(long, value_name = "SCENARIO")]
    scenario: Option<PathBuf>,
    /// Put slowdowns of this size in, such as `2%`, and say which are found.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    inject: Option<f64>,
    /// How many of them, each in one cell from one night on.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    trials: u32,
    /// Chooses their cells and nights.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// What is written to stdout.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// `2%`, `2 %` or `0.02` as a share.
fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.trim().strip_suffix('%') {
        Some(number) => (number.trim(), 0.01),
        None => (text.trim(), 1.0),
    };
    let share = number.parse::<f64>().ok().map(|number| number * unit).filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| "it must be a share above 0 and below 1, such as 2% or 0.02".to_owned())
}

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct Told {
    scenario: String,
    runs: usize,
    nights: usize,
    judged: usize,
    blind: usize,
    red_nights: usize,
    /// Of those, nights all of whose alarms passed by themselves.
    false_red_nights: usize,
    /// Alarms that did not last, per 10,000 cells and metrics judged.
    false_per_10000: Option<f64>,
    alarms: Vec<ToldAlarm>,
    injected: Option<ToldDetection>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ToldAlarm {
    run: String,
    cell: String,
    metric: String,
    effect: f64,
    /// Whether it lasted, so that it was right.
    lasting: bool,
}

#[derive(Debug, Serialize)]
struct ToldDetection {
    share: f64,
    seed: u64,
    trials: usize,
    /// Of those, cells that were blind by the comparison's own account.
    blind: usize,
    found_night_1: usize,
    found_by_night_3: usize,
    found_by_night_7: usize,
    median_delay_nights: Option<f64>,
}

/// Replays and writes.
///
/// # Errors
/// When the folder holds no history that can be replayed, or the policy cannot be read.
pub fn run(args: &Replay) -> Result<Exit, CommandError> {
    let stored = Summaries::read(&args.folder)?;
    stored.tell();
    let summaries = &stored.nights;
    if summaries.len() <= FEWEST {
        return Err(CommandError::usage(format!(
            "{} holds {}: at least {} are needed, since each is judged against those before it",
            args.folder.display(),
            count(summaries.len(), "run"),
            FEWEST + 1
        )));
    }
    let policy = policy(args, summaries)?;
    let metrics = metrics(summaries);
    if !metrics.iter().any(|metric| policy.gate.contains(&metric.name)) {
        return Err(CommandError::usage(format!(
            "no run in {} has a figure of a gated metric ({}): nothing can be judged",
            args.folder.display(),
            policy.gate.join(", ")
        )));
    }
    let injection = args.inject.map(|share| Injection { share, trials: args.trials as usize, seed: args.seed });
    let told = told(&stored, backtest(summaries, &policy, &metrics, injection), injection);
    if told.nights == 0 {
        say(
            "note: no night has two comparable nights before it: nothing was judged (`policy.reference.same` says what must be the same)",
        );
    }
    emit(&match args.format {
        Format::Text => text(&told, &policy),
        Format::Json => {
            let json = serde_json::to_string_pretty(&told);
            json.map_err(|error| CommandError::new(Exit::Bug, format!("backtest as JSON: {error}")))? + "\n"
        }
    })?;
    Ok(Exit::Good)
}

/// The policy of the scenario that was named, or of the newest run.
fn policy(args: &Replay, summaries: &[Summary]) -> Result<Policy, CommandError> {
    if let Some(path) = &args.scenario {
        return scenario_policy(path);
    }
    let newest = summaries.last().map(|summary| summary.run.clone()).unwrap_or_default();
    let manifest = store::load_manifest(&args.folder.join(&newest));
    manifest.map(|manifest| manifest.policy).map_err(|error| {
        CommandError::usage(format!("the policy of the newest run cannot be read: {error}; name one with --scenario"))
    })
}

fn scenario_policy(path: &Path) -> Result<Policy, CommandError> {
    let read = scenario::load(path, &scenario::LoadOptions::default())
        .map_err(|errors| CommandError::rendered(errors.for_stderr()))?;
    Ok(read.policy)
}

/// Every metric that any run has, each once.
fn metrics(summaries: &[Summary]) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for figure in summaries.iter().flat_map(|summary| &summary.cells).flat_map(|cell| &cell.figures) {
        if !metrics.iter().any(|known| known.name == figure.metric.name) {
            metrics.push(figure.metric.clone());
        }
    }
    metrics
}

fn told(stored: &Summaries, found: Backtest, injection: Option<Injection>) -> Told {
    let run = |night: usize| stored.nights[night].run.clone();
    let passing: Vec<usize> = found.alarms.iter().filter(|alarm| !alarm.lasting).map(|alarm| alarm.night).collect();
    let lasting: Vec<usize> = found.alarms.iter().filter(|alarm| alarm.lasting).map(|alarm| alarm.night).collect();
    let mut false_nights: Vec<usize> = passing.iter().filter(|night| !lasting.contains(night)).copied().collect();
    false_nights.dedup();
    Told {
        scenario: stored.nights.last().map(|summary| summary.scenario.clone()).unwrap_or_default(),
        runs: stored.nights.len(),
        nights: found.nights,
        judged: found.judged,
        blind: found.blind,
        red_nights: found.red_nights,
        false_red_nights: false_nights.len(),
        false_per_10000: (found.judged > 0).then(|| 1e4 * passing.len() as f64 / found.judged as f64),
        injected: found.detection.zip(injection).map(|(detection, injection)| ToldDetection {
            share: injection.share,
            seed: injection.seed,
            trials: detection.trials,
            blind: detection.blind,
            found_night_1: detection.found_by(1),
            found_by_night_3: detection.found_by(3),
            found_by_night_7: detection.found_by(HORIZON),
            median_delay_nights: detection.median_delay(),
        }),
        alarms: found
            .alarms
            .into_iter()
            .map(|alarm| ToldAlarm {
                run: run(alarm.night),
                cell: alarm.cell.0,
                metric: alarm.metric,
                effect: alarm.effect,
                lasting: alarm.lasting,
            })
            .collect(),
        notes: stored.notes.clone(),
    }
}

/// For a terminal. Writing to a string cannot fail.
fn text(told: &Told, policy: &Policy) -> String {
    let mut text = format!(
        "{}: {} runs, of which {} were judged against up to {} before them (margin {}, false_alarms {})\n",
        told.scenario,
        told.runs,
        told.nights,
        policy.reference_runs,
        percent(policy.margin),
        percent(policy.false_alarms)
    );
    let share = |part: usize, whole: usize| percent(part as f64 / whole.max(1) as f64);
    let _ = writeln!(
        text,
        "red nights: {} ({}), of which {} by alarms that did not last",
        told.red_nights,
        share(told.red_nights, told.nights),
        told.false_red_nights
    );
    if let Some(rate) = told.false_per_10000 {
        let _ = writeln!(
            text,
            "alarms that did not last: {rate:.1} per 10,000 of {} judged; blind: {}",
            count(told.judged, "figure"),
            share(told.blind, told.judged)
        );
    }
    for alarm in told.alarms.iter().take(MOST_SHOWN) {
        let kind = if alarm.lasting { "lasting" } else { "passing" };
        let (run, cell) = (one_line(&alarm.run), one_line(&alarm.cell));
        let _ = writeln!(text, "{kind}\t{run}\t{cell}\t{}\t{:+.2} %", alarm.metric, 100.0 * alarm.effect);
    }
    if told.alarms.len() > MOST_SHOWN {
        let _ = writeln!(text, "and {} more", told.alarms.len() - MOST_SHOWN);
    }
    match &told.injected {
        None => {}
        Some(injected) if injected.trials == 0 => {
            let _ =
                writeln!(text, "nothing was put in: no night is followed by {} others that were judged", HORIZON - 1);
        }
        Some(injected) => {
            let of = |part: usize| share(part, injected.trials);
            let delay = injected.median_delay_nights.map_or_else(|| "–".to_owned(), |nights| format!("{nights}"));
            let _ = writeln!(
                text,
                "{} slowdowns of {} put in (seed {}): found on night 1 {}, by night 3 {}, by night {HORIZON} {}; median delay {delay}; blind {}",
                injected.trials,
                percent(injected.share),
                injected.seed,
                of(injected.found_night_1),
                of(injected.found_by_night_3),
                of(injected.found_by_night_7),
                of(injected.blind)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_with_and_without_its_unit() {
        for (text, expected) in [("2%", Some(0.02)), ("0.5 %", Some(0.005)), ("0.02", Some(0.02))] {
            assert!((share(text).unwrap() - expected.unwrap()).abs() < 1e-12, "{text}");
        }
        for text in ["", "two", "-2%", "0", "100%", "nan", "2%%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
