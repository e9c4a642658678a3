//! The machine and the build a run is measured with, and the time: what makes a figure traceable.
//!
//! The host name is kept as a hash unless the user asks otherwise; nothing here opens a GPU.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use stepwatch_record::machine::{Build, Machine};
use sysinfo::System;

use crate::device::Answer;

/// How long `git` may take before the run goes on without a commit.
const GIT_LIMIT: Duration = Duration::from_secs(3);

/// This machine with the GPUs that NVML sees; with its name in the clear if `identify`.
#[must_use]
pub fn describe(identify: bool) -> Machine {
    let (gpus, driver) = crate::clocks::gpus().unwrap_or_default();
    Machine { gpus, driver, ..host(identify) }
}

/// This machine with the GPUs that a run uses: the one named by UUID, or that a probe saw first; else all.
#[must_use]
pub fn used(identify: bool, answer: Option<&Answer>, device: Option<&str>) -> Machine {
    let mut machine = describe(identify);
    if let Some(uuid) = device {
        machine.gpus.retain(|gpu| gpu.uuid == uuid);
    }
    if let Some(answer) = answer {
        answer.complete(&mut machine);
    }
    machine
}

/// This machine without its GPUs: asks no driver.
#[must_use]
pub fn host(identify: bool) -> Machine {
    let mut cpu = String::new();
    let mut memory_bytes = 0;
    if let Ok(mut system) = System::new() {
        system.refresh_memory();
        system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
        cpu = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
        memory_bytes = memory_limit(&system);
    }
    let name = System::host_name().unwrap_or_default();
    let os = System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned());
    let kernel = System::kernel_version().unwrap_or_default();
    Machine {
        host: if identify { name } else { hex(&Sha256::digest(name.as_bytes()), 4) },
        os: format!("{os}, kernel {kernel}"),
        cpu: if cpu.is_empty() { std::env::consts::ARCH.to_owned() } else { cpu },
        cpu_cores: std::thread::available_parallelism()
            .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
        memory_bytes,
        ..Machine::default()
    }
}

/// Main memory this process may use: a container's limit where it is lower than the machine's.
fn memory_limit(system: &System) -> u64 {
    let total = system.total_memory();
    system.cgroup_limits().map_or(total, |limits| limits.total_memory.min(total))
}

/// This build, and the commit of the folder it was started in.
#[must_use]
pub fn build() -> Build {
    let (commit, dirty) = checkout();
    Build { version: env!("CARGO_PKG_VERSION").to_owned(), binary: binary_hash().unwrap_or_default(), commit, dirty }
}

/// SHA-256 of the running binary, 16 hex digits.
fn binary_hash() -> Option<String> {
    let own = Path::new("/proc/self/exe");
    let path = if own.exists() { own.to_owned() } else { std::env::current_exe().ok()? };
    hash_of(&path).ok()
}

/// SHA-256 of a file, 16 hex digits.
///
/// # Errors
/// When it cannot be read.
pub fn hash_of(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hex(&hash.finalize(), 8))
}

/// The commit of the current folder, and whether anything in it differs from that commit.
fn checkout() -> (Option<String>, bool) {
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return (None, false) };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    (Some(commit), changed.is_none_or(|changed| !changed.is_empty()))
}

/// What `git` prints, if it is there, succeeds and is quick; a checkout on a dead network drive must not stop a run.
fn git(arguments: &[&str]) -> Option<String> {
    let mut child = Command::new("git")
        .args(arguments)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdout = child.stdout.take()?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let deadline = Instant::now() + GIT_LIMIT;
    let status = loop {
        match child.try_wait().ok()? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let text = reader.join().ok()?.ok()?;
    status.success().then(|| text.trim().to_owned())
}

/// Now, RFC 3339, UTC, to the millisecond.
#[must_use]
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// A new run's id: the second it begins, then its part of that second and a draw, so that ids sort by time.
#[must_use]
pub fn run_id() -> String {
    let now = jiff::Timestamp::now();
    let nanoseconds = u64::try_from(now.subsec_nanosecond()).unwrap_or(0);
    let part = (nanoseconds << 16) / 1_000_000_000;
    let mut draw = Sha256::new();
    draw.update(now.as_nanosecond().to_le_bytes());
    draw.update(std::process::id().to_le_bytes());
    format!("{}-{part:04x}{}", now.strftime("%Y%m%dT%H%M%SZ"), hex(&draw.finalize(), 1))
}

/// The first bytes of a hash in hex.
fn hex(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described_without_its_name() {
        let machine = describe(false);
        assert_eq!(machine.host.len(), 8);
        assert!(machine.cpu_cores >= 1 && machine.memory_bytes > 0 && !machine.cpu.is_empty(), "{machine:?}");
        assert_eq!(describe(false), machine);
    }

    #[test]
    fn ids_sort_by_time_and_have_the_form_of_the_contract() {
        let first = run_id();
        std::thread::sleep(Duration::from_millis(1));
        let second = run_id();
        assert!(first < second, "{first} {second}");
        let (stamp, short) = first.split_once('-').unwrap();
        assert_eq!((stamp.len(), short.len()), (16, 6), "{first}");
    }
}
