//! What one step came to, and how far apart two outcomes are.

use crate::plan::MAX_SQNR_DB;
use crate::verify::casts::CastCounts;

/// One step's outcome: the gradient of every parameter, loss, gradient norm.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Name and gradient of each parameter.
    pub gradients: Vec<(String, Vec<f32>)>,
    /// Mean loss, nats.
    pub loss: f64,
    /// Norm of all gradients.
    pub grad_norm: f64,
    /// What casts lost, where they were counted.
    pub casts: CastCounts,
}

/// Signal to quantisation-noise ratio of `found` against `reference`, dB: 20·log10 ‖x‖/‖x−y‖, at most [`MAX_SQNR_DB`];
/// NaN counts as all noise.
#[must_use]
pub fn sqnr_db(reference: &[f32], found: &[f32]) -> f64 {
    let square = |value: f64| value * value;
    let signal: f64 = reference.iter().map(|x| square(f64::from(*x))).sum();
    let noise: f64 = reference.iter().zip(found).map(|(x, y)| square(f64::from(*x) - f64::from(*y))).sum();
    if noise == 0.0 {
        return MAX_SQNR_DB;
    }
    let ratio = 10.0 * (signal / noise).log10();
    if ratio.is_nan() { -MAX_SQNR_DB } else { ratio.clamp(-MAX_SQNR_DB, MAX_SQNR_DB) }
}

/// The SQNR of every parameter's gradient, dB.
#[must_use]
pub fn sqnrs(reference: &Outcome, found: &Outcome) -> Vec<(String, f64)> {
    let pairs = reference.gradients.iter().zip(&found.gradients);
    pairs.map(|((name, x), (_, y))| (name.clone(), sqnr_db(x, y))).collect()
}

/// The parameter with the lowest SQNR, and that.
#[must_use]
pub fn worst_sqnr(reference: &Outcome, found: &Outcome) -> (String, f64) {
    lowest(sqnrs(reference, found))
}

/// The lowest of some ratios.
pub(super) fn lowest(ratios: Vec<(String, f64)>) -> (String, f64) {
    ratios.into_iter().min_by(|one, two| one.1.total_cmp(&two.1)).unwrap_or((String::new(), MAX_SQNR_DB))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqnr_of_hand_worked_cases() {
        // ‖x‖ = 5, ‖x − y‖ = 0.5: a factor of 10 is 20 dB.
        assert!((sqnr_db(&[3.0, 4.0], &[3.0, 4.5]) - 20.0).abs() < 1e-9);
        assert_eq!(sqnr_db(&[3.0, 4.0], &[3.0, 4.0]), MAX_SQNR_DB);
        assert_eq!(sqnr_db(&[0.0], &[0.0]), MAX_SQNR_DB);
        assert_eq!(sqnr_db(&[0.0], &[1.0]), -MAX_SQNR_DB);
        assert_eq!(sqnr_db(&[1.0], &[f32::NAN]), -MAX_SQNR_DB);
    }
}
