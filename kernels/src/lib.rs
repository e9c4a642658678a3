//! The operations of a transformer training step: one folder per operation, with its spec, its CPU reference and its kernel.
//!
//! This crate knows shapes, dtypes and arithmetic. It may not know the model, its configuration or how anything is timed.
//! A folder's `mod.rs` is the spec: a plain struct with what the operation reads and writes; `reference.rs` is the meaning,
//! in plain loops that run in fp32 or fp64; what runs on a GPU stands beside them.

pub mod adamw;
pub mod attention;
pub mod canary;
pub mod cast;
pub mod ceiling;
pub mod cross_entropy;
pub mod dtype;
pub mod embedding;
mod fp8;
pub mod fused;
pub mod gemm;
pub mod gpu;
pub mod gradient;
pub mod io;
pub mod nvrtc;
pub mod op;
pub mod precision;
pub mod quantise;
pub mod real;
pub mod residual;
pub mod rmsnorm;
pub mod rope;
pub mod sample;
pub mod swiglu;
pub mod tensor;
#[cfg(test)]
mod testing;
pub mod timer;
pub mod transpose;

pub use dtype::Dtype;
pub use op::{Access, Class, Op, Param, SpecError};
pub use precision::Precision;
