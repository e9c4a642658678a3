//! Spread between repeats of a whole experiment, when each repeat gives one mean per series: what all series share in a
//! repeat, and what is each series' own.

use super::moderate::{Group, Spread, moderate};

use statrs::distribution::{ContinuousCDF, FisherSnedecor};

/// Fewest series for which a shift common to all can be told from the series' own scatter.
const FEWEST_SERIES: usize = 3;

/// Where repeats are shown to add less than this share to what their own observations explain, all series share one estimate.
const LITTLE: f64 = 0.2;
/// Confidence of that.
const SHOWN: f64 = 0.95;

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
    /// Its variance, with 1/`series` of the series' own variance in it.
    pub variance: f64,
    /// Degrees of freedom of that.
    pub df: f64,
    /// How many series share it.
    pub series: f64,
}

/// How a series' mean varies from one repeat to the next, for each series; `means[series][repeat]`.
///
/// Series with as many repeats as the longest are taken apart into the shift that all share in a repeat (the machine had a
/// slow night) and a scatter of their own, moderated over the series. Without that, twenty series that move together would count
/// as twenty observations. Other series, and fewer than three, use their own scatter. `explained` is what the observations within
/// a repeat explain of the variance of its mean, with its degrees of freedom: where the series together show that repeats add
/// little to it, their own scatter is that, and the little. `spent` degrees of freedom went into what was taken out of the means
/// before. `None` with fewer than two repeats.
#[must_use]
pub fn between_runs(means: &[Vec<f64>], explained: &[Option<Spread>], spent: f64, floor: f64) -> Vec<Option<Between>> {
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
    let repeats = left(longest);
    let share = 1.0 - 1.0 / complete.len() as f64;
    let shift: Vec<f64> = (0..longest)
        .map(|run| complete.iter().map(|&i| centred[i][run]).sum::<f64>() / complete.len() as f64)
        .collect();
    let common = shift.iter().map(|value| value * value).sum::<f64>() / repeats;
    let group = |&i: &usize| {
        let squares: f64 = centred[i].iter().zip(&shift).map(|(value, shift)| (value - shift).powi(2)).sum();
        Group { variance: squares / (repeats * share), df: repeats * share }
    };
    let groups: Vec<Group> = complete.iter().map(group).collect();
    let scatter = moderate(&groups, floor);
    let of_complete: Vec<Option<Spread>> = complete.iter().map(|&i| explained.get(i).copied().flatten()).collect();
    let little = added(&groups, &of_complete);
    for ((&i, scatter), explained) in complete.iter().zip(scatter).zip(of_complete) {
        spreads[i] = scatter.map(|own| {
            let alike = little.zip(explained).filter(|(_, by)| !own.alone && !by.alone);
            let own = alike.map_or(own, |(ratio, by)| Spread { variance: ratio * by.variance, ..by });
            Between { own, common: Some(Common { variance: common, df: repeats, series: complete.len() as f64 }) }
        });
    }
    spreads
}

/// How many times what the observations explain the series scatter from repeat to repeat, at least 1; `None` unless all of
/// them together show that it is little more (an F test of equivalence).
fn added(groups: &[Group], explained: &[Option<Spread>]) -> Option<f64> {
    let (mut sum, mut df, mut df_explained) = (0.0, 0.0, 0.0_f64);
    for (group, explained) in groups.iter().zip(explained) {
        let Some(explained) = explained.filter(|spread| spread.variance > 0.0 && !spread.alone) else { continue };
        sum += group.df * group.variance / explained.variance;
        df += group.df;
        // Moderated variances share their degrees of freedom.
        df_explained = df_explained.max(explained.df);
    }
    let ratio = sum / df;
    let quantile = FisherSnedecor::new(df, df_explained).ok()?.inverse_cdf(1.0 - SHOWN);
    (ratio / quantile <= 1.0 + LITTLE).then_some(ratio.max(1.0))
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

    #[test]
    fn one_run_says_nothing_of_the_next() {
        assert_eq!(between_runs(&[vec![1.0], vec![2.0]], &[], 0.0, 0.0), vec![None, None]);
        assert_eq!(between_runs(&[], &[], 0.0, 0.0), vec![]);
    }
}
