//! Trains `mini` on the bytes of a text in every precision and prints what it learned: the mean loss of the last 50 steps.
//!
//! `cargo run --release -p stepwatch-model --example learn -- TEXT [STEPS] [SEEDS] [PRECISION…]`

use std::error::Error;
use std::io::Write;

use stepwatch_model::Precision;
use stepwatch_model::config::{Attention, Compile, Data, StepConfig, preset};
use stepwatch_model::session::{Backend, Session};

/// Steps whose losses are averaged.
const LAST: usize = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let text = arguments.next().ok_or("usage: learn TEXT [STEPS] [SEEDS] [PRECISION…]")?;
    let steps: usize = arguments.next().map_or(Ok(400), |word| word.parse())?;
    let seeds: u64 = arguments.next().map_or(Ok(3), |word| word.parse())?;
    let named: Vec<Precision> = arguments
        .map(|word| Precision::from_name(&word).ok_or_else(|| format!("no precision `{word}`")))
        .collect::<Result<_, _>>()?;
    let precisions = if named.is_empty() { Precision::ALL.to_vec() } else { named };
    let mut out = std::io::stdout().lock();
    writeln!(out, "| precision | seed | first loss | mean of the last {LAST} | seconds |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    for precision in precisions {
        for seed in 1..=seeds {
            let (first, last, seconds) = train(precision, seed, steps, &text)?;
            writeln!(out, "| {} | {seed} | {first:.4} | {last:.4} | {seconds:.0} |", precision.name())?;
            out.flush()?;
        }
    }
    Ok(())
}

/// First loss, mean of the last losses, seconds.
fn train(precision: Precision, seed: u64, steps: usize, text: &str) -> Result<(f64, f64, f64), Box<dyn Error>> {
    let config = StepConfig {
        precision,
        attention: Attention::Flash,
        compile: Compile::Full,
        data: Data::File(text.into()),
        learning_rate: 1e-3,
        lr_warmup_steps: 20,
        ..StepConfig::example(preset("mini").ok_or("no preset mini")?, 4, 128)
    };
    let start = std::time::Instant::now();
    let mut session = Session::open(&config, Backend::Cpu, None, seed)?;
    let losses: Vec<f64> = session.advance(steps)?.iter().map(|step| step.loss).collect();
    let last = &losses[losses.len().saturating_sub(LAST)..];
    let mean = last.iter().sum::<f64>() / last.len().max(1) as f64;
    Ok((losses.first().copied().unwrap_or(f64::NAN), mean, start.elapsed().as_secs_f64()))
}
