//! How far two right emulations of one recipe lie apart: what `model/VERIFICATION.md` quotes. Run by hand; asserts little.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::time::Instant;

use stepwatch_kernels::Precision;
use stepwatch_kernels::real::Real;
use stepwatch_model::build::build;
use stepwatch_model::config::{Attention, Compile, Dims, OptimizerState, StepConfig, preset};
use stepwatch_model::data::Source;
use stepwatch_model::exec::Backend;
use stepwatch_model::exec::cpu::{Cpu, Watch};
use stepwatch_model::verify::{OtherRoundings, first_step, parts, sample, sqnr_db};

/// Gradients of step 0 in the arithmetic type `R`.
fn gradients<R: Real>(config: &StepConfig, seed: u64, watch: &mut Watch<'_, R>) -> Vec<(String, Vec<f32>)> {
    let mut step = build(config);
    let ids: Vec<_> = step.parameters.iter().map(|parameter| (parameter.name.clone(), parameter.gradient)).collect();
    step.outputs.extend(ids.iter().map(|(_, id)| *id));
    let batch = Source::open(config, seed).unwrap().batch(0);
    let mut cpu = Cpu::<R>::new(step, seed);
    let ports = cpu.step().ports;
    cpu.write(ports.ids, &batch.ids);
    cpu.write(ports.targets, &batch.targets);
    cpu.init().unwrap();
    cpu.run_watched(watch).unwrap();
    let read = |id| cpu.buffer(id).unwrap().view().values().iter().map(|value| value.f32()).collect();
    ids.into_iter().map(|(name, id)| (name, read(id))).collect()
}

fn plain<R: Real>(config: &StepConfig) -> Vec<(String, Vec<f32>)> {
    gradients::<R>(config, 3, &mut |_, _| {})
}

/// With results of products and attention moved to their other neighbours at a rate.
fn otherwise(config: &StepConfig, draw: u64, rate: f64) -> Vec<(String, Vec<f32>)> {
    let mut roundings = OtherRoundings::at_rate(draw, rate);
    gradients::<f32>(config, 3, &mut |node, buffers| roundings.after(node, buffers))
}

fn spread(one: &[(String, Vec<f32>)], two: &[(String, Vec<f32>)]) -> (f64, f64, String) {
    let mut all: Vec<(f64, String)> =
        one.iter().zip(two).map(|((name, x), (_, y))| (sqnr_db(x, y), name.clone())).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    (all[0].0, all[all.len() / 2].0, all[0].1.clone())
}

#[test]
#[ignore = "takes minutes: run by hand in release"]
fn spread_of_two_right_emulations() {
    let dims = Dims { dim: 256, layers: 2, heads: 4, ffn: 512, vocab: 1000 };
    let small = |precision| StepConfig { precision, attention: Attention::Flash, ..StepConfig::example(dims, 2, 192) };
    let deep = |precision| StepConfig { dims: Dims { layers: 8, ..dims }, ..small(precision) };
    let wide = |precision| {
        sample(&StepConfig {
            precision,
            attention: Attention::Flash,
            ..StepConfig::example(preset("454m").unwrap(), 16, 2048)
        })
    };
    println!(
        "{:<10} {:<18} {:>9} {:>22} {:>8} {:>8}",
        "dims", "recipe", "seed", "against fp32 sums", "worst", "median"
    );
    for (name, cell) in [("256", &small as &dyn Fn(Precision) -> StepConfig), ("256×8", &deep), ("454m", &wide)] {
        if std::env::var("SPREAD_DIMS").is_ok_and(|asked| asked != name) {
            continue;
        }
        for precision in Precision::ALL.into_iter().skip(1) {
            let config = cell(precision);
            let (own, fp32) = (
                first_step(&config, &Compile::None, 3).unwrap().0,
                first_step(&StepConfig { precision: Precision::Fp32, ..config.clone() }, &Compile::None, 3).unwrap().0,
            );
            println!(
                "{name:<10} {:<18} loss {:+.1e}, gradient norm {:+.1e} of fp32's",
                precision.name(),
                own.loss / fp32.loss - 1.0,
                own.grad_norm / fp32.grad_norm - 1.0
            );
            let base = plain::<f32>(&config);
            let twin = StepConfig { precision: Precision::Fp32, ..config.clone() };
            let (worst, median, at) = spread(&plain::<f32>(&twin), &base);
            let line = |what: &str, (worst, median, at): (f64, f64, String)| {
                println!("{name:<10} {:<18} {what:>22} {worst:>8.1} {median:>8.1}  {at}", precision.name());
            };
            line("fp32 step", (worst, median, at));
            line("fp64 sums", spread(&base, &plain::<f64>(&config)));
            for rate in [1e-4, 1e-3, 1e-2, 1.0 / 32.0, 2e-1] {
                line(&format!("flips {rate:.1e}"), spread(&base, &otherwise(&config, 3, rate)));
            }
            line("flips 1/32, again", spread(&base, &otherwise(&config, 4, 1.0 / 32.0)));
        }
    }
}

/// What the emulations of a cell cost where they run.
#[test]
#[ignore = "a measurement: run by hand"]
fn seconds_of_a_cell() {
    for precision in [Precision::Bf16, Precision::Fp8Tensorwise, Precision::Fp8Rowwise] {
        let config = StepConfig {
            precision,
            attention: Attention::Flash,
            optimizer_state: OptimizerState::Bf16,
            ..StepConfig::example(preset("454m").unwrap(), 16, 2048)
        };
        let start = Instant::now();
        let found = parts(&config, Backend::Cpu, 3).unwrap();
        println!("454m {}: {} parts, {:.1} s", precision.name(), found.len(), start.elapsed().as_secs_f64());
    }
}
