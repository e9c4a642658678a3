//! Spread that borrows strength: variances of many small groups, each moderated towards what the groups have in common.
//!
//! The model is Smyth's (Statistical Applications in Genetics and Molecular Biology 3(1), 2004; the R package limma): true
//! variances scatter around s0² as s0²·d0/χ²(d0). Then s̃² = (d0·s0² + d·s²)/(d0 + d) has a t interval with d0 + d degrees
//! of freedom. Equal groups give d0 = ∞, which is the classical pooled variance; unlike ones give d0 → 0, each its own.

use statrs::distribution::{ContinuousCDF, FisherSnedecor, Normal};
use statrs::function::gamma::digamma;

/// A group's own variance and its degrees of freedom; 0 degrees of freedom if it has only one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Variance, n − 1 in the denominator; ignored when `df` is 0.
    pub variance: f64,
    /// Degrees of freedom, n − 1; need not be whole.
    pub df: f64,
}

/// The variance to use for a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Variance.
    pub variance: f64,
    /// Its degrees of freedom.
    pub df: f64,
    /// The group's own variance is far above the others': it was set aside and borrows nothing.
    pub alone: bool,
}

/// Level of the F test that sets a group aside, over all groups.
pub(super) const ALONE_LEVEL: f64 = 0.01;

/// The scatter of the true variances is taken this far up its sampling distribution (0.5 would be its plain estimate).
/// Overstating it only makes a group rely more on itself; understating it makes noisy groups look quiet.
const CAUTION: f64 = 0.8;

/// Groups whose common variance is surely worth fewer degrees of freedom are too unlike to lend: each relies on its own alone,
/// if that is worth as much. What
/// little they would gain, the noisy ones among them pay with limits that fail (4 groups from 0.25 to 2 %, 3 values each:
/// 2.1 % of runs with a false red where 1 % was promised, 0.7 % without lending).
const LEAST_WORTH: f64 = 4.0;

/// With fewer groups than this, likeness cannot be told from unlikeness: a group that looks quiet by chance would be believed
/// (simulated 95 % intervals of 5 equal groups of 3 held 92.7 % of the time). No variance is then taken under the pooled one.
const FEW: usize = 10;

/// Moderates the groups' variances; no variance is taken to be under `floor`. In the order of `groups`.
///
/// A group whose own variance exceeds the pooled variance of the others by an F test (1 % over all groups) is set aside and
/// uses its own. The degrees of freedom never exceed those of all groups together. `None` for a group without degrees of
/// freedom when fewer than two others have any: nothing says how far it may differ from them.
#[must_use]
pub fn moderate(groups: &[Group], floor: f64) -> Vec<Option<Spread>> {
    let usable = |group: &Group| group.df > 0.0 && group.variance.is_finite();
    let floored = |group: &Group| Group { variance: group.variance.max(floor), df: group.df };
    let mut pool: Vec<Group> = groups.iter().filter(|group| usable(group)).map(floored).collect();
    pool.sort_by(|a, b| a.variance.total_cmp(&b.variance));
    let ceiling = set_aside(&mut pool);
    let share = |caution: f64| chi_square_share(1.0 - caution, pool.len() as f64 - 1.0);
    let (prior, (_, at_most)) = (prior(&pool, share(CAUTION)), prior(&pool, share(1.0 - CAUTION)));
    let total: f64 = pool.iter().map(|group| group.df).sum();
    let borrow = |group: &Group| -> Option<Spread> {
        let own = if usable(group) { floored(group) } else { Group { variance: 0.0, df: 0.0 } };
        if own.df > 0.0 && own.variance > ceiling {
            return Some(Spread { variance: own.variance, df: own.df, alone: true });
        }
        if pool.len() < 2 {
            return (own.df > 0.0).then_some(Spread { variance: own.variance, df: own.df, alone: false });
        }
        if own.df >= LEAST_WORTH && at_most < LEAST_WORTH {
            return Some(Spread { variance: own.variance, df: own.df, alone: false });
        }
        let Group { variance, df } = posterior(prior, own, total);
        let variance = if pool.len() < FEW { variance.max(pooled(&pool)) } else { variance };
        (df > 0.0).then_some(Spread { variance: variance.max(floor), df, alone: false })
    };
    groups.iter().map(borrow).collect()
}

/// Takes groups off the noisy end of the sorted pool while the noisiest stands out; returns the largest variance that stays.
fn set_aside(pool: &mut Vec<Group>) -> f64 {
    let at_most = pool.len() / 3;
    let level = ALONE_LEVEL / pool.len().max(1) as f64;
    for _ in 0..at_most {
        let Some((noisiest, rest)) = pool.split_last() else { break };
        let df: f64 = rest.iter().map(|group| group.df).sum();
        let limit = FisherSnedecor::new(noisiest.df, df).map_or(f64::INFINITY, |f| f.inverse_cdf(1.0 - level));
        if noisiest.variance <= pooled(rest) * limit {
            break;
        }
        pool.pop();
    }
    pool.last().map_or(f64::INFINITY, |group| group.variance)
}

/// The classical pooled variance.
fn pooled(groups: &[Group]) -> f64 {
    let df: f64 = groups.iter().map(|group| group.df).sum();
    groups.iter().map(|group| group.df * group.variance).sum::<f64>() / df
}

/// A group's variance and degrees of freedom after borrowing from the common ones: s̃², and d0 + d, `total` at the most.
fn posterior((prior_variance, prior_df): (f64, f64), own: Group, total: f64) -> Group {
    let variance = if prior_df.is_infinite() {
        prior_variance
    } else {
        (prior_df * prior_variance + own.df * own.variance) / (prior_df + own.df)
    };
    Group { variance, df: (prior_df + own.df).min(total) }
}

/// The common variance s0² and how many degrees of freedom d0 it is worth (Smyth 2004, section 6.2). The scatter of the groups'
/// log variances is taken as it was seen, over `share`: 1 is the plain estimate.
fn prior(pool: &[Group], share: f64) -> (f64, f64) {
    let count = pool.len() as f64;
    if pool.len() < 2 {
        return (pooled(pool), 0.0);
    }
    let log_variance: Vec<f64> =
        pool.iter().map(|g| g.variance.ln() - digamma(g.df / 2.0) + (g.df / 2.0).ln()).collect();
    let centre = log_variance.iter().sum::<f64>() / count;
    let scatter = log_variance.iter().map(|value| (value - centre).powi(2)).sum::<f64>() / (count - 1.0);
    let by_chance = pool.iter().map(|group| trigamma(group.df / 2.0)).sum::<f64>() / count;
    let excess = scatter / share - by_chance;
    if excess <= 0.0 {
        return (pooled(pool), f64::INFINITY);
    }
    let half = inverse_trigamma(excess);
    let common = (centre + digamma(half) - half.ln()).exp();
    (common, 2.0 * half)
}

/// Quantile `p` of χ²(df)/df by Wilson and Hilferty (1931): within 2 % for the levels used here.
fn chi_square_share(p: f64, df: f64) -> f64 {
    let z = Normal::new(0.0, 1.0).map_or(0.0, |normal| normal.inverse_cdf(p));
    let c = 2.0 / (9.0 * df);
    (1.0 - c + z * c.sqrt()).max(0.05).powi(3)
}

/// The derivative of digamma: recurrence up to 6, then the asymptotic series (Abramowitz and Stegun 6.4.12).
fn trigamma(x: f64) -> f64 {
    let mut x = x;
    let mut sum = 0.0;
    while x < 6.0 {
        sum += 1.0 / (x * x);
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    sum + 1.0 / x
        + inverse / 2.0
        + inverse / x * (1.0 / 6.0 - inverse * (1.0 / 30.0 - inverse * (1.0 / 42.0 - inverse / 30.0)))
}

/// The x > 0 with trigamma(x) = y, by bisection on the log: trigamma falls strictly from ∞ to 0.
fn inverse_trigamma(y: f64) -> f64 {
    let (mut low, mut high) = (-20.0_f64, 20.0_f64);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if trigamma(middle.exp()) > y { low = middle } else { high = middle }
    }
    f64::midpoint(low, high).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigamma_has_its_known_values_and_is_inverted() {
        let pi2 = std::f64::consts::PI.powi(2);
        for (x, expected) in [(1.0, pi2 / 6.0), (0.5, pi2 / 2.0), (2.0, pi2 / 6.0 - 1.0), (4.0, 0.283_822_955_737_115)]
        {
            assert!((trigamma(x) - expected).abs() < 1e-9, "{x}");
            assert!((inverse_trigamma(expected) - x).abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn the_inverse_of_trigamma_is_limma_s() {
        // tests/limma-Tests.Rout.save of limma: trigammaInverse(c(1e-6, NA, 5, 1e6)).
        for (y, printed) in [(1e-6, 1e6), (5.0, 0.496_168_7), (1e6, 0.001_000_001)] {
            let found = inverse_trigamma(y);
            assert!((found / printed - 1.0).abs() < 1e-6, "{y}: {found}");
        }
    }

    #[test]
    fn five_genes_are_moderated_as_limma_prints_them() {
        // The same file, "Similar to Mette Langaas 19 May 2004": eBayes(fit2), five genes, of which one lacks two arrays.
        let sigma: [f64; 5] = [1.342_503_2, 0.464_715_5, 1.199_344_4, 0.942_856_9, 0.942_150_9];
        let groups: Vec<Group> = sigma
            .iter()
            .zip([6.0, 6.0, 6.0, 6.0, 4.0])
            .map(|(sigma, df)| Group { variance: sigma.powi(2), df })
            .collect();
        let (variance, df) = prior(&groups, 1.0);
        assert!((variance - 0.923_179).abs() < 1e-6 && (df - 9.306_153).abs() < 1e-5, "{variance}, {df}");
        let printed = [1.267_799_6, 0.645_949_9, 1.125_155_8, 0.909_772_7, 0.912_498_0];
        for (own, printed) in groups.iter().zip(printed) {
            let found = posterior((variance, df), *own, 28.0);
            assert!((found.variance - printed).abs() < 1e-6, "{found:?}, {printed}");
            assert!((found.df - own.df - 9.306_153).abs() < 1e-5, "{found:?}");
        }
        // Moderated t and its probability for the first gene: alpha − beta, mu + alpha, mu + beta.
        let first = posterior((variance, df), groups[0], 28.0);
        for (coefficient, unscaled, printed) in [
            (3.537_333, 0.816_496_6, 1.529_450e-3),
            (1.677_465, 0.577_350_3, 0.020_649_348_1),
            (-1.859_868, 0.577_350_3, 0.011_712_349_5),
        ] {
            let t = coefficient / (unscaled * first.variance.sqrt());
            let p = crate::stats::t_probability(t, first.df).unwrap();
            assert!((p / printed - 1.0).abs() < 1e-5, "{t}: {p}, {printed}");
        }
    }

    #[test]
    fn caution_only_makes_a_group_rely_more_on_itself() {
        let groups: Vec<Group> = [1.8, 0.2, 1.4, 0.9, 0.9, 1.1].map(|variance| Group { variance, df: 6.0 }).to_vec();
        let cautious = prior(&groups, chi_square_share(1.0 - CAUTION, 5.0)).1;
        assert!(cautious < prior(&groups, 1.0).1 && cautious > 0.0, "{cautious}");
    }

    #[test]
    fn equal_groups_are_pooled_and_df_add_up() {
        let spreads = moderate(&[Group { variance: 1e-4, df: 4.0 }; 10], 0.0);
        for spread in spreads {
            let spread = spread.unwrap();
            assert!((spread.variance - 1e-4).abs() < 1e-12);
            assert!((spread.df - 40.0).abs() < 1e-9);
        }
    }

    #[test]
    fn a_noisy_group_stands_alone_and_does_not_spoil_the_others() {
        let mut groups = vec![Group { variance: 1e-6, df: 4.0 }; 9];
        groups.push(Group { variance: 1e-2, df: 4.0 });
        let spreads = moderate(&groups, 0.0);
        assert_eq!(spreads[9], Some(Spread { variance: 1e-2, df: 4.0, alone: true }));
        assert!(spreads[0].unwrap().variance < 1.1e-6);
        assert!((spreads[0].unwrap().df - 36.0).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_known_is_none() {
        assert_eq!(moderate(&[], 0.0), vec![]);
        assert_eq!(moderate(&[Group { variance: f64::NAN, df: 0.0 }], 0.0), vec![None]);
        let own = Group { variance: 4e-4, df: 2.0 };
        let spreads = moderate(&[own, Group { variance: 0.0, df: 0.0 }], 0.0);
        assert_eq!(spreads, vec![Some(Spread { variance: 4e-4, df: 2.0, alone: false }), None]);
    }

    #[test]
    fn zero_variance_takes_the_floor() {
        let spreads = moderate(&[Group { variance: 0.0, df: 4.0 }; 3], 1e-8);
        assert!(spreads.iter().all(|spread| (spread.unwrap().variance - 1e-8).abs() < 1e-20), "{spreads:?}");
    }
}
