//! The child: one process that prepares, measures or profiles one cell by the built-in step, or finds what its device sustains, and
//! speaks the protocol.
//!
//! It decides nothing: it runs steps and sends their times until it is told to stop. Only messages go to the stream that
//! was standard output; nothing else that prints can break the protocol.

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stepwatch_record::Parameters;
use stepwatch_record::message::{Finished, FromWorker, Mode, Ready, Samples, ToWorker};
use stepwatch_record::version::PROTOCOL;

use stepwatch_model::session::{Backend, StepTime};

use crate::builtin::{self, Ended, Running};
use crate::scenario::config_of;

/// A batch is sent after this long …
const BATCH_TIME: Duration = Duration::from_millis(50);
/// … or so many steps, whichever is first.
const BATCH_STEPS: usize = 16;

/// What the phases of a step are called among its samples' further figures.
const PHASES: [&str; 3] = ["forward_seconds", "backward_seconds", "optimiser_seconds"];

/// What the first line asked for.
struct Asked {
    mode: Mode,
    parameters: Parameters,
    plan: serde_json::Value,
    seed: u64,
    max_steps: u64,
}

/// Why the worker ends before its time.
#[derive(Debug)]
enum Trouble {
    /// The parent is gone or talks nonsense: nobody to tell.
    Parent(String),
    /// The session ended badly; the parent is told.
    Session(Ended),
}

impl From<Ended> for Trouble {
    fn from(end: Ended) -> Self {
        Self::Session(end)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Parent(format!("the parent cannot be written to: {error}"))
    }
}

/// Where messages go.
type Line = Box<dyn Write>;

/// Runs the worker to its end; `began` is when the process started.
///
/// # Errors
/// When there is no parent to speak to, in words.
pub fn run(backend: &str, began: Instant) -> Result<(), String> {
    let mut line: Line = Box::new(io::stdout());
    let (asked, stop) = listen()?;
    match serve(&asked, backend, began, &stop, &mut line) {
        Ok(()) => Ok(()),
        Err(Trouble::Parent(why)) => Err(why),
        Err(Trouble::Session(end)) => send(&mut line, &end.message()).map_err(|error| error.to_string()),
    }
}

fn serve(asked: &Asked, backend: &str, began: Instant, stop: &AtomicBool, line: &mut Line) -> Result<(), Trouble> {
    let config = config_of(&asked.parameters).map_err(Ended::failed)?;
    let backend: Backend = builtin::backend(backend).map_err(Trouble::Parent)?;
    match asked.mode {
        Mode::Prepare => {
            let (plan, verification) = builtin::prepare(&config, backend, asked.seed)?;
            send(line, &FromWorker::Planned(plan))?;
            send(line, &FromWorker::Verified(verification))?;
            send(line, &FromWorker::Finished(Finished::default()))?;
            Ok(())
        }
        Mode::Profile => {
            let ops = builtin::profile(&config, backend, &asked.plan, asked.seed)?;
            send(line, &FromWorker::Ops { ops })?;
            send(line, &FromWorker::Finished(Finished::default()))?;
            Ok(())
        }
        Mode::Ceilings => {
            let (gpu, all) = builtin::ceilings(backend, began)?;
            send(line, &FromWorker::Ceilings { gpu, all })?;
            send(line, &FromWorker::Finished(Finished::default()))?;
            Ok(())
        }
        Mode::Measure => {
            let running = Running::open(&config, backend, &asked.plan, asked.seed)?;
            measure(running, asked, config.tokens() as u64, began, stop, line)
        }
    }
}

/// Runs the first step, says `ready`, and then sends steps until told to stop.
fn measure(
    mut running: Running,
    asked: &Asked,
    tokens: u64,
    began: Instant,
    stop: &AtomicBool,
    line: &mut Line,
) -> Result<(), Trouble> {
    let first_began = Instant::now();
    let first = running.first_step()?;
    let ready = Ready {
        protocol: Some(PROTOCOL),
        setup_seconds: Some(began.elapsed().as_secs_f64()),
        first_step_seconds: Some(first_began.elapsed().as_secs_f64()),
        loss: Some(first.loss),
        ..running.describe()
    };
    send(line, &FromWorker::Ready(ready))?;
    // A step allocates nothing once it has run, and the canary's memory is no memory of the step's.
    let peak_memory_bytes = running.peak_memory_bytes();
    canary(&running, line)?;
    let mut batch = Batch::new(tokens);
    let mut last = first;
    let mut steps = 1;
    let mut take = |times: Vec<StepTime>, batch: &mut Batch| {
        for time in times {
            steps += 1;
            last = time;
            batch.push(&time);
        }
        steps
    };
    // Steps that end are fewer than those submitted: none is submitted that nobody waits for.
    for _ in 0..asked.max_steps {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        take(running.advance()?, &mut batch);
        if batch.is_due() {
            batch.send(line)?;
        }
    }
    let steps = take(running.drain()?, &mut batch);
    batch.send(line)?;
    canary(&running, line)?;
    let finished =
        Finished { steps, loss: Some(last.loss), peak_memory_bytes: Some(peak_memory_bytes), cast_overflows: None };
    send(line, &FromWorker::Finished(finished))?;
    Ok(())
}

/// Runs the canary between steps. Where there is no memory for it beside the step, the round goes without.
fn canary(running: &Running, line: &mut Line) -> Result<(), Trouble> {
    if let Some(canary) = running.canary()? {
        send(line, &FromWorker::Canary(canary))?;
    }
    Ok(())
}

/// Steps on their way to the parent.
struct Batch {
    samples: Samples,
    next: u64,
    since: Instant,
}

impl Batch {
    fn new(tokens: u64) -> Self {
        Self { samples: Samples { tokens, ..Samples::default() }, next: 0, since: Instant::now() }
    }

    fn push(&mut self, step: &StepTime) {
        self.samples.t_ns.push(step.t_ns);
        self.samples.gpu_ns.push(step.gpu_ns);
        self.samples.cycles.push(step.cycles);
        self.samples.loss.push(step.loss);
        if step.phases_ns == [0; 3] {
            return;
        }
        for (name, ns) in PHASES.iter().zip(step.phases_ns) {
            // Seconds of a step are far from where a double's steps are wider than a nanosecond.
            self.samples.metrics.entry((*name).to_owned()).or_default().push(ns as f64 / 1e9);
        }
    }

    fn is_due(&self) -> bool {
        let waiting = self.samples.gpu_ns.len();
        waiting >= BATCH_STEPS || (waiting > 0 && self.since.elapsed() >= BATCH_TIME)
    }

    fn send(&mut self, line: &mut Line) -> io::Result<()> {
        let count = self.samples.gpu_ns.len();
        self.since = Instant::now();
        if count == 0 {
            return Ok(());
        }
        let empty = Samples { tokens: self.samples.tokens, ..Samples::default() };
        let mut samples = std::mem::replace(&mut self.samples, empty);
        samples.from = self.next;
        self.next += count as u64;
        send(line, &FromWorker::Samples(samples))
    }
}

fn send(line: &mut Line, message: &FromWorker) -> io::Result<()> {
    let text = serde_json::to_string(message).map_err(io::Error::other)?;
    line.write_all(text.as_bytes())?;
    line.write_all(b"\n")?;
    line.flush()
}

/// Reads what is asked for, and from then on watches for `stop` and for the parent's end.
fn listen() -> Result<(Asked, Arc<AtomicBool>), String> {
    let mut first = String::new();
    io::stdin().lock().read_line(&mut first).map_err(|error| format!("the parent cannot be read: {error}"))?;
    let message = serde_json::from_str(first.trim())
        .map_err(|error| format!("a worker is started by `stepwatch run`, which sends it a cell: {error}"))?;
    let ToWorker::Cell { protocol, mode, parameters, plan, seed, max_steps, .. } = message else {
        return Err("the first line to a worker names its cell".to_owned());
    };
    if protocol != PROTOCOL {
        return Err(format!("the parent speaks version {protocol} of the worker protocol, and this worker {PROTOCOL}"));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&stop);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if matches!(serde_json::from_str(&line), Ok(ToWorker::Stop)) {
                heard.store(true, Ordering::Relaxed);
                return;
            }
        }
        // The parent is gone: nobody reads what we measure, and we must not disturb what is measured next.
        std::process::exit(i32::from(crate::exit::Exit::Terminated.code()));
    });
    Ok((Asked { mode, parameters, plan, seed, max_steps }, stop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_sent_where_they_are_known() {
        let step =
            |phases_ns| StepTime { step: 1, t_ns: 10, gpu_ns: 6, phases_ns, cycles: 3, loss: 1.0, grad_norm: 1.0 };
        let mut batch = Batch::new(8);
        batch.push(&step([0; 3]));
        assert!(batch.samples.metrics.is_empty());
        let mut batch = Batch::new(8);
        batch.push(&step([1, 2, 3]));
        batch.push(&step([4, 5, 6]));
        assert_eq!(batch.samples.metrics["backward_seconds"], [2e-9, 5e-9]);
        assert!(batch.samples.metrics.values().all(|values| values.len() == batch.samples.gpu_ns.len()));
    }
}
