//! The checks themselves: what is right passes, what is wrong is named. On the CPU by breaking what ops wrote; on a GPU, run
//! by `ci/gpu`, at the size of real cells.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::time::Instant;

use stepwatch_kernels::Precision;
use stepwatch_kernels::op::Op;
use stepwatch_kernels::tensor::Buffer;
use stepwatch_model::build::build;
use stepwatch_model::config::{Attention, Compile, Dims, OptimizerState, StepConfig, preset};
use stepwatch_model::data::Source;
use stepwatch_model::exec::Backend;
use stepwatch_model::exec::cpu::{Cpu, Watch, run_alone};
use stepwatch_model::exec::cuda::Cuda;
use stepwatch_model::ir::{Node, Step};
use stepwatch_model::passes::pipeline;
use stepwatch_model::session::{SessionError, prepare};
use stepwatch_model::verify::{Algorithms, OnCpu, OpChecks, PartRatio, check_ops, parts, twin};

fn small(precision: Precision, attention: Attention) -> StepConfig {
    let dims = Dims { dim: 128, layers: 2, heads: 2, ffn: 256, vocab: 500 };
    StepConfig { precision, attention, ..StepConfig::example(dims, 1, 128) }
}

fn list(config: &StepConfig) -> Step {
    pipeline(build(config), &config.compile, Backend::Cpu).unwrap().step
}

/// Runs a step on the CPU; every op is checked after `change` has had its way with what it wrote.
fn checked(config: &StepConfig, change: &mut Watch<'_, f32>) -> OpChecks {
    let step = list(config);
    let batch = Source::open(config, 3).unwrap().batch(0);
    let mut checks = OpChecks::new(&step, 3);
    let mut cpu = Cpu::<f32>::new(step, 3);
    let ports = cpu.step().ports;
    cpu.write(ports.ids, &batch.ids);
    cpu.write(ports.targets, &batch.targets);
    cpu.init().unwrap();
    cpu.run_watched(&mut |node, buffers| {
        change(node, buffers);
        let Ok(()) = checks.after(node, &mut OnCpu { node, buffers });
    })
    .unwrap();
    checks
}

#[test]
fn every_distinct_product_attention_and_cast_is_checked_and_holds() {
    for precision in Precision::ALL {
        for attention in [Attention::Naive, Attention::Flash] {
            for compile in [Compile::None, Compile::Full] {
                let config = StepConfig { compile, ..small(precision, attention) };
                let what = format!("{} {attention:?} {}", precision.name(), config.compile);
                let checks = checked(&config, &mut |_, _| {});
                assert!(checks.failures.is_empty(), "{what}: {:?}", checks.failures);
                let step = list(&config);
                let labels = |is: &dyn Fn(&Op) -> bool| {
                    let mut labels: Vec<_> = step.ops.iter().filter(|n| is(&n.op)).map(|n| n.label.clone()).collect();
                    labels.sort();
                    labels.dedup();
                    labels
                };
                let wanted = labels(&|op| {
                    use Op::{
                        AttentionProduct, FlashBackward, FlashForward, Gemm, Quantise, SoftmaxBackward, SoftmaxForward,
                    };
                    matches!(
                        op,
                        Gemm(_)
                            | AttentionProduct(_)
                            | SoftmaxForward(_)
                            | SoftmaxBackward(_)
                            | FlashForward(_)
                            | FlashBackward(_)
                            | Quantise(_)
                    )
                });
                for label in wanted {
                    let found = checks.checked.iter().find(|op| op.label == label);
                    assert!(found.is_some_and(|op| op.elements >= 256), "{what}: {label}");
                }
            }
        }
    }
}

/// Changes every value of what an op of this label writes.
fn broken(label: &'static str, change: fn(usize, f32) -> f32) -> impl FnMut(&Node, &mut [Option<Buffer<f32>>]) {
    move |node, buffers| {
        if node.label != label {
            return;
        }
        let last = *node.operands.last().unwrap();
        let buffer = buffers[last.index()].as_mut().unwrap();
        let values: Vec<f32> = buffer.view().values().iter().enumerate().map(|(at, x)| change(at, *x)).collect();
        buffer.view_mut().store(&values);
    }
}

#[test]
fn an_op_that_errs_is_named_with_element_found_and_expected() {
    // label, what its kernel does wrong
    type Case = (&'static str, fn(usize, f32) -> f32);
    let cases: &[Case] = &[
        ("gate-up forward", |_, x| x * 1.25),
        ("down weight gradient", |_, _| 0.0),
        ("qkv input gradient", |_, x| -x),
        ("output forward", |at, x| if at % 128 >= 64 { 0.0 } else { x }),
        ("attention forward", |_, x| x + 0.5),
        ("attention backward", |_, x| x * 0.5),
        ("gate-up x quantise", |at, x| if at % 2 == 0 { x } else { x * 0.5 }),
        ("head forward", |_, _| f32::NAN),
    ];
    let config = small(Precision::Fp8Tensorwise, Attention::Flash);
    let labels: Vec<String> = list(&config).ops.into_iter().map(|node| node.label).collect();
    for (label, change) in cases {
        assert!(labels.iter().any(|found| found == label), "no op is called {label}: {labels:?}");
        let checks = checked(&config, &mut broken(label, *change));
        let named: Vec<&String> =
            checks.failures.iter().filter(|line| line.contains(&format!("`{label}` of block"))).collect();
        let named = if *label == "head forward" { checks.failures.iter().collect() } else { named };
        assert!(!named.is_empty(), "{label}: {:?}", checks.failures);
        assert!(named[0].contains("fp64 of its operands gives"), "{}", named[0]);
    }
}

#[test]
fn an_algorithm_that_leaves_out_a_slab_of_k_is_found_in_every_recipe() {
    for precision in Precision::ALL {
        let config = small(precision, Attention::Flash);
        let mut kept = None;
        let checks = checked(&config, &mut |node, buffers| {
            if node.label != "down forward" {
                return;
            }
            // The product of A without its last 32 columns, of B as it is: what a split of k that is never added leaves.
            let Op::Gemm(gemm) = &node.op else { panic!("{} is no product", node.label) };
            let a = buffers[node.operands[0].index()].clone().unwrap();
            let mut cut = a.view().values().into_owned();
            cut.chunks_mut(gemm.k).for_each(|row| row[gemm.k - 32..].fill(0.0));
            let whole = buffers[node.operands[0].index()].replace(Buffer::rounded(gemm.a.dtype, &cut));
            run_alone(node, buffers).unwrap();
            buffers[node.operands[0].index()] = whole;
            kept = Some(());
        });
        assert!(kept.is_some());
        assert!(checks.failures.iter().any(|line| line.contains("`down forward`")), "{}", precision.name());
    }
}

fn cell(name: &str, batch: usize, precision: Precision, attention: Attention, compile: Compile) -> StepConfig {
    StepConfig {
        precision,
        attention,
        compile,
        optimizer_state: OptimizerState::Bf16,
        clip: 0.0,
        ..StepConfig::example(preset(name).unwrap(), batch, 2048)
    }
}

#[test]
#[ignore = "needs a GPU"]
fn elements_hold_at_the_size_of_real_cells() {
    let mut failures = Vec::new();
    for (batch, precision, attention, compile) in [
        (16, Precision::Bf16, Attention::Cudnn, Compile::None),
        (16, Precision::Fp8Tensorwise, Attention::Cudnn, Compile::Full),
        (16, Precision::Fp8Delayed, Attention::Flash, Compile::Full),
        (16, Precision::Fp8Rowwise, Attention::Flash, Compile::None),
        (16, Precision::Fp8Block128, Attention::Cudnn, Compile::None),
        (2, Precision::Bf16, Attention::Naive, Compile::None),
        (1, Precision::Fp32, Attention::Flash, Compile::None),
    ] {
        let mut config = cell("454m", batch, precision, attention, compile);
        if precision == Precision::Fp32 {
            config.optimizer_state = OptimizerState::Fp32;
        }
        let what = format!("454m ×{batch} {} {attention:?} {}", precision.name(), config.compile);
        let start = Instant::now();
        match check_ops(&config, 3, &Algorithms::new()) {
            Ok((checks, loss, norm)) => {
                println!("{what}: loss {loss:.5}, norm {norm:.5}, {:.2} s with opening", start.elapsed().as_secs_f64());
                for op in &checks.checked {
                    println!(
                        "    {:<18} {:<34} {:>5} elements, {:>7.3} of the tolerance",
                        op.op, op.label, op.elements, op.worst_error
                    );
                }
                failures.extend(checks.failures.into_iter().map(|line| format!("{what}: {line}")));
            }
            Err(error) => failures.push(format!("{what}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Where the time of the checks of a cell goes, and what they find.
#[test]
#[ignore = "needs a GPU"]
fn cells_are_prepared_and_right() {
    let mut failures = Vec::new();
    for (precision, compile) in [(Precision::Bf16, Compile::None), (Precision::Fp8Delayed, Compile::Full)] {
        let config = cell("454m", 16, precision, Attention::Cudnn, compile);
        let what = format!("454m ×16 {} {}", precision.name(), config.compile);
        let start = Instant::now();
        let prepared = match prepare(&config, Backend::Cuda, 3) {
            Ok(prepared) => prepared,
            Err(error) => {
                failures.push(format!("{what}: {error}"));
                continue;
            }
        };
        let found = prepared.verification;
        let (whole, search) = (start.elapsed().as_secs_f64(), prepared.plan.search_seconds);
        println!("{what}: {whole:.1} s, of which search {search:.1} s");
        println!(
            "    {:.1} dB against {}, {:?} dB against fp32, {:?}",
            found.worst_sqnr_db, found.against, found.sqnr_fp32_db, found.twin
        );
        found.casts.iter().for_each(|count| println!("    {count:?}"));
        failures.extend(found.failures.into_iter().map(|line| format!("{what}: {line}")));
        let start = Instant::now();
        let gradients = parts(&config, Backend::Cuda, 3).map(|parts| parts.len());
        println!("    {gradients:?} parts of gradients {:.1} s", start.elapsed().as_secs_f64());
        let start = Instant::now();
        let beside = twin(&config, 3).is_ok();
        println!("    twin {beside} {:.1} s", start.elapsed().as_secs_f64());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// How near the GPU comes to the emulation, part by part, beside what two right emulations reach.
#[test]
#[ignore = "needs a GPU"]
fn gradients_reach_what_two_emulations_reach() {
    let mut failures = Vec::new();
    let dims = Dims { dim: 256, layers: 2, heads: 4, ffn: 512, vocab: 1000 };
    let small = |precision, attention, compile| StepConfig {
        precision,
        attention,
        compile,
        ..StepConfig::example(dims, 1, 128)
    };
    let mut cells = Vec::new();
    for precision in Precision::ALL.into_iter().skip(1) {
        for attention in [Attention::Naive, Attention::Flash, Attention::Cudnn] {
            cells.push(("256", small(precision, attention, Compile::None)));
        }
        cells.push(("256", small(precision, Attention::Flash, Compile::Full)));
    }
    for precision in [Precision::Bf16, Precision::Fp8Tensorwise, Precision::Fp8Rowwise, Precision::Fp8Block128] {
        cells.push(("454m", cell("454m", 16, precision, Attention::Cudnn, Compile::Full)));
    }
    for (name, config) in cells {
        let what = format!("{name} {} {:?} {}", config.precision.name(), config.attention, config.compile);
        let found = match parts(&config, Backend::Cuda, 3) {
            Ok(found) => found,
            Err(error) => {
                failures.push(format!("{what}: {error}"));
                continue;
            }
        };
        let worst = found.iter().min_by(|a, b| a.found_db.total_cmp(&b.found_db)).unwrap();
        let spread = found.iter().min_by(|a, b| a.spread_db.total_cmp(&b.spread_db)).unwrap();
        let gap = |part: &PartRatio| part.found_db - part.spread_db;
        let least = found.iter().min_by(|a, b| gap(a).total_cmp(&gap(b))).unwrap();
        println!(
            "{what:<36} worst {:5.1} dB ({}), two emulations {:5.1} dB, least {:+5.1} dB beside them ({})",
            worst.found_db,
            worst.part,
            spread.spread_db,
            gap(least),
            least.part
        );
        if gap(least) < -6.0 {
            failures.push(format!("{what}: {least:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
#[ignore = "needs a GPU"]
fn the_gpu_counts_what_the_cpu_counts() {
    for precision in [Precision::Fp8Delayed, Precision::Fp8Rowwise, Precision::Fp8Block128] {
        let config = small(precision, Attention::Flash);
        let source = Source::open(&config, 3).unwrap();
        let mut cuda = Cuda::open(list(&config), 3, &source.batch(0), Instant::now()).unwrap();
        let (mut casts, mut flushed) = (0, 0);
        for step in 0..2 {
            let mut watch = |cuda: &Cuda, node: &Node| {
                if let Op::Quantise(quantise) = &node.op {
                    let (x, scale) = (cuda.read(node.operands[0])?, cuda.read(node.operands[1])?);
                    let expected = quantise.losses(&x.view().values(), &scale.view().values());
                    let found = cuda.cast_losses(quantise, node.operands[0], node.operands[1])?;
                    assert_eq!(found, expected, "{} {}", precision.name(), node.label);
                    casts += 1;
                    flushed += found.underflows;
                }
                Ok(())
            };
            cuda.run_watched::<SessionError>(&source.batch(step), &mut watch).unwrap();
        }
        println!("{}: {casts} casts, {flushed} values flushed", precision.name());
        assert!(casts > 0);
    }
}
