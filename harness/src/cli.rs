//! The command line: which commands there are, and the one place where an error becomes text and an exit code.

use clap::{Parser, Subcommand};

use crate::commands::{self, CommandError, say};
use crate::exit::Exit;

/// Benchmarks transformer training steps over a matrix of settings and says what got slower, what is wrong and what to do.
#[derive(Debug, Parser)]
#[command(name = "stepwatch", version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 good, 1 a bug in stepwatch, 2 usage or scenario wrong, 3 cells failed or missing, \
4 numbers wrong, 5 regression, 6 blind (a gated cell could not be judged), 7 no usable device, 130 and 143 ended by a signal.";

#[derive(Debug, Subcommand)]
enum Command {
    Init(commands::init::Init),
    Run(commands::run::Run),
    List(commands::list::List),
    Check(commands::check::Check),
    Compare(commands::compare::Compare),
    Explain(commands::explain::Explain),
    Report(commands::report::Report),
    History(commands::history::History),
    Baseline(commands::baseline::Baseline),
    #[command(hide = true)]
    Backtest(commands::backtest::Replay),
    Model(commands::model::Model),
    Doctor(commands::doctor::Doctor),
    Export(commands::export::Export),
    Merge(commands::merge::Merge),
    Schema(commands::schema::Schema),
    #[command(hide = true)]
    Worker(commands::worker::Worker),
}

impl Command {
    fn run(&self) -> Result<Exit, CommandError> {
        match self {
            Self::Init(args) => commands::init::run(args),
            Self::Run(args) => commands::run::run(args),
            Self::List(args) => commands::list::run(args),
            Self::Check(args) => commands::check::run(args),
            Self::Compare(args) => commands::compare::run(args),
            Self::Explain(args) => commands::explain::run(args),
            Self::Report(args) => commands::report::run(args),
            Self::History(args) => commands::history::run(args),
            Self::Backtest(args) => commands::backtest::run(args),
            Self::Baseline(args) => commands::baseline::run(args),
            Self::Model(args) => commands::model::run(args),
            Self::Doctor(args) => commands::doctor::run(args),
            Self::Export(args) => commands::export::run(args),
            Self::Merge(args) => commands::merge::run(args),
            Self::Schema(args) => commands::schema::run(args),
            Self::Worker(args) => commands::worker::run(args),
        }
    }
}

/// Reads the command line, runs the command and says what went wrong, if anything.
#[must_use]
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for and go to stdout; everything else is a usage error.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Good };
            let _ = error.print();
            return exit;
        }
    };
    match cli.command.run() {
        Ok(exit) => exit,
        Err(error) if error.text.is_empty() => error.exit,
        Err(error) if error.rendered => {
            say(error.text.trim_end());
            error.exit
        }
        Err(error) => {
            say(format_args!("error: {}", error.text.trim_end()));
            error.exit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
