//! The built-in transformer training step: what a cell's parameters mean, the op list, the passes over it and the executors
//! that run it.
//!
//! This crate knows the model and its arithmetic. It may not know scenarios, files, processes, statistics or reports.

pub mod config;
pub mod count;
pub mod eligibility;
pub mod linear;
pub mod solve;

pub use eligibility::{ConfigError, check_config};
pub use stepwatch_kernels::precision::Precision;
