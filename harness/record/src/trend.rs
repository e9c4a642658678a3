//! A metric of a cell over many runs, with the places where it changed.

use serde::{Deserialize, Serialize};

use crate::cell::CellId;

/// One run's value in a trend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrendPoint {
    /// The run's id.
    pub run: String,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// The estimate, in the metric's unit; `None` where the cell did not complete.
    pub value: Option<f64>,
}

/// A lasting change between two neighbouring runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangePoint {
    /// The first run after the change.
    pub run: String,
    /// Relative change of the level, after over before − 1.
    pub effect: f64,
}

/// The trend of one metric of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// Which cell.
    pub cell: CellId,
    /// Which metric.
    pub metric: String,
    /// The values, oldest first.
    pub points: Vec<TrendPoint>,
    /// The lasting changes.
    #[serde(default)]
    pub changes: Vec<ChangePoint>,
}
