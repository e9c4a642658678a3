//! What of a change is the machine's: the canary as a covariate of the rounds and of the runs, with what is not known of its
//! coefficients kept for the intervals.
//!
//! Model, on the log scale: y(c, r, j) = μ(c) + a(c)·(x(c, r, j) − X(r)) + (β + δ(c))·X(r) + what [`super::estimate`] says, where
//! x is the canary of round j and X its level in run r. The two coefficients are apart because readings are noisy and levels
//! are not. Coefficients of cells are drawn towards a common one by as much as the cells agree (DerSimonian and Laird 1986).

use super::canary::{Moved, share_of_noise};
use super::estimate::Sides;
use crate::stats;

/// How a step's speed follows the canary's product before anything is known: one bound by memory or by the host follows less
/// than one bound by arithmetic (1). As a normal distribution, mean and standard deviation.
const USUAL: (f64, f64) = (0.75, 0.35);
/// How much cells differ in it before anything is known, standard deviation.
const UNLIKE: f64 = 0.2;
/// As how many cells that knowledge counts.
const UNLIKE_WORTH: f64 = 5.0;
/// No step follows the canary in the other direction, nor more than so many times.
const MOST: f64 = 1.5;
/// Cells whose common change can be told from their own.
const FEWEST_CELLS: usize = 3;
/// Levels of the reference runs tell a coefficient only where noise makes less than this share of their scatter: noise is not
/// followed, and a coefficient learnt of it would be none.
const NOISY: f64 = 0.5;
/// A common change this many standard errors from what the canary foretells is not the machine's alone.
const FORETOLD: f64 = 2.5;

/// What of a cell's change is the machine's, as a log, with its variance; and degrees of freedom that finding it took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Share {
    pub(super) shift: f64,
    pub(super) variance: f64,
    /// Of the scatter between rounds.
    pub(super) round_df: f64,
    /// Of the scatter between runs.
    pub(super) run_df: f64,
}

/// Takes the machine out of the values of cells that have a canary; says what was taken out of each cell's change.
///
/// `canary` has its levels, this run first; `sign` is 1 for a rate and −1 for a time.
pub(super) fn take_out(sides: &mut [Sides], canary: &Moved, sign: f64) -> Vec<Share> {
    let moved = &canary.levels;
    let mut shares = of_rounds(sides, sign);
    let means: Vec<Means> = sides.iter().map(Means::of).collect();
    let slope = Slope::of_runs(&means, canary, sign);
    let own = own_slopes(&means, canary, &slope);
    for (((sides, share), means), own) in sides.iter_mut().zip(&mut shares).zip(&means).zip(own) {
        let follows = slope.value + own.value;
        let centre = stats::mean(&means.runs.iter().map(|run| moved[run + 1]).collect::<Vec<f64>>()).unwrap_or(0.0);
        let shift = moved[0] - centre;
        sides.run.iter_mut().for_each(|value| *value -= follows * shift);
        for (values, run) in sides.reference.iter_mut().zip(&means.runs) {
            values.iter_mut().for_each(|value| *value -= follows * (moved[run + 1] - centre));
        }
        share.shift += follows * shift;
        share.variance += (slope.variance + own.variance) * shift * shift;
        share.run_df = (slope.learnt + own.learnt).min(1.0);
    }
    shares
}

/// A coefficient: its value, its variance, and which part of it (0 to 1) the values themselves told.
#[derive(Debug, Clone, Copy, Default)]
struct Slope {
    value: f64,
    variance: f64,
    learnt: f64,
}

/// Sums of squares and products of one cell around the means of its runs.
#[derive(Default)]
struct Sums {
    xx: f64,
    xy: f64,
    yy: f64,
    df: f64,
}

/// Takes out what rounds share with their own reading of the canary.
fn of_rounds(sides: &mut [Sides], sign: f64) -> Vec<Share> {
    let sums: Vec<Sums> = sides.iter().map(Sums::of).collect();
    let slopes = like_slopes(&sums, sign);
    let take = |(sides, slope): (&mut Sides, Slope)| {
        let Some(canary) = &sides.canary else { return Share::default() };
        let (tonight, before) = (stats::mean(&canary.run), mean_of_means(&canary.reference));
        let runs = std::iter::once(&mut sides.run).chain(&mut sides.reference);
        for (values, readings) in runs.zip(std::iter::once(&canary.run).chain(&canary.reference)) {
            values.iter_mut().zip(readings).for_each(|(value, reading)| *value -= slope.value * reading);
        }
        let shift = tonight.unwrap_or(0.0) - before.unwrap_or(0.0);
        let variance = slope.variance * shift * shift;
        Share { shift: slope.value * shift, variance, round_df: slope.learnt, run_df: 0.0 }
    };
    sides.iter_mut().zip(slopes).map(take).collect()
}

impl Sums {
    fn of(sides: &Sides) -> Self {
        let mut sums = Self::default();
        let Some(canary) = &sides.canary else { return sums };
        let runs = std::iter::once(&sides.run).chain(&sides.reference);
        for (ys, xs) in runs.zip(std::iter::once(&canary.run).chain(&canary.reference)) {
            let (Some(x_mean), Some(y_mean)) = (stats::mean(xs), stats::mean(ys)) else { continue };
            for (x, y) in xs.iter().zip(ys) {
                sums.xx += (x - x_mean).powi(2);
                sums.xy += (x - x_mean) * (y - y_mean);
                sums.yy += (y - y_mean).powi(2);
            }
            sums.df += ys.len() as f64 - 1.0;
        }
        sums
    }

    /// The variance of `y` around its means, nothing explained.
    fn variance(&self) -> f64 {
        self.yy / self.df
    }

    fn usable(&self) -> bool {
        self.df > 1.0 && self.xx > 0.0 && self.yy > 0.0
    }
}

/// The coefficient of each cell's rounds, drawn towards that of all, and all of them towards none by as much as chance could
/// have made it.
fn like_slopes(sums: &[Sums], sign: f64) -> Vec<Slope> {
    let usable: Vec<&Sums> = sums.iter().filter(|sums| sums.usable()).collect();
    let weight: f64 = usable.iter().map(|sums| sums.xx / sums.variance()).sum();
    if weight <= 0.0 {
        return sums.iter().map(|_| Slope::default()).collect();
    }
    let pooled = usable.iter().map(|sums| sums.xy / sums.variance()).sum::<f64>() / weight;
    let by_chance = (1.0 - 1.0 / (weight * pooled * pooled)).max(0.0);
    let common = sign * (sign * pooled * by_chance).clamp(0.0, MOST);
    let own: Vec<(f64, f64)> = usable.iter().map(|sums| (sums.xy / sums.xx, sums.variance() / sums.xx)).collect();
    let scatter = scatter(&own, pooled);
    let of_cell = |sums: &Sums| {
        if !sums.usable() {
            return Slope { value: common, variance: scatter + 1.0 / weight, learnt: 0.0 };
        }
        let noise = sums.variance() / sums.xx;
        let learnt = scatter / (scatter + noise);
        let value = sign * (sign * (common + learnt * (sums.xy / sums.xx - pooled))).clamp(0.0, MOST);
        Slope { value, variance: learnt * noise + 1.0 / weight, learnt }
    };
    // Nothing is taken out by a coefficient that is none.
    sums.iter().map(|sums| if common == 0.0 { Slope::default() } else { of_cell(sums) }).collect()
}

/// The variance between the true values behind estimates of these variances (DerSimonian and Laird 1986).
fn scatter(estimates: &[(f64, f64)], centre: f64) -> f64 {
    let weights: Vec<f64> = estimates.iter().map(|(_, variance)| 1.0 / variance).collect();
    let (sum, squares): (f64, f64) = (weights.iter().sum(), weights.iter().map(|weight| weight * weight).sum());
    let q: f64 = estimates.iter().map(|(value, variance)| (value - centre).powi(2) / variance).sum();
    let excess = (q - (estimates.len() as f64 - 1.0)) / (sum - squares / sum);
    if excess.is_finite() { excess.max(0.0) } else { 0.0 }
}

/// Means of one cell: of this run, and of the reference runs that have it, by their number.
struct Means {
    run: f64,
    reference: Vec<f64>,
    runs: Vec<usize>,
}

impl Means {
    fn of(sides: &Sides) -> Self {
        let mean = |values: &Vec<f64>| stats::mean(values).unwrap_or(0.0);
        Self { run: mean(&sides.run), reference: sides.reference.iter().map(mean).collect(), runs: sides.runs.clone() }
    }

    /// The mean of the reference.
    fn level(&self) -> f64 {
        stats::mean(&self.reference).unwrap_or(0.0)
    }
}

impl Slope {
    /// How all cells follow the machine from run to run: what is usual, what the reference runs tell, and what this run tells
    /// where its common change is such as the canary foretells.
    fn of_runs(means: &[Means], canary: &Moved, sign: f64) -> Self {
        let moved = &canary.levels;
        let usual = Self { value: sign * USUAL.0, variance: USUAL.1 * USUAL.1, learnt: 0.0 };
        let complete: Vec<&Means> = means.iter().filter(|means| means.runs.len() + 1 == moved.len()).collect();
        if complete.is_empty() {
            return usual;
        }
        let common = |value: &dyn Fn(&Means) -> f64| {
            stats::median(&complete.iter().map(|means| value(means) - means.level()).collect::<Vec<f64>>())
                .unwrap_or(0.0)
        };
        let tonight = common(&|means| means.run);
        let before: Vec<f64> = (0..moved.len() - 1).map(|run| common(&|means| means.reference[run])).collect();
        let known = usual.updated_by_runs(&before, &moved[1..], canary.noise);
        if complete.len() < FEWEST_CELLS {
            return known;
        }
        let noise =
            known.unexplained(&before, &moved[1..]).max(of_cells(&complete)) * (1.0 + 1.0 / before.len() as f64);
        known.updated_by_this_run(tonight, moved[0], noise)
    }

    fn updated_by_runs(self, common: &[f64], moved: &[f64], noise: f64) -> Self {
        let squares: f64 = moved.iter().map(|moved| moved * moved).sum();
        let noisy = share_of_noise(moved, noise);
        if common.len() < 3 || noisy > NOISY {
            return self;
        }
        let slope = common.iter().zip(moved).map(|(y, x)| x * y).sum::<f64>() / squares;
        let rest: f64 = common.iter().zip(moved).map(|(y, x)| (y - slope * x).powi(2)).sum();
        // Noise in the levels flattens the line: the share that is real steepens it again, and so its error.
        let real = 1.0 - noisy;
        let variance = (rest / (common.len() as f64 - 2.0)).max(f64::MIN_POSITIVE) / squares;
        self.updated(slope / real, variance / (real * real))
    }

    /// The variance of the runs' common changes around what this coefficient makes of them; 0 where one run tells nothing.
    fn unexplained(self, common: &[f64], moved: &[f64]) -> f64 {
        let rest: f64 = common.iter().zip(moved).map(|(y, x)| (y - self.value * x).powi(2)).sum();
        if common.len() < 2 { 0.0 } else { rest / (common.len() as f64 - 1.0) }
    }

    fn updated_by_this_run(self, common: f64, moved: f64, noise: f64) -> Self {
        let off = common - self.value * moved;
        let foretold = off.abs() <= FORETOLD * (self.variance * moved * moved + noise).sqrt();
        if !foretold || moved == 0.0 || common * self.value * moved < 0.0 {
            return self;
        }
        let Self { value, variance, .. } = self.updated(common / moved, noise.max(f64::MIN_POSITIVE) / (moved * moved));
        // What this run tells of itself takes nothing from the scatter of the others.
        Self { value, variance, learnt: self.learnt }
    }

    /// Two sources of knowledge, each weighed by its precision.
    fn updated(self, value: f64, variance: f64) -> Self {
        let learnt = self.variance / (self.variance + variance);
        Self {
            value: self.value + learnt * (value - self.value),
            variance: self.variance * (1.0 - learnt),
            learnt: 1.0 - (1.0 - self.learnt) * (1.0 - learnt),
        }
    }
}

/// The variance of the median of the cells' changes in one run, by how they scatter.
fn of_cells(complete: &[&Means]) -> f64 {
    let changes: Vec<f64> = complete.iter().map(|means| means.run - means.level()).collect();
    let centre = stats::median(&changes).unwrap_or(0.0);
    let sd = 1.4826 * stats::mad(&changes, centre).unwrap_or(0.0);
    // The median of normal values has π/2 times the variance of their mean.
    std::f64::consts::FRAC_PI_2 * sd * sd / changes.len() as f64
}

/// How each cell follows the machine otherwise than all do.
fn own_slopes(means: &[Means], canary: &Moved, slope: &Slope) -> Vec<Slope> {
    let unlike = UNLIKE * UNLIKE;
    let own = |means: &Means| {
        let moved: Vec<f64> = means.runs.iter().map(|run| canary.levels[run + 1]).collect();
        let centre = stats::mean(&moved)?;
        let squares: f64 = moved.iter().map(|x| (x - centre).powi(2)).sum();
        if means.runs.len() < 3 || share_of_noise(&moved, canary.noise) > NOISY {
            return None;
        }
        let rest: Vec<f64> =
            means.reference.iter().zip(&moved).map(|(y, x)| y - means.level() - slope.value * (x - centre)).collect();
        let own = rest.iter().zip(&moved).map(|(y, x)| y * (x - centre)).sum::<f64>() / squares;
        let noise: f64 = rest.iter().zip(&moved).map(|(y, x)| (y - own * (x - centre)).powi(2)).sum();
        Some((own, noise / (rest.len() as f64 - 2.0), squares))
    };
    let told: Vec<Option<(f64, f64, f64)>> = means.iter().map(own).collect();
    let noises: Vec<f64> = told.iter().flatten().map(|(_, noise, squares)| noise / squares).collect();
    // Each cell's own noise rests on few runs: its mean over the cells does for how unlike the cells are.
    let by_chance = stats::mean(&noises).unwrap_or(f64::INFINITY);
    let found = told.iter().flatten().map(|(own, ..)| own * own).sum::<f64>() / noises.len().max(1) as f64 - by_chance;
    let worth = noises.len() as f64 * (unlike / (unlike + by_chance)).powi(2);
    let scatter = (UNLIKE_WORTH * unlike + worth * found.max(0.0)) / (UNLIKE_WORTH + worth);
    let scatter = if scatter.is_finite() { scatter } else { unlike };
    let of_cell = |told: Option<(f64, f64, f64)>| {
        let Some((own, noise, squares)) = told else { return Slope { value: 0.0, variance: scatter, learnt: 0.0 } };
        let noise = (noise / squares).max(by_chance);
        let learnt = scatter / (scatter + noise);
        Slope { value: learnt * own, variance: scatter * (1.0 - learnt), learnt }
    };
    told.into_iter().map(of_cell).collect()
}

fn mean_of_means(runs: &[Vec<f64>]) -> Option<f64> {
    stats::mean(&runs.iter().filter_map(|run| stats::mean(run)).collect::<Vec<f64>>())
}
