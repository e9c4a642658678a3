//! Tests of the whole judgement on scripted runs, and simulations of its error rates.

mod backtest;
mod bounds;
mod canary;
mod claims;
mod error_rates;
mod explain;
mod figures;
mod findings;
mod looks;
mod pairs;
mod properties;
pub(crate) mod random;
pub(crate) mod scripted;
mod speed;
mod study;
mod verdicts;
mod waivers;
mod waterfall;
