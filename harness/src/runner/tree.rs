//! Which processes descend from a worker, so that none survives it: by parentage, read from `/proc`.
//!
//! A process that starts a session of its own leaves the worker's group but keeps its parent; one whose parent died is
//! adopted by us once [`adopt_orphans`] was called. Elsewhere than on Linux only the group is ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Whether orphans of workers become our children.
static ADOPTING: AtomicBool = AtomicBool::new(false);

/// Makes this process the one that adopts orphaned descendants. Only for a process that has no children of its own but one
/// worker at a time: [`kill_adopted`] ends all others.
pub fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    {
        let adopted = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        ADOPTING.store(adopted.is_ok(), Ordering::SeqCst);
    }
}

/// What a worker started and still lives: its descendants, and, where orphans are adopted, all of ours but itself.
#[must_use]
pub fn started_by(worker: u32) -> Vec<u32> {
    if !ADOPTING.load(Ordering::SeqCst) {
        return descendants(worker);
    }
    let mut found = descendants(std::process::id());
    found.retain(|pid| *pid != worker);
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
        reap();
        let living = descendants(std::process::id());
        if living.is_empty() {
            break;
        }
        kill(&living);
        killed.extend(living);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Reaps adopted children that have ended: nobody else waits for them.
fn reap() {
    while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// The parent of every living process, by process id.
fn parents() -> BTreeMap<u32, u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parent_in(&stat)?))
        })
        .collect()
}

/// The parent in a line of `/proc/<pid>/stat`; none for a zombie. The name before it is in brackets and may hold anything.
fn parent_in(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_read_whatever_the_name_holds() {
        assert_eq!(parent_in("12 (a) Z (b) S 7 12 12"), Some(7));
        assert_eq!(parent_in("12 (sh) Z 7 12 12"), None);
        assert_eq!(parent_in("nonsense"), None);
    }
}
