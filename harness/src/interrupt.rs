//! Ctrl-C and SIGTERM: the first asks the sweep to end its worker and keep what was measured, the second ends at once.
//!
//! The only state of the process that is global, since signals are. Installed by commands that start workers; every wait of
//! the runner asks [`pending`].

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::Exit;

/// The first signal that came; 0 while none did.
static FIRST: AtomicI32 = AtomicI32::new(0);
/// The process group of the running worker; 0 while none runs.
static WORKER: AtomicU32 = AtomicU32::new(0);

/// Starts to listen. Call once per process, before the first worker.
///
/// # Errors
/// When the handlers or their thread cannot be installed.
pub fn listen() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                kill_worker();
                // Nothing is half written that a reader could mistake for whole: records are checksummed and synced in order.
                std::process::exit(i32::from(exit_of(signal).code()));
            }
        }
    })?;
    Ok(())
}

/// How the process should exit, if a signal asked it to.
#[must_use]
pub fn pending() -> Option<Exit> {
    match FIRST.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(exit_of(signal)),
    }
}

/// Notes which process group a second signal has to end.
pub fn worker_runs(group: Option<u32>) {
    WORKER.store(group.unwrap_or(0), Ordering::SeqCst);
}

fn kill_worker() {
    let group = i32::try_from(WORKER.load(Ordering::SeqCst)).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// A closed terminal is told as the request to end that it is.
fn exit_of(signal: i32) -> Exit {
    if signal == SIGINT { Exit::Interrupted } else { Exit::Terminated }
}
