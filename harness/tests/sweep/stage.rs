//! A folder of its own for one test, with a scenario in it, and the binary run there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use stepwatch_record::run::{Round, Run};

/// One test's folder.
pub(crate) struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    /// A folder with these files.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let stage = Self { folder: tempfile::tempdir().unwrap() };
        for (name, text) in files {
            fs::write(stage.path(name), text).unwrap();
        }
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stepwatch"));
        command.args(arguments).current_dir(self.folder.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Told {
        Told::of(self.command(arguments).output().unwrap())
    }

    /// Starts and does not wait.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The only run folder that there is, if there is one.
    pub(crate) fn run_folder(&self) -> Option<PathBuf> {
        let found = stepwatch::store::newest_first(&self.path("runs"), None);
        assert!(found.len() <= 1, "{found:?}");
        found.into_iter().next().map(|run| run.folder)
    }

    /// That run, read.
    pub(crate) fn stored(&self) -> Run {
        stepwatch::store::load(&self.run_folder().unwrap()).unwrap()
    }

    /// Waits until a file is there and holds a process id.
    pub(crate) fn wait_for_pid(&self, name: &str) -> u32 {
        wait_for(name, || fs::read_to_string(self.path(name)).ok()?.trim().parse().ok())
    }
}

/// What a command told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Told {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code, and shows what was told if it differs.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// Waits for something that another process does; it must come, however slow the machine.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < limit, "{what} never came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process lives; a zombie does not.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The round of a cell by the first part of its readable id.
#[track_caller]
pub(crate) fn round<'a>(run: &'a Run, cell: &str, number: u32) -> &'a Round {
    run.rounds
        .iter()
        .find(|round| round.record.cell.readable().ends_with(cell) && round.record.round == Some(number))
        .unwrap_or_else(|| panic!("{cell} has no round {number}"))
}

/// A worker in shell that speaks the protocol well: 40 steps of 1000 ns, then it waits to be told to stop.
pub(crate) const SPEAKER: &str = r#"read first
echo '{"type":"ready","protocol":1,"setup_seconds":0.5,"device":"shell"}'
i=0
while [ $i -lt 40 ]; do
    echo "{\"type\":\"samples\",\"from\":$i,\"t_ns\":[$((i * 1000 + 1000))],\"gpu_ns\":[1000],\"tokens\":8}"
    i=$((i + 1))
done
while read line; do case $line in *stop*) break ;; esac; done
echo '{"type":"finished","steps":41,"loss":1.5}'
"#;

/// Bytes of a file, none if it is not there.
pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_default()
}
