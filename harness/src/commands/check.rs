//! `stepwatch check`: every error of a scenario with file, line, caret and what is allowed; nothing is run.

use std::path::PathBuf;

use super::{CommandError, emit, say};
use crate::exit::Exit;
use crate::scenario::known::KnownFiles;
use crate::scenario::{self, Diagnostics, LoadOptions, Scenario};

/// Check scenarios, waivers.toml and annotations.toml: every error with file, line and what is allowed
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Scenario files; a waivers.toml or annotations.toml is checked as what it is
    #[arg(required = true, value_name = "SCENARIO")]
    pub scenarios: Vec<PathBuf>,
    /// Only these cells, such as 'precision=fp8-*,compile=full'
    #[arg(long)]
    pub filter: Option<String>,
}

/// Checks each file and says `ok` or what is wrong; one bad file does not hide the next.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(args: &Check) -> Result<Exit, CommandError> {
    let mut exit = Exit::Good;
    for path in &args.scenarios {
        if let Some(checked) = KnownFiles::check(path) {
            match checked {
                Ok((entries, what)) => emit(&format!("{}: ok: {}\n", path.display(), counted(entries, what)))?,
                Err(errors) => {
                    say(summary(&errors, &path.display().to_string()));
                    exit = exit.worst(Exit::Usage);
                }
            }
            continue;
        }
        let options = LoadOptions { filter: args.filter.as_deref(), ..LoadOptions::default() };
        match scenario::load(path, &options) {
            Ok(scenario) => {
                say_warnings(&scenario);
                emit(&format!("{}\n", verdict(&scenario)))?;
            }
            Err(errors) => {
                say(summary(&errors, &path.display().to_string()));
                exit = exit.worst(Exit::Usage);
            }
        }
    }
    Ok(exit)
}

/// `ok: 8 cells, 1 claim` with the file before it.
fn verdict(scenario: &Scenario) -> String {
    format!(
        "{}: ok: {}, {}",
        scenario.file.display(),
        counted(scenario.cells.len(), "cell"),
        counted(scenario.claims.len(), "claim")
    )
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn summary(errors: &Diagnostics, file: &str) -> String {
    let count = errors.errors();
    format!("{}\n\n{file}: {count} error{}", errors.for_stderr(), if count == 1 { "" } else { "s" })
}

/// Says what looks like a slip, and the notes.
pub(super) fn say_warnings(scenario: &Scenario) {
    if !scenario.warnings.is_empty() {
        say(scenario.warnings.for_stderr());
    }
    for note in &scenario.notes {
        say(format_args!("note: {note}"));
    }
}
