//! `--budget`: after the planned rounds, extra rounds of the cells in doubt, look by look, until nothing is in doubt, the time is
//! used up or every doubtful cell has `rounds.max`.
//!
//! What is in doubt, and what each look costs of the error budget, the verdict says; what was spent stands in the records, so
//! that a run which is gone on with spends the rest.

use std::path::Path;
use std::time::{Duration, Instant};

use stepwatch_record::CellId;
use stepwatch_record::run::{Budget, End, Run};
use stepwatch_verdict::looks::{self, Doubt};

use crate::commands::{CommandError, load, say};
use crate::judgement::{Against, Judgement};
use crate::progress::Progress;
use crate::runner::{self, Extra, Stopped, Sweep};
use crate::scenario::known::KnownFiles;
use crate::scenario::{self, Measure};
use crate::store::RunWriter;

/// Reads the time of a budget.
///
/// # Errors
/// What is right, in words.
pub fn parse(text: &str) -> Result<Duration, String> {
    scenario::duration(text)
        .ok_or_else(|| format!("`{text}` is no time: write at least 1s with its unit, s, min or h, such as 30min"))
}

/// The budget of a run.
///
/// # Errors
/// When the scenario leaves no room for extra rounds.
pub fn of(time: Duration, measure: &Measure) -> Result<Budget, String> {
    if measure.rounds_max <= measure.rounds_min {
        return Err(format!(
            "--budget has no room: `rounds` has min {} and max {}, write [measure] with rounds = {{ min = {}, max = … }}",
            measure.rounds_min, measure.rounds_max, measure.rounds_min
        ));
    }
    Ok(Budget { seconds: time.as_secs_f64(), rounds_max: measure.rounds_max })
}

/// Why no more rounds are spent.
enum Over {
    Settled,
    OutOfTime(usize),
}

/// Spends what is left of the budget of a swept run.
///
/// # Errors
/// A signal or a disk that is full, as in the sweep; or a run that cannot be judged.
pub fn spend(
    sweep: &Sweep<'_>,
    budget: &Budget,
    folder: &Path,
    judged_by: (&Against, &KnownFiles),
    writer: &mut RunWriter,
    show: &mut Progress,
) -> Result<Result<(), Stopped>, CommandError> {
    let over = loop {
        let judgement = Judgement::new(load(folder)?, judged_by.0, judged_by.1)?;
        let run = &judgement.run;
        let left = budget.seconds - looks::spent(run).1;
        let doubts = judgement.doubts();
        if doubts.is_empty() {
            break Over::Settled;
        }
        let extra = fitting(run, &doubts, left, sweep);
        if extra.is_empty() {
            break Over::OutOfTime(doubts.len());
        }
        announce(show, &doubts, &extra, left);
        let until = Instant::now() + Duration::from_secs_f64(left.max(0.0));
        match runner::extend(sweep, &extra, until, writer, run, show) {
            Ok(true) => {}
            Ok(false) => break Over::OutOfTime(doubts.len()),
            Err(stopped) => return Ok(Err(stopped)),
        }
    };
    show.finish();
    let judgement = Judgement::new(load(folder)?, judged_by.0, judged_by.1)?;
    if let Some(told) = looks::told(&judgement.run) {
        say(match over {
            Over::Settled => format!("{told} No more rounds would settle anything."),
            Over::OutOfTime(doubts) => format!("{told} The time is used up; {} in doubt.", are(doubts)),
        });
    }
    Ok(Ok(()))
}

fn are(doubts: usize) -> String {
    if doubts == 1 { "1 cell is still".to_owned() } else { format!("{doubts} cells are still") }
}

fn announce(show: &Progress, doubts: &[Doubt], extra: &[Extra], left: f64) {
    let rounds: u32 = extra.iter().map(|extra| extra.to - extra.from).sum();
    let first = doubts.first().map(|doubt| format!(", first {}: {}", readable(&doubt.cells), doubt.why));
    show.note(&format!(
        "budget: {} in doubt{}; {rounds} extra rounds next, {:.1} min left",
        doubts.len(),
        first.unwrap_or_default(),
        left / 60.0
    ));
}

fn readable(cells: &[CellId]) -> String {
    cells.iter().map(CellId::readable).collect::<Vec<_>>().join(" and ")
}

/// The extra rounds of the most valuable doubts that fit into the time left, by what the cells' rounds took so far.
fn fitting(run: &Run, doubts: &[Doubt], left: f64, sweep: &Sweep<'_>) -> Vec<Extra> {
    let mut chosen: Vec<Extra> = Vec::new();
    let mut cost = 0.0;
    for doubt in doubts {
        let mut more: Vec<Extra> = Vec::new();
        for cell in &doubt.cells {
            let Some(index) = sweep.cells.iter().position(|planned| &planned.cell.id == cell) else { continue };
            let from = next_round(run, cell);
            if from < doubt.target && !chosen.iter().any(|extra| extra.cell == index) {
                more.push(Extra { cell: index, from, to: doubt.target, seconds: seconds_a_round(run, cell) });
            }
        }
        let takes: f64 = more.iter().map(|extra| extra.seconds * f64::from(extra.to - extra.from)).sum();
        // What does not fit whole is begun only where nothing else is: part of a look settles less than a cheaper one.
        if cost + takes <= left || (chosen.is_empty() && more.iter().map(|extra| extra.seconds).sum::<f64>() <= left) {
            cost += takes;
            chosen.extend(more);
        }
    }
    chosen
}

/// The first round of a cell that has not completed.
fn next_round(run: &Run, cell: &CellId) -> u32 {
    let done = |number: u32| {
        let of =
            |round: &&stepwatch_record::run::Round| &round.record.cell == cell && round.record.round == Some(number);
        run.rounds.iter().find(of).is_some_and(|round| round.record.end == End::Completed)
    };
    (0..).find(|number| !done(*number)).unwrap_or(u32::MAX)
}

/// What a round of a cell took on average, seconds.
fn seconds_a_round(run: &Run, cell: &CellId) -> f64 {
    let taken: Vec<f64> =
        run.rounds.iter().filter(|round| &round.record.cell == cell).map(|round| round.record.wall_seconds).collect();
    taken.iter().sum::<f64>() / f64::from(u32::try_from(taken.len()).unwrap_or(u32::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_a_unit() {
        assert_eq!(parse("30min"), Ok(Duration::from_secs(1800)));
        for wrong in ["30", "min", "0s", "-1h", "soon", ""] {
            assert!(parse(wrong).unwrap_err().starts_with(&format!("`{wrong}` is no time")), "{wrong}");
        }
    }
}
