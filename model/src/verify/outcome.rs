//! What one step came to, and how far apart two outcomes are.

use rayon::prelude::*;

use crate::plan::MAX_SQNR_DB;
use crate::verify::casts::CastCounts;

/// Values that one thread adds up at a time.
const CHUNK: usize = 1 << 16;

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
    let sums = reference.par_chunks(CHUNK).zip(found.par_chunks(CHUNK)).map(|(reference, found)| {
        let pairs = reference.iter().zip(found);
        pairs.fold((0.0, 0.0), |(signal, noise), (x, y)| {
            (signal + square(f64::from(*x)), noise + square(f64::from(*x) - f64::from(*y)))
        })
    });
    // Added in order: the same on any number of threads.
    let sums: Vec<(f64, f64)> = sums.collect();
    let (signal, noise) = sums.iter().fold((0.0, 0.0), |(a, b), (signal, noise)| (a + signal, b + noise));
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

/// What a fused matrix holds, from its first row to its last. A gradient is judged by each: values dominate the gradient of
/// a fused QKV, and queries and keys could be all wrong without the whole showing it.
fn parts(parameter: &str) -> &'static [&'static str] {
    match parameter.rsplit_once('.').map_or(parameter, |(matrix, _)| matrix).rsplit('.').next() {
        Some("qkv") => &[" (queries)", " (keys)", " (values)"],
        Some("gate_up") => &[" (gate)", " (up)"],
        _ => &[""],
    }
}

/// [`sqnrs`], fused matrices by what they hold.
#[must_use]
pub(super) fn sqnrs_by_part(reference: &Outcome, found: &Outcome) -> Vec<(String, f64)> {
    let mut ratios = Vec::new();
    for ((name, x), (_, y)) in reference.gradients.iter().zip(&found.gradients) {
        let parts = parts(name);
        let rows = (x.len() / parts.len()).max(1);
        let chunks = x.chunks(rows).zip(y.chunks(rows));
        ratios.extend(parts.iter().zip(chunks).map(|(part, (x, y))| (format!("{name}{part}"), sqnr_db(x, y))));
    }
    ratios
}

/// The parameter with the lowest SQNR, and that.
#[must_use]
pub fn worst_sqnr(reference: &Outcome, found: &Outcome) -> (String, f64) {
    let ratios = sqnrs(reference, found).into_iter();
    ratios.min_by(|one, two| one.1.total_cmp(&two.1)).unwrap_or((String::new(), MAX_SQNR_DB))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fused_matrices_are_judged_by_what_they_hold() {
        let outcome = |values: [f32; 6]| {
            let gradients = ["b0.qkv.w", "b0.gate_up.w", "norm.w"].map(|name| (name.to_owned(), values.to_vec()));
            Outcome { gradients: gradients.into(), loss: 0.0, grad_norm: 0.0, casts: CastCounts::default() }
        };
        let (one, two) = (outcome([1.0, 1.0, 10.0, 10.0, 100.0, 100.0]), outcome([1.0, 0.0, 10.0, 10.0, 100.0, 100.0]));
        let found = sqnrs_by_part(&one, &two);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "b0.qkv.w (queries)",
            "b0.qkv.w (keys)",
            "b0.qkv.w (values)",
            "b0.gate_up.w (gate)",
            "b0.gate_up.w (up)",
            "norm.w",
        ];
        assert_eq!(names, expected);
        assert!((found[0].1 - 3.0103).abs() < 1e-3 && found[1].1 == MAX_SQNR_DB && found[4].1 == MAX_SQNR_DB);
        assert!(found[5].1 > 40.0, "the whole hides it");
    }

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
