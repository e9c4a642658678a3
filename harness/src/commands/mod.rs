//! The commands, one file each: arguments, and one function that reads as a list of steps.
//!
//! Data goes to stdout through [`emit`], talk to stderr. A command returns its exit; only `main` ends the process.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::exit::Exit;
use crate::scenario::known::KnownFiles;

pub mod backtest;
pub mod baseline;
pub mod check;
pub mod compare;
pub mod doctor;
pub mod explain;
pub mod export;
pub mod history;
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

/// Rows with their columns under each other, one line a row and never wrapped, for people and for `grep`; columns at `right` end
/// together.
pub(crate) fn aligned(rows: impl IntoIterator<Item = Vec<String>>, right: &[usize]) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row);
    }
    for at in right {
        if let Some(column) = table.column_mut(*at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 1));
    }
    let rows = table.row_count();
    table.lines().take(rows).map(|line| line.trim_end().to_owned()).collect()
}

/// Says one thing on stderr. If even that is closed there is nobody to tell.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Where runs and baselines lie.
#[derive(Debug, Clone, clap::Args)]
pub struct Places {
    /// Where run folders are.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub out: PathBuf,
    /// Where accepted baselines are, with waivers.toml and annotations.toml beside them.
    #[arg(long, value_name = "DIR", default_value = "baselines")]
    pub baselines: PathBuf,
}

impl Places {
    /// What people know, from the files beside the accepted runs.
    ///
    /// # Errors
    /// When one of them is wrong, exit 2: a run must not be judged as if a waiver were not there.
    pub fn known(&self) -> Result<KnownFiles, CommandError> {
        KnownFiles::load(&self.baselines).map_err(|errors| CommandError::rendered(errors.for_stderr()))
    }
}

/// Reads a stored run and says what was wrong with its folder.
///
/// # Errors
/// When it cannot be read.
pub fn load(folder: &Path) -> Result<stepwatch_record::Run, CommandError> {
    let run = crate::store::load(folder).map_err(CommandError::usage)?;
    for damage in &run.damage {
        say(format_args!("warning: {}: {damage}", folder.display()));
    }
    Ok(run)
}

/// Whether stdout shows colours: a terminal that is not asked to do without (<https://no-color.org>).
#[must_use]
pub fn colored_stdout() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !refused && !dumb
}

/// A user's text on one line, without control characters that a terminal would obey.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
