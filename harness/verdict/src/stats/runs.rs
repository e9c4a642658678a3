//! Spread between repeats of a whole experiment, when each repeat gives one mean per series: what all series share in a
//! repeat, and what is each series' own.
//!
//! Series are as unlike as their observations, so each counts for the shift by what its mean is worth (the random effects of
//! DerSimonian and Laird 1986).

use super::excess::{Explained, excess, little_added, stands_out};
use super::moderate::{Group, Spread, moderate};

/// Fewest series for which a shift common to all can be told from the series' own scatter.
const FEWEST_SERIES: usize = 3;

/// What one series' mean does from one repeat to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Between {
    /// Variance of what is the series' own.
    pub own: Spread,
    /// What it shares with other series; `None` where all of its scatter counts as its own.
    pub common: Option<Common>,
}

/// A shift that several series share in each repeat.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Common {
    /// Its variance, with what the series' own variances leave in their weighted mean.
    pub variance: f64,
    /// Degrees of freedom of that.
    pub df: f64,
    /// How many series share it.
    pub series: f64,
    /// This series' part in the weighted mean, 0 to 1: of its own variance so much is in `variance` already.
    pub weight: f64,
}

/// How a series' mean varies from one repeat to the next, for each series; `means[series][repeat]`.
///
/// Series with as many repeats as the longest are taken apart into the shift that all share in a repeat (the machine had a
/// slow night) and a scatter of their own, moderated over the series. Without that, twenty series that move together would count
/// as twenty observations. Other series, and fewer than three, use their own scatter. `explained` is what the observations within
/// a repeat explain of the variance of its mean: where the series together show that repeats add little to it, their own scatter
/// is that, and the little. `spent` degrees of freedom went into what was taken out of the means before. `None` with fewer than
/// two repeats.
#[must_use]
pub fn between_runs(
    means: &[Vec<f64>],
    explained: &[Option<Explained>],
    spent: f64,
    floor: f64,
) -> Vec<Option<Between>> {
    let longest = means.iter().map(Vec::len).max().unwrap_or(0);
    let centred: Vec<Vec<f64>> = means.iter().map(|series| centre(series)).collect();
    let complete: Vec<usize> = (0..means.len()).filter(|&i| means[i].len() == longest).collect();
    // A repeat that is all that was left to learn from is not given up.
    let left = |repeats: usize| if repeats > 2 { repeats as f64 - 1.0 - spent } else { repeats as f64 - 1.0 };
    let own = |series: &Vec<f64>| {
        let df = left(series.len());
        let variance = series.iter().map(|value| value * value).sum::<f64>() / df;
        let own = Spread { variance: variance.max(floor), df, alone: true };
        (df > 0.0).then_some(Between { own, common: None })
    };
    let mut spreads: Vec<Option<Between>> = centred.iter().map(own).collect();
    if longest < 2 || complete.len() < FEWEST_SERIES {
        return spreads;
    }
    let series: Vec<&[f64]> = complete.iter().map(|&i| centred[i].as_slice()).collect();
    let of_complete: Option<Vec<Explained>> = complete.iter().map(|&i| explained.get(i).copied().flatten()).collect();
    for (&i, between) in complete.iter().zip(together(&series, of_complete.as_deref(), left(longest), floor)) {
        spreads[i] = between;
    }
    spreads
}

/// The same for complete series around their means, `repeats` degrees of freedom each.
fn together(series: &[&[f64]], explained: Option<&[Explained]>, repeats: f64, floor: f64) -> Vec<Option<Between>> {
    let alike = vec![1.0; series.len()];
    // Where nothing says how the series differ, all weigh the same.
    let by_rounds = explained.map(|explained| explained.iter().map(|by| by.spread.variance.max(floor)).collect());
    let by_rounds: Vec<f64> = by_rounds.unwrap_or(alike);
    let explained = explained.unwrap_or_default();
    // What repeats add to it depends on the shift, and the shift's weights on that: twice is enough.
    let added = excess(&Parts::of(series, &by_rounds, repeats, floor).groups, explained);
    let expected: Vec<f64> = by_rounds.iter().map(|variance| variance + added).collect();
    let parts = Parts::of(series, &expected, repeats, floor);
    let little = little_added(&parts.groups, explained);
    let between = |(i, own): (usize, Option<Spread>)| {
        let own = own?;
        let alike = little.zip(explained.get(i)).map(|(ratio, by)| by.times(ratio));
        let alike = alike.filter(|alike| !stands_out(&parts.groups[i], alike, series.len()));
        Some(parts.with(alike.unwrap_or(own), parts.weights[i]))
    };
    moderate(&parts.groups, floor).into_iter().enumerate().map(between).collect()
}

/// Series taken apart into the shift of each repeat that all share and what is left of each series.
struct Parts {
    /// Variance of the shift and its degrees of freedom.
    shift: Group,
    /// What is left of each series, as the variance of its mean around the true shift.
    groups: Vec<Group>,
    /// Each series' part in the shift; they sum to 1.
    weights: Vec<f64>,
}

impl Parts {
    /// Each series weighs by the inverse of the `expected` variance of its mean. None weighs more than the third-heaviest: what
    /// one or two series do is no shift of all.
    fn of(series: &[&[f64]], expected: &[f64], repeats: f64, floor: f64) -> Self {
        let mut precision: Vec<f64> = expected.iter().map(|variance| 1.0 / variance).collect();
        precision.sort_by(|a, b| b.total_cmp(a));
        let most = precision[FEWEST_SERIES.min(precision.len()) - 1];
        let precision: Vec<f64> = expected.iter().map(|variance| (1.0 / variance).min(most)).collect();
        let sum: f64 = precision.iter().sum();
        let weights: Vec<f64> = precision.iter().map(|precision| precision / sum).collect();
        let of_repeat = |run: usize| series.iter().zip(&weights).map(|(series, weight)| weight * series[run]).sum();
        let shift: Vec<f64> = (0..series[0].len()).map(of_repeat).collect();
        let group = |(series, weight): (&&[f64], &f64)| {
            let squares: f64 = series.iter().zip(&shift).map(|(value, shift)| (value - shift).powi(2)).sum();
            let df = repeats * (1.0 - weight);
            Group { variance: (squares / df).max(floor), df }
        };
        Self {
            shift: Group { variance: shift.iter().map(|value| value * value).sum::<f64>() / repeats, df: repeats },
            groups: series.iter().zip(&weights).map(group).collect(),
            weights,
        }
    }

    fn with(&self, own: Spread, weight: f64) -> Between {
        let Group { variance, df } = self.shift;
        Between { own, common: Some(Common { variance, df, series: self.weights.len() as f64, weight }) }
    }
}

fn centre(series: &[f64]) -> Vec<f64> {
    let mean = series.iter().sum::<f64>() / series.len().max(1) as f64;
    series.iter().map(|value| value - mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_that_move_together_are_one_observation() {
        let night = [0.0, 0.03, -0.01, 0.02];
        let means: Vec<Vec<f64>> = (0..20).map(|i| night.iter().map(|shift| f64::from(i) + shift).collect()).collect();
        let between = between_runs(&means, &[], 0.0, 1e-12)[0].unwrap();
        let common = between.common.unwrap();
        assert!((common.df - 3.0).abs() < 1e-12 && (common.series - 20.0).abs() < 1e-12, "{common:?}");
        assert!((common.variance - 3.333_333e-4).abs() < 1e-8, "{common:?}");
        assert!(between.own.variance < 1e-8, "{between:?}");
    }

    #[test]
    fn series_that_move_each_on_its_own_add_up() {
        // Each of the 16 sign patterns of 4 runs once: no common shift at all, equal scatter.
        let means: Vec<Vec<f64>> = (0..16)
            .map(|bits: u32| (0..4).map(|run| if bits >> run & 1 == 1 { 0.01 } else { -0.01 }).collect())
            .filter(|series: &Vec<f64>| series.iter().sum::<f64>().abs() < 1e-12)
            .collect();
        let between = between_runs(&means, &[], 0.0, 1e-12)[0].unwrap();
        let share = 1.0 - 1.0 / means.len() as f64;
        assert!(between.own.df > 14.0, "{between:?}");
        assert!(between.common.unwrap().variance < 1e-12, "{between:?}");
        assert!((between.own.variance * share - 4e-4 / 3.0).abs() < 1e-9, "{between:?}");
    }

    /// 20 series of 4 repeats that scatter by every sign pattern with as many ups as downs, the last `noisy` of them a hundred
    /// times as far; what explains that.
    fn unlike(noisy: usize) -> (Vec<Vec<f64>>, Vec<Option<Explained>>) {
        let patterns: Vec<u32> = (0..16_u32).filter(|bits| bits.count_ones() == 2).collect();
        let sd = |i: usize| -> f64 { if i + noisy < 20 { 0.001 } else { 0.1 } };
        let value = |i: usize, run: u32| {
            if patterns[i % patterns.len()] >> run & 1 == 1 { sd(i) } else { -sd(i) }
        };
        let explained = |i: usize| {
            let spread = Spread { variance: 4.0 / 3.0 * sd(i).powi(2), df: 40.0, alone: false };
            Some(Explained { spread, own_df: 40.0 })
        };
        let means = (0..20).map(|i| (0..4).map(|run| value(i, run)).collect()).collect();
        (means, (0..20).map(explained).collect())
    }

    #[test]
    fn noisy_series_do_not_make_the_shift_of_quiet_ones() {
        let (means, explained) = unlike(5);
        let between: Vec<Between> =
            between_runs(&means, &explained, 0.0, 1e-12).into_iter().map(Option::unwrap).collect();
        let common = between[0].common.unwrap();
        assert!(common.variance < 1e-6, "{common:?}");
        let weights: f64 = between.iter().map(|between| between.common.unwrap().weight).sum();
        assert!((weights - 1.0).abs() < 1e-12 && (common.weight - 1.0 / 15.0).abs() < 1e-4, "{common:?}");
        // All alike, the noisy ones' scatter is in the mean of all.
        let alike = between_runs(&means, &[], 0.0, 1e-12)[0].unwrap().common.unwrap();
        assert!(alike.variance > 1e-5 && (alike.weight - 0.05).abs() < 1e-12, "{alike:?}");
    }

    #[test]
    fn no_series_is_the_shift_alone() {
        let (means, mut explained) = unlike(0);
        let by = explained[0].as_mut().unwrap();
        by.spread.variance = 1e-16;
        let weights =
            between_runs(&means, &explained, 0.0, 1e-16).into_iter().map(|b| b.unwrap().common.unwrap().weight);
        assert!(weights.into_iter().all(|weight| (weight - 0.05).abs() < 1e-9), "it weighs as the third-heaviest");
    }

    #[test]
    fn one_run_says_nothing_of_the_next() {
        assert_eq!(between_runs(&[vec![1.0], vec![2.0]], &[], 0.0, 0.0), vec![None, None]);
        assert_eq!(between_runs(&[], &[], 0.0, 0.0), vec![]);
    }
}
