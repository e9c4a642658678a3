//! The ratio of one cell to another in the same run, with its interval: what claims and comparisons of precisions stand on.

use std::collections::BTreeMap;

use stepwatch_record::CellId;
use stepwatch_record::figure::Summary;

use crate::figures::{FLOOR_SD_LOG, group};
use crate::stats::{self, Spread};

/// A ratio of two cells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The estimate.
    pub point: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// One metric of all cells of a run on the log scale, with moderated spreads.
pub struct Ratios<'summary> {
    metric: &'summary str,
    cells: BTreeMap<&'summary CellId, (Vec<f64>, Option<Spread>)>,
}

impl<'summary> Ratios<'summary> {
    /// Reads the metric of every cell; cells with a value that is not positive have no ratio.
    #[must_use]
    pub fn new(summary: &'summary Summary, metric: &'summary str) -> Self {
        let logs: Vec<(&CellId, Vec<f64>)> = summary
            .cells
            .iter()
            .filter_map(|cell| Some((&cell.cell.id, stats::logs(&cell.figure(metric)?.estimate.rounds)?)))
            .filter(|(_, logs)| !logs.is_empty())
            .collect();
        let groups: Vec<_> = logs.iter().map(|(_, logs)| group(logs)).collect();
        let spreads = stats::moderate(&groups, FLOOR_SD_LOG * FLOOR_SD_LOG);
        Self { metric, cells: logs.into_iter().zip(spreads).map(|((id, logs), spread)| (id, (logs, spread))).collect() }
    }

    /// The ratio of `of` to `over` with a two-sided interval.
    ///
    /// # Errors
    /// In words, when a side has no figure or too few rounds for an interval.
    pub fn of(&self, of: &CellId, over: &CellId, confidence: f64) -> Result<Ratio, String> {
        let side = |id: &CellId| self.cells.get(id).ok_or_else(|| format!("{id} has no positive {}", self.metric));
        let ((first, first_spread), (second, second_spread)) = (side(of)?, side(over)?);
        let few = |id: &CellId, n: usize| format!("{id} has {} and shows nothing of its spread", rounds(n));
        let first_spread = first_spread.ok_or_else(|| few(of, first.len()))?;
        let second_spread = second_spread.ok_or_else(|| few(over, second.len()))?;
        let difference = mean(first) - mean(second);
        let parts = [
            (first_spread.variance / first.len() as f64, first_spread.df),
            (second_spread.variance / second.len() as f64, second_spread.df),
        ];
        let error = (parts[0].0 + parts[1].0).sqrt();
        // Both sides may stand on one pooled variance: its degrees of freedom count once, where Welch's sum would double them.
        let most = first_spread.df.max(second_spread.df);
        let df = stats::welch_df(&parts).unwrap_or(most).min(most);
        let (low, high) = stats::interval(difference, error, df, confidence)
            .ok_or_else(|| format!("no interval exists with {df} degrees of freedom"))?;
        Ok(Ratio { point: difference.exp(), low: low.exp(), high: high.exp() })
    }

    /// The ratio of `of` to `over` without an interval, which one round of each is enough for; `None` if a side has no figure.
    #[must_use]
    pub fn point(&self, of: &CellId, over: &CellId) -> Option<f64> {
        Some((mean(&self.cells.get(of)?.0) - mean(&self.cells.get(over)?.0)).exp())
    }
}

fn mean(logs: &[f64]) -> f64 {
    logs.iter().sum::<f64>() / logs.len() as f64
}

fn rounds(count: usize) -> String {
    crate::wording::count(count, "round")
}
