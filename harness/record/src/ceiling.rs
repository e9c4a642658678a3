//! What a chip sustains, measured once a run: the ceilings that the time of a step is held against, and the bound that follows.

use serde::{Deserialize, Serialize};

use crate::cell::CellId;

/// Work that was held for seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// A bf16 product by the fastest of its algorithms.
    Bf16Product,
    /// An FP8 product with one scale a tensor and fast accumulation, likewise.
    Fp8Product,
    /// A copy in device memory.
    Copy,
}

/// What was reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Of what.
    pub work: Work,
    /// FLOP/s, or bytes read and written a second.
    pub per_second: f64,
    /// For how long, s.
    pub seconds: f64,
    /// When it began to count, ns since the worker's start.
    pub from_ns: u64,
    /// When it ended, ns since the worker's start.
    pub to_ns: u64,
    /// SM clock meanwhile, Hz.
    #[serde(default)]
    pub sm_clock_hz: Option<f64>,
    /// Mean power meanwhile, W, as the parent read it.
    #[serde(default)]
    pub power_w: Option<f64>,
}

/// The ceilings of one GPU: a line of `ceilings.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// NVML UUID.
    pub gpu: String,
    /// Its power limit, W.
    #[serde(default)]
    pub power_limit_w: Option<f64>,
    /// Its power before there was work, W: the least that was read.
    #[serde(default)]
    pub idle_w: Option<f64>,
    /// What was held.
    pub all: Vec<Ceiling>,
}

impl Ceilings {
    /// The ceiling of one kind of work.
    #[must_use]
    pub fn of(&self, work: Work) -> Option<&Ceiling> {
        self.all.iter().find(|ceiling| ceiling.work == work)
    }
}

/// What limits a step most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// FLOPs of every format at their own ceilings.
    Compute,
    /// Least bytes at the copy's rate.
    Bytes,
    /// Joules of both at the power limit.
    Energy,
}

impl Limit {
    /// In one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Bytes => "bytes",
            Self::Energy => "energy",
        }
    }
}

/// An op class of a step at the ceilings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassBound {
    /// The class.
    pub class: String,
    /// What its ops take one after the other at their ceilings, s: the larger of compute and bytes for each kind.
    pub least_seconds: f64,
    /// What its profile says, s.
    #[serde(default)]
    pub profiled_seconds: Option<f64>,
}

/// No step that does a cell's op list can be faster than its bound on this chip; no estimate of what can be reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellBound {
    /// Whose it is.
    pub cell: CellId,
    /// The largest of the three, s.
    pub seconds: f64,
    /// Which that is.
    pub limit: Limit,
    /// FLOPs of the list over the ceilings of their formats, s.
    pub compute_seconds: f64,
    /// Least bytes of the list over the copy's rate, s.
    pub bytes_seconds: f64,
    /// Joules of the list, above idle, over the power limit above idle, s; absent where power is not known.
    #[serde(default)]
    pub energy_seconds: Option<f64>,
    /// Serial estimate, s: the sum of its parts at their ceilings, nothing overlapping. Neither a bound nor a promise.
    pub serial_seconds: f64,
    /// The measured step, s.
    #[serde(default)]
    pub step_seconds: Option<f64>,
    /// The classes of the serial estimate, the longest first.
    #[serde(default)]
    pub classes: Vec<ClassBound>,
}
