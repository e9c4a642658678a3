//! A finding: a conclusion with its evidence and a next step, in words and as data.

use serde::{Deserialize, Serialize};

use crate::cell::CellId;

/// What kind of conclusion it is. The word is part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An FP8 cell is slower than its BF16 twin.
    Fp8SlowerThanBf16,
    /// A claim does not hold.
    ClaimRefuted,
    /// A claim's pair differs in more than the claim names.
    UnequalComparison,
    /// A model's declared size is more than 2 % off.
    SizeLabelWrong,
    /// An FP8 recipe was asked for and no linear takes it.
    NoFp8Linears,
    /// The GPU ran at its power cap.
    PowerCapped,
    /// The GPU was too hot.
    ThermalThrottle,
    /// The GPU waited for the host.
    LaunchBound,
    /// Warm-up did not reach a steady state.
    NotSteady,
    /// Another process used the GPU.
    ForeignProcess,
    /// The GPU reported errors of its own: uncorrected memory errors, or an Xid.
    GpuErrors,
    /// The canary drifted: the machine changed while it was measured.
    MachineDrift,
    /// The canary is slower or faster than in the reference runs: the machine is another than it was.
    MachineShift,
    /// Most cells changed together while the canary did not, or none was compared: one event, not one per cell.
    CommonShift,
    /// Two versions of one library were loaded.
    TwoLibraryVersions,
    /// The plan changed since the reference.
    AlgorithmChanged,
    /// FP8 is emulated: numbers are real, speed says nothing.
    Emulated,
    /// A setting asked for was not applied, and why.
    NotApplied,
    /// Rounds differ among themselves more than they should.
    Noisy,
    /// What each pass of the compile ladder brings.
    WhatPassesBring,
    /// Which of the cells that do the same work does it fastest.
    Fastest,
}

/// How much it matters to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Changes what may be concluded.
    High,
    /// Worth acting on.
    Medium,
    /// Worth knowing.
    Low,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// The conclusion in one sentence.
    pub sentence: String,
    /// The numbers behind it, one line each.
    pub evidence: Vec<String>,
    /// What to do next, one sentence; empty if nothing.
    #[serde(default)]
    pub next_step: String,
    /// The shell command that does it; empty where it takes more than a command.
    #[serde(default)]
    pub command: String,
    /// The cells it speaks of; empty when it speaks of the run.
    #[serde(default)]
    pub cells: Vec<CellId>,
}
