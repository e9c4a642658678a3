//! The step on a GPU: against the CPU executor, twice bit for bit, and how fast. Run by `ci/gpu`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]
#![allow(clippy::cast_precision_loss)]

use std::time::Instant;

use stepwatch_kernels::Precision;
use stepwatch_model::config::{Attention, Compile, Dims, Head, OptimizerState, StepConfig, preset};
use stepwatch_model::session::{Backend, Session, SessionError, prepare, profile};
use stepwatch_model::verify::{first_step, first_step_on_gpu, worst_sqnr};

/// Two blocks that every recipe takes; the sequence ends in a tile that is not full.
fn small(precision: Precision, attention: Attention) -> StepConfig {
    let dims = Dims { dim: 256, layers: 2, heads: 4, ffn: 512, vocab: 1000 };
    StepConfig { precision, attention, ..StepConfig::example(dims, 2, 200) }
}

/// The least that a gradient must reach against the CPU's of the same list, dB. Where a value lies at an FP8 rounding point
/// the order of a sum decides, and it moves by a whole FP8 step: the recipes differ by how many values share a scale.
const fn floor_db(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => 80.0,
        Precision::Bf16 => 32.0,
        _ => 20.0,
    }
}

#[test]
#[ignore = "needs a GPU"]
fn the_first_step_is_the_cpus() {
    for precision in Precision::ALL {
        for attention in [Attention::Naive, Attention::Flash, Attention::Cudnn] {
            if attention == Attention::Cudnn && precision == Precision::Fp32 {
                continue;
            }
            for (compile, recompute, head) in [
                (Compile::None, false, Head::Bf16),
                (Compile::Full, true, Head::Fp8),
                (Compile::Full, false, Head::Bf16),
            ] {
                if precision.is_fp8() && attention == Attention::Naive && recompute {
                    continue;
                }
                let head = if precision.is_fp8() { head } else { Head::Bf16 };
                // Tokens are a multiple of 16, and of 128 where blocks of them share scales.
                let seq_len = if precision == Precision::Fp8Block128 { 192 } else { 200 };
                let config = StepConfig { compile, recompute, head, seq_len, ..small(precision, attention) };
                let what = format!("{} {attention:?} {} recompute {recompute}", precision.name(), config.compile);
                let (cpu, _) = match first_step(&config, &Compile::None, 3) {
                    Ok(found) => found,
                    Err(error) => panic!("{what}: {error}"),
                };
                let gpu = first_step_on_gpu(&config, 3).unwrap_or_else(|error| panic!("{what}: {error}"));
                let again = first_step_on_gpu(&config, 3).unwrap();
                let (name, db) = worst_sqnr(&cpu, &gpu);
                println!(
                    "{what}: loss {:.6} {:.6}, norm {:.6} {:.6}, worst {db:.1} dB ({name})",
                    cpu.loss, gpu.loss, cpu.grad_norm, gpu.grad_norm
                );
                assert!((gpu.loss / cpu.loss - 1.0).abs() < 1e-3, "{what}: loss {} for {}", gpu.loss, cpu.loss);
                assert!(
                    (gpu.grad_norm / cpu.grad_norm - 1.0).abs() < 2e-2,
                    "{what}: {} {}",
                    gpu.grad_norm,
                    cpu.grad_norm
                );
                assert!(db >= floor_db(precision), "{what}: {db} dB of {name}");
                assert_eq!(gpu.loss.to_bits(), again.loss.to_bits(), "{what}: two runs differ");
                // cuDNN adds the gradients of queries in the order in which its blocks happen to come.
                if attention == Attention::Cudnn {
                    continue;
                }
                for ((name, one), (_, two)) in gpu.gradients.iter().zip(&again.gradients) {
                    assert!(
                        one.iter().zip(two).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{what}: two runs differ in {name}"
                    );
                }
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn losses_follow_the_cpus_and_steps_are_handed_over_in_order() {
    for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp8Delayed] {
        let config = StepConfig { learning_rate: 1e-3, ..small(precision, Attention::Flash) };
        let mut cpu = Session::open(&config, Backend::Cpu, None, 5).unwrap();
        let mut gpu = Session::open(&config, Backend::Cuda, None, 5).unwrap();
        assert_eq!(cpu.plan().hash, gpu.plan().hash, "the same list");
        let expected = cpu.advance(12).unwrap();
        let mut found = gpu.advance(5).unwrap();
        found.extend(gpu.advance(7).unwrap());
        found.extend(gpu.drain().unwrap());
        assert_eq!(found.iter().map(|step| step.step).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
        for (one, two) in found.iter().zip(&found[1..]) {
            assert!(one.t_ns <= two.t_ns && one.gpu_ns > 0 && one.cycles > 0, "{one:?} {two:?}");
        }
        for (cpu, gpu) in expected.iter().zip(&found) {
            println!("{} step {}: {:.5} {:.5}", precision.name(), cpu.step, cpu.loss, gpu.loss);
            assert!((gpu.loss / cpu.loss - 1.0).abs() < 1e-2, "{cpu:?} {gpu:?}");
        }
        assert!(expected[11].loss < expected[0].loss, "it learns");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_cell_verifies_and_its_profile_adds_up() {
    let config = small(Precision::Fp8Tensorwise, Attention::Flash);
    let prepared = prepare(&config, Backend::Cuda, 3).unwrap();
    println!("{:?}", prepared.verification);
    assert!(prepared.verification.ok, "{:?}", prepared.verification.failures);
    let ops = profile(&config, Backend::Cuda, Some(&prepared.plan), 3).unwrap();
    assert!(ops.iter().all(|op| op.gpu_ns >= 0.0) && ops.iter().map(|op| op.gpu_ns).sum::<f64>() > 0.0);
    assert_eq!(ops.last().unwrap().class, "gap");
}

#[test]
#[ignore = "needs a GPU"]
fn what_does_not_fit_is_out_of_memory() {
    let config = StepConfig {
        precision: Precision::Bf16,
        attention: Attention::Naive,
        ..StepConfig::example(Dims { layers: 24, ..preset("454m").unwrap() }, 64, 2048)
    };
    let error = Session::open(&config, Backend::Cuda, None, 1).unwrap_err();
    assert!(matches!(error, SessionError::OutOfMemory(_)), "{error}");
}

/// Prints what cells reach and asserts nothing: rates belong to a machine and its clock.
#[test]
#[ignore = "needs a GPU"]
fn speed() {
    let cell = |batch_size, precision, attention, compile| StepConfig {
        precision,
        attention,
        compile,
        optimizer_state: OptimizerState::Bf16,
        clip: 0.0,
        ..StepConfig::example(preset("454m").unwrap(), batch_size, 2048)
    };
    println!(
        "{:<44} {:>9} {:>10} {:>6} {:>7} {:>8} {:>8} {:>9}",
        "454m", "ms", "tokens/s", "MHz", "GiB", "setup s", "first s", "loss"
    );
    for (batch_size, precision, attention, compile) in [
        (16, Precision::Bf16, Attention::Cudnn, Compile::None),
        (16, Precision::Fp8Tensorwise, Attention::Cudnn, Compile::None),
        (16, Precision::Fp8Delayed, Attention::Cudnn, Compile::None),
        (16, Precision::Bf16, Attention::Flash, Compile::None),
        (16, Precision::Fp8Tensorwise, Attention::Flash, Compile::None),
        (16, Precision::Fp8Tensorwise, Attention::Flash, Compile::Full),
        (16, Precision::Fp8Delayed, Attention::Flash, Compile::None),
        (16, Precision::Fp8Rowwise, Attention::Flash, Compile::None),
        (16, Precision::Fp8Block128, Attention::Flash, Compile::None),
        (4, Precision::Bf16, Attention::Naive, Compile::None),
    ] {
        let config = cell(batch_size, precision, attention, compile);
        let name = format!("×{batch_size} {} {attention:?} {}", precision.name(), config.compile);
        let start = Instant::now();
        let mut session = match Session::open(&config, Backend::Cuda, None, 1) {
            Ok(session) => session,
            Err(error) => {
                println!("{name:<44} {error}");
                continue;
            }
        };
        let setup = start.elapsed().as_secs_f64();
        let start = Instant::now();
        session.advance(1).unwrap();
        session.drain().unwrap();
        let first = start.elapsed().as_secs_f64();
        session.advance(4).unwrap();
        session.drain().unwrap();
        let mut steps = session.advance(12).unwrap();
        steps.extend(session.drain().unwrap());
        let loss = steps.last().unwrap().loss;
        steps.sort_by_key(|step| step.gpu_ns);
        let step = steps[steps.len() / 2];
        println!(
            "{name:<44} {:>9.2} {:>10.0} {:>6.0} {:>7.2} {setup:>8.2} {first:>8.2} {:>9.4}",
            step.gpu_ns as f64 / 1e6,
            config.tokens() as f64 * 1e9 / step.gpu_ns as f64,
            step.cycles as f64 * 1e3 / step.gpu_ns as f64,
            session.peak_memory_bytes() as f64 / f64::from(1 << 30),
            loss
        );
        drop(session);
        if batch_size == 16
            && config.compile == Compile::None
            && matches!(precision, Precision::Bf16 | Precision::Fp8Tensorwise)
        {
            let mut ops = profile(&config, Backend::Cuda, None, 1).unwrap();
            ops.sort_by(|a, b| b.gpu_ns.total_cmp(&a.gpu_ns));
            for op in &ops {
                println!(
                    "    {:<10} {:<32} {:<9} {:>4} {:>9.3} ms {:>7.0} TFLOP/s {:>6.0} GB/s",
                    op.class,
                    op.label,
                    op.phase,
                    op.count,
                    op.gpu_ns / 1e6,
                    op.flops / op.gpu_ns / 1e3,
                    op.bytes / op.gpu_ns
                );
            }
        }
    }
}
