//! One attempt: one worker from its start to the record of how it ended, with what it measured.
//!
//! Every way in which a worker can end becomes a value here. This file may not know which attempt comes next. Long because a
//! worker can end in many ways, and each is read off the same state.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use stepwatch_record::Parameters;
use stepwatch_record::against::BUILD;
use stepwatch_record::ceiling::Ceilings;
use stepwatch_record::machine::GpuWatch;
use stepwatch_record::message::{Mode, Ready, ToWorker};
use stepwatch_record::plan::{Plan, Verification};
use stepwatch_record::profile::OpClass;
use stepwatch_record::run::{End, RoundRecord, Sample};
use stepwatch_record::version::PROTOCOL;

use super::conversation::{Conversation, Next};
use super::launch;
use super::output::Tail;
use super::process::{Ended, Event, Process, Quiet, Stream};
use super::resting::Resting;
use super::scanner::Scanner;
use crate::clocks::{Timeline, Watch};
use crate::exit::Exit;
use crate::measure::{Measured, Measurement};
use crate::scenario::{CommandCell, Measure, PlannedCell, Work};

/// How long a worker may take to exit once it said that it is over.
const EXIT_GRACE: Duration = Duration::from_secs(10);
/// How long a worker that closed its output may live on.
const CLOSED_GRACE: Duration = Duration::from_secs(2);
/// How long a worker may take to end after it was told to stop.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// Steps that a worker may run ahead while our `stop` is on its way, where only its samples say when they are enough.
const RUN_AHEAD: u64 = 4096;
/// Where the number of steps is known beforehand: a worker may count its first step too.
const FIRST_STEP: u64 = 1;

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The cell.
    pub planned: &'a PlannedCell,
    /// What for.
    pub mode: Mode,
    /// Which round; none for `prepare` and `profile`.
    pub round: Option<u32>,
    /// Which attempt at it, from 0.
    pub attempt: u32,
    /// Seeds weights and tokens.
    pub seed: u64,
    /// What `prepare` settled.
    pub plan: Option<&'a Plan>,
    /// How it is measured.
    pub measure: &'a Measure,
    /// `cpu`, `cuda` or `null`.
    pub backend: &'a str,
    /// The only GPU that the worker may see, by UUID.
    pub device: Option<&'a str>,
    /// The GPU that it will use, by UUID, if it is known: watched from before it starts.
    pub gpu: Option<&'a str>,
    /// Whether the cell has rounds after this one.
    pub more: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Attempted {
    /// How it ended.
    pub record: RoundRecord,
    /// The samples, warm-up included.
    pub samples: Vec<Sample>,
    /// The plan it settled.
    pub plan: Option<Plan>,
    /// What it checked.
    pub verification: Option<Verification>,
    /// Its profile.
    pub ops: Vec<OpClass>,
    /// What its device sustains.
    pub ceilings: Option<Ceilings>,
}

/// What is gathered beside the conversation while a worker runs.
#[derive(Default)]
struct Beside {
    /// Its last words.
    tail: Tail,
    /// When it was first heard to be set up, after its start.
    ready_after: Option<Duration>,
    /// The GPU that it said it runs on, watched from then on.
    watch: Option<Watch>,
}

/// A signal asks the sweep to end; the worker was ended and nothing of it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted(pub Exit);

/// What the listening came to, before the process's own end is known.
enum Heard {
    /// It ended, or is to be ended, by its own words or for breaking the protocol.
    Over,
    /// It finished its round and waits for the next.
    Rests,
    /// It ran out of time.
    TimedOut,
    /// It stayed alive where it should have ended: why it failed.
    Lingered(String),
}

/// Runs one worker.
///
/// # Errors
/// [`Interrupted`] when a signal came; every other trouble is the end of the attempt.
pub fn attempt(
    task: &Task<'_>,
    resting: &mut Resting,
    show: &mut dyn FnMut(u64, u32),
) -> Result<Attempted, Interrupted> {
    let started = crate::machine::now();
    let began = Instant::now();
    let mut attempted = match &task.planned.work {
        Work::Builtin(_) => speak(task, &|| launch::builtin(task), resting, show)?,
        Work::Command(cell) if cell.protocol => speak(task, &|| launch::command(task, cell), resting, show)?,
        Work::Command(cell) => scan(task, cell, show)?,
    };
    attempted.record.started = started;
    attempted.record.wall_seconds = began.elapsed().as_secs_f64();
    Ok(attempted)
}

impl Task<'_> {
    /// Whether the worker stays for the cell's next round.
    fn persists(&self) -> bool {
        let persistent = matches!(&self.planned.work, Work::Command(cell) if cell.persistent);
        persistent && self.more && self.mode == Mode::Measure
    }
}

/// Runs a worker that speaks the protocol, or one more round of a worker that rests.
fn speak(
    task: &Task<'_>,
    command: &dyn Fn() -> Result<Command, String>,
    resting: &mut Resting,
    show: &mut dyn FnMut(u64, u32),
) -> Result<Attempted, Interrupted> {
    let watch = task.gpu.map(|uuid| Watch::start(uuid.to_owned(), None));
    let rested = resting.take(&task.planned.cell.id);
    let resumed = rested.is_some();
    let process = match rested.map_or_else(|| start(command(), true), Ok) {
        Ok(process) => process,
        Err(message) => return Ok(unstarted(task, message)),
    };
    if let Some(watch) = &watch {
        watch.worker_is(process.pid());
    }
    let mut conversation = match task.mode {
        Mode::Measure => Conversation::measuring(Measurement::new(task.measure), task.measure.samples),
        mode => Conversation::without_samples(mode),
    };
    process.send(first_line(task));
    let mut beside = Beside { watch, ..Beside::default() };
    let heard = listen(task, &process, &mut conversation, &mut beside, show)?;
    let Beside { mut tail, ready_after, watch } = beside;
    let alive = matches!(heard, Heard::TimedOut | Heard::Lingered(_)) || conversation.said.end.is_some();
    let started = process.started;
    let ended = if matches!(heard, Heard::Rests) {
        resting.put(&task.planned.cell.id, process);
        Ok(Ended { status: std::process::ExitStatus::default(), left_behind: 0 })
    } else {
        process.end(|stream, line| match stream {
            Stream::Out => {
                conversation.line(&line, &mut tail);
            }
            Stream::Err => tail.push_error(&line),
        })
    };
    let (said_end, said, mut measured) = conversation.close();
    if resumed && said_end.is_none() && said.ready.is_none() && matches!(&ended, Ok(ended) if ended.status.success()) {
        // It left before it was asked for this round: no harm is done but to its set-up, which is done again.
        return speak(task, command, resting, show);
    }
    let seen = watch.and_then(|watch| watch.stop().ok());
    let mut ceilings = said.ceilings;
    if let Some(timeline) = &seen {
        annotate(&mut measured.samples, started, timeline);
        if let Some(ceilings) = &mut ceilings {
            add_power(ceilings, started, timeline);
        }
    }
    let end = match (heard, said_end) {
        (Heard::TimedOut, _) => End::TimedOut { seconds: task.measure.timeout.as_secs_f64() },
        (Heard::Lingered(message), None | Some(End::Completed)) => End::Failed { message },
        (_, Some(end)) if end != End::Completed => end,
        (_, said) => end_of_process(&ended, alive, said, &tail),
    };
    let mut attempted = account(task, end, measured, tail, &ended);
    blame_gpu(&mut attempted.record, seen.map(|seen| seen.watch));
    let ready = said.ready.unwrap_or_default();
    attempted.record.setup_seconds = match (ready.setup_seconds, task.mode) {
        (Some(seconds), _) => Some(seconds),
        (None, Mode::Measure) if !resumed => ready_after.map(|after: Duration| after.as_secs_f64()),
        _ => None,
    };
    attempted.record.ready = (ready != Ready::default()).then_some(ready);
    attempted.record.finished = said.finished;
    attempted.record.canaries = said.canaries;
    attempted.plan = said.plan;
    attempted.verification = said.verification;
    attempted.ops = said.ops;
    attempted.ceilings = ceilings;
    Ok(attempted)
}

fn listen(
    task: &Task<'_>,
    process: &Process,
    conversation: &mut Conversation,
    beside: &mut Beside,
    show: &mut dyn FnMut(u64, u32),
) -> Result<Heard, Interrupted> {
    let began = Instant::now();
    let timeout = began + task.measure.timeout;
    let mut deadline = timeout;
    // What it means when `deadline` passes before the timeout.
    let mut lingering = None;
    loop {
        let event = match process.next(deadline) {
            Ok(event) => event,
            Err(Quiet::Interrupted(exit)) => return Err(Interrupted(exit)),
            Err(Quiet::Deadline) => {
                return Ok(match lingering {
                    Some(message) if deadline < timeout => Heard::Lingered(message),
                    _ => Heard::TimedOut,
                });
            }
        };
        let (grace, why) = match event {
            Event::Ended => return Ok(Heard::Over),
            Event::Line(Stream::Err, line) => {
                beside.tail.push_error(&line);
                continue;
            }
            Event::Closed if conversation.said.finished.is_some() => continue,
            Event::Closed => (CLOSED_GRACE, "it closed its output without `finished` and stayed alive: it was killed"),
            Event::Line(Stream::Out, line) => {
                let next = conversation.line(&line, &mut beside.tail);
                if conversation.said.ready.is_some() || conversation.progress() != (0, 0) {
                    beside.ready_after.get_or_insert_with(|| began.elapsed());
                }
                if let (None, Some(uuid)) = (&beside.watch, gpu_of(conversation)) {
                    beside.watch = Some(Watch::start(uuid, Some(process.pid())));
                }
                let (warmup, samples) = conversation.progress();
                show(warmup, samples);
                match next {
                    Next::Listen => continue,
                    Next::Broken => return Ok(Heard::Over),
                    Next::Over if task.persists() && conversation.is_full() => return Ok(Heard::Rests),
                    Next::Over => (EXIT_GRACE, "it said that it was over and stayed alive: it was killed"),
                    Next::Send(message) => {
                        process.send(line_of(&message));
                        if message != ToWorker::Stop {
                            continue;
                        }
                        (STOP_GRACE, "it did not end within 30 s of being told to stop: it was killed")
                    }
                }
            }
        };
        deadline = timeout.min(Instant::now() + grace);
        lingering = Some(why.to_owned());
    }
}

/// Keeps what was seen of the GPU; a failure during which the driver reported an Xid error says so.
fn blame_gpu(record: &mut RoundRecord, seen: Option<GpuWatch>) {
    let xid = seen.as_ref().and_then(|watch| watch.xid.clone()).unwrap_or_default();
    if let (End::Failed { message }, [first, ..]) = (&mut record.end, xid.as_slice()) {
        message.push_str(&format!("; meanwhile the driver reported Xid {first} of the GPU"));
    }
    record.gpu = seen;
}

/// The GPU that the worker says it runs on.
fn gpu_of(conversation: &Conversation) -> Option<String> {
    conversation.said.ready.as_ref()?.device_uuid.clone()
}

/// Gives each sample the reading nearest to its end. Samples count from the worker's own start, which follows ours by what
/// it takes to start a process: little beside the sensors' own delay.
fn annotate(samples: &mut [Sample], started: Instant, timeline: &Timeline) {
    for sample in samples {
        let Some(reading) = timeline.at(started + Duration::from_nanos(sample.t_ns)) else { continue };
        sample.sm_clock_hz = reading.sm_clock_hz;
        sample.power_w = reading.power_w;
        sample.temperature_c = reading.temperature_c;
        sample.throttle = reading.throttle;
    }
}

/// Adds what the sensors said while each ceiling was held, and before.
fn add_power(ceilings: &mut Ceilings, started: Instant, timeline: &Timeline) {
    ceilings.idle_w = timeline.least_power_w();
    ceilings.power_limit_w = timeline.watch.before.power_limit_w;
    for ceiling in &mut ceilings.all {
        let moment = |ns: u64| started + Duration::from_nanos(ns);
        ceiling.power_w = timeline.mean_power_w(moment(ceiling.from_ns), moment(ceiling.to_ns));
    }
}

/// Runs a command whose figures are read from its output.
fn scan(task: &Task<'_>, cell: &CommandCell, show: &mut dyn FnMut(u64, u32)) -> Result<Attempted, Interrupted> {
    let watch = task.gpu.map(|uuid| Watch::start(uuid.to_owned(), None));
    let process = match start(launch::command(task, cell), false) {
        Ok(process) => process,
        Err(message) => return Ok(unstarted(task, message)),
    };
    if let Some(watch) = &watch {
        watch.worker_is(process.pid());
    }
    let deadline = process.started + task.measure.timeout;
    let mut scanner = Scanner::new(&cell.metrics);
    let mut tail = Tail::default();
    let mut first_figure = None;
    let mut figures = 0;
    let timed_out = loop {
        match process.next(deadline) {
            Ok(Event::Ended) => break false,
            // It may go on without printing; its end or the timeout is still to come.
            Ok(Event::Closed) => {}
            Ok(Event::Line(stream, line)) => {
                keep(&mut tail, stream, &line);
                if scanner.line(&line) {
                    first_figure.get_or_insert_with(|| process.started.elapsed());
                    figures += 1;
                    show(0, figures);
                }
            }
            Err(Quiet::Interrupted(exit)) => return Err(Interrupted(exit)),
            Err(Quiet::Deadline) => break true,
        }
    };
    let ended = process.end(|stream, line| {
        keep(&mut tail, stream, &line);
        scanner.line(&line);
    });
    let (scanned, metrics) = scanner.close(&tail);
    let end = if timed_out {
        End::TimedOut { seconds: task.measure.timeout.as_secs_f64() }
    } else {
        match end_of_process(&ended, false, Some(End::Completed), &tail) {
            End::Completed => scanned,
            end => end,
        }
    };
    let mut attempted = account(task, end, Measured { steady: true, metrics, ..Measured::default() }, tail, &ended);
    blame_gpu(&mut attempted.record, watch.and_then(|watch| watch.stop().ok()).map(|seen| seen.watch));
    let samples = attempted.record.metrics.values().map(Vec::len).max().unwrap_or(0);
    attempted.record.samples = u32::try_from(samples).unwrap_or(u32::MAX);
    attempted.record.setup_seconds = first_figure.map(|after: Duration| after.as_secs_f64());
    Ok(attempted)
}

fn keep(tail: &mut Tail, stream: Stream, line: &str) {
    match stream {
        Stream::Out => tail.push(line),
        Stream::Err => tail.push_error(line),
    }
}

/// The end that a process's exit asks for, given what its words asked for.
fn end_of_process(ended: &io::Result<Ended>, killed: bool, said: Option<End>, tail: &Tail) -> End {
    use std::os::unix::process::ExitStatusExt;
    let last =
        || tail.last().map_or_else(|| "it printed nothing".to_owned(), |last| format!("its last line was `{last}`"));
    let failed = |message: String| End::Failed { message };
    let status = match ended {
        Ok(ended) => ended.status,
        Err(error) => return failed(format!("how it ended cannot be known: {error}")),
    };
    match (status.signal(), status.code(), said) {
        (_, _, Some(end)) if killed => end,
        (Some(signal), ..) => End::Crashed { signal },
        (_, Some(0), Some(end)) => end,
        (_, Some(0), None) => failed(format!("it exited without `finished`: {}", last())),
        (_, code, _) => {
            let code = code.unwrap_or(-1);
            // Shells pass a signal on as 128 and its number.
            let hint = if (129..=159).contains(&code) { format!(" (signal {})", code - 128) } else { String::new() };
            failed(format!("it exited with status {code}{hint}: {}", last()))
        }
    }
}

fn account(task: &Task<'_>, end: End, measured: Measured, mut tail: Tail, ended: &io::Result<Ended>) -> Attempted {
    if let Ok(Ended { left_behind: left @ 1.., .. }) = ended
        && end == End::Completed
    {
        tail.push(&format!("stepwatch: {left} processes that it left behind were killed"));
    }
    let keep_tail = end != End::Completed || matches!(ended, Ok(ended) if ended.left_behind > 0);
    let record = RoundRecord {
        cell: task.planned.cell.id.clone(),
        round: task.round,
        attempt: task.attempt,
        end,
        started: String::new(),
        wall_seconds: 0.0,
        setup_seconds: None,
        warmup_steps: measured.warmup_steps,
        steady: measured.steady,
        tokens: measured.tokens,
        samples_bytes: (0, 0),
        samples: measured.measured,
        ready: None,
        finished: None,
        metrics: measured.metrics,
        canaries: Vec::new(),
        gpu: None,
        output_tail: if keep_tail { tail.into_lines() } else { Vec::new() },
    };
    Attempted { record, samples: measured.samples, plan: None, verification: None, ops: Vec::new(), ceilings: None }
}

/// The record of a round that was not run, and the end that it shares with what kept it from running.
#[must_use]
pub fn not_run(task: &Task<'_>, end: End) -> Attempted {
    let nothing = Ok(Ended { status: std::process::ExitStatus::default(), left_behind: 0 });
    let mut attempted = account(task, end, Measured::default(), Tail::default(), &nothing);
    attempted.record.started = crate::machine::now();
    attempted
}

fn unstarted(task: &Task<'_>, message: String) -> Attempted {
    not_run(task, End::Failed { message })
}

fn start(command: Result<Command, String>, speaks: bool) -> Result<Process, String> {
    let mut command = command?;
    Process::start(&mut command, speaks).map_err(|error| {
        let program = PathBuf::from(command.get_program());
        format!("{} cannot be started: {error}", program.display())
    })
}

fn first_line(task: &Task<'_>) -> String {
    let measure = task.measure;
    let (warmup, more) = match measure.warmup {
        crate::scenario::Warmup::Steady => (measure.max_warmup_steps, RUN_AHEAD),
        crate::scenario::Warmup::Steps(steps) => (steps, FIRST_STEP),
    };
    line_of(&ToWorker::Cell {
        protocol: PROTOCOL,
        mode: task.mode,
        parameters: parameters_of(task),
        plan: task.plan.and_then(|plan| serde_json::to_value(plan).ok()).unwrap_or(serde_json::Value::Null),
        seed: task.seed,
        max_steps: warmup + u64::from(measure.samples) + more,
        persistent: task.persists(),
    })
}

/// The parameters as a worker takes them: which build it is stands in the ledger only.
fn parameters_of(task: &Task<'_>) -> Parameters {
    let mut parameters = task.planned.cell.parameters.clone();
    if matches!(task.planned.work, Work::Builtin(_)) {
        parameters.remove(BUILD);
    }
    parameters
}

fn line_of(message: &ToWorker) -> String {
    // Messages are structs with text keys: they can always be written.
    serde_json::to_string(message).unwrap_or_default() + "\n"
}
