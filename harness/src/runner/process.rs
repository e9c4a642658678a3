//! One worker process from its start to its end: what it prints as events, what it reads, and its whole tree killed.
//!
//! A worker leads a process group of its own. On Linux its descendants are also found by parentage, so that children that
//! left the group are ended too. This file may not know what the lines mean.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::output::read_lines;
use super::tree;
use crate::exit::Exit;
use crate::interrupt;

/// How often a wait looks whether a signal came.
const SIGNAL_POLL: Duration = Duration::from_millis(50);
/// How long output is still read after a worker's tree has ended: its pipes are closed by then.
const DRAIN: Duration = Duration::from_secs(2);

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What a worker did.
#[derive(Debug)]
pub enum Event {
    /// It printed a line.
    Line(Stream, String),
    /// It closed its standard output.
    Closed,
    /// It ended; what it printed before may still follow.
    Ended,
}

/// Why a wait came back without an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// The deadline passed.
    Deadline,
    /// A signal asks the sweep to end.
    Interrupted(Exit),
}

/// A running worker.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: u32,
    events: Receiver<Event>,
    input: Option<Sender<String>>,
    /// When it was started.
    pub started: Instant,
    reaped: Option<ExitStatus>,
}

/// How a worker's process ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// How many processes it left behind; they were killed.
    pub left_behind: usize,
}

impl Process {
    /// Starts a worker in a process group of its own; `speaks` gives it an input to be written to.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn start(command: &mut Command, speaks: bool) -> io::Result<Self> {
        use std::os::unix::process::CommandExt;
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if speaks { Stdio::piped() } else { Stdio::null() });
        let started = Instant::now();
        let mut child = command.spawn()?;
        let pid = child.id();
        interrupt::worker_runs(Some(pid));

        // A full channel stops the reader and so the worker that floods: memory stays bounded.
        let (sender, events) = sync_channel(16);
        if let Some(stdout) = child.stdout.take() {
            let sender = sender.clone();
            thread::spawn(move || {
                let _ = read_lines(stdout, |line| sender.send(Event::Line(Stream::Out, line)).is_ok());
                let _ = sender.send(Event::Closed);
            });
        }
        if let Some(stderr) = child.stderr.take() {
            let sender = sender.clone();
            thread::spawn(move || {
                let _ = read_lines(stderr, |line| sender.send(Event::Line(Stream::Err, line)).is_ok());
            });
        }
        let input = child.stdin.take().map(write_lines);
        thread::spawn(move || wait_unreaped(pid, &sender));
        Ok(Self { child, pid, events, input, started, reaped: None })
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`Quiet`] when none came until `deadline`, or a signal did.
    pub fn next(&self, deadline: Instant) -> Result<Event, Quiet> {
        loop {
            if let Some(exit) = interrupt::pending() {
                return Err(Quiet::Interrupted(exit));
            }
            let now = Instant::now();
            // The deadline rules over a flood: a worker that never stops printing must still run out of time.
            if now >= deadline {
                return Err(Quiet::Deadline);
            }
            match self.events.recv_timeout(SIGNAL_POLL.min(deadline - now)) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Timeout) => {}
                // Every stream is closed and the end was told: nothing more can come.
                Err(RecvTimeoutError::Disconnected) => return Err(Quiet::Deadline),
            }
        }
    }

    /// Sends a line to the worker. It is written in the background: a worker that does not read must not hold us up.
    pub fn send(&self, line: String) {
        if let Some(input) = &self.input {
            let _ = input.send(line);
        }
    }

    /// Leaves the worker waiting for its next round, or takes it up again.
    pub fn rest(&self, resting: bool) {
        tree::rests(self.pid, resting);
        interrupt::worker_runs((!resting).then_some(self.pid));
    }

    /// Closes the worker's input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Ends the worker and everything it started, and hands what it still printed to `each`. Idempotent in effect: a
    /// worker that ended by itself only has its leftovers killed.
    ///
    /// # Errors
    /// When the operating system cannot say how it ended.
    pub fn end(mut self, mut each: impl FnMut(Stream, String)) -> io::Result<Ended> {
        self.input = None;
        let mut killed: BTreeSet<u32> = self.kill_tree().into_iter().collect();
        let status = self.child.wait()?;
        self.reaped = Some(status);
        interrupt::worker_runs(None);
        tree::kill_adopted(&mut killed);
        let deadline = Instant::now() + DRAIN;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.events.recv_timeout(left) {
                Ok(Event::Line(stream, line)) => each(stream, line),
                Ok(Event::Closed | Event::Ended) => {}
                Err(_) => break,
            }
        }
        Ok(Ended { status, left_behind: killed.len() })
    }

    /// Kills the group and all descendants; says which descendants beside the worker itself there were. The worker is
    /// not reaped yet, so neither its process id nor its group's can be another's.
    fn kill_tree(&self) -> Vec<u32> {
        let descendants = tree::started_by(self.pid);
        if let Some(group) = pid_of(self.pid) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        tree::kill(&descendants);
        descendants
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.reaped.is_none() {
            tree::rests(self.pid, false);
            self.kill_tree();
            let _ = self.child.wait();
            interrupt::worker_runs(None);
            tree::kill_adopted(&mut BTreeSet::new());
        }
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Tells when the worker ends and leaves it unreaped, so that its group stays its own until the rest of it is killed.
fn wait_unreaped(pid: u32, sender: &SyncSender<Event>) {
    let Some(pid) = pid_of(pid) else { return };
    // Any other error can only be that it was reaped: it has ended as well.
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {}
    let _ = sender.send(Event::Ended);
}

fn write_lines(mut stdin: ChildStdin) -> Sender<String> {
    let (sender, lines) = channel::<String>();
    thread::spawn(move || {
        for line in lines {
            // A closed pipe is told by the worker's end; there is nobody else to tell.
            if stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).is_err() {
                break;
            }
        }
    });
    sender
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Process {
        let mut command = Command::new("sh");
        Process::start(command.args(["-c", script]), true).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn lines_and_the_end_are_told() {
        let process = sh("read line; echo \"got $line\"; echo oops >&2; exit 3");
        process.send("hello\n".to_owned());
        let mut lines = Vec::new();
        while let Ok(event) = process.next(soon()) {
            match event {
                Event::Line(stream, line) => lines.push((stream, line)),
                Event::Ended => break,
                Event::Closed => {}
            }
        }
        let ended = process.end(|stream, line| lines.push((stream, line))).unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert_eq!(ended.left_behind, 0);
        assert!(lines.contains(&(Stream::Out, "got hello".to_owned())), "{lines:?}");
        assert!(lines.contains(&(Stream::Err, "oops".to_owned())), "{lines:?}");
    }

    #[test]
    fn the_whole_tree_is_killed() {
        // The grandchild holds the pipe open: reading to the end would hang if it lived.
        let process = sh("sleep 1000 & sh -c 'sleep 1000' & echo started; wait");
        assert!(matches!(process.next(soon()), Ok(Event::Line(_, line)) if line == "started"));
        let ended = process.end(|_, _| ()).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(9));
        assert!(ended.left_behind >= 2, "{ended:?}");
    }

    #[test]
    fn a_deadline_holds_against_a_flood() {
        let process = sh("yes");
        let deadline = Instant::now() + Duration::from_millis(50);
        while process.next(deadline).is_ok() {}
        assert!(process.end(|_, _| ()).is_ok());
    }
}
