//! The share of false discoveries among the smallest of many p values, for a ranking: what to look at first, not what fails a run.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Two-sided p value of a t statistic; `None` without degrees of freedom.
#[must_use]
pub fn t_probability(t: f64, df: f64) -> Option<f64> {
    let student = StudentsT::new(0.0, 1.0, df).ok()?;
    t.is_finite().then(|| 2.0 * student.sf(t.abs()))
}

/// Benjamini and Hochberg's (1995) adjusted p values, in the order given: rejecting all up to q keeps the expected share of false
/// ones among them at q.
#[must_use]
pub fn false_discovery_rates(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut rates = vec![1.0; p.len()];
    let mut least = 1.0_f64;
    for (rank, &index) in order.iter().enumerate().rev() {
        least = least.min(p[index] * p.len() as f64 / (rank + 1) as f64);
        rates[index] = least;
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifteen_p_values_of_benjamini_and_hochberg() {
        // Benjamini and Hochberg 1995, section 3.2 (thrombolysis): at 0.05 the four smallest are rejected, where Bonferroni
        // rejects three.
        let p = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
            0.7590, 1.0,
        ];
        let rates = false_discovery_rates(&p);
        assert_eq!(rates.iter().filter(|rate| **rate <= 0.05).count(), 4, "{rates:?}");
        assert_eq!(p.iter().filter(|p| **p <= 0.05 / 15.0).count(), 3);
        // p(4)·15/4, and the sixth and fifth share what the eighth allows: 0.0344·15/8.
        assert!((rates[3] - 0.035_625).abs() < 1e-12 && (rates[4] - 0.0201 * 3.0).abs() < 1e-12, "{rates:?}");
        let mut turned = p;
        turned.reverse();
        let mut back = false_discovery_rates(&turned);
        back.reverse();
        assert_eq!(back, rates);
        assert!(false_discovery_rates(&[]).is_empty());
    }

    #[test]
    fn probabilities_are_those_of_the_printed_table() {
        // NIST/SEMATECH e-Handbook, 1.3.6.7.2: 2.228 at 10 degrees of freedom is the upper 0.025.
        assert!((t_probability(2.228, 10.0).unwrap() - 0.05).abs() < 1e-4);
        assert!((t_probability(-2.228, 10.0).unwrap() - 0.05).abs() < 1e-4);
        assert_eq!((t_probability(1.0, 0.0), t_probability(f64::NAN, 3.0)), (None, None));
    }
}
