//! What repeats of an experiment add to the variance that the observations within them explain, learnt from many series at once.

use statrs::distribution::{ContinuousCDF, FisherSnedecor};

use super::moderate::{ALONE_LEVEL, Group, Spread};

/// Where repeats are shown to add less than this share to what their own observations explain, all series share one estimate.
const LITTLE: f64 = 0.2;
/// Confidence of that.
const SHOWN: f64 = 0.95;
/// A variance of at most so many degrees of freedom tells nothing as a divisor: the ratio has no variance of its own.
const TELLS_NOTHING: f64 = 4.0;
/// Halvings in the search for the variance added.
const HALVINGS: usize = 60;

/// What the observations within a repeat explain of the variance of a series' mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Explained {
    /// That variance, moderated over the series, with its degrees of freedom.
    pub spread: Spread,
    /// Degrees of freedom of the series' own observations, nothing borrowed.
    pub own_df: f64,
}

impl Explained {
    /// The scatter of a series that is so many times what is explained of it.
    pub(super) fn times(&self, ratio: f64) -> Spread {
        Spread { variance: ratio * self.spread.variance, ..self.spread }
    }

    /// Which part of the expected 1/(variance + `added`) is there only because the variance is estimated: exact for none added.
    fn bias(&self, added: f64) -> f64 {
        let share = self.spread.variance / (self.spread.variance + added);
        2.0 / self.spread.df * share * share
    }
}

/// The variance that repeats add in every series to what is explained, 0 where they add none: that with which the scatter of
/// all series between repeats is on average what is expected of it (Paule and Mandel 1982; DerSimonian and Kacker 2007).
pub(super) fn excess(groups: &[Group], explained: &[Explained]) -> f64 {
    let most = groups.iter().map(|group| group.variance).fold(0.0, f64::max);
    let above = |added: f64| ratio(groups, explained, added).is_some_and(|ratio| ratio > 1.0);
    if !above(0.0) {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, most);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if above(middle) { low = middle } else { high = middle }
    }
    high
}

/// How many times what the observations explain the series scatter from repeat to repeat, at least 1; `None` unless all of
/// them together show that it is little more (an F test of equivalence).
pub(super) fn little_added(groups: &[Group], explained: &[Explained]) -> Option<f64> {
    let ratio = ratio(groups, explained, 0.0)?;
    let (mut df, mut df_explained) = (0.0, 0.0);
    for (group, by) in telling(groups, explained) {
        df += group.df;
        // What moderated variances have borrowed they share: together they are worth the observations of all.
        df_explained += by.own_df;
    }
    let quantile = FisherSnedecor::new(df, df_explained).ok()?.inverse_cdf(1.0 - SHOWN);
    (ratio / quantile <= 1.0 + LITTLE).then_some(ratio.max(1.0))
}

/// Whether a series scatters more between repeats than the `expected` that it shares with `count` series (an F test).
pub(super) fn stands_out(group: &Group, expected: &Spread, count: usize) -> bool {
    let beyond = FisherSnedecor::new(group.df, expected.df).map(|f| f.sf(group.variance / expected.variance));
    beyond.is_ok_and(|beyond| beyond < ALONE_LEVEL / count as f64)
}

/// The mean over the series of their scatter between repeats over what is expected of it, if repeats add `added` to each;
/// `None` where no series tells.
fn ratio(groups: &[Group], explained: &[Explained], added: f64) -> Option<f64> {
    let (mut sum, mut df) = (0.0, 0.0);
    for (group, by) in telling(groups, explained) {
        sum += group.df * group.variance / (by.spread.variance + added) * (1.0 - by.bias(added));
        df += group.df;
    }
    (df > 0.0).then(|| sum / df)
}

fn telling<'a>(groups: &'a [Group], explained: &'a [Explained]) -> impl Iterator<Item = (&'a Group, &'a Explained)> {
    let tells = |(_, by): &(&Group, &Explained)| by.spread.variance > 0.0 && by.spread.df > TELLS_NOTHING;
    groups.iter().zip(explained).filter(tells)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(variance: f64, df: f64) -> Explained {
        Explained { spread: Spread { variance, df, alone: false }, own_df: df }
    }

    #[test]
    fn what_repeats_add_is_what_balances_the_scatter() {
        let groups = [Group { variance: 3.0, df: 9.0 }, Group { variance: 5.0, df: 9.0 }];
        let known = [explained(1.0, 1e12), explained(3.0, 1e12)];
        // 3/(1 + a) + 5/(3 + a) = 2: a² = 4.
        let added = excess(&groups, &known);
        assert!((added - 2.0).abs() < 1e-9, "{added}");
        let quiet = [explained(4.0, 1e12), explained(6.0, 1e12)];
        assert_eq!(excess(&groups, &quiet), 0.0);
    }

    #[test]
    fn little_is_shown_by_many_series_and_not_by_few() {
        let shown = |count: usize, df: f64| {
            little_added(&vec![Group { variance: 1.0, df: 9.0 }; count], &vec![explained(1.0, df); count])
        };
        assert_eq!(shown(100, 44.0), Some(1.0));
        assert_eq!(shown(5, 44.0), None);
        // A divisor that is nothing but noise shows nothing.
        assert_eq!(shown(100, 4.0), None);
    }

    #[test]
    fn a_series_that_scatters_far_more_shares_nothing() {
        let by = Spread { variance: 1.0, df: 44.0, alone: false };
        let stands_out = |variance: f64, count: usize| stands_out(&Group { variance, df: 9.0 }, &by, count);
        // Upper quantiles of F(9, 44) by mpmath's incomplete beta function: 5.095153 at 0.01/100, 3.488692 at 0.01/4.
        assert!(stands_out(5.095 + 0.01, 100) && !stands_out(5.095 - 0.01, 100));
        assert!(stands_out(3.488 + 0.01, 4) && !stands_out(3.488 - 0.01, 4));
    }
}
