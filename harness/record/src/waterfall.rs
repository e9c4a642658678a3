//! From one cell's step time to another's, op class by op class: the differences add up to the whole.

use serde::{Deserialize, Serialize};

use crate::cell::CellId;

/// One step of a waterfall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaterfallStep {
    /// The op class.
    pub class: String,
    /// Seconds per step in the first cell.
    pub from_seconds: f64,
    /// Seconds per step in the second cell.
    pub to_seconds: f64,
}

/// Where the time goes between two cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waterfall {
    /// The first cell.
    pub from: CellId,
    /// The second cell.
    pub to: CellId,
    /// The steps, largest difference first.
    pub steps: Vec<WaterfallStep>,
}
