//! What was concluded of a run against its reference: a verdict per cell and metric, claims, and the exit.

use serde::{Deserialize, Serialize};

use crate::cell::CellId;
use crate::finding::Finding;
use crate::run::Metric;
use crate::waiver::{Annotation, JudgedWaiver};

/// The verdict on one metric of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The numbers are wrong, whatever the speed.
    NumbersWrong,
    /// The cell failed, crashed, timed out or ran out of memory; or was skipped though the reference has it.
    Failed,
    /// A planned cell or round has no record, or the reference has a cell that this run does not.
    Missing,
    /// The adjusted interval excludes no change and the estimate passes the margin.
    Regressed,
    /// As `regressed`, but waived within its limit.
    KnownRegressed,
    /// The two cannot be compared, and what differs.
    Incomparable,
    /// Neither shown to differ nor shown to be equal.
    Undecided,
    /// The whole interval lies within `equal_within`.
    Unchanged,
    /// As `regressed`, to the good side.
    Improved,
    /// The reference does not have it.
    New,
    /// Skipped, with its reason, in both.
    Skipped,
}

impl Verdict {
    /// The verdict's word in every format.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NumbersWrong => "numbers-wrong",
            Self::Failed => "failed",
            Self::Missing => "missing",
            Self::Regressed => "regressed",
            Self::KnownRegressed => "known-regressed",
            Self::Incomparable => "incomparable",
            Self::Undecided => "undecided",
            Self::Unchanged => "unchanged",
            Self::Improved => "improved",
            Self::New => "new",
            Self::Skipped => "skipped",
        }
    }
}

/// Whose a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The canary, whose work never changes, does not explain it.
    Code,
    /// The canary changed with it: what remains is no change that matters.
    Machine,
}

/// The change of one metric of one cell against the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Which cell.
    pub cell: CellId,
    /// Which metric.
    pub metric: Metric,
    /// Whether this metric can fail the run.
    pub gated: bool,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, as a code: `interval-beyond-margin`, `interval-within-equal`, `too-few-rounds`, `no-reference`, …
    pub reason: String,
    /// Why, in words.
    pub why: String,
    /// Relative change in the metric's own direction, run over reference − 1 (−0.02 is 2 % less).
    #[serde(default)]
    pub effect: Option<f64>,
    /// Lower end of the adjusted interval of `effect`.
    #[serde(default)]
    pub low: Option<f64>,
    /// Upper end.
    #[serde(default)]
    pub high: Option<f64>,
    /// Adjusted confidence of that interval.
    #[serde(default)]
    pub confidence: Option<f64>,
    /// The smallest worsening that this comparison could have seen (power 0.8), relative.
    #[serde(default)]
    pub detectable: Option<f64>,
    /// Rounds in total that would decide, where undecided.
    #[serde(default)]
    pub rounds_to_decide: Option<u32>,
    /// Whether it could not have seen the policy's `detect`, whatever the verdict.
    #[serde(default)]
    pub blind: bool,
    /// The estimate of this run, in the metric's unit.
    #[serde(default)]
    pub value: Option<f64>,
    /// The estimate of the reference.
    #[serde(default)]
    pub reference_value: Option<f64>,
    /// What of the measured change is the machine's by the canary, relative; `effect` is what remains without it. Absent where
    /// no canary was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<f64>,
    /// Whose the change is, where there is one and a canary was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Expected share of false ones among the changes of this run that are shown as clearly as this one, or more so
    /// (Benjamini and Hochberg 1995): for a ranking. No verdict uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub false_discovery: Option<f64>,
}

/// What the evidence says of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimVerdict {
    /// The whole interval of the ratio satisfies it.
    Confirmed,
    /// The whole interval of the ratio contradicts it.
    Refuted,
    /// Neither.
    Undecided,
}

/// A claim judged on one pair of cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedPair {
    /// The first side.
    pub of: CellId,
    /// The second side.
    pub over: CellId,
    /// The verdict.
    pub verdict: ClaimVerdict,
    /// Ratio of the first side to the second.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// Lower end of its interval.
    #[serde(default)]
    pub low: Option<f64>,
    /// Upper end of its interval.
    #[serde(default)]
    pub high: Option<f64>,
    /// Why, in words.
    pub why: String,
}

/// A claim judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedClaim {
    /// The claim in words.
    pub text: String,
    /// The metric.
    pub metric: String,
    /// What it asserts, such as `≥ 1.7 ×`.
    pub asserts: String,
    /// Whether refuting it fails the run.
    pub gate: bool,
    /// The verdict over all pairs: refuted if any is, else confirmed if all are.
    pub verdict: ClaimVerdict,
    /// The pairs.
    pub pairs: Vec<JudgedPair>,
}

/// Which runs were compared with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// The reference runs' ids, newest first; empty if there was none.
    pub runs: Vec<String>,
    /// Where they came from: `accepted baseline`, `--baseline`, …
    pub origin: String,
    /// What differs between the run and its reference, one line each (commit, driver, libraries, settings).
    pub differences: Vec<String>,
}

/// Everything concluded of a run: `conclusion.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    /// The run's id.
    pub run: String,
    /// What it was compared with.
    pub reference: Reference,
    /// One sentence: the verdict of the run.
    pub headline: String,
    /// Changes by cell and metric; without a reference, cells that failed or are wrong only.
    pub changes: Vec<Change>,
    /// The claims.
    pub claims: Vec<JudgedClaim>,
    /// The findings, most important first.
    pub findings: Vec<Finding>,
    /// The exit code that this conclusion asks for.
    pub exit_code: i32,
    /// The method in a few lines, for the reader.
    #[serde(default)]
    pub method: Vec<String>,
    /// Waterfalls between pairs of cells, where profiles exist.
    #[serde(default)]
    pub waterfalls: Vec<crate::waterfall::Waterfall>,
    /// What each cell's step could take at the least on this chip, where its ceilings were measured.
    #[serde(default)]
    pub bounds: Vec<crate::ceiling::CellBound>,
    /// What each FP8 cell gains over its BF16 twin.
    #[serde(default)]
    pub gains: Vec<crate::gain::Gain>,
    /// Every waiver with what it did.
    #[serde(default)]
    pub waivers: Vec<JudgedWaiver>,
    /// What happened since the oldest run compared with, as people noted it.
    #[serde(default)]
    pub annotations: Vec<Annotation>,
    /// What the runs before show to have changed for good, by cell and metric, as it was told when the run ended; `None` where
    /// they were not searched. No verdict uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_changes: Option<Vec<crate::trend::LatestChange>>,
}
