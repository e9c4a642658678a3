//! The strongest split of a stretch of nights, by a statistic whose distribution under no change does not depend on the
//! noise's shape. May not know what the values are of.

use crate::stats::normal_quantile;

/// Nights that a level must last to be one: fewer are bad nights, not a change.
pub const MIN_NIGHTS: usize = 3;
/// Shortest stretch that is searched by itself; a shorter one hardly reaches the limit.
const SHORTEST: usize = 24;
/// In a year a split counts above this; longer and shorter series have limits of their own.
pub const CRITICAL: f64 = 4.05;
/// Series at least so long have a limit of their own; shorter ones know too little of their noise for a lower one.
const LIMIT_FROM: usize = 60;
/// Differences over up to so many nights tell how nights depend on one another.
const LAGS: usize = 5;

/// What a split of a series of so many nights counts above. Simulated, not derived: the more nights, the more splits there are
/// to be the strongest, and `benches/history.rs` prints the rate of false alarms that the limit gives.
pub(super) fn critical(nights: usize) -> f64 {
    CRITICAL + (nights.max(LIMIT_FROM) as f64 / 365.0).ln() / 3.0
}

/// A split: values before `at` against values from `at` on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Split {
    /// Stretch in which it is strongest, as a half-open range.
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) at: usize,
    pub(super) strength: f64,
}

/// The strongest split over seeded intervals of `values[from..to]` (Kovács et al. 2023): halves of halves, each half
/// overlapping the next, so that a change hidden by another one has a stretch of its own.
pub(super) fn strongest(values: &[f64], from: usize, to: usize, inflation: f64) -> Option<Split> {
    let mut best: Option<Split> = None;
    let mut length = to.saturating_sub(from);
    while length >= 2 * MIN_NIGHTS {
        let mut start = from;
        loop {
            let begin = start.min(to - length);
            if let Some(split) = of_stretch(values, begin, begin + length, inflation)
                && best.is_none_or(|best| split.strength > best.strength)
            {
                best = Some(split);
            }
            if begin + length >= to {
                break;
            }
            start += (length / 2).max(1);
        }
        length /= 2;
        if length < SHORTEST {
            break;
        }
    }
    best
}

/// Largest standardised difference of normal scores (van der Waerden) over all splits. Scores keep what heavy tails would
/// take away; for exchangeable noise their distribution depends on the number of nights alone.
fn of_stretch(values: &[f64], from: usize, to: usize, inflation: f64) -> Option<Split> {
    let scores = normal_scores(&values[from..to]);
    let n = scores.len() as f64;
    let variance = scores.iter().map(|score| score * score).sum::<f64>() / (n - 1.0);
    // Equal values all have score zero, but for rounding.
    if variance.is_nan() || variance < 1e-9 {
        return None;
    }
    let (mut sum, mut best) = (0.0, None::<Split>);
    for (index, score) in scores.iter().enumerate() {
        sum += score;
        let before = index + 1;
        if before < MIN_NIGHTS || before + MIN_NIGHTS > scores.len() {
            continue;
        }
        let k = before as f64;
        let strength = f64::abs(sum) / (variance * k * (n - k) / n).sqrt() / inflation;
        if best.is_none_or(|best| strength > best.strength) {
            best = Some(Split { from, to, at: from + before, strength });
        }
    }
    best
}

/// Normal quantiles of the ranks; equal values share the mean of theirs. They sum to zero.
fn normal_scores(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let quantile = |rank: usize| normal_quantile((rank as f64 + 0.5) / values.len() as f64).unwrap_or(0.0);
    let mut scores = vec![0.0; values.len()];
    let mut rank = 0;
    while rank < order.len() {
        let ties = order[rank..].iter().take_while(|index| values[**index] == values[order[rank]]).count();
        let shared = (rank..rank + ties).map(quantile).sum::<f64>() / ties as f64;
        for index in &order[rank..rank + ties] {
            scores[*index] = shared;
        }
        rank += ties;
    }
    scores
}

/// How nights depend on one another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Dependence {
    /// How much of the last night's deviation a night keeps: φ of an AR(1), from 0 to 0.9.
    pub(super) phi: f64,
    /// By how much that widens a mean: √((1 + φ)/(1 − φ)), with 1/√n added to φ, since too small a φ costs false alarms.
    pub(super) inflation: f64,
}

impl Dependence {
    /// Every night for itself.
    pub(super) const NONE: Self = Self { phi: 0.0, inflation: 1.0 };
}

/// φ comes from differences over one to five nights, whose variances are as 1 − φ to 1 − φ⁵ (as Romano et al. 2022 do; of one
/// and two nights, Chakar et al. 2017). A difference across one of the `changes` is left out: a step in the middle of a short
/// series would else pass for dependence and hide itself.
pub(super) fn dependence(values: &[f64], changes: &[usize]) -> Dependence {
    let steps: Vec<Vec<f64>> = (1..=LAGS).map(|lag| differences(values, changes, lag)).collect();
    let widest = steps.iter().map(|steps| limit(steps)).fold(0.0, f64::max);
    let mut variances = steps.iter().map(|steps| variance(steps, widest));
    let Some(one) = variances.next().flatten().filter(|variance| *variance > 0.0) else { return Dependence::NONE };
    let ratios: Vec<(i32, f64)> = (2..).zip(variances).filter_map(|(lag, v)| v.map(|v| (lag, v / one))).collect();
    let seen: f64 = ratios.iter().map(|(_, ratio)| ratio).sum();
    // (1 − φᵏ)/(1 − φ) as a sum of powers; it rises with φ within these bounds.
    let expected =
        |phi: f64| ratios.iter().map(|(lag, _)| (0..*lag).map(|power| phi.powi(power)).sum::<f64>()).sum::<f64>();
    let (mut low, mut high) = (-0.5, 0.9);
    for _ in 0..30 {
        let middle = f64::midpoint(low, high);
        if expected(middle) < seen { low = middle } else { high = middle }
    }
    let most = (low + 1.0 / (values.len() as f64).sqrt()).clamp(0.0, 0.9);
    Dependence { phi: low.clamp(0.0, 0.9), inflation: ((1.0 + most) / (1.0 - most)).sqrt() }
}

/// Absolute differences over `lag` nights that cross no change.
fn differences(values: &[f64], changes: &[usize], lag: usize) -> Vec<f64> {
    let crosses = |from: usize| changes.iter().any(|at| (from + 1..=from + lag).contains(at));
    let starts = (0..values.len().saturating_sub(lag)).filter(|from| !crosses(*from));
    starts.map(|from| (values[from + lag] - values[from]).abs()).collect()
}

/// Four robust standard deviations.
fn limit(steps: &[f64]) -> f64 {
    4.0 * 1.4826 * crate::stats::median(steps).unwrap_or(0.0)
}

/// Mean square, each difference cut at its lag's limit; at the widest of all where most are zero, as in figures that repeat.
fn variance(steps: &[f64], widest: f64) -> Option<f64> {
    let limit = [limit(steps), widest, f64::INFINITY].into_iter().find(|limit| *limit > 0.0)?;
    crate::stats::mean(&steps.iter().map(|step| step.min(limit).powi(2)).collect::<Vec<f64>>())
}
