//! The run folder: what lies where, what can be wrong with it, and how its files are written so that a kill at any instant
//! loses at most the running worker.
//!
//! Records and samples are only ever appended, and synced in the order samples, then record. Everything else is written
//! beside its place and renamed. May not know what any of it means.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use stepwatch_record::version::TooNew;

mod find;
mod read;
mod samples;
mod write;

pub use find::{Found, find, newest_first};
pub(crate) use read::parse_versioned;
pub use read::{load, load_manifest};
pub use write::{RunWriter, Torn};

/// The ledger.
pub const MANIFEST: &str = "run.json";
/// How rounds ended.
pub const ROUNDS: &str = "rounds.jsonl";
/// The samples.
pub const SAMPLES: &str = "samples.csv";
/// The plans' folder.
pub const PLANS: &str = "plans";
/// The profiles.
pub const PROFILES: &str = "ops.jsonl";
/// What the GPUs sustain.
pub const CEILINGS: &str = "ceilings.jsonl";
/// The figures.
pub const SUMMARY: &str = "summary.json";
/// What was concluded.
pub const CONCLUSION: &str = "conclusion.json";
/// The report.
pub const REPORT: &str = "report.html";
/// Held by the process that writes the folder.
pub const LOCK: &str = "lock";

/// What is wrong with a run folder.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not there, or holds no run.
    #[error("{path} is no run folder: it has no {MANIFEST}")]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// A file of it cannot be read or written.
    #[error("{path} cannot be {verb}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// `read`, `written`, …
        verb: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The disk is full.
    #[error("{path} cannot be written: no space left on the device; what was measured before is kept")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A file that is not appended to is damaged.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A newer stepwatch wrote it.
    #[error(transparent)]
    TooNew(#[from] TooNew),
    /// Another process writes it.
    #[error("{path} is being written by another stepwatch: wait until it ends")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// No run by that name.
    #[error("there is no run `{name}` in {out}: {hint}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        out: PathBuf,
        /// What would be right.
        hint: String,
    },
}

impl StoreError {
    fn io(path: &Path, verb: &'static str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull || source.kind() == io::ErrorKind::QuotaExceeded {
            Self::Full { path: path.to_owned() }
        } else {
            Self::Io { path: path.to_owned(), verb, source }
        }
    }
}

/// Writes a file whole or not at all: beside its place, synced, renamed, and the folder synced.
///
/// # Errors
/// When the folder cannot be written or is full; what was there before is untouched then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let written = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".stepwatch-").tempfile_in(folder)?;
        file.write_all(bytes)?;
        // A temporary file is private; a run folder is read by whoever may read its folder.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_folder(folder)
    };
    written().map_err(|source| StoreError::io(path, "written", source))
}

/// Writes a value as JSON that a person can read, whole or not at all.
///
/// # Errors
/// As [`write_whole`].
pub fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| StoreError::Damaged { path: path.to_owned(), why: error.to_string() })?;
    text.push('\n');
    write_whole(path, text.as_bytes())
}

/// Makes a new name in a folder survive a crash of the machine.
fn sync_folder(folder: &Path) -> io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}
