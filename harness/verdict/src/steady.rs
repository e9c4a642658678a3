//! The end of warm-up, decided while steps arrive: a streaming rule that knows durations and nothing else.
//!
//! Rule: over three consecutive windows of 8 steps, the range of the windows' medians stays within a tolerance; the first step
//! that counts is the first of the second window (the first window is evidence only). The tolerance is the larger of 0.5 % of
//! the median and what three medians of steady noise stay within 95 % of the time: q(0.05; 3, ∞) = 3.31 (Tukey's studentised
//! range) times the standard error of a median, 1.2533·s/√8, with s = 1.4826·MAD around each window's own median.
//!
//! Why this one. A fixed number of steps is wrong for most programs, and some never become steady (Barrett et al., *Virtual
//! machine warmup blows hot and cold*, OOPSLA 2017), but their changepoints need the whole series. MSER-5 truncation (White,
//! 1997) minimises an error over a finished series too. A coefficient of variation under 1–2 % in a window (Georges, Buytaert
//! and Eeckhout, OOPSLA 2007) streams, but never ends on noisy steps and accepts slow drift, as Kalibera and Jones (*Rigorous
//! benchmarking in reasonable time*, ISMM 2013) criticise. Comparing windows asks for no absolute quietness: drift of b a step
//! moves the medians by 16·b while it widens the tolerance by 4.3·b only. Medians pass over single outliers, and windows of
//! even length give a clock that flips between two states every step the same median each time.

use crate::stats;

/// Steps of a window, unless the limit leaves no room for three.
const WINDOW: usize = 8;
/// Medians that differ by less than this share are equal.
const EQUAL_SHARE: f64 = 0.005;
/// 95 % point of the studentised range of 3 normal values with known variance.
const RANGE_OF_THREE: f64 = 3.314;
/// Standard error of a median over that of a mean, of normal values.
const MEDIAN_ERROR: f64 = 1.2533;
/// Makes the median absolute deviation of normal values their standard deviation.
const MAD_TO_SD: f64 = 1.4826;

/// Watches the durations of a worker's steps until they are steady or the limit is reached.
#[derive(Debug, Clone)]
pub struct Warmup {
    durations: Vec<f64>,
    window: usize,
    limit: usize,
    fixed: bool,
    steady: Option<usize>,
}

impl Warmup {
    /// Looks for a steady state within the first `limit` steps.
    ///
    /// Under 24 steps the windows shrink so that three fit, down to 2 steps each; a limit under 6 is taken as 6.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(6);
        // Even, so that two alternating states have the same median in every window.
        let window = (limit / 3).min(WINDOW) / 2 * 2;
        Self { durations: Vec::new(), window, limit, fixed: false, steady: None }
    }

    /// Takes a number of steps that the user has chosen: steady by declaration.
    #[must_use]
    pub fn fixed(steps: usize) -> Self {
        Self { durations: Vec::new(), window: WINDOW, limit: steps, fixed: true, steady: Some(steps) }
    }

    /// Adds the next step's duration, ns. Once decided, nothing changes any more.
    pub fn push(&mut self, gpu_ns: u64) {
        if self.steady.is_some() || self.gave_up() {
            return;
        }
        self.durations.push(gpu_ns as f64);
        let needed = 3 * self.window;
        if self.durations.len() >= needed {
            let start = self.durations.len() - needed;
            if is_steady(&self.durations[start..], self.window) {
                self.steady = Some(start + self.window);
            }
        }
    }

    /// The first step that counts, once known. It may lie before the last step pushed: those steps count.
    #[must_use]
    pub fn steady(&self) -> Option<usize> {
        self.steady
    }

    /// Whether the limit was reached without a steady state; steps from the limit on count then, and the round is not steady.
    #[must_use]
    pub fn gave_up(&self) -> bool {
        !self.fixed && self.steady.is_none() && self.durations.len() >= self.limit
    }

    /// The first step that counts, whichever way it was decided; `None` while it is not.
    #[must_use]
    pub fn first_counted(&self) -> Option<usize> {
        self.steady.or(self.gave_up().then_some(self.limit))
    }
}

/// Whether three windows agree; `durations` holds exactly three.
fn is_steady(durations: &[f64], window: usize) -> bool {
    let medians: Vec<f64> = durations.chunks(window).filter_map(stats::median).collect();
    let deviations: Vec<f64> = durations
        .chunks(window)
        .zip(&medians)
        .flat_map(|(chunk, median)| chunk.iter().map(move |duration| duration - median))
        .collect();
    let (Some(spread), Some(centre)) = (stats::mad(&deviations, 0.0), stats::median(&medians)) else { return false };
    let lowest = medians.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = medians.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let error = MEDIAN_ERROR * MAD_TO_SD * spread / (window as f64).sqrt();
    highest - lowest <= (EQUAL_SHARE * centre).max(RANGE_OF_THREE * error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::random::Random;

    const MS: f64 = 1e6;

    fn watch(limit: usize, stream: impl Iterator<Item = f64>) -> Warmup {
        let mut warmup = Warmup::new(limit);
        for duration in stream.take(limit + 10) {
            warmup.push(duration as u64);
        }
        warmup
    }

    fn steps(shape: impl Fn(usize) -> f64) -> impl Iterator<Item = f64> {
        (0..).map(move |step| shape(step) * 10.0 * MS)
    }

    #[test]
    fn a_steady_stream_counts_from_its_second_window() {
        let warmup = watch(200, steps(|_| 1.0));
        assert_eq!((warmup.steady(), warmup.gave_up()), (Some(8), false));
    }

    #[test]
    fn a_settling_stream_counts_once_it_has_settled() {
        // +50 % falling with a time constant of 10 steps: within 0.5 % from step 46 on.
        let steady = watch(200, steps(|step| 1.0 + 0.5 * (-(step as f64) / 10.0).exp())).steady().unwrap();
        assert!((36..=60).contains(&steady), "{steady}");
    }

    #[test]
    fn a_drop_after_20_steps_is_not_missed() {
        let steady = watch(200, steps(|step| if step < 20 { 1.3 } else { 1.0 })).steady().unwrap();
        assert!((20..=30).contains(&steady), "{steady}");
    }

    #[test]
    fn slow_first_steps_never_count() {
        let steady = watch(200, steps(|step| if step < 3 { 4.0 } else { 1.0 })).steady().unwrap();
        assert!(steady >= 3, "{steady}");
    }

    #[test]
    fn drift_is_never_steady() {
        let warmup = watch(100, steps(|step| 1.0 + 0.002 * step as f64));
        assert_eq!((warmup.steady(), warmup.gave_up(), warmup.first_counted()), (None, true, Some(100)));
    }

    #[test]
    fn two_alternating_states_are_a_steady_state() {
        let warmup = watch(200, steps(|step| if step % 2 == 0 { 1.0 } else { 1.1 }));
        assert_eq!(warmup.steady(), Some(8));
    }

    #[test]
    fn noise_delays_seldom_and_outliers_do_not() {
        let mut random = Random::seeded(11);
        let (mut within, streams) = (0, 400);
        for _ in 0..streams {
            let noise: Vec<f64> = (0..100).map(|_| 10.0 * MS * (1.0 + 0.05 * random.normal())).collect();
            within += usize::from(watch(90, noise.into_iter()).steady().is_some_and(|step| step <= 16));
        }
        assert!(within > streams * 9 / 10, "{within} of {streams}");
        let outliers = watch(200, steps(|step| if step % 9 == 4 { 30.0 } else { 1.0 }));
        assert_eq!(outliers.steady(), Some(8));
    }

    #[test]
    fn short_limits_and_chosen_numbers_work() {
        assert_eq!(watch(6, steps(|_| 1.0)).steady(), Some(2));
        assert_eq!(watch(0, steps(|_| 1.0)).steady(), Some(2));
        assert!(watch(12, steps(|step| 1.5_f64.powi(step as i32))).gave_up());
        assert_eq!(Warmup::fixed(5).first_counted(), Some(5));
        assert!(!Warmup::fixed(0).gave_up());
        let zeros = watch(30, std::iter::repeat(0.0));
        assert_eq!(zeros.steady(), Some(8));
    }
}
