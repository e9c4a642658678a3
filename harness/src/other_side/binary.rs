//! Another stepwatch binary: where it is, what it says of itself, and whether it speaks to us at all, asked before any cell
//! is measured.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use stepwatch_record::Parameters;
use stepwatch_record::against::OtherBinary;
use stepwatch_record::message::{FromWorker, Mode, ToWorker};
use stepwatch_record::version::PROTOCOL;

use crate::machine;
use crate::runner::output::Tail;
use crate::runner::process::{Event, Process, Quiet, Stream};

/// How long it may take to say its version or to answer a cell.
const LIMIT: Duration = Duration::from_secs(30);

/// Where the binary is that a user names.
///
/// # Errors
/// That there is no such file, and which workloads could have been meant.
pub(super) fn path(named: &str, workloads: &[&str]) -> Result<PathBuf, String> {
    let path = Path::new(named);
    if path.is_dir() {
        return Err(format!("--against {named} is a folder: name the binary in it"));
    }
    if !path.is_file() {
        return Err(format!(
            "--against {named} is neither a file nor a workload of the scenario: its workloads are {}",
            workloads.join(", ")
        ));
    }
    // A bare name would be looked up in PATH.
    std::path::absolute(path).map_err(|error| format!("--against {named} cannot be found: {error}"))
}

/// SHA-256 of a file, 16 hex digits.
///
/// # Errors
/// When it cannot be read.
pub(super) fn hash(path: &Path) -> Result<String, String> {
    machine::hash_of(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// Asks a binary what it is and whether it runs cells for us.
///
/// # Errors
/// When it does not start, is no stepwatch, or speaks another version of the worker protocol.
pub(super) fn ask(path: &Path) -> Result<OtherBinary, String> {
    let hash = hash(path)?;
    let said = talk(path, &["--version"], None)?;
    let version = said.lines.into_iter().find(|line| !line.trim().is_empty());
    let version = version.ok_or_else(|| format!("{} does not say its version with --version", path.display()))?;
    greet(path)?;
    let same = machine::build().binary == hash;
    Ok(OtherBinary { version: version.trim().to_owned(), hash, same })
}

/// Sends a worker a cell that no version can run: one that speaks our version says so in a message, any other does not.
fn greet(path: &Path) -> Result<(), String> {
    let cell = ToWorker::Cell {
        protocol: PROTOCOL,
        mode: Mode::Prepare,
        parameters: Parameters::new(),
        plan: serde_json::Value::Null,
        seed: 0,
        max_steps: 0,
        persistent: false,
    };
    let line = serde_json::to_string(&cell).unwrap_or_default() + "\n";
    let said = talk(path, &["worker", "--backend", "cpu"], Some(line))?;
    let messages = || said.lines.iter().filter_map(|line| serde_json::from_str::<FromWorker>(line).ok());
    let other = messages().find_map(|message| match message {
        FromWorker::Ready(ready) => ready.protocol.filter(|spoken| *spoken != PROTOCOL),
        _ => None,
    });
    if let Some(spoken) = other {
        return Err(format!(
            "{} speaks version {spoken} of the worker protocol, and this stepwatch speaks {PROTOCOL}: only builds of one \
             protocol can be alternated",
            path.display()
        ));
    }
    if messages().next().is_none() {
        let last = said.tail.last().map(|last| format!(": its last line was `{last}`")).unwrap_or_default();
        return Err(format!(
            "{} does not answer as a stepwatch worker that speaks version {PROTOCOL} of the protocol{last}",
            path.display()
        ));
    }
    Ok(())
}

/// What a short-lived process printed.
struct Told {
    lines: Vec<String>,
    tail: Tail,
}

fn talk(path: &Path, arguments: &[&str], input: Option<String>) -> Result<Told, String> {
    let mut command = Command::new(path);
    command.args(arguments);
    let process = Process::start(&mut command, input.is_some())
        .map_err(|error| format!("{} cannot be started: {error}", path.display()))?;
    if let Some(line) = input {
        // Its input stays open: a worker takes the end of it for our end, and says nothing more.
        process.send(line);
    }
    let deadline = Instant::now() + LIMIT;
    let mut told = Told { lines: Vec::new(), tail: Tail::default() };
    let mut keep = |stream: Stream, line: String| match stream {
        Stream::Out => {
            told.tail.push(&line);
            told.lines.push(line);
        }
        Stream::Err => told.tail.push_error(&line),
    };
    let hung = loop {
        match process.next(deadline) {
            Ok(Event::Line(stream, line)) => keep(stream, line),
            Ok(Event::Closed) => {}
            Ok(Event::Ended) | Err(Quiet::Interrupted(_)) => break false,
            Err(Quiet::Deadline) => break true,
        }
    };
    let ended = process.end(&mut keep);
    ended.map_err(|error| format!("how {} ended cannot be known: {error}", path.display()))?;
    if hung {
        return Err(format!(
            "{} {} did not end within {} s and was killed: it is no stepwatch, or one that hangs",
            path.display(),
            arguments.join(" "),
            LIMIT.as_secs()
        ));
    }
    Ok(told)
}
