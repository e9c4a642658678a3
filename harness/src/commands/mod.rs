//! The commands, one file each: arguments, and one function that reads as a list of steps.
//!
//! Data goes to stdout through [`emit`], talk to stderr. A command returns its exit; only `main` ends the process.

use std::io::{self, Write};

use crate::exit::Exit;

pub mod baseline;
pub mod check;
pub mod compare;
pub mod doctor;
pub mod explain;
pub mod export;
pub mod init;
pub mod list;
pub mod merge;
pub mod model;
pub mod report;
pub mod run;
pub mod schema;
pub mod worker;

/// Why a command could not do its work: what to say on stderr, and how to exit.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct CommandError {
    /// How the process exits.
    pub exit: Exit,
    /// What is said, after `error: `; already rendered text (a diagnostic with carets) is said as it is.
    pub text: String,
    /// Whether `text` is rendered already.
    pub rendered: bool,
}

impl CommandError {
    /// A command, scenario, run folder or baseline is wrong: exit 2.
    #[must_use]
    pub fn usage(text: impl std::fmt::Display) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// Any exit with one line of text.
    #[must_use]
    pub fn new(exit: Exit, text: impl std::fmt::Display) -> Self {
        Self { exit, text: text.to_string(), rendered: false }
    }

    /// A diagnostic that brings its own `error:` and carets: exit 2.
    #[must_use]
    pub fn rendered(text: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Usage, text: text.to_string(), rendered: true }
    }
}

/// Writes data to stdout. A reader that closed the pipe is content: that is no error.
///
/// # Errors
/// When stdout cannot be written for another reason, such as a full disk behind a redirection.
pub fn emit(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::usage(format!("stdout cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Says one thing on stderr. If even that is closed there is nobody to tell.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
