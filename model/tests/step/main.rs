//! Whole steps: gradients against finite differences, passes by equality, precisions against fp32, learning, sessions.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod counts;
mod gradients;
mod learning;
mod passes;
mod precision;
mod run;
mod session;
