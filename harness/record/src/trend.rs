//! The figures of a scenario over many runs, with the places where they changed. Runs are called nights here, as most are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cell::CellId;
use crate::waiver::Annotation;

/// One run of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Night {
    /// The run's id.
    pub run: String,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// What a change may come from, by name: commit, driver, power limit, each library's version.
    pub facts: BTreeMap<String, String>,
}

/// An estimate with the ends of its interval, in the metric's unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// The estimate.
    pub point: f64,
    /// Lower end; equal to `point` where there is no interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What a lasting change looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// From one night to the next.
    Step,
    /// Little by little.
    Drift,
}

impl Shape {
    /// The shape's word in every format.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Drift => "drift",
        }
    }
}

/// A lasting change. Nights are indices of [`History::nights`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangePoint {
    /// The first night after it; of a drift, the night at which it is half done.
    pub night: usize,
    /// Earliest first night that the values allow.
    pub earliest: usize,
    /// Latest first night that they allow.
    pub latest: usize,
    /// Step or drift.
    pub shape: Shape,
    /// Relative change of the level, after over before − 1.
    pub effect: f64,
    /// Whether most cells have it too.
    pub shared: bool,
}

/// One metric of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// Which cell.
    pub cell: CellId,
    /// Which metric.
    pub metric: String,
    /// One value per night; `None` where the cell did not complete or was not planned.
    pub values: Vec<Option<Value>>,
    /// The lasting changes, oldest first.
    pub changes: Vec<ChangePoint>,
    /// Nights far from their level with neighbours that are not.
    pub outliers: Vec<usize>,
}

/// The newest change of a metric of a cell, as the run that ends a history sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatestChange {
    /// Which cell.
    pub cell: CellId,
    /// Which metric.
    pub metric: String,
    /// Step or drift; `None` where the run stands alone: whether that lasts, only later runs can tell.
    pub shape: Option<Shape>,
    /// The first run after it, of a drift the one at which it is half done; the run itself where it stands alone.
    pub run: String,
    /// When that run began.
    pub started: String,
    /// The first and the last run that it may have begun in; equal where only one may be.
    pub between: [String; 2],
    /// Relative change of the level, after over before − 1; of a run alone, itself over its level − 1.
    pub effect: f64,
    /// How many runs have a value since then, `run` included.
    pub runs: usize,
    /// Whether most cells have it too.
    pub shared: bool,
}

/// A change that most cells have at once: an event of the machine or of what they share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// The metric.
    pub metric: String,
    /// The night at which most began.
    pub night: usize,
    /// The cells that have it.
    pub cells: Vec<CellId>,
    /// Median relative change over them.
    pub effect: f64,
}

/// The figures of a scenario over its nights.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The runs, oldest first.
    pub nights: Vec<Night>,
    /// The trends, in the order of the cells and metrics asked for.
    pub trends: Vec<Trend>,
    /// Changes that cells share.
    pub shifts: Vec<Shift>,
    /// Whether there were enough nights to search.
    pub searched: bool,
    /// What happened meanwhile, as people noted it, oldest first.
    pub annotations: Vec<Annotation>,
}
