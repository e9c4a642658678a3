//! From records to conclusions: figures of a run, a verdict per cell and metric, claims, findings and the exit code.
//!
//! Everything here is a pure function of [`stepwatch_record`] data. This crate may not know where records are kept, how
//! they were measured or how a report draws them; it touches no file, clock or process.

pub mod backtest;
pub mod bounds;
pub mod claims;
pub mod compare;
pub mod compatible;
mod conclude;
mod contest;
pub mod explain;
pub mod figures;
pub mod findings;
pub mod gains;
mod headline;
pub mod history;
pub mod looks;
pub mod method;
pub mod pairs;
pub mod policy;
pub mod promotion;
pub mod ratio;
mod round;
pub mod stats;
pub mod steady;
pub mod twins;
pub mod waterfall;
pub mod wording;
mod work;

pub use conclude::{conclude, conclude_sides};

#[cfg(test)]
mod tests;
