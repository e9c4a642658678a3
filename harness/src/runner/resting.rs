//! Persistent workers between their rounds: each waits in its own process, set up, until its cell's next round.
//!
//! What such a worker holds of the GPU meanwhile is its own affair, and all that rest must fit beside the one that runs.

use std::collections::BTreeMap;

use stepwatch_record::CellId;

use super::process::Process;

/// The workers that rest, by their cells. Dropping it ends them.
#[derive(Debug, Default)]
pub struct Resting {
    workers: BTreeMap<CellId, Process>,
}

impl Resting {
    /// Lets a worker rest until its cell's next round.
    pub fn put(&mut self, cell: &CellId, worker: Process) {
        worker.rest(true);
        self.workers.insert(cell.clone(), worker);
    }

    /// Takes a cell's worker up again, if one rests. It may have ended meanwhile: its round will tell.
    pub fn take(&mut self, cell: &CellId) -> Option<Process> {
        let worker = self.workers.remove(cell)?;
        worker.rest(false);
        Some(worker)
    }
}
