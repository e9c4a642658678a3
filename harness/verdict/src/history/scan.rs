//! The strongest split of a stretch of nights, by a statistic whose distribution under no change does not depend on the
//! noise's shape. May not know what the values are of.

use crate::stats::normal_quantile;

/// Nights that a level must last to be one: fewer are bad nights, not a change.
pub const MIN_NIGHTS: usize = 3;
/// Shortest stretch that is searched by itself; a shorter one cannot reach [`CRITICAL`].
const SHORTEST: usize = 24;
/// A split counts above this. Simulated, not derived: `benches/history.rs` prints the rate of false alarms that it gives.
pub const CRITICAL: f64 = 4.05;

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

/// By how much dependence between nights widens a mean: √((1 + φ)/(1 − φ)) of an AR(1), at least 1.
///
/// φ comes from differences over one and two nights (their variances are as 1 : 1 + φ), which a step touches in one place
/// only; 1/√n is added, since too small a φ costs false alarms. Differences are cut at four robust standard deviations.
pub(super) fn inflation(values: &[f64]) -> f64 {
    let squares = |lag: usize| {
        let steps: Vec<f64> = values.windows(lag + 1).map(|window| (window[lag] - window[0]).abs()).collect();
        let limit = 4.0 * 1.4826 * crate::stats::median(&steps).unwrap_or(0.0);
        let limit = if limit > 0.0 { limit } else { f64::INFINITY };
        steps.iter().map(|step| step.min(limit).powi(2)).sum::<f64>() / steps.len().max(1) as f64
    };
    let (one, two) = (squares(1), squares(2));
    if one.is_nan() || one <= 0.0 {
        return 1.0;
    }
    let phi = (two / one - 1.0 + 1.0 / (values.len() as f64).sqrt()).clamp(0.0, 0.9);
    ((1.0 + phi) / (1.0 - phi)).sqrt()
}
