//! Descriptive statistics of one sample. `None` always means that the sample is too small or outside the function's domain.

/// Arithmetic mean; `None` of an empty sample.
#[must_use]
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Sample standard deviation with n − 1 in the denominator; `None` of fewer than two values.
///
/// Computed in two passes around the mean, which loses no digits when the spread is small against the mean.
#[must_use]
pub fn sd(values: &[f64]) -> Option<f64> {
    let centre = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// Quantile `p` in 0..=1 by linear interpolation of the order statistics (type 7 of Hyndman and Fan, 1996).
///
/// `None` of an empty sample, of one that holds NaN, and of `p` outside 0..=1.
#[must_use]
pub fn quantile(values: &[f64], p: f64) -> Option<f64> {
    if values.is_empty() || !(0.0..=1.0).contains(&p) || values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = p * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let share = position - below as f64;
    // Equal neighbours are returned as they are: ∞ − ∞ and rounding would otherwise change them.
    if sorted[below] == sorted[above] {
        return Some(sorted[below]);
    }
    Some(sorted[below] + share * (sorted[above] - sorted[below]))
}

/// Median.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// Median absolute deviation from `centre`, not scaled.
#[must_use]
pub fn mad(values: &[f64], centre: f64) -> Option<f64> {
    let deviations: Vec<f64> = values.iter().map(|value| (value - centre).abs()).collect();
    median(&deviations)
}

/// Natural logs; `None` unless every value is positive and finite.
#[must_use]
pub fn logs(values: &[f64]) -> Option<Vec<f64>> {
    values
        .iter()
        .all(|value| *value > 0.0 && value.is_finite())
        .then(|| values.iter().map(|value| value.ln()).collect())
}

/// Mean of the natural logs: the log of the geometric mean.
#[must_use]
pub fn log_mean(values: &[f64]) -> Option<f64> {
    mean(&logs(values)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_samples_have_no_estimate_rather_than_a_wrong_one() {
        assert_eq!(mean(&[]), None);
        assert_eq!(sd(&[1.0]), None);
        assert_eq!(median(&[]), None);
        assert_eq!(quantile(&[1.0, f64::NAN], 0.5), None);
        assert_eq!(quantile(&[1.0], 1.5), None);
        assert_eq!(logs(&[1.0, 0.0]), None);
        assert_eq!(log_mean(&[1.0, f64::INFINITY]), None);
    }

    #[test]
    fn quantiles_are_those_of_r_type_7() {
        // R: quantile(c(1, 2, 4, 8), c(0, .05, .5, .95, 1))
        let values = [8.0, 1.0, 4.0, 2.0];
        for (p, expected) in [(0.0, 1.0), (0.05, 1.15), (0.5, 3.0), (0.95, 7.4), (1.0, 8.0)] {
            let found = quantile(&values, p).unwrap();
            assert!((found - expected).abs() < 1e-12, "{p}: {found}");
        }
    }

    #[test]
    fn spread_survives_a_large_offset() {
        let offset: Vec<f64> = [1.0, 2.0, 3.0, 4.0].iter().map(|v| v + 1e9).collect();
        assert!((sd(&offset).unwrap() - 1.290_994_448_735_805_6).abs() < 1e-9);
        assert_eq!(mad(&[1.0, 1.0, 2.0, 2.0, 4.0, 6.0, 9.0], 2.0), Some(1.0));
    }
}
