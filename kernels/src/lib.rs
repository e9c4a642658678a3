//! The operations of a transformer training step: one folder per operation, with its spec, its CPU reference and its kernel.
//!
//! This crate knows shapes, dtypes and arithmetic. It may not know the model, its configuration or how anything is timed.

pub mod dtype;
pub mod precision;

pub use dtype::Dtype;
pub use precision::Precision;
