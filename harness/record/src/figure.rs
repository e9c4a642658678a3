//! Estimated figures of one run: what tables and charts show. Computed by the verdict, stored in `summary.json`.

use serde::{Deserialize, Serialize};

use crate::cell::{Cell, CellId};
use crate::machine::{Build, Machine};
use crate::run::{End, Metric};
use crate::version::FormatVersion;

/// An estimate with its interval. The observations are rounds, not steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The point estimate, in the metric's unit.
    pub point: f64,
    /// Lower end of the interval; equal to `point` with fewer than two rounds.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Confidence of the interval, such as 0.95.
    pub confidence: f64,
    /// One value per round, in the order of the rounds.
    pub rounds: Vec<f64>,
    /// How many samples are behind it, over all rounds.
    pub samples: u64,
    /// Standard deviation of the log of the round values: between-round spread.
    pub round_sd_log: f64,
    /// Median over rounds of the standard deviation of the log of the samples within a round.
    pub step_sd_log: f64,
}

/// One metric of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The metric.
    #[serde(flatten)]
    pub metric: Metric,
    /// Its estimate.
    pub estimate: Estimate,
}

/// What the machine did in the completed rounds of a cell, beside what the figures say (clock, cycles, joules). Arrays have one
/// entry per completed round, in their order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// The canary's product before the first step, FLOP/s. The reading after the last step is not kept: it is taken on a chip
    /// that the cell itself has warmed.
    pub canary_flops_per_second: Vec<Option<f64>>,
    /// The canary's copy before the first step, bytes a second.
    pub canary_bytes_per_second: Vec<Option<f64>>,
    /// Share of the measured samples in which power or heat held the clock down; none where nothing was sampled.
    pub held_down: Vec<Option<f64>>,
    /// NVML throttle reasons of the measured samples together, bits.
    pub throttle: Vec<u64>,
}

/// What a cell's workers said of the work itself, whatever its speed. What they did not tell is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The seed of the run: losses of unlike seeds are unlike.
    pub seed: u64,
    /// Parameters of the model.
    #[serde(default)]
    pub parameters: Option<f64>,
    /// FLOPs of the model a token.
    #[serde(default)]
    pub flops_per_token: Option<f64>,
    /// Loss of the first step, nats.
    #[serde(default)]
    pub first_loss: Option<f64>,
    /// Loss after some updates, nats; a step that skips its optimiser has the right first loss.
    #[serde(default)]
    pub later_loss: Option<f64>,
}

/// All figures of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellFigures {
    /// Which cell.
    pub cell: Cell,
    /// How it ended; `None` if a planned round is missing.
    pub end: Option<End>,
    /// Its figures, in the order of the manifest's metrics; empty if nothing was measured.
    pub figures: Vec<Figure>,
    /// Hash of its plan, if it has one.
    #[serde(default)]
    pub plan_hash: Option<String>,
    /// Rounds that completed.
    pub rounds: u32,
    /// What the machine did meanwhile; none where no round had a canary or a GPU's samples, and in older summaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Conditions>,
    /// What work it did; none in older summaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
}

impl CellFigures {
    /// The figure of a metric by name.
    #[must_use]
    pub fn figure(&self, metric: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.metric.name == metric)
    }
}

/// `summary.json`: all that history and comparison need of a run, rebuildable from the rest of its folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The format.
    pub format: FormatVersion,
    /// The run's id.
    pub run: String,
    /// The scenario's name.
    pub scenario: String,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// The backend.
    pub backend: String,
    /// The machines.
    pub machines: Vec<Machine>,
    /// The build.
    pub build: Build,
    /// The cells with their figures, in the order of the manifest.
    pub cells: Vec<CellFigures>,
}

impl Summary {
    /// The figures of a cell by id.
    #[must_use]
    pub fn cell(&self, id: &CellId) -> Option<&CellFigures> {
        self.cells.iter().find(|figures| &figures.cell.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_from_before_the_canary_still_reads_and_is_written_as_it_was() {
        let old = r#"{"cell":{"id":"a","workload":"w","parameters":{}},"end":{"end":"completed"},"figures":[],"plan_hash":null,"rounds":5}"#;
        let cell: CellFigures = serde_json::from_str(old).unwrap();
        assert_eq!((cell.conditions.clone(), cell.work.clone()), (None, None));
        let again = serde_json::to_string(&cell).unwrap();
        assert!(!again.contains("conditions") && !again.contains("work\":{"), "{again}");
    }
}
