//! Stepwatch: scenarios in, cells, worker processes, samples, a verdict and a report out.
//!
//! This crate owns processes, files and the command line. It is the only one that sees both halves of the house: the model
//! that runs and the verdict that judges. It may not compute statistics, draw, or know what a precision means.

pub mod cli;
pub mod commands;
pub mod exit;
pub mod scenario;
