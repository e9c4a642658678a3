//! How a worker is started: which program, where, with which environment.
//!
//! Both kinds start through this binary. The built-in worker is `stepwatch worker`; a user's command is replaced into by
//! `stepwatch worker --exec`, which first asks the kernel to end it should we be killed: no orphan may disturb what is
//! measured after a resume.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::attempt::Task;
use crate::scenario::CommandCell;

/// What makes glibc keep the memory that a program frees, instead of giving it back and having every page of it faulted in again: both,
/// since either alone takes the other from its own adaptation and leaves it at 128 KiB. The first is the largest that glibc takes.
const KEPT: [(&str, &str); 2] = [("MALLOC_MMAP_THRESHOLD_", "33554432"), ("MALLOC_TRIM_THRESHOLD_", "1099511627776")];

/// The built-in worker, of this binary or of the other side's.
///
/// # Errors
/// When our own binary cannot be found.
pub(super) fn builtin(task: &Task<'_>) -> Result<Command, String> {
    let mut command = match &task.planned.program {
        Some(other) => Command::new(other),
        None => this_binary()?,
    };
    command.args(["worker", "--backend", task.backend]);
    environment(&mut command, task);
    keep_memory(&mut command);
    Ok(command)
}

/// On a CPU a small step spends a quarter of its time on pages that its ops give back and take again, more or less of it by how the
/// allocator happens to adapt: the step that is to be measured is without it. Whoever set the allocator otherwise is heard.
fn keep_memory(command: &mut Command) {
    for (name, value) in KEPT.iter().filter(|(name, _)| std::env::var_os(name).is_none()) {
        command.env(name, value);
    }
}

/// A user's command.
///
/// # Errors
/// When there is no such command, with where it was looked for.
pub(super) fn command(task: &Task<'_>, cell: &CommandCell) -> Result<Command, String> {
    let program = cell.argv.first().ok_or("the command is empty")?;
    find_program(program, &cell.working_dir)?;
    let mut command = this_binary()?;
    command.args(["worker", "--exec", "--parent", &std::process::id().to_string(), "--"]).args(&cell.argv);
    if cell.working_dir.as_os_str().is_empty() {
        command.current_dir(".");
    } else {
        command.current_dir(&cell.working_dir);
    }
    environment(&mut command, task);
    Ok(command)
}

/// What a worker can ask its environment: the parameters come as arguments or messages, these tell rounds apart.
fn environment(command: &mut Command, task: &Task<'_>) {
    command.env("STEPWATCH_CELL", &task.planned.cell.id.0);
    command.env("STEPWATCH_ROUND", task.round.map_or_else(|| "prepare".to_owned(), |round| round.to_string()));
    command.env("STEPWATCH_ATTEMPT", task.attempt.to_string());
    command.env("STEPWATCH_SEED", task.seed.to_string());
    visible(command, task.device);
    // Python buffers what it prints into a pipe: its first figure would come with its last.
    command.env("PYTHONUNBUFFERED", "1");
}

/// Lets a process see one GPU only, by UUID: CUDA numbers GPUs by speed, NVML by their place on the bus.
pub(crate) fn visible(command: &mut Command, device: Option<&str>) {
    if let Some(uuid) = device {
        command.env("CUDA_VISIBLE_DEVICES", uuid);
    }
}

/// This very binary: on Linux the running file itself, even when a build has put another in its place since.
pub(crate) fn this_binary() -> Result<Command, String> {
    use std::os::unix::process::CommandExt;
    let own = Path::new("/proc/self/exe");
    let path = if cfg!(target_os = "linux") && own.exists() {
        own.to_owned()
    } else {
        std::env::current_exe().map_err(|error| format!("stepwatch cannot find its own binary: {error}"))?
    };
    let mut command = Command::new(path);
    command.arg0("stepwatch");
    Ok(command)
}

fn find_program(program: &str, working_dir: &Path) -> Result<(), String> {
    if program.contains('\0') {
        return Err("the command's name holds a NUL character".to_owned());
    }
    if program.contains('/') {
        let path = working_dir.join(program);
        return if path.is_file() { Ok(()) } else { Err(format!("there is no command {}", path.display())) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder: PathBuf| folder.join(program)).any(|file| file.is_file());
    if found { Ok(()) } else { Err(format!("there is no command `{program}`: it is in no folder of PATH")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_worker_keeps_its_memory() {
        let mut command = Command::new("true");
        keep_memory(&mut command);
        let set: Vec<_> =
            command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?))).collect();
        // What whoever runs this test has set stays theirs.
        let expected: Vec<_> = KEPT.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
        assert_eq!(set, expected);
    }

    #[test]
    fn a_missing_command_says_where_it_was_looked_for() {
        assert_eq!(find_program("sh", Path::new("")), Ok(()));
        assert_eq!(
            find_program("no-such-program", Path::new("")).unwrap_err(),
            "there is no command `no-such-program`: it is in no folder of PATH"
        );
        assert_eq!(
            find_program("./train.sh", Path::new("/nowhere")).unwrap_err(),
            "there is no command /nowhere/./train.sh"
        );
    }
}
