//! What a lower precision gains over the cell that is equal in all else, beside what it could gain at the most.

use serde::{Deserialize, Serialize};

use crate::cell::CellId;

/// One FP8 cell over its BF16 twin, in tokens per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// The FP8 cell.
    pub of: CellId,
    /// Its BF16 twin.
    pub over: CellId,
    /// The model's width (`dim`), where the cells or others of the same model name say it.
    #[serde(default)]
    pub width: Option<u64>,
    /// How many times as fast the first is.
    pub ratio: f64,
    /// Lower end of the ratio's interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Confidence of that interval.
    pub confidence: f64,
    /// The share of the twin's step that goes to products which FP8 can take; with a profile of the twin only.
    #[serde(default)]
    pub product_share: Option<f64>,
    /// The ratio if those products took half their time and casts none.
    #[serde(default)]
    pub bound: Option<f64>,
}
