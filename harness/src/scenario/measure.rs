//! `[measure]`: how many rounds, how long a warm-up, how many samples; and the time a worker has.

use std::time::Duration;

use toml::de::DeValue;

use super::diagnostic::Problem;
use super::keys::{self, Holds};
use super::raw::RawScenario;
use super::read::{Table, integer};
use super::{Measure, Warmup};

const MOST_ROUNDS: i64 = 1000;
const MOST_STEPS: i64 = 1_000_000;

impl Default for Measure {
    fn default() -> Self {
        Self {
            rounds_min: 5,
            rounds_max: 15,
            warmup: Warmup::Steady,
            samples: 30,
            timeout: Duration::from_secs(300),
            max_warmup_steps: 100,
        }
    }
}

/// Reads `[measure]`; `rounds` is what the command line says instead.
pub(super) fn read(raw: &RawScenario<'_, '_>, rounds: Option<u32>, problems: &mut Vec<Problem>) -> Measure {
    let mut measure = raw.measure.as_ref().map_or_else(Measure::default, |table| from_table(table, problems));
    if let Some(rounds) = rounds {
        if !(1..=MOST_ROUNDS).contains(&i64::from(rounds)) {
            problems.push(Problem::of_whole(format!("--rounds {rounds}: a number from 1 to {MOST_ROUNDS} is needed")));
        }
        measure.rounds_min = rounds;
        measure.rounds_max = rounds;
    }
    measure
}

fn from_table(table: &Table<'_, '_>, problems: &mut Vec<Problem>) -> Measure {
    let default = Measure::default();
    let (rounds_min, rounds_max) = rounds(table, problems).unwrap_or((default.rounds_min, default.rounds_max));
    let small = |number: Option<i64>, otherwise: u32| number.and_then(|n| u32::try_from(n).ok()).unwrap_or(otherwise);
    Measure {
        rounds_min,
        rounds_max,
        warmup: warmup(table, problems).unwrap_or(default.warmup),
        samples: small(table.integer("samples", 1, 100_000, problems), default.samples),
        timeout: table.duration("timeout", problems).unwrap_or(default.timeout),
        max_warmup_steps: u64::from(small(
            table.integer("max_warmup_steps", 1, MOST_STEPS, problems),
            u32::try_from(default.max_warmup_steps).unwrap_or(u32::MAX),
        )),
    }
}

/// `{ min = 5, max = 15 }`, or one number for both.
fn rounds(table: &Table<'_, '_>, problems: &mut Vec<Problem>) -> Option<(u32, u32)> {
    let value = table.value("rounds")?;
    match value.get_ref() {
        DeValue::Table(inner) => {
            let keys = keys::MEASURE.iter().find_map(|key| match key.holds {
                Holds::Rounds(keys) => Some(keys),
                _ => None,
            })?;
            let inner = Table::new("`rounds`".to_owned(), value.span(), inner, keys, problems);
            let default = Measure::default();
            let min = inner.integer("min", 1, MOST_ROUNDS, problems).unwrap_or(i64::from(default.rounds_min));
            let max = inner.integer("max", 1, MOST_ROUNDS, problems);
            if let Some(max) = max.filter(|max| *max < min) {
                let title = format!("`rounds` ends before it begins: max {max} is less than min {min}");
                problems.push(Problem::at(value.span(), title, "max must be at least min"));
            }
            let max = max.unwrap_or_else(|| i64::from(default.rounds_max).max(min));
            Some((u32::try_from(min).ok()?, u32::try_from(max).ok()?))
        }
        other => match integer(other).filter(|number| (1..=MOST_ROUNDS).contains(number)) {
            Some(number) => Some((u32::try_from(number).ok()?, u32::try_from(number).ok()?)),
            None => {
                table.wrong(
                    "rounds",
                    value,
                    &format!("a number from 1 to {MOST_ROUNDS}, or a table with min and max"),
                    problems,
                );
                None
            }
        },
    }
}

fn warmup(table: &Table<'_, '_>, problems: &mut Vec<Problem>) -> Option<Warmup> {
    let value = table.value("warmup")?;
    let read = match value.get_ref() {
        DeValue::String(word) if word == "steady" => Some(Warmup::Steady),
        other => integer(other)
            .filter(|steps| (0..=MOST_STEPS).contains(steps))
            .and_then(|steps| u64::try_from(steps).ok())
            .map(Warmup::Steps),
    };
    if read.is_none() {
        table.wrong("warmup", value, &format!("\"steady\" or a number of steps from 0 to {MOST_STEPS}"), problems);
    }
    read
}
