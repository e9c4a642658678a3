//! `stepwatch worker`: the child process of a sweep. Hidden, since only `stepwatch run` starts it.

use std::time::Instant;

use super::CommandError;
use crate::exit::Exit;

/// Runs one cell by the built-in step, or becomes a user's command.
#[derive(Debug, clap::Args)]
pub struct Worker {
    /// What runs the step.
    #[arg(long, default_value = "cpu")]
    backend: String,
    /// Say what drivers and libraries are here, and end.
    #[arg(long, conflicts_with = "exec")]
    probe: bool,
    /// Become this command instead.
    #[arg(long, num_args = 0)]
    exec: bool,
    /// The process that this one must not outlive.
    #[arg(long)]
    parent: Option<u32>,
    /// Program and arguments of `--exec`.
    #[arg(last = true)]
    command: Vec<std::ffi::OsString>,
}

/// Runs it.
///
/// # Errors
/// When nobody speaks to it, or the command cannot be started.
pub fn run(args: &Worker) -> Result<Exit, CommandError> {
    let began = Instant::now();
    end_with_parent(args.parent);
    if args.exec {
        return Err(become_command(&args.command));
    }
    if args.probe {
        return super::emit(&crate::device::answer()).map(|()| Exit::Good);
    }
    crate::worker::run(&args.backend, began).map_err(CommandError::usage)?;
    Ok(Exit::Good)
}

/// Asks the kernel to end this process with its parent, so that a killed sweep leaves nothing running.
fn end_with_parent(parent: Option<u32>) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        // The parent may have died before the kernel knew.
        let now = getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
        if parent.is_some_and(|parent| parent != now) {
            std::process::exit(i32::from(Exit::Terminated.code()));
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
}

fn become_command(command: &[std::ffi::OsString]) -> CommandError {
    use std::os::unix::process::CommandExt;
    let Some((program, arguments)) = command.split_first() else {
        return CommandError::usage("--exec needs a command");
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    CommandError::usage(format!("{} cannot be started: {error}", program.to_string_lossy()))
}
