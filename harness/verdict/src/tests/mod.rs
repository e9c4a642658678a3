//! Tests of the whole judgement on scripted runs, and simulations of its error rates.

pub(crate) mod random;
