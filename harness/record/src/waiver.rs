//! What people know of a scenario and its verdicts cannot: regressions that are waived for a while, and events worth a note.
//!
//! As resolved for one run: the files with their patterns are the harness's, what a waiver does is the verdict's.

use serde::{Deserialize, Serialize};

use crate::cell::CellId;

/// A regression that somebody knows of: up to a limit and until a day it fails no run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiver {
    /// Which cells, as the user wrote it: an id, its readable part, the name in reports, or a pattern with `*`.
    pub cell: String,
    /// The cells of this run that it speaks of.
    pub cells: Vec<CellId>,
    /// Which metric.
    pub metric: String,
    /// The largest worsening that is waived, as a share (0.03 is 3 %).
    pub limit: f64,
    /// Who answers for it.
    pub owner: String,
    /// The last day on which it holds, `YYYY-MM-DD`, UTC.
    pub expires: String,
    /// Why.
    pub reason: String,
}

/// What a waiver did in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaiverState {
    /// It made at least one regression `known-regressed`.
    Waives,
    /// A regression that it speaks of is beyond its limit.
    Exceeded,
    /// Its last day was before the run began.
    Expired,
    /// It waived nothing.
    Unused,
}

impl WaiverState {
    /// The state's word in every format.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Waives => "waives",
            Self::Exceeded => "exceeded",
            Self::Expired => "expired",
            Self::Unused => "unused",
        }
    }
}

/// A waiver with what it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedWaiver {
    /// The waiver.
    #[serde(flatten)]
    pub waiver: Waiver,
    /// What it did.
    pub state: WaiverState,
    /// The same in one sentence, with what to do where something is to be done.
    pub sentence: String,
}

/// An event that a reader of a report or a trend should know of. It changes no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotation {
    /// The day, `YYYY-MM-DD`, UTC.
    pub date: String,
    /// What happened.
    pub text: String,
    /// The cells of this run that it speaks of; empty if it speaks of all.
    #[serde(default)]
    pub cells: Vec<CellId>,
}

/// All that is known beside the records, resolved for one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// The waivers, in the order of the file.
    pub waivers: Vec<Waiver>,
    /// The annotations, in the order of the file.
    pub annotations: Vec<Annotation>,
}
