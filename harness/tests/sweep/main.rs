//! Whole sweeps with small shell scripts as workloads: every way in which a worker, the user, a signal or the disk can end
//! them, and that nothing measured is lost.

// What helps a test to assert is test code, too.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod against;
mod budget;
mod commands;
mod ends;
mod faults;
mod interruptions;
mod nights;
mod persistent;
mod replays;
mod scripted;
mod stage;
