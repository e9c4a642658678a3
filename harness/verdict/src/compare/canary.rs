//! What the canary says of the machine over the runs compared: its level in every run, and every round's deviation from that
//! level. Its work never changes, so neither is any cell's or any code's.
//!
//! Only the reading before a round's first step is used. The one after the last step is taken on a chip that the cell itself
//! has warmed: code that burns more would excuse itself by it.

use stepwatch_record::figure::{CellFigures, Conditions, Summary};
use stepwatch_record::run::End;

use crate::stats;

/// The canary in this run and in every reference run, as logs.
#[derive(Debug, Clone, PartialEq)]
pub struct Canary {
    /// Mean level of each run over the same cells, this run first; measured as it is.
    levels: Vec<f64>,
    /// Variance of a level by the scatter of its own readings.
    noise: f64,
    /// Degrees of freedom of that scatter.
    df: f64,
}

/// One of the canary's rates, by round.
type Rates = fn(&Conditions) -> &Vec<Option<f64>>;

/// How far the machine is from what it was in the reference runs, as the canary shows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// Log of this run's level over the mean level of the reference.
    pub point: f64,
    /// Half the width of its interval.
    pub reach: f64,
}

impl Shift {
    /// Whether the canary moved beyond its own noise.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.point.abs() > self.reach
    }
}

impl Canary {
    /// Reads it; `None` unless this run and every one of the reference has readings of cells that all of them have. Older
    /// summaries have none.
    #[must_use]
    pub fn read(run: &Summary, reference: &[&Summary]) -> Option<Self> {
        Self::read_rates(run, reference, |conditions| &conditions.canary_flops_per_second)
    }

    /// The same of its copy, which no coefficient uses.
    #[must_use]
    pub fn read_copy(run: &Summary, reference: &[&Summary]) -> Option<Self> {
        Self::read_rates(run, reference, |conditions| &conditions.canary_bytes_per_second)
    }

    fn read_rates(run: &Summary, reference: &[&Summary], rates: Rates) -> Option<Self> {
        if reference.is_empty() {
            return None;
        }
        let mut by_run: Vec<Vec<Vec<f64>>> = vec![Vec::new(); reference.len() + 1];
        for cell in &run.cells {
            let there = reference.iter().map(|summary| readings(summary.cell(&cell.cell.id)?, rates));
            let all: Option<Vec<Vec<f64>>> = std::iter::once(readings(cell, rates)).chain(there).collect();
            for (of_run, logs) in by_run.iter_mut().zip(all.into_iter().flatten()) {
                of_run.push(logs);
            }
        }
        // A cell weighs the same in every run, so what is usual for a cell leaves no trace in the difference of two runs.
        let level = |cells: &Vec<Vec<f64>>| {
            stats::mean(&cells.iter().filter_map(|logs| stats::mean(logs)).collect::<Vec<f64>>())
        };
        let levels: Vec<f64> = by_run.iter().map(level).collect::<Option<_>>()?;
        let scatter: Vec<&Vec<f64>> = by_run.iter().flatten().collect();
        let df: f64 = scatter.iter().map(|logs| logs.len() as f64 - 1.0).sum();
        let squares: f64 =
            scatter.iter().filter_map(|logs| Some(stats::sd(logs)?.powi(2) * (logs.len() as f64 - 1.0))).sum();
        let readings = scatter.iter().map(|logs| logs.len() as f64).sum::<f64>() / by_run.len() as f64;
        (df > 0.0).then_some(Self { levels, noise: squares / df / readings, df })
    }

    /// The log deviations of a cell's readings from the level of run `number` (0 is this run), one per round of it.
    #[must_use]
    pub fn deviations(&self, number: usize, cell: &CellFigures) -> Option<Vec<f64>> {
        let level = self.levels.get(number)?;
        Some(
            readings(cell, |conditions| &conditions.canary_flops_per_second)?
                .into_iter()
                .map(|log| log - level)
                .collect(),
        )
    }

    /// How far this run's level is from the reference's, at a two-sided `confidence`: noise of the readings alone.
    #[must_use]
    pub fn shift(&self, confidence: f64) -> Option<Shift> {
        let (tonight, reference) = self.levels.split_first()?;
        let error = (self.noise * (1.0 + 1.0 / reference.len() as f64)).sqrt();
        let reach = stats::t_quantile(0.5 + confidence / 2.0, self.df)? * error;
        Some(Shift { point: tonight - stats::mean(reference)?, reach })
    }

    /// The levels as a covariate.
    pub(super) fn moved(&self) -> Moved {
        let centre = stats::mean(&self.levels[1..]).unwrap_or(0.0);
        let real = 1.0 - share_of_noise(&self.levels, self.noise);
        Moved {
            levels: self.levels.iter().map(|level| real * (level - centre)).collect(),
            noise: real * real * self.noise,
        }
    }
}

/// The canary's levels around the mean of the reference, this run first, drawn towards 0 by the share of their scatter that the
/// noise of the readings explains: what noise moved, the machine did not.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moved {
    pub(super) levels: Vec<f64>,
    /// Variance of each that is noise of the readings.
    pub(super) noise: f64,
}

/// Which share of the scatter of some levels their noise explains, 0 to 1.
pub(super) fn share_of_noise(levels: &[f64], noise: f64) -> f64 {
    let middle = stats::mean(levels).unwrap_or(0.0);
    let squares: f64 = levels.iter().map(|level| (level - middle).powi(2)).sum();
    let by_noise = (levels.len() as f64 - 1.0) * noise;
    if squares > 0.0 { (by_noise / squares).min(1.0) } else { 1.0 }
}

/// The logs of a completed cell's readings; `None` if a round has none.
fn readings(cell: &CellFigures, rates: Rates) -> Option<Vec<f64>> {
    let rates = rates(cell.conditions.as_ref()?);
    let completed = cell.end == Some(End::Completed) && !rates.is_empty();
    completed.then(|| rates.iter().map(|rate| rate.filter(|r| *r > 0.0).map(f64::ln)).collect())?
}
