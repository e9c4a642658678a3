//! What conclusions lead to. Policy as data is the scenario's; here is what is done with it.

pub mod exit;
pub mod waive;
