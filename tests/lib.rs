//! What the end-to-end tests share: the built binary, a scratch directory, and a run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The `stepwatch` binary that this test run built, beside the test binaries.
///
/// # Panics
/// If it was not built: `cargo test --workspace` and `cargo build` do.
#[must_use]
#[expect(clippy::panic, reason = "a test without its subject must fail loudly")]
pub fn binary() -> PathBuf {
    let deps = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)).unwrap_or_default();
    let path = deps.parent().unwrap_or(&deps).join("stepwatch");
    if !path.is_file() {
        panic!("{} is not there: run `cargo build` first, or test the whole workspace", path.display());
    }
    path
}

/// Runs `stepwatch` with arguments in a directory and waits for its end.
///
/// # Panics
/// If it cannot be started.
#[must_use]
#[expect(clippy::panic, reason = "a test without its subject must fail loudly")]
pub fn stepwatch(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(directory).env("NO_COLOR", "1").env_remove("STEPWATCH_NULL_SCRIPT");
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{} could not be started: {error}", binary().display()),
    }
}

/// What a process wrote, both streams, for messages of failed assertions.
#[must_use]
pub fn said(output: &Output) -> String {
    format!(
        "exit {:?}\n--- stdout\n{}\n--- stderr\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The only run folder below `runs/<scenario>/` of a directory.
///
/// # Panics
/// If there is none, or more than one.
#[must_use]
#[expect(clippy::panic, reason = "a test without its subject must fail loudly")]
pub fn only_run(directory: &Path, scenario: &str) -> PathBuf {
    let folder = directory.join("runs").join(scenario);
    let entries = std::fs::read_dir(&folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
    let runs: Vec<PathBuf> = entries.unwrap_or_default();
    let folders: Vec<&PathBuf> = runs.iter().filter(|path| path.join("run.json").is_file()).collect();
    match folders.as_slice() {
        [run] => (*run).clone(),
        other => panic!("{} holds {} runs, not one", folder.display(), other.len()),
    }
}
