//! The other side of a run that `--against` made: what this build, or the other workloads, were alternated with round by
//! round, and which cell stands beside which.

use serde::{Deserialize, Serialize};

use crate::cell::CellId;

/// The parameter in which the cells of two builds differ: [`THIS_BUILD`] or [`OTHER_BUILD`].
pub const BUILD: &str = "build";
/// The build that made the run.
pub const THIS_BUILD: &str = "this";
/// The build that it was alternated with.
pub const OTHER_BUILD: &str = "against";

/// The other side of a run, with the pairs of cells that were alternated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Against {
    /// A binary by its path as it may be kept, or a workload by its name.
    pub name: String,
    /// What is known of the binary; absent where the other side is a workload.
    #[serde(default)]
    pub binary: Option<OtherBinary>,
    /// The pairs, in the order of this side's cells.
    pub pairs: Vec<AgainstPair>,
}

/// A binary that runs the other side's cells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherBinary {
    /// What it says of its version, in its own words.
    pub version: String,
    /// SHA-256 of the file, 16 hex digits, as of [`crate::machine::Build::binary`].
    pub hash: String,
    /// Whether it is the very file that made the run: both sides are one build then, and a difference is none of the code's.
    pub same: bool,
}

/// A cell and the cell of the other side that it was alternated with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgainstPair {
    /// This side's cell.
    pub cell: CellId,
    /// The other side's.
    pub against: CellId,
}

impl Against {
    /// Whether a cell belongs to the other side.
    #[must_use]
    pub fn is_other(&self, cell: &CellId) -> bool {
        self.pairs.iter().any(|pair| &pair.against == cell)
    }

    /// The cell of the other side that stands beside one of this side.
    #[must_use]
    pub fn other(&self, cell: &CellId) -> Option<&CellId> {
        self.pairs.iter().find(|pair| &pair.cell == cell).map(|pair| &pair.against)
    }
}
