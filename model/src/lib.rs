//! The built-in transformer training step: what a cell's parameters mean, the op list, the passes over it and the executors
//! that run it.
//!
//! This crate knows the model and its arithmetic. It may not know scenarios, the run folder, processes, statistics or reports.

pub mod build;
pub mod check;
pub mod config;
pub mod count;
pub mod data;
pub mod eligibility;
pub mod exec;
pub mod ir;
pub mod linear;
pub mod memory;
mod normal;
pub mod passes;
pub mod plan;
pub mod probe;
pub mod random;
pub mod repeat;
pub mod session;
pub mod solve;
pub mod verify;

pub use eligibility::{ConfigError, check_config};
pub use stepwatch_kernels::precision::Precision;
