//! What each precision does to gradients, and that the same step twice is the same.

use stepwatch_kernels::op::Op;
use stepwatch_model::Precision;
use stepwatch_model::build::build;
use stepwatch_model::config::{Attention, Compile, FastAccumulation, Head, StepConfig, preset};
use stepwatch_model::exec::Backend;
use stepwatch_model::plan::Plan;
use stepwatch_model::verify::{BF16_FLOOR_DB, Outcome, first_step, fp32_twin, verify, worst_sqnr};

use crate::run::{small, trace};

fn outcome(config: &StepConfig) -> Outcome {
    first_step(config, &Compile::None, 1).unwrap().0
}

#[test]
fn gradients_of_tiny_against_fp32() {
    for precision in Precision::ALL {
        for attention in [Attention::Naive, Attention::Flash] {
            let config = StepConfig { precision, attention, ..StepConfig::example(preset("tiny").unwrap(), 4, 128) };
            if stepwatch_model::check_config(&config).is_err() {
                continue;
            }
            let twin = outcome(&fp32_twin(&config));
            let found = outcome(&config);
            let (name, db) = worst_sqnr(&twin, &found);
            println!(
                "tiny {} {attention:?}: worst {name} {db:.1} dB, loss {:.5} ({:.5}), {} saturated, {} flushed",
                precision.name(),
                found.loss,
                twin.loss,
                found.casts.totals(0).0,
                found.casts.totals(0).1
            );
            // Measured by exact emulation: bf16 36–41 dB, FP8 14–19 dB.
            let floor = match precision {
                Precision::Fp32 => 200.0,
                Precision::Bf16 => BF16_FLOOR_DB,
                _ => 12.0,
            };
            assert!(db >= floor, "{} {attention:?}: {name} {db:.1} dB", precision.name());
            if precision.is_fp8() {
                assert!(db < BF16_FLOOR_DB, "{} {attention:?} was not in FP8: {db:.1} dB", precision.name());
            }
            assert!((found.loss - twin.loss).abs() < 0.02);
        }
    }
}

#[test]
fn fast_accumulation_reaches_the_products_that_are_asked() {
    let fast = |precision, fast_accumulation| {
        let example = StepConfig::example(preset("tiny").unwrap(), 4, 128);
        let config = StepConfig { precision, fast_accumulation, head: Head::Fp8, ..example };
        let step = build(&config);
        let labels = step
            .ops
            .iter()
            .filter(|node| matches!(&node.op, Op::Gemm(gemm) if gemm.fast_accumulation))
            .map(|node| node.label.clone());
        // The classifier apart: it is one layer of its own kind.
        let (head, blocks): (Vec<String>, Vec<String>) = labels.partition(|label| label.starts_with("head "));
        let mut roles: Vec<String> = blocks.iter().map(|label| label.split_once(' ').unwrap().1.to_owned()).collect();
        roles.sort_unstable();
        roles.dedup();
        (roles, head)
    };
    use FastAccumulation::{All, Forward, InputGradient};
    for (asked, blocks, head) in [
        (Forward, &["forward"] as &[&str], &["head forward"] as &[&str]),
        (InputGradient, &["forward", "input gradient"], &["head forward", "head input gradient"]),
        (All, &["forward", "input gradient", "weight gradient"], &["head forward", "head input gradient"]),
    ] {
        let found = fast(Precision::Fp8Delayed, asked);
        assert_eq!(found.0, blocks, "{asked:?}");
        assert_eq!(found.1, head, "{asked:?}");
    }
    assert_eq!(fast(Precision::Fp8RowwiseGwHp, All).0, ["forward", "input gradient"]);
    assert!(fast(Precision::Bf16, Forward).0.is_empty());
}

#[test]
fn the_first_delayed_step_scales_by_its_own_amax() {
    for compile in [Compile::None, Compile::Full] {
        for recompute in [false, true] {
            let of = |precision| {
                let config = StepConfig { recompute, ..small(precision, Attention::Flash) };
                first_step(&config, &compile, 1).unwrap().0
            };
            let (current, delayed) = (of(Precision::Fp8Tensorwise), of(Precision::Fp8Delayed));
            assert_eq!(current.loss.to_bits(), delayed.loss.to_bits());
            for ((name, one), (_, two)) in current.gradients.iter().zip(&delayed.gradients) {
                assert!(one == two, "{name} {compile} recompute {recompute}");
            }
        }
    }
}

#[test]
fn histories_hold_the_amax_of_every_step() {
    let config = small(Precision::Fp8Delayed, Attention::Flash);
    let trace = trace(&config, build(&config), 18);
    let history = &trace.lasting["b1.down.dy8.history"];
    for step in 2..18 {
        assert_eq!(history[step % 16], trace.passing[step]["b1.down.dy8.amax"][0], "step {step}");
    }
    // The scale of step 17 is made of the steps 1 to 16.
    let amaxes = (1..17).map(|step| f32::from_bits(trace.passing[step]["b1.down.dy8.amax"][0]));
    let scale = f32::from_bits(trace.passing[17]["b1.down.dy8.scale"][0]);
    assert_eq!(scale, amaxes.fold(0.0, f32::max) / 57344.0);
}

#[test]
fn every_recipe_verifies_compiled_and_uncompiled() {
    for precision in Precision::ALL {
        for compile in [Compile::None, Compile::Full] {
            let config = StepConfig { compile, ..small(precision, Attention::Flash) };
            let found = verify(&config, Backend::Cpu, &Plan::default(), 3).unwrap();
            println!("{} {}: {found:?}", precision.name(), config.compile);
            assert!(found.ok, "{} {}: {:?}", precision.name(), config.compile, found.failures);
            assert_eq!(found.against, if precision.is_fp8() { "emulation" } else { "fp32" });
            assert_eq!(found.cast_overflows.is_some(), precision.is_fp8());
            // Scales from the tensor's own amax saturate nothing; the first delayed scale is such a one.
            assert_eq!(found.cast_overflows.unwrap_or(0), 0);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
    for precision in [Precision::Fp32, Precision::Fp8Rowwise] {
        let config = small(precision, Attention::Flash);
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let one = alone.install(|| outcome(&config));
        let many = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(|| outcome(&config));
        assert_eq!(one.loss.to_bits(), many.loss.to_bits());
        assert_eq!(one.grad_norm.to_bits(), many.grad_norm.to_bits());
        for ((name, one), (_, many)) in one.gradients.iter().zip(&many.gradients) {
            assert!(one == many, "{} {name}", precision.name());
        }
        assert_ne!(first_step(&config, &Compile::None, 2).unwrap().0.loss, one.loss);
    }
}
