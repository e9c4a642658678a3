//! The exit code that a conclusion asks for. Codes of usage, devices and signals are the caller's: no conclusion exists then.

use stepwatch_record::comparison::{Change, ClaimVerdict, JudgedClaim, Verdict};

/// All that was judged is good.
pub const GOOD: i32 = 0;
/// Cells failed or are missing, or were skipped though the reference has them.
pub const INCOMPLETE: i32 = 3;
/// Numbers are wrong.
pub const NUMBERS_WRONG: i32 = 4;
/// A gated metric regressed, or a gating claim is refuted.
pub const REGRESSED: i32 = 5;
/// A reference was given, and a gated cell is incomparable or could not have seen what the policy must detect.
pub const BLIND: i32 = 6;

/// The exit code. Where several hold it is the first of 4, 5, 3 and 6.
///
/// A missing figure counts like a missing cell only if its metric is gated; so does a regression.
#[must_use]
pub fn exit_code(changes: &[Change], claims: &[JudgedClaim], had_reference: bool) -> i32 {
    let any = |verdict: Verdict| changes.iter().any(|change| change.gated && change.verdict == verdict);
    if changes.iter().any(|change| change.verdict == Verdict::NumbersWrong) {
        NUMBERS_WRONG
    } else if any(Verdict::Regressed) || claims.iter().any(|c| c.gate && c.verdict == ClaimVerdict::Refuted) {
        REGRESSED
    } else if any(Verdict::Failed) || any(Verdict::Missing) {
        INCOMPLETE
    } else if had_reference && (any(Verdict::Incomparable) || changes.iter().any(|c| c.gated && c.blind)) {
        BLIND
    } else {
        GOOD
    }
}
