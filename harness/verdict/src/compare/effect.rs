//! What a change from the reference runs to this run is, with what is known of its error: standard error, interval, and how both
//! would be with more rounds. How it is estimated stands in [`super::estimate`]. No policy here.

use crate::stats::{self, Group, Shape};

/// On which scale a change is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Differences of natural logs; every value is positive.
    Log,
    /// Differences over the absolute mean of the reference, where a value is zero or negative.
    Relative,
}

impl Scale {
    /// A difference on this scale as a relative change, run over reference − 1.
    #[must_use]
    pub fn relative(self, difference: f64) -> f64 {
        match self {
            Self::Log => difference.exp_m1(),
            Self::Relative => difference,
        }
    }

    /// A relative change as a difference on this scale.
    #[must_use]
    pub fn difference(self, relative: f64) -> f64 {
        match self {
            Self::Log => relative.ln_1p(),
            Self::Relative => relative,
        }
    }
}

/// A change and what is known of its error.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// The scale of `difference` and the variances.
    pub scale: Scale,
    /// This run minus the reference, without what is the machine's.
    pub difference: f64,
    /// What was taken out of the difference because the canary explains it; `None` where no canary was compared.
    pub machine: Option<f64>,
    /// Its variance: how far the speed follows the canary is not known exactly. Part of `fixed_variance`.
    pub machine_variance: f64,
    /// Variance between rounds of one run, σ²; `None` if nothing tells (one round a run).
    pub round_variance: Option<f64>,
    /// Degrees of freedom of that.
    pub round_df: f64,
    /// The part of the variance of `difference` that more rounds of this run do not lower.
    pub fixed_variance: f64,
    /// Degrees of freedom of the standard error (Satterthwaite's, where it has parts).
    pub df: f64,
    /// The part of the error that all cells share, where the reference runs tell it from what is the cell's own.
    pub shared: Option<Shared>,
    /// Shape of the rounds' distribution, common to the cells; normal unless the rounds show otherwise.
    pub shape: Shape,
    /// Σ 1/n_r² / R³ and Σ 1/n_r³ / R⁴ over the R reference runs of n_r rounds: their part in the third and fourth cumulants.
    pub reference_parts: (f64, f64),
    /// Rounds of this run.
    pub rounds: u32,
    /// Reference runs with this figure.
    pub runs: u32,
    /// The cell's rounds scatter far more than the other cells' and lend it nothing.
    pub alone: bool,
    /// This run's estimate, in the metric's unit.
    pub value: f64,
    /// The reference's estimate; 0 where it is zero to rounding beside the values compared.
    pub reference_value: f64,
}

/// The part of a change's error that all cells of a run share: they are all wrong by it together, or none is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shared {
    /// Its variance, in `fixed_variance` already.
    pub variance: f64,
    /// Degrees of freedom of that: what the reference runs are worth.
    pub df: f64,
    /// Degrees of freedom of the rest of the error.
    pub own_df: f64,
    /// Cells that share it and are judged beside one another.
    pub cells: f64,
    /// The share of a variance between rounds that is not in the weighted mean over the cells.
    pub own_share: f64,
    /// The share of their common level at which each cell is judged: 1 where cells are alike, less where they are unlike
    /// ([`stats::share_of_level`]).
    pub level_share: f64,
}

impl Effect {
    /// Variance of what is the cell's own in the error, if this run had so many rounds.
    pub(super) fn own_variance(&self, rounds: u32) -> Option<f64> {
        let share = self.shared.map_or(1.0, |shared| shared.own_share);
        let fixed = self.fixed_variance - self.shared.map_or(0.0, |shared| shared.variance);
        Some(self.round_variance? * share / f64::from(rounds.max(1)) + fixed)
    }

    /// Standard error of `difference` if this run had so many rounds.
    #[must_use]
    pub fn standard_error(&self, rounds: u32) -> Option<f64> {
        Some((self.own_variance(rounds)? + self.shared.map_or(0.0, |shared| shared.variance)).sqrt())
    }

    /// The same change if this run had so many rounds, which tell as much more of the noise of rounds.
    #[must_use]
    pub fn with_rounds(&self, rounds: u32) -> Self {
        let more = f64::from(rounds) - f64::from(self.rounds);
        let shared = self.shared.map(|shared| Shared { own_df: shared.own_df + more, ..shared });
        Self { rounds, round_df: self.round_df + more, df: self.df + more, shared, ..self.clone() }
    }

    /// The same change as if no other cell were judged beside it, so that its interval is one of its own.
    #[must_use]
    pub fn by_itself(&self) -> Self {
        Self { shared: self.shared.map(|shared| Shared { cells: 1.0, level_share: 1.0, ..shared }), ..self.clone() }
    }

    /// Two-sided p value of no change.
    #[must_use]
    pub fn probability(&self) -> Option<f64> {
        let error = self.standard_error(self.rounds).filter(|error| *error > 0.0)?;
        stats::t_probability(self.difference / error, self.df)
    }

    /// How far the interval reaches below and above `difference` at a two-sided `confidence`, if this run had so many rounds.
    ///
    /// Student's t; where cells share a part of the error, the limit that none of so many cells passes with the chance that
    /// they have together ([`stats::limit_together`]). Further out where the shape of the rounds leaves a mean of so few of them
    /// skewed or heavy-tailed.
    #[must_use]
    pub fn reach(&self, rounds: u32, confidence: f64) -> Option<(f64, f64)> {
        if rounds > self.rounds {
            return self.with_rounds(rounds).reach(rounds, confidence);
        }
        let error = self.standard_error(rounds)?;
        let apart = || Some(stats::t_quantile(0.5 + confidence / 2.0, self.df)? * error);
        let limit = match self.shared {
            Some(shared) => self.limit_together(shared, rounds, confidence).or_else(apart)?,
            None => apart()?,
        };
        let (low, high) = stats::further(self.shape_of_error(rounds, error)?, 0.5 + confidence / 2.0)?;
        // The change is the estimate less its error: a long lower tail of the error lengthens the interval upwards.
        Some((limit + high * error, limit + low * error))
    }

    /// Shape of the difference over its standard `error`, if this run had so many rounds.
    ///
    /// A round that is far out is in the standard error too and so hides itself, the more the fewer rounds tell the spread. Of the
    /// kurtosis of a mean of n over the spread of N values, both of one distribution, 1/n is the mean's, −6/N what both share and
    /// 3/N the spread's own: 1/n − 3/N, which is the known −2/n where the values are the same (Gayen 1949).
    fn shape_of_error(&self, rounds: u32, error: f64) -> Option<Shape> {
        let n = f64::from(rounds.max(1));
        let sd_share = self.round_variance?.sqrt() / error;
        let (square, cube) = self.reference_parts;
        // What each round weighs in the variance between rounds, and how much of the variance of the error that is, by this run's
        // rounds alone.
        let weight = (1.0 - 1.0 / n) / self.round_df.max(1.0);
        let of_rounds = sd_share * sd_share / n;
        let hidden = 3.0 * weight * of_rounds * of_rounds;
        Some(Shape {
            skewness: self.shape.skewness * sd_share.powi(3) * (1.0 / (n * n) - square),
            kurtosis: self.shape.kurtosis * (sd_share.powi(4) * (1.0 / n.powi(3) + cube) - hidden).max(0.0),
        })
    }

    fn limit_together(&self, shared: Shared, rounds: u32, confidence: f64) -> Option<f64> {
        let own = Group { variance: self.own_variance(rounds)?, df: shared.own_df };
        let common = Group { variance: shared.variance, df: shared.df };
        let level = shared.level_share * shared.cells * (1.0 - confidence) / 2.0;
        stats::limit_together(common, own, shared.cells, level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 5 rounds of sd 1 against so many reference runs of 5, of this kurtosis; their variance has `df` degrees of freedom.
    fn heavy_tailed(runs: u32, kurtosis: f64, df: f64) -> Effect {
        let count = f64::from(runs);
        Effect {
            scale: Scale::Log,
            difference: 0.0,
            machine: None,
            machine_variance: 0.0,
            round_variance: Some(1.0),
            round_df: df,
            fixed_variance: 1.0 / (5.0 * count),
            df,
            shared: None,
            shape: Shape { skewness: 0.0, kurtosis },
            reference_parts: (1.0 / (25.0 * count.powi(2)), 1.0 / (125.0 * count.powi(3))),
            rounds: 5,
            runs,
            alone: false,
            value: 1.0,
            reference_value: 1.0,
        }
    }

    #[test]
    fn limits_of_heavy_tails_go_out_with_the_reference_as_those_of_simulation_do() {
        // 400,000 cells, 100 at a time with moderated variances, rounds of Student's t with 3 degrees of freedom: the change over its
        // standard error that one of 10,000 passes on one side, with the medians of kurtosis and degrees of freedom.
        for (runs, kurtosis, df, simulated) in
            [(10, 5.0, 53.9, 4.56), (20, 7.71, 97.4, 5.11), (30, 9.88, 140.0, 5.58), (50, 13.26, 224.6, 6.48)]
        {
            let effect = heavy_tailed(runs, kurtosis, df);
            let (below, above) = effect.reach(5, 1.0 - 2e-4).unwrap();
            let limit = below / effect.standard_error(5).unwrap();
            assert!((below - above).abs() < 1e-12);
            assert!((0.97..1.09).contains(&(limit / simulated)), "{runs}: {limit}, {simulated}");
        }
    }

    #[test]
    fn a_round_that_hides_itself_lengthens_nothing() {
        // The only rounds that tell the spread: tails of their mean over it are shorter than normal ones.
        let alone = Effect { fixed_variance: 0.0, reference_parts: (0.0, 0.0), ..heavy_tailed(1, 5.0, 4.0) };
        let normal = Effect { shape: Shape::default(), ..alone.clone() };
        assert_eq!(alone.reach(5, 0.99), normal.reach(5, 0.99));
    }
}
