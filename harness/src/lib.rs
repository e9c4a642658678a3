//! Stepwatch: scenarios in, cells, worker processes, samples, a verdict and a report out.
//!
//! This crate owns processes, files and the command line. It is the only one that sees both halves of the house: the model
//! that runs and the verdict that judges. It may not compute statistics, draw, or know what a precision means.

pub mod baseline;
pub mod before;
pub mod budget;
pub mod builtin;
pub mod cli;
pub mod clocks;
pub mod commands;
pub mod device;
pub mod exit;
pub mod fault;
pub mod interrupt;
pub mod judgement;
pub mod ledger;
pub mod machine;
pub mod measure;
pub mod nights;
pub mod other_side;
pub mod peaks;
pub mod progress;
pub mod promotion;
pub mod runner;
pub mod scenario;
pub mod store;
pub mod summaries;
pub mod worker;
