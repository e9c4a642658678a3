//! What measuring costs a step, and what products done twice really take, both by blocks of steps that alternate in one process: the
//! same weights at the same addresses, the same minute of the same machine. Run by `ci/gpu`; prints, and asserts only what no
//! machine may break.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]
#![allow(clippy::cast_precision_loss)]

use std::io::Write;
use std::time::{Duration, Instant};

use stepwatch_kernels::Precision;
use stepwatch_model::config::{Attention, Compile, OptimizerState, StepConfig, preset};
use stepwatch_model::exec::cuda::MEASURING;
use stepwatch_model::session::{Backend, Session, StepTime};

/// Timed steps of one block of the published cell, after one that is not.
const BLOCK: usize = 4;
/// The same of a step so short that what is added to it shows: a few of its microseconds lie far above how its blocks differ.
const SHORT_BLOCK: usize = 32;
/// What a step may lose to being measured, as a share of it.
const GOAL: f64 = 0.001;
/// No pair of blocks is begun so long after a test's start: on an H100 that leaves a dozen pairs and the whole test under 45 s.
const LAST_PAIR: Duration = Duration::from_secs(30);
/// Fewer pairs than this show nothing of how they differ.
const FEWEST_PAIRS: usize = 4;

/// The cell of the published figures: 454m ×16 in FP8 with delayed scales, compiled.
fn cell() -> StepConfig {
    StepConfig {
        precision: Precision::Fp8Delayed,
        attention: Attention::Cudnn,
        compile: Compile::Full,
        optimizer_state: OptimizerState::Bf16,
        clip: 0.0,
        ..StepConfig::example(preset("454m").unwrap(), 16, 2048)
    }
}

/// The same model on 512 tokens in bf16: a few milliseconds a step.
fn short_cell() -> StepConfig {
    StepConfig { precision: Precision::Bf16, batch_size: 1, seq_len: 512, ..cell() }
}

/// What a worker does with the times of its steps: collects them, and writes 16 at a time as a line of JSON.
struct Batch {
    steps: Vec<StepTime>,
    line: std::fs::File,
}

impl Batch {
    fn new() -> Self {
        Self { steps: Vec::new(), line: std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap() }
    }

    fn push(&mut self, steps: Vec<StepTime>) {
        self.steps.extend(steps);
        if self.steps.len() < 16 {
            return;
        }
        let of = |pick: fn(&StepTime) -> u64| self.steps.iter().map(pick).collect::<Vec<u64>>();
        let phase = |n: usize| self.steps.iter().map(|step| step.phases_ns[n] as f64 / 1e9).collect::<Vec<f64>>();
        let losses: Vec<f64> = self.steps.iter().map(|step| step.loss).collect();
        let text = serde_json::json!({
            "type": "samples", "from": 0, "tokens": 32768, "t_ns": of(|s| s.t_ns), "gpu_ns": of(|s| s.gpu_ns),
            "cycles": of(|s| s.cycles), "loss": losses,
            "metrics": {"forward_seconds": phase(0), "backward_seconds": phase(1), "optimiser_seconds": phase(2)},
        });
        writeln!(self.line, "{text}").unwrap();
        self.steps.clear();
    }
}

/// Runs a block of so many steps from a quiet GPU to a quiet GPU: seconds a step by the host's clock. The first step after a
/// change is not timed.
fn block(session: &mut Session, steps: usize, batch: Option<&mut Batch>) -> f64 {
    session.advance(1).unwrap();
    session.drain().unwrap();
    let start = Instant::now();
    let mut ended = Vec::new();
    for _ in 0..steps {
        ended.extend(session.advance(1).unwrap());
    }
    ended.extend(session.drain().unwrap());
    if let Some(batch) = batch {
        batch.push(ended);
    }
    start.elapsed().as_secs_f64() / steps as f64
}

/// Seconds a step of pairs of blocks, not measured and measured, until no further pair is begun.
fn pairs(session: &mut Session, steps: usize, batch: &mut Batch, start: Instant) -> Vec<[f64; 2]> {
    block(session, steps, Some(batch));
    let mut pairs = Vec::new();
    while pairs.len() < FEWEST_PAIRS || start.elapsed() < LAST_PAIR {
        let mut both = [0.0; 2];
        // Either side comes first in turn: what the blocks do to the chip falls on both alike.
        for side in if pairs.len() % 2 == 0 { [0, 1] } else { [1, 0] } {
            let measured = side == 1;
            session.measure_steps(measured).unwrap();
            both[side] = block(session, steps, if measured { Some(&mut *batch) } else { None });
        }
        pairs.push(both);
    }
    pairs
}

/// Mean and 95 % interval of differences, times 100: relative ones in per cent of the base.
fn shown(differences: &[f64]) -> (f64, f64, f64) {
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // Student's t at the fewest degrees of freedom of each range: 3 and 7.
    let quantile = if n < 8.0 { 3.2 } else { 2.4 };
    let reach = quantile * (variance / n).sqrt();
    (100.0 * mean, 100.0 * (mean - reach), 100.0 * (mean + reach))
}

/// Host time of submitting a step and of taking its end in, ns: while the GPU has room for the step, and once it is done.
fn host_ns(session: &mut Session, batch: &mut Batch) -> (f64, f64) {
    let (mut submit, mut take) = (0.0, 0.0);
    let rounds = 2;
    for _ in 0..rounds {
        let start = Instant::now();
        let ended = session.advance(2).unwrap();
        submit += start.elapsed().as_secs_f64();
        assert!(ended.is_empty(), "two steps fit under way");
        std::thread::sleep(Duration::from_millis(600));
        let start = Instant::now();
        batch.push(session.drain().unwrap());
        take += start.elapsed().as_secs_f64();
    }
    let steps = f64::from(2 * rounds);
    (1e9 * submit / steps, 1e9 * take / steps)
}

#[test]
#[ignore = "needs a GPU"]
fn measuring_costs_a_thousandth_of_a_step_at_most() {
    let start = Instant::now();
    let mut session = Session::open(&cell(), Backend::Cuda, None, 1).unwrap();
    println!("opened in {:.1} s", start.elapsed().as_secs_f64());
    let mut batch = Batch::new();
    let pairs = pairs(&mut session, BLOCK, &mut batch, start);
    pairs.iter().for_each(|[bare, measured]| println!("{:.3} ms without, {:.3} ms with", 1e3 * bare, 1e3 * measured));
    let differences: Vec<f64> = pairs.iter().map(|[bare, measured]| measured / bare - 1.0).collect();
    let (mean, low, high) = shown(&differences);
    let step = pairs.iter().map(|[bare, _]| bare).sum::<f64>() / pairs.len() as f64;
    println!(
        "454m ×16 fp8-delayed full, {} pairs of blocks of {BLOCK} steps, {:.3} ms a step",
        pairs.len(),
        1e3 * step
    );
    println!("measuring adds {mean:+.4} % (95 % interval {low:+.4} to {high:+.4} %) to a step");
    let host = |on: bool, session: &mut Session, batch: &mut Batch| {
        session.measure_steps(on).unwrap();
        host_ns(session, batch)
    };
    let (bare, measured) = (host(false, &mut session, &mut batch), host(true, &mut session, &mut batch));
    println!(
        "host ns a step: submit {:.0} without, {:.0} with; take in {:.0} without, {:.0} with; more in all: {:.0}",
        bare.0,
        measured.0,
        bare.1,
        measured.1,
        measured.0 + measured.1 - bare.0 - bare.1
    );
    println!("more on the device a step: {MEASURING:?}");
    // Where an interval reaches above the goal, it is the interval that must be told.
    assert!(low <= 100.0 * GOAL, "measuring costs {mean:.3} % of a step, at least {low:.3} %");
    drop(session);
    added_to_a_short_step(step);
}

/// The same in microseconds, from a step of a few milliseconds, whose blocks differ by less; and as a share of `long`, seconds.
fn added_to_a_short_step(long: f64) {
    let mut session = Session::open(&short_cell(), Backend::Cuda, None, 1).unwrap();
    let pairs = pairs(&mut session, SHORT_BLOCK, &mut Batch::new(), Instant::now());
    let differences: Vec<f64> = pairs.iter().map(|[bare, measured]| measured - bare).collect();
    let (mean, low, high) = shown(&differences);
    let [mean, low, high] = [mean, low, high].map(|hundredfold| hundredfold / 100.0);
    let step = pairs.iter().map(|[bare, _]| bare).sum::<f64>() / pairs.len() as f64;
    println!(
        "454m 1 × 512 bf16 full, {} pairs of blocks of {SHORT_BLOCK} steps, {:.3} ms a step",
        pairs.len(),
        1e3 * step
    );
    println!(
        "measuring adds {:+.1} µs (95 % interval {:+.1} to {:+.1} µs) to a step",
        1e6 * mean,
        1e6 * low,
        1e6 * high
    );
    println!(
        "which is {:+.4} % ({:+.4} to {:+.4} %) of {:.1} ms",
        100.0 * mean / long,
        100.0 * low / long,
        100.0 * high / long,
        1e3 * long
    );
    assert!(low <= GOAL * long, "measuring adds at least {:.0} µs to a step of {:.1} ms", 1e6 * low, 1e3 * long);
}

/// The realised effect of `STEPWATCH_REPEAT` at the shares that `ci/injected` takes: two sessions, one of them doing a share of
/// its products twice, block by block in turn.
#[test]
#[ignore = "needs a GPU"]
fn products_done_twice_take_their_share() {
    let mut plain = Session::open_repeating(&cell(), Backend::Cuda, None, 1, 0.0).unwrap();
    let plan = plain.plan().clone();
    let shares = std::env::var("STEPWATCH_SHARES").unwrap_or_else(|_| "0.008,0.016,0.032".to_owned());
    for share in shares.split(',').map(|share| share.parse::<f64>().unwrap()) {
        let start = Instant::now();
        let mut slower = Session::open_repeating(&cell(), Backend::Cuda, Some(&plan), 1, share).unwrap();
        let mut differences = Vec::new();
        for pair in 0..8 {
            let mut both = [0.0; 2];
            for side in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
                let session = if side == 0 { &mut plain } else { &mut slower };
                both[side] = block(session, BLOCK, None);
            }
            println!(
                "{:>5.1} s, share {share}: {:.3} ms, {:.3} ms",
                start.elapsed().as_secs_f64(),
                1e3 * both[0],
                1e3 * both[1]
            );
            differences.push(both[1] / both[0] - 1.0);
        }
        let (mean, low, high) = shown(&differences);
        println!("share {share}: {mean:+.3} % ({low:+.3} to {high:+.3} %) more time a step, in one process");
        assert!(mean > 0.0, "share {share} takes no time");
    }
}
