//! Which processes descend from a worker, so that none survives it: by parentage, read from `/proc`.
//!
//! A process that starts a session of its own leaves the worker's group but keeps its parent; one whose parent died is
//! adopted by us once [`adopt_orphans`] was called. Elsewhere than on Linux only the group is ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Whether orphans of workers become our children.
static ADOPTING: AtomicBool = AtomicBool::new(false);

/// Workers that wait for their next round: ending another worker spares them.
static RESTING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Notes that a worker rests, or that it does no longer.
pub fn rests(worker: u32, resting: bool) {
    let mut all = RESTING.lock().unwrap_or_else(PoisonError::into_inner);
    if resting {
        all.insert(worker);
    } else {
        all.remove(&worker);
    }
}

/// The workers that rest, with what they started.
#[must_use]
pub fn resting() -> BTreeSet<u32> {
    let roots = RESTING.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let below: Vec<u32> = roots.iter().flat_map(|root| descendants(*root)).collect();
    roots.into_iter().chain(below).collect()
}

/// How many workers rest.
#[must_use]
pub fn resting_workers() -> usize {
    RESTING.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// Makes this process the one that adopts orphaned descendants. Only for a process that has no children of its own but one
/// worker at a time: [`kill_adopted`] ends all others.
pub fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    {
        let adopted = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        ADOPTING.store(adopted.is_ok(), Ordering::SeqCst);
    }
}

/// What a worker started and still lives: its descendants, and, where orphans are adopted, all of ours but itself and the
/// workers that rest.
#[must_use]
pub fn started_by(worker: u32) -> Vec<u32> {
    if !ADOPTING.load(Ordering::SeqCst) {
        return descendants(worker);
    }
    let mut found = descendants(std::process::id());
    let resting = resting();
    found.retain(|pid| *pid != worker && !resting.contains(pid));
    found
}

/// The living descendants of a process, itself left out.
#[must_use]
pub fn descendants(root: u32) -> Vec<u32> {
    let parents = parents();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}

/// Kills these processes.
pub fn kill(pids: &[u32]) {
    for pid in pids.iter().filter_map(|pid| pid_of(*pid)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Kills and reaps everything we adopted, until nothing is left, and adds it to `killed`. Call between workers.
pub fn kill_adopted(killed: &mut BTreeSet<u32>) {
    if !ADOPTING.load(Ordering::SeqCst) {
        return;
    }
    // A tree that forks faster than we read it is met again in the next pass; a bound, lest a fork bomb hold us here.
    for _ in 0..50 {
        let resting = resting();
        reap(&resting);
        let mut living = descendants(std::process::id());
        living.retain(|pid| !resting.contains(pid));
        if living.is_empty() {
            break;
        }
        kill(&living);
        killed.extend(living);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Reaps adopted children that have ended: nobody else waits for them. A worker that ended while it rested is left to its
/// own round, which is told how.
fn reap(resting: &BTreeSet<u32>) {
    if resting.is_empty() {
        while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
        return;
    }
    for child in ended_children().into_iter().filter(|pid| !resting.contains(pid)).filter_map(pid_of) {
        let _ = waitpid(Some(child), WaitOptions::NOHANG);
    }
}

/// Our children that have ended and were not waited for.
fn ended_children() -> Vec<u32> {
    let us = std::process::id();
    processes().filter(|(_, stat)| state_and_parent(stat) == Some((true, us))).map(|(pid, _)| pid).collect()
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// The parent of every living process, by process id.
fn parents() -> BTreeMap<u32, u32> {
    processes().filter_map(|(pid, stat)| Some((pid, parent_in(&stat)?))).collect()
}

/// Every process with its line of `/proc/<pid>/stat`.
fn processes() -> impl Iterator<Item = (u32, String)> {
    std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        Some((pid, std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
    })
}

/// The parent in a line of `/proc/<pid>/stat`; none for a process that has ended.
fn parent_in(stat: &str) -> Option<u32> {
    let (ended, parent) = state_and_parent(stat)?;
    (!ended).then_some(parent)
}

/// Whether the process has ended, and its parent. The name before them is in brackets and may hold anything.
fn state_and_parent(stat: &str) -> Option<(bool, u32)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    Some((ended, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_read_whatever_the_name_holds() {
        assert_eq!(parent_in("12 (a) Z (b) S 7 12 12"), Some(7));
        assert_eq!(parent_in("12 (sh) Z 7 12 12"), None);
        assert_eq!(state_and_parent("12 (sh) Z 7 12 12"), Some((true, 7)));
        assert_eq!(parent_in("nonsense"), None);
    }
}
