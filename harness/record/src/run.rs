//! A run as it lies in its folder: the ledger of what was planned, and how every cell and round ended.

use serde::{Deserialize, Serialize};

use crate::against::Against;
use crate::ceiling::Ceilings;
use crate::cell::{Cell, CellId};
use crate::machine::{Build, GpuWatch, Machine};
use crate::message::{Canary, Finished, Ready};
use crate::plan::PlanFile;
use crate::profile::Profile;
use crate::version::FormatVersion;

/// How a worker, and so a round or a prepared cell, ended. None of them is an absence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    /// It did what was asked.
    Completed,
    /// It said that it failed, exited non-zero, or broke the protocol.
    Failed {
        /// One line for the user.
        message: String,
    },
    /// A signal ended it.
    Crashed {
        /// The signal's number.
        signal: i32,
    },
    /// It ran past its time and its process tree was killed.
    TimedOut {
        /// The limit, seconds.
        seconds: f64,
    },
    /// The device or the host had too little memory.
    OutOfMemory {
        /// What it said.
        message: String,
    },
    /// It cannot run here, and why.
    Skipped {
        /// The reason.
        reason: String,
    },
    /// Its numbers are wrong: verification failed or the loss is not finite.
    NumbersWrong {
        /// Which check failed.
        message: String,
    },
}

impl End {
    /// The end in one word, as in the ledger and in every report.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed { .. } => "failed",
            Self::Crashed { .. } => "crashed",
            Self::TimedOut { .. } => "timed-out",
            Self::OutOfMemory { .. } => "out-of-memory",
            Self::Skipped { .. } => "skipped",
            Self::NumbersWrong { .. } => "numbers-wrong",
        }
    }

    /// The reason in one line; empty for `completed`.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Completed => String::new(),
            Self::Failed { message } | Self::OutOfMemory { message } | Self::NumbersWrong { message } => {
                message.clone()
            }
            Self::Crashed { signal } => format!("killed by signal {signal}"),
            Self::TimedOut { seconds } => format!("ran past its limit of {seconds} s"),
            Self::Skipped { reason } => reason.clone(),
        }
    }
}

/// Whether more or less of a metric is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More is better, as with tokens per second.
    Higher,
    /// Less is better, as with seconds.
    Lower,
}

/// A metric's name, unit and direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name, such as `tokens_per_second`.
    pub name: String,
    /// Its unit, such as `1/s`, `s`, `bytes`, `J`; empty for a plain number.
    pub unit: String,
    /// Its good direction.
    pub better: Better,
}

/// A claim of the scenario, as resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The claim in words.
    pub text: String,
    /// The metric it speaks of.
    pub metric: String,
    /// Parameters that select the first side.
    pub of: crate::cell::Parameters,
    /// Parameters that select the second side.
    pub over: crate::cell::Parameters,
    /// The ratio of the first to the second that it asserts at least.
    #[serde(default)]
    pub at_least: Option<f64>,
    /// The ratio that it asserts at most.
    #[serde(default)]
    pub at_most: Option<f64>,
    /// Whether a refuted claim fails the run.
    #[serde(default)]
    pub gate: bool,
    /// The pairs of cells it speaks of: equal in all that its two sides do not name.
    pub pairs: Vec<ClaimPair>,
}

/// One pair of cells a claim speaks of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimPair {
    /// The first side.
    pub of: CellId,
    /// The second side.
    pub over: CellId,
    /// Resolved settings in which the two differ beyond what the claim names; not empty makes the pair unequal.
    #[serde(default)]
    pub unequal: Vec<String>,
}

/// The scenario's policy, with defaults applied (`[policy]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Metrics that can fail a night.
    pub gate: Vec<String>,
    /// A smaller slowdown does not matter (0.01 is 1 %).
    pub margin: f64,
    /// `unchanged` is shown to this width.
    pub equal_within: f64,
    /// A gated cell that could not have seen this is blind.
    pub detect: f64,
    /// Chance of any false red in one whole run.
    pub false_alarms: f64,
    /// How many accepted runs are compared with at the most.
    pub reference_runs: u32,
    /// What must be the same to compare: `gpu`, `driver`, `power_limit`, `libraries`, `device`, `cpu`.
    pub reference_same: Vec<String>,
    /// So many nights that ended good and agree make the newest of them a reference by itself; 0 leaves it to people.
    #[serde(default)]
    pub reference_promote: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            gate: vec!["tokens_per_second".into(), "peak_memory_bytes".into()],
            margin: 0.01,
            equal_within: 0.02,
            detect: 0.02,
            false_alarms: 0.01,
            reference_runs: 10,
            reference_same: vec!["gpu".into(), "driver".into(), "power_limit".into()],
            reference_promote: 0,
        }
    }
}

/// `run.json`: what was planned and where, written before the first worker starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunManifest {
    /// The format of the whole folder.
    pub format: FormatVersion,
    /// `<20261123T171503Z>-<short id>`, unique in its scenario.
    pub id: String,
    /// The scenario's name.
    pub scenario: String,
    /// The scenario's title, for people.
    #[serde(default)]
    pub title: String,
    /// SHA-256 of the resolved scenario, 16 hex digits.
    pub scenario_hash: String,
    /// The scenario's file as the user named it.
    #[serde(default)]
    pub scenario_file: String,
    /// The text of the scenario file.
    #[serde(default)]
    pub scenario_text: String,
    /// When the run began, RFC 3339, UTC.
    pub started: String,
    /// `cpu`, `cuda` or `null` (scripted times, for tests) runs the built-in cells; `command` where there are none.
    pub backend: String,
    /// Seeds weights, tokens and the order of rounds.
    pub seed: u64,
    /// The planned cells, in the order of the file.
    pub cells: Vec<Cell>,
    /// Rounds planned for each cell.
    pub rounds: u32,
    /// Samples planned for each round.
    pub samples: u32,
    /// What is measured, with units and directions; a user's metrics included.
    pub metrics: Vec<Metric>,
    /// The claims with their pairs.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// The policy.
    pub policy: Policy,
    /// The machines (several in a merged run).
    pub machines: Vec<Machine>,
    /// The build.
    pub build: Build,
    /// The peak that each cell's `mfu` is a share of; none for cells without one.
    #[serde(default)]
    pub peaks: Vec<CellPeak>,
    /// What was noticed while planning and measuring (not conclusions): one line each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// How to run it again: the command line.
    #[serde(default)]
    pub command: Vec<String>,
    /// What was asked for on the command line beyond the scenario: what `--resume` needs to plan the same again.
    #[serde(default)]
    pub asked: Asked,
}

/// The dense peak of a cell: the datasheet's, mixed by what share of the cell's FLOPs each dtype does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellPeak {
    /// Whose it is.
    pub cell: CellId,
    /// Peak of one device, FLOP/s.
    pub flops_per_second: f64,
    /// The mix and its source, in words.
    pub source: String,
}

/// What a run was asked for beyond its scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// `--filter`, as given.
    #[serde(default)]
    pub filter: Option<String>,
    /// `--backend`, as given.
    #[serde(default)]
    pub backend: Option<String>,
    /// `--device`: the UUID of the GPU.
    #[serde(default)]
    pub device: Option<String>,
    /// `--rounds`, as given.
    #[serde(default)]
    pub rounds: Option<u32>,
    /// Whether profiles were asked for.
    #[serde(default)]
    pub profile: bool,
    /// Which part of a sweep over several machines this is: not judged until merged.
    #[serde(default)]
    pub shard: Option<Shard>,
    /// `--against`: what every round was alternated with, and which cell stands beside which.
    #[serde(default)]
    pub against: Option<Against>,
    /// `--budget`: time for extra rounds of cells in doubt.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// What is wrong with the question itself, found while planning (a size label that does not fit): part of every
    /// conclusion that is drawn of the run.
    #[serde(default)]
    pub findings: Vec<crate::finding::Finding>,
}

/// Time for extra rounds where the doubt is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Wall time that extra rounds may take, seconds.
    pub seconds: f64,
    /// Rounds that a cell may have with them.
    pub rounds_max: u32,
}

/// One part of a sweep that is run in several places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Which part, from 1.
    pub index: u32,
    /// Of how many.
    pub of: u32,
}

/// One line of `rounds.jsonl`: how one attempt at one round of one cell ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// Which cell.
    pub cell: CellId,
    /// Which round, from 0. `prepare` is recorded with round `null`.
    pub round: Option<u32>,
    /// Which attempt at it, from 0.
    pub attempt: u32,
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// Wall time of the worker process, seconds.
    pub wall_seconds: f64,
    /// Process start to the end of the first step, seconds.
    #[serde(default)]
    pub setup_seconds: Option<f64>,
    /// Steps of warm-up before the samples.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Whether warm-up reached a steady state within its limit.
    #[serde(default)]
    pub steady: bool,
    /// Tokens of one step of the whole job; 0 if the workload has no steps.
    #[serde(default)]
    pub tokens: u64,
    /// The samples' byte range in `samples.csv`, from and to; equal when there are none.
    #[serde(default)]
    pub samples_bytes: (u64, u64),
    /// How many samples count.
    #[serde(default)]
    pub samples: u32,
    /// What the worker said of itself.
    #[serde(default)]
    pub ready: Option<Ready>,
    /// How the worker closed.
    #[serde(default)]
    pub finished: Option<Finished>,
    /// Values of a command workload's own metrics in this round, by name.
    #[serde(default)]
    pub metrics: std::collections::BTreeMap<String, Vec<f64>>,
    /// The canary's readings: before the first step and after the last.
    #[serde(default)]
    pub canaries: Vec<Canary>,
    /// What NVML said of the GPU around and during the round.
    #[serde(default)]
    pub gpu: Option<GpuWatch>,
    /// The last lines of stderr and of output that is no message; kept for ends that are not `completed`.
    #[serde(default)]
    pub output_tail: Vec<String>,
}

/// One sample: one step that was measured, warm-up included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The step, counted from 0 after the first (compiling) step.
    pub step: u64,
    /// Whether it counts, or belongs to warm-up.
    pub measured: bool,
    /// Host time at its end, ns since the worker's start.
    pub t_ns: u64,
    /// Its duration as the device saw it, ns.
    pub gpu_ns: u64,
    /// Its SM cycles; 0 where unknown.
    pub cycles: u64,
    /// Its loss, nats; NaN where unknown.
    pub loss: f64,
    /// SM clock when it ended, Hz; NaN where unknown.
    pub sm_clock_hz: f64,
    /// Power when it ended, W; NaN where unknown.
    pub power_w: f64,
    /// Temperature when it ended, °C; NaN where unknown.
    pub temperature_c: f64,
    /// NVML throttle reasons when it ended, bits; 0 where none or unknown.
    pub throttle: u64,
}

/// One round of one cell with its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// How it ended and what it said.
    pub record: RoundRecord,
    /// Its samples, warm-up included.
    pub samples: Vec<Sample>,
}

/// A run read back whole: the last attempt at every round.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What was planned.
    pub manifest: RunManifest,
    /// What `prepare` settled, by cell.
    pub plans: Vec<PlanFile>,
    /// How `prepare` ended, by cell (records with round `null`).
    pub prepared: Vec<RoundRecord>,
    /// The rounds, the last attempt at each.
    pub rounds: Vec<Round>,
    /// Profiles, if any were taken.
    pub profiles: Vec<Profile>,
    /// What its GPUs sustain, if that was measured.
    pub ceilings: Vec<Ceilings>,
    /// What was wrong with the folder and was cut or ignored, one line each.
    pub damage: Vec<String>,
}

impl Run {
    /// A run of which nothing is measured yet.
    #[must_use]
    pub const fn planned(manifest: RunManifest) -> Self {
        Self {
            manifest,
            plans: Vec::new(),
            prepared: Vec::new(),
            rounds: Vec::new(),
            profiles: Vec::new(),
            ceilings: Vec::new(),
            damage: Vec::new(),
        }
    }

    /// How one planned cell ended over all its rounds: the first end that is not `completed`, of `prepare` first, then of
    /// the rounds; `None` while a planned round has no record (missing, never green).
    #[must_use]
    pub fn cell_end(&self, cell: &CellId) -> Option<End> {
        if let Some(prepare) = self.prepared.iter().rfind(|record| &record.cell == cell)
            && prepare.end != End::Completed
        {
            return Some(prepare.end.clone());
        }
        let rounds: Vec<&Round> = self.rounds.iter().filter(|round| &round.record.cell == cell).collect();
        if let Some(bad) = rounds.iter().find(|round| round.record.end != End::Completed) {
            return Some(bad.record.end.clone());
        }
        (rounds.len() >= self.manifest.rounds as usize).then_some(End::Completed)
    }
}
