//! Where a change that was found began, whether it is a step or a drift, and which nights stand alone. May not decide
//! whether there is a change.

use super::scan::{MIN_NIGHTS, Split};
use super::{Change, Shape};
use crate::stats::{mad, mean, median};

/// Residual sums of squares within this many variances of the best keep a night in the range of a change. Its coverage is
/// measured in `benches/history.rs`.
const RANGE: f64 = 9.0;
/// A night this many robust standard deviations from its level stands alone.
const OUTLYING: f64 = 5.0;

/// Values cut at four robust standard deviations around the medians of both sides, so that one night moves no change.
fn cut(values: &[f64], at: usize) -> Vec<f64> {
    let mut all = Vec::with_capacity(values.len());
    for side in [&values[..at], &values[at..]] {
        let centre = median(side).unwrap_or(0.0);
        let limit = 4.0 * 1.4826 * mad(side, centre).unwrap_or(0.0);
        all.extend(side.iter().map(|value| value.clamp(centre - limit, centre + limit)));
    }
    all
}

fn squares(values: &[f64]) -> f64 {
    let centre = mean(values).unwrap_or(0.0);
    values.iter().map(|value| (value - centre).powi(2)).sum()
}

/// Residual sum of squares of two levels for every split of `values`, from [`MIN_NIGHTS`] on: of what is new in each night, where a
/// night keeps `phi` of the last one's deviation. By least squares of `v[t] − phi · v[t−1]` on what each level gives to it, in which
/// the night of the change has both; of independent nights these are the squares around the levels.
fn profile(values: &[f64], phi: f64) -> Vec<(usize, f64)> {
    let centre = mean(values).unwrap_or(0.0);
    let values: Vec<f64> = values.iter().map(|value| value - centre).collect();
    let (n, keeps, first) = (values.len(), 1.0 - phi, (1.0 - phi * phi).sqrt());
    let mut new: Vec<f64> = values.windows(2).map(|pair| pair[1] - phi * pair[0]).collect();
    new.insert(0, first * values.first().copied().unwrap_or(0.0));
    let squares: f64 = new.iter().map(|value| value * value).sum();
    let mut sums = vec![0.0; n + 1];
    for (index, value) in new.iter().enumerate() {
        sums[index + 1] = sums[index] + value;
    }
    let of_split = |at: usize| {
        let before = first * new[0] + keeps * (sums[at] - sums[1]) - phi * new[at];
        let after = new[at] + keeps * (sums[n] - sums[at + 1]);
        let weight = |nights: usize| nights as f64 * keeps * keeps;
        let (one, two, both) = (first * first + weight(at - 1) + phi * phi, 1.0 + weight(n - at - 1), -phi);
        let determinant = one * two - both * both;
        let explained = (before * before * two - 2.0 * before * after * both + after * after * one) / determinant;
        (at, (squares - explained).max(0.0))
    };
    (MIN_NIGHTS..=n.saturating_sub(MIN_NIGHTS)).map(of_split).collect()
}

/// The split of least squares in `values[from..to]`, near which ranks found one.
pub(super) fn refine(values: &[f64], split: &Split, phi: f64) -> usize {
    let profile = profile(&cut(&values[split.from..split.to], split.at - split.from), phi);
    profile.iter().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(split.at, |(best, _)| split.from + best)
}

/// Levels with their range; steps of one direction that a line explains better become one drift.
pub(super) fn place(values: &[f64], splits: &[Split], phi: f64) -> Vec<Change> {
    let edges: Vec<usize> = [0].into_iter().chain(splits.iter().map(|split| split.at)).chain([values.len()]).collect();
    let level = |segment: usize| median(&values[edges[segment]..edges[segment + 1]]).unwrap_or(0.0);
    let rises = |index: usize| level(index + 1) > level(index);
    let mut changes = Vec::new();
    let mut index = 0;
    while index < splits.len() {
        let mut end = index + 1;
        while end < splits.len() && rises(end) == rises(index) {
            end += 1;
        }
        if let Some(drift) = drift(values, &edges[index..=end + 1], splits[index].strength) {
            changes.push(drift);
        } else {
            for split in index..end {
                let effect = (level(split + 1) - level(split)).exp_m1();
                changes.push(step(values, &edges[split..=split + 2], splits[split].strength, effect, phi));
            }
        }
        index = end;
    }
    changes
}

fn step(values: &[f64], edges: &[usize], strength: f64, effect: f64, phi: f64) -> Change {
    let (from, at, to) = (edges[0], edges[1], edges[2]);
    let stretch = cut(&values[from..to], at - from);
    let profile = profile(&stretch, phi);
    let best = profile.iter().map(|(_, rss)| *rss).fold(f64::INFINITY, f64::min);
    let variance = best / stretch.len().saturating_sub(2).max(1) as f64;
    let allowed = |(_, rss): &&(usize, f64)| rss - best <= RANGE * variance;
    let earliest = profile.iter().find(allowed).map_or(at, |(place, _)| from + place).min(at);
    let latest = profile.iter().rfind(allowed).map_or(at, |(place, _)| from + place).max(at);
    Change { night: at, earliest, latest, shape: Shape::Step, effect, strength }
}

/// A line over all the segments against their levels, by the Bayesian information criterion (Schwarz 1978).
fn drift(values: &[f64], edges: &[usize], strength: f64) -> Option<Change> {
    let (from, to) = (*edges.first()?, *edges.last()?);
    let stretch = &values[from..to];
    let n = stretch.len() as f64;
    let middle = (n - 1.0) / 2.0;
    let centre = mean(stretch)?;
    let spread: f64 = (0..stretch.len()).map(|x| (x as f64 - middle).powi(2)).sum();
    let slope = stretch.iter().enumerate().map(|(x, y)| (x as f64 - middle) * (y - centre)).sum::<f64>() / spread;
    let line: f64 = stretch.iter().enumerate().map(|(x, y)| (y - centre - slope * (x as f64 - middle)).powi(2)).sum();
    let levels: f64 = edges.windows(2).map(|pair| squares(&values[pair[0]..pair[1]])).sum();
    let criterion = |rss: f64, parameters: f64| n * (rss / n).ln() + parameters * n.ln();
    // Levels have a height each and a place for every change; a line has two numbers.
    let is_line = criterion(line, 2.0) < criterion(levels, (2 * (edges.len() - 1) - 1) as f64);
    let effect = (slope * (n - 1.0)).exp_m1();
    let night = from + stretch.len() / 2;
    is_line.then_some(Change { night, earliest: from, latest: to - 1, shape: Shape::Drift, effect, strength })
}

/// Nights far from the median of their segment while their neighbours are not.
pub(super) fn outliers(values: &[f64], splits: &[Split]) -> Vec<usize> {
    let edges: Vec<usize> = [0].into_iter().chain(splits.iter().map(|split| split.at)).chain([values.len()]).collect();
    let mut far = vec![false; values.len()];
    for pair in edges.windows(2) {
        let segment = &values[pair[0]..pair[1]];
        let Some(centre) = median(segment) else { continue };
        let limit = OUTLYING * 1.4826 * mad(segment, centre).unwrap_or(0.0);
        for (index, value) in segment.iter().enumerate() {
            far[pair[0] + index] = limit > 0.0 && (value - centre).abs() > limit;
        }
    }
    let alone = |index: &usize| {
        let before = index.checked_sub(1).is_some_and(|before| far[before]);
        far[*index] && !before && !far.get(index + 1).copied().unwrap_or(false)
    };
    (0..values.len()).filter(alone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::random::Random;

    /// The residuals of two levels, found by steps of least squares in each level in turn, until nothing moves.
    fn by_hand(values: &[f64], at: usize, phi: f64) -> f64 {
        let squares = |levels: [f64; 2]| {
            let deviation = |night: usize| values[night] - levels[usize::from(night >= at)];
            let first = (1.0 - phi * phi) * deviation(0).powi(2);
            first + (1..values.len()).map(|t| (deviation(t) - phi * deviation(t - 1)).powi(2)).sum::<f64>()
        };
        let (mut levels, mut width) = ([0.0; 2], 1.0);
        while width > 1e-9 {
            let here = squares(levels);
            let moved = [[width, 0.0], [-width, 0.0], [0.0, width], [0.0, -width]]
                .map(|by| [levels[0] + by[0], levels[1] + by[1]]);
            match moved.into_iter().find(|&to| squares(to) < here) {
                Some(to) => levels = to,
                None => width /= 2.0,
            }
        }
        squares(levels)
    }

    #[test]
    fn squares_are_those_of_two_levels_whatever_a_night_keeps_of_the_last() {
        let mut random = Random::seeded(8);
        let values: Vec<f64> = (0..12).map(|night| random.normal() - if night < 7 { 0.0 } else { 3.0 }).collect();
        for phi in [0.0, 0.5, 0.9] {
            let profile = profile(&values, phi);
            assert_eq!(profile.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8, 9]);
            for (at, found) in profile {
                let expected = by_hand(&values, at, phi);
                assert!((found - expected).abs() < 1e-6 * expected, "{phi} {at}: {found} {expected}");
            }
        }
    }
}
