//! What crosses a process or a file boundary in Stepwatch, as plain documented data.
//!
//! The worker and its parent, the run folder, the verdict and the reports all speak these types and nothing else. This
//! crate may not know how anything is measured, judged or drawn; it reads and writes.

pub mod against;
pub mod ceiling;
pub mod cell;
pub mod comparison;
pub mod figure;
pub mod finding;
pub mod gain;
pub mod line;
pub mod machine;
pub mod message;
pub mod name;
pub mod plan;
pub mod profile;
pub mod ratio;
pub mod run;
pub mod trend;
pub mod version;
pub mod waiver;
pub mod waterfall;

pub use cell::{Cell, CellId, Parameters, Scalar};
pub use run::{End, Run, RunManifest};
