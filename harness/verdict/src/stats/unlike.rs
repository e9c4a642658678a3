//! The level at which errors of unlike own scatter are judged, each as if all were like it, so that any of them passes its limit
//! with the chance that was promised and no more.
//!
//! [`limit_together`] counts on as many errors of one own scatter as there are errors. Where all share a shift that is larger than
//! the scatter of some and smaller than that of others, the two kinds pass their limits on different occasions and the chances
//! add up. Given the shift errors are independent, so that the chance of any is 1 − Π (1 − each one's), averaged over the shift;
//! the level of each is lowered until that comes to the level of all.
//!
//! Equal marginal chances (Beran 1988, balanced confidence sets) would be the other way to share the level. They are not taken: an
//! error that is nearly all shift would pay for the many that are not, though it adds only one chance to be wrong.

use std::collections::BTreeMap;

use super::moderate::Group;
use super::together::{limit_together, survival, t_at};

/// Errors count as alike whose own standard deviations are within about this share, and their degrees of freedom within twice it.
const ALIKE: f64 = 0.125;
/// Own standard deviations over the common one: under and over these, limits no longer depend on the ratio.
const RATIOS: (f64, f64) = (0.1, 10.0);
/// Steps of the sum over the common part, in standard normal units, and where it begins and ends.
const STEP: f64 = 0.0625;
const FROM: f64 = -3.0;
const TO: f64 = 6.0;
/// How near, as a share of the level, the chance of any comes to it.
const CLOSE: f64 = 0.005;
/// Tries at the level; two or three are the rule, for the chance of any is nearly proportional to the level of each.
const MOST_TRIES: usize = 8;

/// Errors that are alike: what is their own, and how many they are.
struct Class {
    own: Group,
    count: f64,
}

/// Which share of `level`, 0 to 1, each error must be judged at: with that share of it in [`limit_together`], each by its own part
/// and the number of all, any of them passes its limit with probability `level`, on one side.
///
/// `common` is what all have in common and `own[error]` what is each one's own, as in [`limit_together`]. 1 where all are alike,
/// and where that cannot be told. The share hardly depends on the level.
#[must_use]
pub fn share_of_level(common: Group, own: &[Group], level: f64) -> f64 {
    let classes = classes(common, own);
    if classes.len() < 2 {
        return 1.0;
    }
    let steps = steps_of_common(common.df);
    let count = own.len() as f64;
    let mut share = 1.0;
    for _ in 0..MOST_TRIES {
        let limits: Option<Vec<f64>> =
            classes.iter().map(|class| limit_together(common, class.own, count, share * level)).collect();
        let Some(limits) = limits else { return 1.0 };
        let ratio = any(common, &steps, &classes, &limits) / level;
        if !(ratio.is_finite() && ratio > 0.0) {
            return 1.0;
        }
        share = (share / ratio).min(1.0);
        if (ratio - 1.0).abs() < CLOSE || (share == 1.0 && ratio <= 1.0) {
            break;
        }
    }
    share
}

/// The chance that any error passes the limit of its class.
fn any(common: Group, steps: &[(f64, f64)], classes: &[Class], limits: &[f64]) -> f64 {
    let common_sd = common.variance.sqrt();
    let given = |t: f64| -> f64 {
        let none = |(class, limit): (&Class, &f64)| {
            class.count * (-survival((limit - common_sd * t) / class.own.variance.sqrt(), class.own.df)).ln_1p()
        };
        -classes.iter().zip(limits).map(none).sum::<f64>().exp_m1()
    };
    steps.iter().map(|(t, chance)| chance * given(*t)).sum()
}

/// Values of a t-distributed variable with their probabilities; what lies beyond the ends stands there.
fn steps_of_common(df: f64) -> Vec<(f64, f64)> {
    let count = ((TO - FROM) / STEP) as usize;
    let (mut steps, mut left) = (Vec::with_capacity(count + 1), 1.0);
    for step in 0..count {
        let z = FROM + STEP * step as f64;
        let rest = survival(t_at(z + STEP / 2.0, df), df);
        steps.push((t_at(z, df), left - rest));
        left = rest;
    }
    steps.push((t_at(TO, df), left));
    steps
}

/// The errors by what is their own, each class with the mean of its logs.
fn classes(common: Group, own: &[Group]) -> Vec<Class> {
    let mut sums: BTreeMap<(i64, i64), (f64, f64, f64)> = BTreeMap::new();
    for part in own {
        let ratio = (part.variance / common.variance).sqrt();
        if !(ratio.is_finite() && part.df > 0.0) {
            return Vec::new();
        }
        let (log_ratio, log_df) = (ratio.clamp(RATIOS.0, RATIOS.1).ln(), part.df.ln());
        let place = |log: f64, width: f64| (log / width).round() as i64;
        let sum = sums.entry((place(log_ratio, ALIKE), place(log_df, 2.0 * ALIKE))).or_default();
        *sum = (sum.0 + log_ratio, sum.1 + log_df, sum.2 + 1.0);
    }
    let class = |(log_ratio, log_df, count): (f64, f64, f64)| {
        let variance = common.variance * (2.0 * log_ratio / count).exp();
        Class { own: Group { variance, df: (log_df / count).exp() }, count }
    };
    sums.into_values().map(class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::random::Random;

    const KNOWN: f64 = 1e5;

    /// Beside a common part of 1, known as the others are: half of the errors scatter by `low`, the others by `high`.
    fn two_kinds(low: f64, high: f64) -> (Group, Vec<Group>) {
        let own = |i: usize| Group { variance: if i < 50 { low } else { high }.powi(2), df: KNOWN };
        (Group { variance: 1.0, df: KNOWN }, (0..100).map(own).collect())
    }

    /// In which share of simulated trials any error passes its limit.
    fn any_passes((common, own): &(Group, Vec<Group>), share: f64, level: f64) -> f64 {
        let (trials, mut random) = (20_000, Random::seeded(31));
        let limit = |part: &Group| limit_together(*common, *part, own.len() as f64, share * level).unwrap();
        let limits: Vec<f64> = own.iter().map(limit).collect();
        let passed = |_: &i32| {
            let shift = common.variance.sqrt() * random.normal();
            own.iter().zip(&limits).fold(false, |any, (part, limit)| {
                let error = shift + part.variance.sqrt() * random.normal();
                any || error > *limit
            })
        };
        (0..trials).filter(passed).count() as f64 / f64::from(trials)
    }

    #[test]
    fn any_of_unlike_errors_passes_its_limit_as_often_as_promised() {
        // Standard error of the simulation: 0.15 %.
        for kinds in [two_kinds(0.1, 5.0), two_kinds(0.3, 2.0)] {
            let share = share_of_level(kinds.0, &kinds.1, 0.05);
            let (shared_out, each_for_all) = (any_passes(&kinds, share, 0.05), any_passes(&kinds, 1.0, 0.05));
            assert!((0.045..0.055).contains(&shared_out), "{share}: {shared_out}");
            assert!(each_for_all > 0.056, "{each_for_all}");
        }
    }

    #[test]
    fn errors_that_are_alike_have_the_whole_level() {
        let (common, own) = two_kinds(0.7, 0.7);
        assert_eq!(share_of_level(common, &own, 0.01), 1.0);
        // Nothing in common: chances of unlike errors add up to the level as they are.
        let (_, own) = two_kinds(0.1, 5.0);
        let share = share_of_level(Group { variance: 0.0, df: 9.0 }, &own, 0.01);
        assert_eq!(share, 1.0);
        let share = share_of_level(Group { variance: 1e-12, df: 9.0 }, &own, 0.01);
        assert!(share > 0.98, "{share}");
        assert_eq!(share_of_level(common, &[], 0.01), 1.0);
    }

    #[test]
    fn the_share_hardly_depends_on_the_level() {
        let (common, own) = two_kinds(0.1, 5.0);
        let common = Group { df: 9.0, ..common };
        let usual = share_of_level(common, &own, 0.01);
        for level in [0.0005, 0.002, 0.02, 0.05] {
            let share = share_of_level(common, &own, level);
            assert!((share / usual - 1.0).abs() < 0.04, "{level}: {share}, {usual}");
        }
    }
}
