//! The mark of a verdict, an end or a claim: one word, one glyph and one tone, the same in every export. The word always
//! stands beside the glyph, so colour and shape are never the only carrier.

use serde::Serialize;
use stepwatch_record::comparison::{ClaimVerdict, Verdict};
use stepwatch_record::finding::Severity;
use stepwatch_record::run::End;
use stepwatch_record::waiver::WaiverState;

/// How loud something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tone {
    /// Somebody must act.
    Bad,
    /// Somebody should look.
    Warn,
    /// Better than before.
    Good,
    /// As it should be.
    Calm,
    /// Nothing to say.
    Mute,
}

/// A word with its glyph and tone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// The word, as in the contract.
    pub word: &'static str,
    /// One character that goes before the word.
    pub glyph: &'static str,
    /// How loud it is.
    pub tone: Tone,
}

const fn mark(word: &'static str, glyph: &'static str, tone: Tone) -> Mark {
    Mark { word, glyph, tone }
}

/// A cell that was measured and has nothing to be compared with.
pub const MEASURED: Mark = mark("measured", "·", Tone::Calm);
/// A planned round has no record.
pub const MISSING: Mark = mark("missing", "○", Tone::Bad);
/// A gated cell that could not have seen the slowdown which the policy must detect.
pub const BLIND: Mark = mark("blind", "◌", Tone::Warn);

impl Mark {
    /// The mark of a verdict.
    #[must_use]
    pub fn of_verdict(verdict: Verdict) -> Self {
        let (glyph, tone) = match verdict {
            Verdict::NumbersWrong | Verdict::Failed => ("✕", Tone::Bad),
            Verdict::Missing => ("○", Tone::Bad),
            Verdict::Regressed => ("▼", Tone::Bad),
            Verdict::KnownRegressed => ("▽", Tone::Warn),
            Verdict::Incomparable => ("≠", Tone::Warn),
            Verdict::Undecided => ("◐", Tone::Warn),
            Verdict::Unchanged => ("●", Tone::Calm),
            Verdict::Improved => ("▲", Tone::Good),
            Verdict::New => ("+", Tone::Calm),
            Verdict::Skipped => ("–", Tone::Mute),
        };
        mark(verdict.word(), glyph, tone)
    }

    /// The mark of how a cell ended; `None` is a hole in the ledger.
    #[must_use]
    pub fn of_end(end: Option<&End>) -> Self {
        match end {
            None => MISSING,
            Some(End::Completed) => mark("completed", "✓", Tone::Calm),
            Some(End::Skipped { .. }) => mark("skipped", "–", Tone::Mute),
            Some(bad) => mark(bad.word(), "✕", Tone::Bad),
        }
    }

    /// The mark of a claim. A refuted claim is a result, loud only where it gates.
    #[must_use]
    pub fn of_claim(verdict: ClaimVerdict, gate: bool) -> Self {
        match verdict {
            ClaimVerdict::Confirmed => mark("confirmed", "✓", Tone::Good),
            ClaimVerdict::Refuted => mark("refuted", "✕", if gate { Tone::Bad } else { Tone::Warn }),
            ClaimVerdict::Undecided => mark("undecided", "◐", Tone::Warn),
        }
    }

    /// The mark of what a waiver did. What it did not cover is loud as the change that it is.
    #[must_use]
    pub fn of_waiver(state: WaiverState) -> Self {
        let (glyph, tone) = match state {
            WaiverState::Waives => ("▽", Tone::Warn),
            WaiverState::Exceeded => ("▼", Tone::Warn),
            WaiverState::Expired => ("!", Tone::Warn),
            WaiverState::Unused => ("–", Tone::Mute),
        };
        mark(state.word(), glyph, tone)
    }

    /// The mark of a finding's severity.
    #[must_use]
    pub fn of_severity(severity: Severity) -> Self {
        match severity {
            Severity::High => mark("high", "!", Tone::Bad),
            Severity::Medium => mark("medium", "◆", Tone::Warn),
            Severity::Low => mark("low", "◇", Tone::Mute),
        }
    }
}
