//! How far the observations of many small groups are from normal, and what that does to the interval of a mean: skewness and
//! excess kurtosis from unbiased cumulants, quantiles by Cornish and Fisher (1937) and by Student's t.

use super::student::{normal_quantile, t_quantile};

/// Skewness and excess kurtosis; both 0 for a normal distribution.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shape {
    /// Third cumulant over the standard deviation cubed.
    pub skewness: f64,
    /// Fourth cumulant over the variance squared.
    pub kurtosis: f64,
}

/// A shape is believed from so many standard errors on: one that is there by chance would only widen intervals.
const BELIEVED: f64 = 4.0;

/// Beyond this skewness the expansion is no longer a quantile.
const MOST_SKEWNESS: f64 = 1.0;

/// A kurtosis below this is none: Student's t of so many degrees of freedom is normal.
const LEAST_KURTOSIS: f64 = 1e-4;

/// The common shape of the observations in `series[series][group]`: each series has its own variance, each group its own mean.
///
/// Fisher's k-statistics are unbiased in groups of any size from 3 (skewness) and 4 (kurtosis). Only what stands
/// `BELIEVED` standard errors clear of a normal distribution is returned, else 0; kurtosis is never negative.
#[must_use]
pub fn common_shape(series: &[Vec<&[f64]>], variances: &[f64]) -> Shape {
    let (mut third, mut fourth) = (Sum::default(), Sum::default());
    for (groups, variance) in series.iter().zip(variances).filter(|(_, variance)| **variance > 0.0) {
        for group in groups {
            let n = group.len() as f64;
            let mean = group.iter().sum::<f64>() / n;
            let power = |p: i32| group.iter().map(|value| (value - mean).powi(p)).sum::<f64>();
            if n >= 3.0 {
                third.add(
                    n / ((n - 1.0) * (n - 2.0)) * power(3) / variance.powf(1.5),
                    6.0 * n / ((n - 1.0) * (n - 2.0)),
                );
            }
            if n >= 4.0 {
                let factor = n / ((n - 1.0) * (n - 2.0) * (n - 3.0));
                let k4 = factor * ((n + 1.0) * power(4) - 3.0 * (n - 1.0) / n * power(2).powi(2));
                fourth.add(k4 / variance.powi(2), 24.0 * (n + 1.0) * factor);
            }
        }
    }
    Shape { skewness: third.believed(), kurtosis: fourth.believed().max(0.0) }
}

/// A mean of estimates with the variance that each would have under a normal distribution.
#[derive(Default)]
struct Sum {
    value: f64,
    variance: f64,
    count: f64,
}

impl Sum {
    fn add(&mut self, value: f64, variance: f64) {
        self.value += value;
        self.variance += variance;
        self.count += 1.0;
    }

    fn believed(&self) -> f64 {
        if self.value.is_finite() && self.value.abs() > BELIEVED * self.variance.sqrt() {
            self.value / self.count
        } else {
            0.0
        }
    }
}

/// How many standard deviations further the lower and the upper quantile lie than those of a normal distribution, at its
/// quantiles 1 − `p` and `p` (above one half); never negative, since an interval is not narrowed for what a sample suggests of its
/// tails. For the same reason the expansion's term in the square of skewness is left out: beyond z = 1.6 it only draws both ends in.
///
/// Skewness goes by the expansion of Cornish and Fisher (1937). Kurtosis goes by the quantile of the Student's t that has it, in units
/// of its standard deviation (Pearson's type VII): the expansion, whose first terms it shares, has no use for a kurtosis above
/// a half. `None` where `p` is no probability.
#[must_use]
pub fn further(shape: Shape, p: f64) -> Option<(f64, f64)> {
    let z = normal_quantile(p)?;
    let skewness = shape.skewness.clamp(-MOST_SKEWNESS, MOST_SKEWNESS);
    let lean = (z * z - 1.0) * skewness / 6.0;
    let tails = if shape.kurtosis > LEAST_KURTOSIS {
        // Its excess kurtosis is 6/(df − 4), its variance df/(df − 2).
        let df = 4.0 + 6.0 / shape.kurtosis;
        t_quantile(p, df)? * ((df - 2.0) / df).sqrt() - z
    } else {
        0.0
    };
    Some(((tails - lean).max(0.0), (tails + lean).max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_statistics_are_those_of_a_worked_sample() {
        // 0, 0, 0, 0, 5: Σd³ = 4³ − 4 = 60, Σd⁴ = 4⁴ + 4 = 260, Σd² = 20; k3 = 5/12·60 = 25, k4 = 5/24·(6·260 − 2.4·400) = 125.
        let group: &[f64] = &[0.0, 0.0, 0.0, 0.0, 5.0];
        let shape = common_shape(&vec![vec![group]; 100], &[5.0; 100]);
        assert!((shape.skewness - 25.0 / 5.0_f64.powf(1.5)).abs() < 1e-12, "{shape:?}");
        assert!((shape.kurtosis - 5.0).abs() < 1e-12, "{shape:?}");
    }

    #[test]
    fn a_shape_that_chance_may_have_made_is_none() {
        let group: &[f64] = &[0.0, 0.0, 0.0, 0.0, 5.0];
        assert_eq!(common_shape(&[vec![group]], &[5.0]), Shape::default());
        assert_eq!(common_shape(&[], &[]), Shape::default());
    }

    #[test]
    fn the_term_of_skewness_is_that_which_another_library_prints() {
        // cornishFisherInvCDF of mir-stat, as documented: 0.99 with skewness 0.1 gives 2.396116, and 0.01 gives −2.249053. Half
        // the sum is the term of skewness, since the squared one is odd.
        let (low, high) = further(Shape { skewness: 0.1, kurtosis: 0.0 }, 0.99).unwrap();
        assert!((high - f64::midpoint(2.396_116, -2.249_053)).abs() < 2e-6, "{high}");
        assert_eq!(low, 0.0, "a short tail narrows nothing");
    }

    #[test]
    fn a_little_kurtosis_is_the_expansion_s_term_and_much_of_it_is_a_t() {
        let tails = |kurtosis: f64, p: f64| {
            let (low, high) = further(Shape { skewness: 0.0, kurtosis }, p).unwrap();
            assert_eq!(low, high);
            high
        };
        let z = 2.326_348_f64;
        assert!((tails(0.01, 0.99) / ((z.powi(3) - 3.0 * z) * 0.01 / 24.0) - 1.0).abs() < 0.01);
        // Kurtosis 1.2 is that of 9 degrees of freedom: NIST/SEMATECH e-Handbook 1.3.6.7.2 gives 4.297 at 0.999, normal 3.090.
        assert!((tails(1.2, 0.999) - (4.297 * (7.0_f64 / 9.0).sqrt() - 3.090)).abs() < 1e-3);
        // However much there is, a quantile is left: that of 4 degrees of freedom, 7.173.
        assert!((tails(1e6, 0.999) - (7.173 / 2.0_f64.sqrt() - 3.090)).abs() < 1e-3);
        assert_eq!(further(Shape::default(), 1.0), None);
    }

    #[test]
    fn quantiles_of_chi_square_are_those_of_the_printed_table_and_never_within() {
        // NIST/SEMATECH e-Handbook 1.3.6.7.4: 0.001 and 0.999 of χ², whose skewness is √(8/df) and kurtosis 12/df.
        let z = 3.090_232_f64;
        for (df, lower, upper) in [(40.0_f64, 17.916, 73.402), (100.0, 61.918, 149.449)] {
            let sd = (2.0 * df).sqrt();
            let shape = Shape { skewness: (8.0 / df).sqrt(), kurtosis: 12.0 / df };
            let (low, high) = further(shape, 0.999).unwrap();
            // The term that is left out draws both ends in: (2z³ − 5z)·skewness²/36.
            let inwards = (2.0 * z.powi(3) - 5.0 * z) * shape.skewness.powi(2) / 36.0;
            assert!((df + sd * (z + high - inwards) - upper).abs() < 6e-3 * upper, "{df}");
            assert!(df + sd * (z + high) > upper && df - sd * (z + low) < lower, "{df}");
            assert_eq!(low, 0.0, "a short tail narrows nothing");
        }
    }
}
