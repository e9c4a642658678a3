//! The step on a GPU: against the CPU executor, twice bit for bit, and how fast. Run by `ci/gpu`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]
#![allow(clippy::cast_precision_loss)]

use std::time::Instant;

use stepwatch_kernels::Precision;
use stepwatch_model::config::{Attention, Compile, Dims, Head, OptimizerState, Pass, StepConfig, preset};
use stepwatch_model::probe::{Work, ceilings};
use stepwatch_model::session::{Backend, OpTime, Session, SessionError, StepTime, prepare, profile};
use stepwatch_model::verify::{first_step, first_step_on_gpu, worst_sqnr};

/// Two blocks that every recipe takes; the sequence ends in a tile that is not full.
fn small(precision: Precision, attention: Attention) -> StepConfig {
    let dims = Dims { dim: 256, layers: 2, heads: 4, ffn: 512, vocab: 1000 };
    // The fastest order of attention's backward repeats no bits.
    let deterministic = attention == Attention::Flash;
    StepConfig { precision, attention, deterministic, ..StepConfig::example(dims, 2, 200) }
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

/// Steps of a session, all submitted before any is waited for.
fn steps(session: &mut Session, count: usize) -> Vec<StepTime> {
    let mut found = session.advance(count).unwrap();
    found.extend(session.drain().unwrap());
    assert_eq!(found.len(), count);
    found
}

/// Loss and gradient norm of every step, bit for bit.
fn bits(steps: &[StepTime]) -> Vec<(u64, u64)> {
    steps.iter().map(|step| (step.loss.to_bits(), step.grad_norm.to_bits())).collect()
}

#[test]
#[ignore = "needs a GPU"]
fn a_graph_leaves_the_bits_of_single_launches() {
    for precision in Precision::ALL {
        for (attention, passes) in [
            (Attention::Flash, vec![Pass::Place]),
            (Attention::Naive, vec![]),
            (Attention::Cudnn, vec![Pass::Layout, Pass::Fusion, Pass::Place]),
        ] {
            if attention == Attention::Cudnn && precision == Precision::Fp32 {
                continue;
            }
            let seq_len = if precision == Precision::Fp8Block128 { 192 } else { 200 };
            let config = StepConfig { learning_rate: 1e-3, seq_len, ..small(precision, attention) };
            let with_graph = passes.iter().copied().chain([Pass::Graph]).collect();
            let what = format!("{} {attention:?} {passes:?}", precision.name());
            let open = |compile| {
                let config = StepConfig { compile, ..config.clone() };
                Session::open(&config, Backend::Cuda, None, 5).unwrap_or_else(|error| panic!("{what}: {error}"))
            };
            let single = if passes.is_empty() { Compile::None } else { Compile::Passes(passes.clone()) };
            let single = steps(&mut open(single), 5);
            let mut session = open(Compile::Passes(with_graph));
            let described = session.describe();
            assert!(described.passes.contains(&"graph".to_owned()), "{what}: {:?}", described.skipped_passes);
            let graph = steps(&mut session, 5);
            println!("{what}: {:?} single, {:?} as a graph", single[4].gpu_ns, graph[4].gpu_ns);
            for step in single.iter().chain(&graph) {
                let sum: u64 = step.phases_ns.iter().sum();
                assert!(step.phases_ns.iter().all(|ns| *ns > 0), "{what}: {step:?}");
                assert!(sum.abs_diff(step.gpu_ns) < 3_000, "{what}: phases add up to the step: {step:?}");
            }
            // cuDNN's backward pass does not repeat itself, graph or not: only what comes before it is held to the bit.
            let held = if attention == Attention::Cudnn { 1 } else { 5 };
            let loss = |steps: &[StepTime]| steps[..held].iter().map(|step| step.loss.to_bits()).collect::<Vec<_>>();
            assert_eq!(loss(&single), loss(&graph), "{what}");
            if attention != Attention::Cudnn {
                assert_eq!(bits(&single), bits(&graph), "{what}");
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_searched_plan_runs_the_same_bits_in_every_session() {
    for precision in [Precision::Bf16, Precision::Fp8Tensorwise] {
        let compile = Compile::Passes(vec![Pass::Search]);
        let config = StepConfig { learning_rate: 1e-3, compile, ..small(precision, Attention::Flash) };
        let prepared = prepare(&config, Backend::Cuda, 3).unwrap();
        assert!(prepared.verification.ok, "{:?}", prepared.verification.failures);
        let plan = prepared.plan;
        println!("{} searched in {:.2} s", precision.name(), plan.search_seconds);
        assert!(
            plan.passes.contains(&"search".to_owned()) && plan.algorithms.len() >= 12,
            "{:?} {}",
            plan.passes,
            plan.algorithms.len()
        );
        let run = || bits(&steps(&mut Session::open(&config, Backend::Cuda, Some(&plan), 5).unwrap(), 4));
        let first = run();
        assert_eq!(first, run(), "{}", precision.name());
        // Another algorithm sums in another order and means the same.
        let plain = StepConfig { compile: Compile::None, ..config.clone() };
        let plain = steps(&mut Session::open(&plain, Backend::Cuda, None, 5).unwrap(), 1)[0];
        let loss = f64::from_bits(first[0].0);
        assert!((loss / plain.loss - 1.0).abs() < 1e-3, "{loss} for {}", plain.loss);
        let mut other = plan.clone();
        let (product, mut pinned) = other.algorithms.pop_first().unwrap();
        pinned["library"] = 1.into();
        other.algorithms.insert(product, pinned);
        let error = Session::open(&config, Backend::Cuda, Some(&other), 5).unwrap_err().to_string();
        assert!(error.contains("the plan's algorithms are of cuBLASLt 1, and cuBLASLt "), "{error}");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn every_pass_alone_means_what_none_means() {
    for precision in [Precision::Bf16, Precision::Fp8Tensorwise, Precision::Fp8Delayed, Precision::Fp8Rowwise] {
        let config = StepConfig { learning_rate: 1e-3, ..small(precision, Attention::Flash) };
        let run = |compile: Compile| {
            let config = StepConfig { compile, ..config.clone() };
            steps(&mut Session::open(&config, Backend::Cuda, None, 5).unwrap(), 3)
        };
        let none = run(Compile::None);
        for pass in Pass::ALL {
            let found = run(Compile::Passes(vec![pass]));
            println!("{} {}: {:?} {:?}", precision.name(), pass.name(), found[2].loss, none[2].loss);
            if matches!(pass, Pass::Layout | Pass::Place | Pass::Graph) {
                assert_eq!(bits(&found), bits(&none), "{} {}", precision.name(), pass.name());
                continue;
            }
            for (found, none) in found.iter().zip(&none) {
                assert!((found.loss / none.loss - 1.0).abs() < 2e-3, "{found:?} {none:?}");
                assert!((found.grad_norm / none.grad_norm - 1.0).abs() < 2e-2, "{found:?} {none:?}");
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn ceilings_are_held_for_two_seconds_each() {
    let began = Instant::now();
    let (gpu, found) = ceilings(began).unwrap();
    println!("{gpu}, {:.1} s", began.elapsed().as_secs_f64());
    for ceiling in &found {
        println!("{ceiling:?}");
        assert!((2.0..2.2).contains(&ceiling.seconds), "{ceiling:?}");
        let host = (ceiling.to_ns - ceiling.from_ns) as f64 * 1e-9;
        assert!((host - ceiling.seconds).abs() < 0.1, "{ceiling:?}: {host} s of the host");
        assert!(ceiling.sm_clock_hz.is_some_and(|hz| hz > 1e8), "{ceiling:?}");
    }
    let rate = |work| found.iter().find(|ceiling| ceiling.work == work).map(|ceiling| ceiling.per_second);
    let (bf16, copy) = (rate(Work::Bf16Product).unwrap(), rate(Work::Copy).unwrap());
    assert!(rate(Work::Fp8Product).is_none_or(|fp8| fp8 > 1.2 * bf16) && copy > 1e11, "{found:?}");
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

/// 454m with bf16 states and without clipping, as the peers are measured.
fn peer_cell(batch_size: usize, precision: Precision, attention: Attention, compile: Compile) -> StepConfig {
    StepConfig {
        precision,
        attention,
        compile,
        optimizer_state: OptimizerState::Bf16,
        clip: 0.0,
        ..StepConfig::example(preset("454m").unwrap(), batch_size, 2048)
    }
}

/// Opens a cell, warms it up for a second and prints a line of what it reaches; the session if it opened.
fn rate(config: &StepConfig) -> bool {
    let StepConfig { batch_size, seq_len, precision, attention, compile, head, .. } = config;
    let of_head = if *head == Head::Fp8 { " head" } else { "" };
    let name = format!("{batch_size}×{seq_len} {}{of_head} {attention:?} {compile}", precision.name());
    let start = Instant::now();
    let mut session = match Session::open(config, Backend::Cuda, None, 1) {
        Ok(session) => session,
        Err(error) => {
            println!("{name:<48} {error}");
            return false;
        }
    };
    let setup = start.elapsed().as_secs_f64() - session.plan().search_seconds;
    let start = Instant::now();
    steps(&mut session, 1);
    let first = start.elapsed().as_secs_f64();
    let warm = Instant::now();
    while warm.elapsed().as_secs_f64() < 1.0 {
        steps(&mut session, 4);
    }
    let mut found = steps(&mut session, 16);
    let loss = found.last().unwrap().loss;
    found.sort_by_key(|step| step.gpu_ns);
    let step = found[found.len() / 2];
    let [forward, backward, optimiser] = step.phases_ns.map(|ns| ns as f64 / 1e6);
    println!(
        "{name:<48} {:>8.2} ms ({forward:.1} + {backward:.1} + {optimiser:.1}) {:>8.0} tokens/s {:>5.0} MHz {:>6.2} GiB \
         setup {setup:.2} s, search {:.2} s, first {first:.3} s, loss {loss:.4}, {:?}",
        step.gpu_ns as f64 / 1e6,
        config.tokens() as f64 * 1e9 / step.gpu_ns as f64,
        step.cycles as f64 * 1e3 / step.gpu_ns as f64,
        session.peak_memory_bytes() as f64 / f64::from(1 << 30),
        session.plan().search_seconds,
        session.describe().passes,
    );
    for (product, pinned) in &session.plan().algorithms {
        let us = |key: &str| pinned[key].as_f64().unwrap_or(f64::NAN) / 1e3;
        println!(
            "    {product:<60} {:>8.1} µs, first {:>8.1} µs, of {}: {} {}",
            us("ns"),
            us("first_ns"),
            pinned["candidates"],
            pinned["settings"],
            pinned["dropped"]
        );
    }
    true
}

/// Time, FLOP/s and bytes/s by class, then by op.
fn print_profile(ops: &[OpTime]) {
    let mut classes: Vec<(String, f64, f64, f64, u64)> = Vec::new();
    for op in ops {
        match classes.iter_mut().find(|class| class.0 == op.class) {
            Some(class) => {
                class.1 += op.gpu_ns;
                class.2 += op.flops;
                class.3 += op.bytes;
                class.4 += op.count;
            }
            None => classes.push((op.class.clone(), op.gpu_ns, op.flops, op.bytes, op.count)),
        }
    }
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let line = |name: String, count: u64, ns: f64, flops: f64, bytes: f64| {
        let (rate, moved) = (flops / ns / 1e3, bytes / ns);
        println!("    {name:<56} {count:>4} {:>9.3} ms {rate:>7.0} TFLOP/s {moved:>6.0} GB/s", ns / 1e6);
    };
    for (name, ns, flops, bytes, count) in classes {
        line(name, count, ns, flops, bytes);
    }
    let mut ops: Vec<&OpTime> = ops.iter().collect();
    ops.sort_by(|a, b| b.gpu_ns.total_cmp(&a.gpu_ns));
    for op in ops.into_iter().take(28) {
        let name = format!("    {:<10} {:<32} {:<9}", op.class, op.label, op.phase);
        line(name, op.count, op.gpu_ns, op.flops, op.bytes);
    }
}

/// Prints the cells named by `STEPWATCH_LADDER` (`bf16:none,fp8-delayed:full:profile,bf16:full::1x512,fp8-delayed:full:::head,…`: precision, passes,
/// whether a profile is wanted, tokens, `head` for the classifier in FP8) with cuDNN attention; asserts nothing.
#[test]
#[ignore = "needs a GPU"]
fn ladder() {
    let cells = std::env::var("STEPWATCH_LADDER").unwrap_or_else(|_| "bf16:none,bf16:full,fp8-delayed:full".to_owned());
    for cell in cells.split(',') {
        let mut words = cell.split(':');
        let wanted = words.next().unwrap_or_default();
        let precision = Precision::ALL.into_iter().find(|precision| precision.name() == wanted).unwrap();
        let compile = match words.next().unwrap_or("none") {
            "none" => Compile::None,
            "full" => Compile::Full,
            passes => {
                let named = |word: &str| Pass::ALL.into_iter().find(|pass| pass.name() == word).unwrap();
                Compile::Passes(passes.split('+').map(named).collect())
            }
        };
        let profiled = words.next() == Some("profile");
        let (batch_size, seq_len) = words.next().and_then(|tokens| tokens.split_once('x')).unwrap_or(("16", "2048"));
        let (batch_size, seq_len) = (batch_size.parse().unwrap(), seq_len.parse().unwrap());
        let head = if words.next() == Some("head") { Head::Fp8 } else { Head::Bf16 };
        let attention = if words.next() == Some("flash") { Attention::Flash } else { Attention::Cudnn };
        let config = StepConfig { seq_len, head, ..peer_cell(batch_size, precision, attention, compile) };
        if rate(&config) && profiled {
            print_profile(&profile(&config, Backend::Cuda, None, 1).unwrap());
        }
    }
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
