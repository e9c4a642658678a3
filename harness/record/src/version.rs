//! The format version of everything a run folder holds, and what may be done with an older or a newer one.
//!
//! Rules: fields are only ever added, with a serde default; a reader takes any version up to its own; a newer version
//! is refused, and nothing is ever written over it.

use serde::{Deserialize, Serialize};

/// The version this build writes.
pub const CURRENT: FormatVersion = FormatVersion(1);

/// The version of the worker protocol this build speaks.
pub const PROTOCOL: u32 = 1;

/// A format version as stored in `run.json` and `summary.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FormatVersion(pub u32);

/// A file was written by a newer stepwatch than this one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} has format version {found}, and this stepwatch reads up to {supported}: use the newer stepwatch that wrote it"
)]
pub struct TooNew {
    /// The file, as the user would name it.
    pub what: String,
    /// The version found in it.
    pub found: u32,
    /// The newest version this build reads.
    pub supported: u32,
}

impl FormatVersion {
    /// Accepts versions this build can read.
    ///
    /// # Errors
    /// [`TooNew`] if the version is newer than [`CURRENT`]; `what` names the file in its message.
    pub fn readable(self, what: &str) -> Result<(), TooNew> {
        if self <= CURRENT {
            Ok(())
        } else {
            Err(TooNew { what: what.to_owned(), found: self.0, supported: CURRENT.0 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_versions_are_refused_with_both_numbers() {
        assert_eq!(CURRENT.readable("run.json"), Ok(()));
        let error = FormatVersion(CURRENT.0 + 1).readable("run.json").unwrap_err();
        assert_eq!(
            error.to_string(),
            "run.json has format version 2, and this stepwatch reads up to 1: use the newer stepwatch that wrote it"
        );
    }
}
