//! Student's t: quantiles, the interval of a mean, and the degrees of freedom of a sum of variances.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Above this many degrees of freedom t and normal quantiles agree to better than 1e-6 at every level used here.
const NORMAL_FROM_DF: f64 = 1e6;

/// Quantile `p` of the standard normal distribution; `None` for `p` outside the open interval 0..1.
#[must_use]
pub fn normal_quantile(p: f64) -> Option<f64> {
    (p > 0.0 && p < 1.0).then(|| Normal::new(0.0, 1.0).ok().map(|normal| normal.inverse_cdf(p)))?
}

/// Quantile `p` of Student's t with `df` degrees of freedom, which need not be whole.
///
/// `None` where it does not exist: `df` not positive, `p` outside the open interval 0..1.
#[must_use]
pub fn t_quantile(p: f64, df: f64) -> Option<f64> {
    if !(p > 0.0 && p < 1.0 && df > 0.0) {
        return None;
    }
    if df > NORMAL_FROM_DF {
        return normal_quantile(p);
    }
    let quantile = StudentsT::new(0.0, 1.0, df).ok()?.inverse_cdf(p);
    quantile.is_finite().then_some(quantile)
}

/// Two-sided interval of a mean from its standard error: `(low, high)`.
#[must_use]
pub fn interval(mean: f64, standard_error: f64, df: f64, confidence: f64) -> Option<(f64, f64)> {
    let half = t_quantile(0.5 + confidence / 2.0, df)? * standard_error;
    Some((mean - half, mean + half))
}

/// Degrees of freedom of a sum of independent variance estimates, each given as `(variance, df)`
/// (Satterthwaite 1946, Welch 1947). `None` if nothing adds to the sum.
#[must_use]
pub fn welch_df(parts: &[(f64, f64)]) -> Option<f64> {
    let sum: f64 = parts.iter().map(|(variance, _)| variance).sum();
    let denominator: f64 =
        parts.iter().filter(|(variance, _)| *variance > 0.0).map(|(variance, df)| variance * variance / df).sum();
    (sum > 0.0 && denominator > 0.0).then(|| sum * sum / denominator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_printed_table() {
        // NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, upper critical values of Student's t.
        for (df, p, expected) in [
            (1.0, 0.975, 12.706),
            (2.0, 0.975, 4.303),
            (4.0, 0.995, 4.604),
            (10.0, 0.95, 1.812),
            (30.0, 0.999, 3.385),
            (100.0, 0.975, 1.984),
        ] {
            let found = t_quantile(p, df).unwrap();
            assert!((found - expected).abs() < 6e-4, "df {df}, p {p}: {found}");
            assert!((t_quantile(1.0 - p, df).unwrap() + expected).abs() < 6e-4);
        }
        assert!((t_quantile(0.975, 1e9).unwrap() - 1.959_964).abs() < 1e-6);
    }

    #[test]
    fn no_quantile_where_there_is_none() {
        for (p, df) in [(0.0, 3.0), (1.0, 3.0), (0.5, 0.0), (0.9, -1.0), (f64::NAN, 3.0), (0.9, f64::NAN)] {
            assert_eq!(t_quantile(p, df), None, "{p} {df}");
        }
    }

    #[test]
    fn the_handbook_s_interval_of_a_mean() {
        // NIST/SEMATECH e-Handbook 1.3.5.2, ZARR13.DAT: n = 195, mean 9.261460, sd 0.022789, 95 %: 9.258242 to 9.264679.
        let (low, high) = interval(9.261_460, 0.022_789 / 195_f64.sqrt(), 194.0, 0.95).unwrap();
        assert!((low - 9.258_242).abs() < 2e-6, "{low}");
        assert!((high - 9.264_679).abs() < 2e-6, "{high}");
    }

    #[test]
    fn the_handbook_s_two_samples_with_unequal_variances() {
        // NIST/SEMATECH e-Handbook 1.3.5.3, AUTO83B.DAT: sd 6.41 (n 249) and 6.11 (n 79): about 136.9 degrees of freedom.
        let df = welch_df(&[(6.414_700_f64.powi(2) / 249.0, 248.0), (6.107_710_f64.powi(2) / 79.0, 78.0)]).unwrap();
        assert!((df - 136.87).abs() < 0.1, "{df}");
    }
}
