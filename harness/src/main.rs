//! The `stepwatch` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    stepwatch::cli::main().into()
}
