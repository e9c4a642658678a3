//! The limit of many errors that have a part in common: how far the largest of them reaches, when the variance of the common
//! part and of what is each one's own are both estimated, the common one from few repeats.
//!
//! The distribution of the sum is Behrens' and Fisher's: each part is its estimated standard deviation times Student's t of its
//! own degrees of freedom (Fisher 1935), here for the largest of several sums that share one of the two terms. Bonferroni's
//! inequality would take what all share for many chances to be wrong; Satterthwaite's degrees of freedom are those of the larger
//! part, and forget that the smaller one was estimated from two or three repeats and may only look small.

use statrs::distribution::{ContinuousCDF, Normal};

use super::moderate::Group;

/// Steps of the sum over the largest own part, in standard normal units.
const STEP: f64 = 0.125;
/// The same where few degrees of freedom stretch the steps.
const FINE_STEP: f64 = 0.03;
/// A common part under this share of the own standard deviation would fall between two steps; it is taken for that large, which
/// lengthens the limit by half a percent, and by 3 % where the common part is known from a few repeats only.
const LEAST_SHARE: f64 = 0.1;
/// How near, as a share of the level, the chance comes to it.
const CLOSE: f64 = 1e-4;
/// Tries at the limit; five to eight are the rule.
const MOST_TRIES: usize = 60;
/// Chances under the lowest step and over the highest, the latter beside the level: they stand at those steps.
const ENDS: (f64, f64) = (0.01, 1e-3);
/// From so many degrees of freedom on Wallace's normal approximation is as good as the exact sum.
const MANY: f64 = 40.0;

/// The limit that the largest of `count` errors passes with probability `level`, on one side.
///
/// An error is the sum of a part that all have in common and a part of its own; both are given as the variance of the part as it
/// was estimated and the degrees of freedom of that estimate (those of the common part are taken down to a whole number). In the
/// unit of the errors. `None` where a variance or its degrees of freedom say nothing, or `level` is not in the open interval
/// 0..0.5.
#[must_use]
pub fn limit_together(common: Group, own: Group, count: f64, level: f64) -> Option<f64> {
    let sane = |part: &Group| part.variance >= 0.0 && part.variance.is_finite() && part.df > 0.0;
    if !(sane(&common) && sane(&own) && count >= 1.0 && level > 0.0 && level < 0.5) {
        return None;
    }
    let own_sd = own.variance.sqrt();
    let common_sd = common.variance.sqrt().max(LEAST_SHARE * own_sd);
    if common_sd == 0.0 {
        return Some(0.0);
    }
    let steps = steps_of_largest(count, own.df, level)?;
    let beyond = |limit: f64| -> f64 {
        steps.iter().map(|(t, share)| share * survival((limit - own_sd * t) / common_sd, common.df)).sum()
    };
    crossing(|limit| (beyond(limit) / level).max(f64::MIN_POSITIVE).ln(), common_sd + own_sd)
}

/// Where a falling function that is positive at 0 comes to 0, looked for from `first` on: regula falsi, for a logarithm of a chance
/// falls almost along a line, with the Illinois rule against an end that stays.
fn crossing(excess: impl Fn(f64) -> f64, first: f64) -> Option<f64> {
    let (mut low, mut high) = (0.0, first);
    let (mut above, mut under) = (excess(low), excess(high));
    while under > 0.0 {
        (low, above) = (high, under);
        high *= 2.0;
        under = excess(high);
    }
    if !(above.is_finite() && under.is_finite()) {
        return None;
    }
    let mut before = 0.0;
    for _ in 0..MOST_TRIES {
        let next = high - under * (high - low) / (under - above);
        let there = excess(next);
        if there.abs() < CLOSE {
            return Some(next);
        }
        // Twice on one side: the other end counts for half.
        let stays = if there * before > 0.0 { 0.5 } else { 1.0 };
        if there > 0.0 {
            (low, above, under) = (next, there, under * stays);
        } else {
            (high, under, above) = (next, there, above * stays);
        }
        before = there;
    }
    Some(high)
}

/// Values of the largest of `count` t-distributed variables with their probabilities, up to where what is left is small beside
/// `level`; what lies beyond the last stands there.
fn steps_of_largest(count: f64, df: f64, level: f64) -> Option<Vec<(f64, f64)>> {
    let lowest = Normal::new(0.0, 1.0).ok()?.inverse_cdf(ENDS.0.powf(1.0 / count));
    let step = if df < MANY { FINE_STEP } else { STEP };
    // 1 − (1 − p)^count, without losing what is small.
    let beyond = |t: f64| -(count * (-survival(t, df)).ln_1p()).exp_m1();
    let mut steps = Vec::with_capacity(64);
    let (mut z, mut left) = (lowest, 1.0);
    while left > level * ENDS.1 {
        let rest = beyond(t_at(z + step / 2.0, df));
        steps.push((t_at(z, df), left - rest));
        (z, left) = (z + step, rest);
    }
    steps.push((t_at(z, df), left));
    Some(steps)
}

/// About the value of Student's t that lies where `z` lies in the standard normal distribution (Wallace 1959, inverted).
pub(super) fn t_at(z: f64, df: f64) -> f64 {
    let u = z * (8.0 * df + 3.0) / (8.0 * df + 1.0);
    (df * (u * u / df).exp_m1()).sqrt().copysign(z)
}

/// The probability that Student's t with `df` degrees of freedom, taken down to a whole number, is above `t`: the finite sums of
/// Abramowitz and Stegun 26.7.3 and 26.7.4.
pub(super) fn survival(t: f64, df: f64) -> f64 {
    if df >= MANY {
        let z = (8.0 * df + 1.0) / (8.0 * df + 3.0) * (df * (t * t / df).ln_1p()).sqrt().copysign(t);
        return Normal::new(0.0, 1.0).map_or(f64::NAN, |normal| normal.sf(z));
    }
    let whole = df.floor().max(1.0);
    // Of the angle with tangent t/√ν.
    let square = whole / (whole + t * t);
    let (sine, cosine) = (t / (whole + t * t).sqrt(), square.sqrt());
    let odd = whole % 2.0 == 1.0;
    // The sum of products of (k − 1)/k · cos², up to k = df − 2.
    let (mut term, mut sum) = (1.0, 1.0);
    let mut k = if odd { 3.0 } else { 2.0 };
    while k <= whole - 2.0 {
        term *= (k - 1.0) / k * square;
        sum += term;
        k += 2.0;
    }
    let within = if odd {
        let of_sum = if whole > 1.0 { sine * cosine * sum } else { 0.0 };
        2.0 / std::f64::consts::PI * ((t / whole.sqrt()).atan() + of_sum)
    } else {
        sine * sum
    };
    (1.0 - within) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::t_quantile;

    fn limit(common: (f64, f64), own: (f64, f64), count: f64, level: f64) -> f64 {
        let part = |(variance, df)| Group { variance, df };
        limit_together(part(common), part(own), count, level).unwrap()
    }

    #[test]
    fn limits_are_those_of_numerical_integration() {
        // scipy.integrate.quad over the largest own part, scipy.stats.t, brentq; SciPy 1.16.
        for (common, own, count, level, expected) in [
            ((1.0, 6.0), (1.0, 6.0), 1.0, 0.025, 3.444_918_6),
            ((0.5, 12.0), (0.5, 6.0), 1.0, 0.025, 2.301_338_2),
            ((1.0, 9.0), (1.0, 400.0), 100.0, 0.01, 5.525_927_2),
            ((0.05, 9.0), (1.0, 400.0), 100.0, 0.01, 3.871_262_4),
            ((1.0, 1.0), (1.0, 400.0), 20.0, 0.01, 33.703_149_8),
            ((0.05, 2.0), (1.0, 60.0), 20.0, 0.01, 3.987_829_2),
            ((4.0, 4.0), (1.0, 19.0), 8.0, 0.01, 9.142_684_8),
            ((1.0, 2.0), (0.01, 60.0), 20.0, 0.01, 7.156_223_2),
            ((0.3, 9.0), (1.0, 4000.0), 300.0, 0.00167, 5.354_392_3),
        ] {
            let found = limit(common, own, count, level);
            assert!((found / expected - 1.0).abs() < 0.002, "{common:?} {own:?} {count} {level}: {found}, {expected}");
        }
    }

    #[test]
    fn one_part_alone_is_student_s() {
        for df in [1.0, 2.0, 3.0, 4.0, 9.0, 39.0, 60.0] {
            let common = limit((1.0, df), (0.0, 10.0), 50.0, 0.001);
            assert!((common / t_quantile(0.999, df).unwrap() - 1.0).abs() < 1e-4, "{df}: {common}");
        }
        // Šidák's limit of independent errors, which a common part that is not there lengthens a little.
        for df in [5.0, 30.0, 1000.0] {
            let own = limit((0.0, 30.0), (1.0, df), 50.0, 0.01);
            let expected = t_quantile(0.99_f64.powf(1.0 / 50.0), df).unwrap();
            assert!((0.999..1.01).contains(&(own / expected)), "{df}: {own}, {expected}");
        }
    }

    #[test]
    fn what_says_nothing_has_no_limit() {
        let part = |variance, df| Group { variance, df };
        assert_eq!(limit_together(part(1.0, 0.0), part(1.0, 3.0), 5.0, 0.01), None);
        assert_eq!(limit_together(part(f64::NAN, 2.0), part(1.0, 3.0), 5.0, 0.01), None);
        assert_eq!(limit_together(part(1.0, 2.0), part(1.0, 3.0), 5.0, 0.5), None);
        assert_eq!(limit_together(part(0.0, 2.0), part(0.0, 3.0), 5.0, 0.01), Some(0.0));
    }
}
