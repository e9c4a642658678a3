//! Changes of one metric over many nights: steps with the range in which each began, drifts, single bad nights, and shifts
//! that cells share. Knows logs of estimates only, not files or runs.

mod latest;
mod place;
mod scan;
mod trends;

use scan::Dependence;

pub use latest::latest;
pub use scan::{CRITICAL, MIN_NIGHTS};
pub use stepwatch_record::trend::Shape;
pub use trends::{Series, trends};

/// Nights below which nothing is searched.
pub const FEWEST_NIGHTS: usize = 8;

/// A lasting change. Indices are those of the series given, gaps included.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The first night after the change; of a drift, the night at which it is half done.
    pub night: usize,
    /// Earliest first night that the values allow.
    pub earliest: usize,
    /// Latest first night that they allow.
    pub latest: usize,
    /// Step or drift.
    pub shape: Shape,
    /// Relative change of the level, after over before − 1.
    pub effect: f64,
    /// The test statistic; [`CRITICAL`] is what a year's must exceed.
    pub strength: f64,
}

/// What was found in a series.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Lasting changes, oldest first.
    pub changes: Vec<Change>,
    /// Nights far from their level with neighbours that are not: bad (or lucky) nights that did not last.
    pub outliers: Vec<usize>,
    /// Nights that had a value.
    pub nights: usize,
}

/// Finds the changes of a series: one value per night, the metric itself, `None` (or no positive number) where there is none.
#[must_use]
pub fn history(series: &[Option<f64>]) -> History {
    let nights: Vec<(usize, f64)> = series
        .iter()
        .enumerate()
        .filter_map(|(night, value)| value.filter(|v| *v > 0.0 && v.is_finite()).map(|v| (night, v.ln())))
        .collect();
    let logs: Vec<f64> = nights.iter().map(|(_, log)| *log).collect();
    if logs.len() < FEWEST_NIGHTS {
        return History { nights: logs.len(), ..History::default() };
    }
    // Whatever may be a change must not pass for dependence between nights, and dependence not for changes.
    let candidates: Vec<usize> = splits(&logs, Dependence::NONE).iter().map(|split| split.at).collect();
    let dependence = scan::dependence(&logs, &candidates);
    let found = if candidates.is_empty() { Vec::new() } else { splits(&logs, dependence) };
    let changes = place::place(&logs, &found, dependence.phi);
    let outliers = place::outliers(&logs, &found);
    let night = |index: usize| nights[index].0;
    History {
        changes: changes
            .into_iter()
            .map(|change| Change {
                night: night(change.night),
                // The change may have come in any night of a gap before the first night that shows it.
                earliest: change.earliest.checked_sub(1).map_or(0, |before| night(before) + 1),
                latest: night(change.latest),
                ..change
            })
            .collect(),
        outliers: outliers.into_iter().map(night).collect(),
        nights: logs.len(),
    }
}

/// The splits that count when nights depend on one another so, oldest first.
fn splits(logs: &[f64], dependence: Dependence) -> Vec<scan::Split> {
    let mut found = Vec::new();
    segment(logs, 0, logs.len(), dependence, &mut found);
    found.sort_by_key(|split| split.at);
    found
}

/// Binary segmentation: the strongest split first, then what lies on either side of it.
fn segment(logs: &[f64], from: usize, to: usize, dependence: Dependence, found: &mut Vec<scan::Split>) {
    let critical = scan::critical(logs.len());
    let strongest = scan::strongest(logs, from, to, dependence.inflation);
    let Some(split) = strongest.filter(|split| split.strength > critical) else { return };
    let at = place::refine(logs, &split, dependence.phi);
    found.push(scan::Split { at, ..split });
    segment(logs, from, at, dependence, found);
    segment(logs, at, to, dependence, found);
}

/// A change that most cells have at once: an event of the machine or of what they share.
#[derive(Debug, Clone, PartialEq)]
pub struct CommonShift {
    /// The night at which most began.
    pub night: usize,
    /// Indices of the cells that have it.
    pub cells: Vec<usize>,
    /// Median relative change over them.
    pub effect: f64,
}

/// Changes of the same direction whose ranges (one night wider on either side) hold a common night, in at least half of the
/// cells and in three or more.
#[must_use]
pub fn common_shifts(cells: &[History]) -> Vec<CommonShift> {
    let mut open: Vec<(usize, &Change)> =
        cells.iter().enumerate().flat_map(|(cell, found)| found.changes.iter().map(move |c| (cell, c))).collect();
    let enough = cells.len().div_ceil(2).max(3);
    let mut shifts = Vec::new();
    loop {
        let at = |night: usize, up: bool| {
            let has = |change: &Change| {
                (change.effect > 0.0) == up && change.earliest <= night + 1 && night <= change.latest + 1
            };
            open.iter().filter(|(_, change)| has(change)).copied().collect::<Vec<_>>()
        };
        let candidates = open.iter().map(|(_, change)| at(change.night, change.effect > 0.0));
        // Of equal ones the earliest: `max_by_key` alone would take the last.
        let Some(shared) = candidates.rev().max_by_key(Vec::len) else { break };
        let mut members: Vec<usize> = shared.iter().map(|(cell, _)| *cell).collect();
        members.sort_unstable();
        members.dedup();
        if members.len() < enough {
            break;
        }
        let effects: Vec<f64> = shared.iter().map(|(_, change)| change.effect).collect();
        let mut nights: Vec<usize> = shared.iter().map(|(_, change)| change.night).collect();
        nights.sort_unstable();
        let night = nights[nights.len() / 2];
        shifts.push(CommonShift { night, cells: members, effect: crate::stats::median(&effects).unwrap_or(0.0) });
        open.retain(|entry| !shared.contains(entry));
    }
    shifts.sort_by_key(|shift| shift.night);
    shifts
}

#[cfg(test)]
mod tests;
