//! The stored runs of one scenario as whole summaries, oldest first, with what is unusual about their days. May not know what is
//! made of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use stepwatch_record::figure::Summary;

use crate::commands::{CommandError, one_line, say};
use crate::store::{self, SUMMARY, StoreError};

/// Days without a run that are named; the rest is counted.
const MOST_NAMED: usize = 3;

/// A history.
#[derive(Debug)]
pub struct Summaries {
    /// Oldest first.
    pub nights: Vec<Summary>,
    /// What is unusual about them, one line each.
    pub notes: Vec<String>,
}

impl Summaries {
    /// Reads the runs under a folder. One that is damaged is a gap, and is named.
    ///
    /// # Errors
    /// When the folder holds no run of one scenario that can be read, or one of a newer stepwatch: a history without it would be
    /// another history.
    pub fn read(folder: &Path) -> Result<Self, CommandError> {
        let entries = fs::read_dir(folder)
            .map_err(|error| CommandError::usage(format!("{} cannot be read: {error}", folder.display())))?;
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path().join(SUMMARY))).collect();
        paths.retain(|path| path.is_file());
        paths.sort();
        let (mut found, mut notes): (Vec<Summary>, Vec<String>) = (Vec::new(), Vec::new());
        for path in &paths {
            match summary(path) {
                Ok(twin) if found.iter().any(|known| known.run == twin.run) => {
                    notes.push(format!("{}: run {} is there already: left out", path.display(), twin.run));
                }
                Ok(summary) if day(&summary.started).is_none() => {
                    notes.push(format!(
                        "{}: it began at `{}`, which is no time: left out",
                        path.display(),
                        one_line(&summary.started)
                    ));
                }
                Ok(summary) => found.push(summary),
                Err(error @ StoreError::TooNew(_)) => return Err(CommandError::usage(error)),
                Err(error) => notes.push(format!("{error}: left out")),
            }
        }
        found.sort_by(|a, b| (&a.started, &a.run).cmp(&(&b.started, &b.run)));
        let Some(newest) = found.last() else {
            notes.iter().for_each(|note| say(format_args!("warning: {note}")));
            return Err(CommandError::usage(format!(
                "{} holds no run with a {SUMMARY} that can be read: name the folder of one scenario, such as runs/nightly",
                folder.display()
            )));
        };
        if let Some(other) = found.iter().find(|summary| summary.scenario != newest.scenario) {
            return Err(CommandError::usage(format!(
                "{} holds runs of {} and of {}: name the folder of one scenario",
                folder.display(),
                newest.scenario,
                other.scenario
            )));
        }
        notes.extend(unusual(&found.iter().map(|one| (one.run.as_str(), one.started.as_str())).collect::<Vec<_>>()));
        Ok(Self { nights: found, notes })
    }

    /// Says the notes on stderr.
    pub fn tell(&self) {
        self.notes.iter().for_each(|note| say(format_args!("warning: {note}")));
    }
}

fn summary(path: &Path) -> Result<Summary, StoreError> {
    let text =
        fs::read_to_string(path).map_err(|source| StoreError::Io { path: path.to_owned(), verb: "read", source })?;
    store::parse_versioned(&text, path)
}

/// What is unusual about the days of runs, given as name and time and in the order of their times.
#[must_use]
pub fn unusual(runs: &[(&str, &str)]) -> Vec<String> {
    out_of_order(runs).into_iter().chain(calendar(runs)).collect()
}

/// Runs whose ids, which begin with the time too, say another order than when they began: a clock was set.
fn out_of_order(runs: &[(&str, &str)]) -> Option<String> {
    let dated = |run: &str| run.is_ascii() && run.len() > 15 && run.as_bytes()[..8].iter().all(u8::is_ascii_digit);
    let turned = |pair: &&[(&str, &str)]| {
        let (one, two) = (pair[0].0, pair[1].0);
        dated(one) && dated(two) && one[..15] > two[..15]
    };
    let pair = runs.windows(2).find(turned)?;
    Some(format!(
        "{} is dated before {} although its name says otherwise: a clock was set, and the order is that of the dates",
        one_line(pair[0].0),
        one_line(pair[1].0)
    ))
}

/// Days with several runs, and gaps where most days have one.
fn calendar(runs: &[(&str, &str)]) -> Vec<String> {
    let mut days: BTreeMap<i64, (&str, usize)> = BTreeMap::new();
    for (_, started) in runs {
        if let Some(day) = day(started) {
            days.entry(day).or_insert((&started[..10], 0)).1 += 1;
        }
    }
    let mut notes = Vec::new();
    let several: Vec<&str> = days.values().filter(|(_, runs)| *runs > 1).map(|(date, _)| *date).collect();
    if let Some(first) = several.first() {
        notes.push(format!(
            "several runs on {} of {} days, such as {first}: each is a night by itself, though they share what that day did to the machine",
            several.len(),
            days.len(),
        ));
    }
    let keys: Vec<i64> = days.keys().copied().collect();
    let gaps: Vec<(i64, i64)> = keys.windows(2).map(|pair| (pair[0], pair[1])).filter(|(a, b)| b - a > 1).collect();
    // A history that is not nightly has no gaps.
    if !gaps.is_empty() && 2 * gaps.len() < keys.len() {
        let missing: i64 = gaps.iter().map(|(before, after)| after - before - 1).sum();
        let named = |(before, after): &(i64, i64)| format!("{} to {}", days[before].0, days[after].0);
        let named: Vec<String> = gaps.iter().take(MOST_NAMED).map(named).collect();
        let more = gaps.len().saturating_sub(MOST_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        notes.push(format!("no run on {missing} days, in {} gaps: {}{more}", gaps.len(), named.join(", ")));
    }
    notes
}

/// The day of an RFC 3339 time, counted from 1970 (Hinnant, chrono-compatible low-level date algorithms, `days_from_civil`).
fn day(time: &str) -> Option<i64> {
    let date = time.get(..10).filter(|date| date.is_ascii() && time.len() > 10)?;
    let mut parts = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_1970() {
        for (time, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-03-01T12:00:00Z", Some(11_017)),
            ("2026-11-28T02:00:00Z", Some(20_785)),
            ("2026-13-28T02:00:00Z", None),
            ("yesterday evening", None),
            ("", None),
        ] {
            assert_eq!(day(time), expected, "{time}");
        }
    }
}
