//! Every pass, alone and together with the others, by equality of the step before and after.

use stepwatch_model::build::build;
use stepwatch_model::check::check;
use stepwatch_model::config::{Attention, Compile, OptimizerState, Pass, StepConfig};
use stepwatch_model::exec::Backend;
use stepwatch_model::ir::Step;
use stepwatch_model::passes::fusion::{RULES, Rule, fuse, fusion};
use stepwatch_model::passes::layout::layout;
use stepwatch_model::passes::pipeline;
use stepwatch_model::passes::place::place;
use stepwatch_model::verify::{first_step, worst_sqnr};
use stepwatch_model::{Precision, check_config};

use crate::run::{assert_same, keep_gradients, small, trace};

const ATTENTIONS: [Attention; 2] = [Attention::Naive, Attention::Flash];

/// Fusion without the rule that removes a rounding.
fn exact_fusion(step: Step) -> Step {
    let rules: Vec<Rule> = RULES.into_iter().filter(|rule| *rule != Rule::ResidualIntoGemm).collect();
    let fused = fuse(step, &rules);
    assert!(fused.removed_roundings.is_empty());
    fused
}

fn assert_passes_keep_every_bit(config: &StepConfig) {
    type Pipeline = (&'static str, fn(Step) -> Step);
    let pipelines: [Pipeline; 5] = [
        ("layout", layout),
        ("fusion", exact_fusion),
        ("place", place),
        ("layout+fusion", |step| exact_fusion(layout(step))),
        ("layout+fusion+place", |step| place(exact_fusion(layout(step)))),
    ];
    assert_eq!(check_config(config), Ok(()));
    let mut step = build(config);
    keep_gradients(&mut step);
    let before = trace(config, step.clone(), 3);
    for (name, passes) in pipelines {
        let after = passes(step.clone());
        assert_eq!(check(&after), Ok(()));
        let what = format!("{name} of {} {:?}", config.precision.name(), config.attention);
        assert_same(&what, &before, &trace(config, after, 3));
    }
}

#[test]
fn every_pass_keeps_every_bit_of_every_precision_and_attention() {
    for precision in Precision::ALL {
        for attention in ATTENTIONS {
            assert_passes_keep_every_bit(&small(precision, attention));
        }
    }
}

#[test]
fn every_pass_keeps_every_bit_with_recompute_an_fp8_head_and_bf16_states() {
    for precision in Precision::ALL.into_iter().filter(|precision| *precision != Precision::Fp32) {
        let small = small(precision, Attention::Flash);
        let config = StepConfig {
            recompute: true,
            head: stepwatch_model::config::Head::Fp8,
            optimizer_state: OptimizerState::Bf16,
            // Blocks of 128 lie along the padded vocabulary too.
            dims: stepwatch_model::config::Dims { vocab: 120, ..small.dims },
            ..small
        };
        assert_passes_keep_every_bit(&config);
    }
}

#[test]
fn the_residual_in_the_product_is_declared_and_changes_little() {
    for precision in Precision::ALL {
        let config = small(precision, Attention::Flash);
        let (plain, _) = first_step(&config, &Compile::None, 1).unwrap();
        let (fused, step) = first_step(&config, &Compile::Passes(vec![Pass::Fusion]), 1).unwrap();
        let (name, db) = worst_sqnr(&plain, &fused);
        println!("{}: residual in the product, worst {name} {db:.1} dB", precision.name());
        if precision == Precision::Fp32 {
            assert!(step.removed_roundings.is_empty());
            assert!(db >= 80.0, "{name} {db}");
        } else {
            assert_eq!(
                step.removed_roundings,
                ["result of output forward before the residual add", "result of down forward before the residual add"]
            );
            assert!(db > if precision == Precision::Bf16 { 35.0 } else { 20.0 }, "{} {name} {db}", precision.name());
        }
        assert!((plain.loss - fused.loss).abs() < 1e-3, "{}", precision.name());
    }
}

#[test]
fn recompute_changes_no_bit_of_any_gradient() {
    for precision in Precision::ALL {
        for attention in ATTENTIONS {
            let off = small(precision, attention);
            let on = StepConfig { recompute: true, ..off.clone() };
            let (kept, _) = first_step(&off, &Compile::None, 1).unwrap();
            let (again, _) = first_step(&on, &Compile::None, 1).unwrap();
            for ((name, one), (_, two)) in kept.gradients.iter().zip(&again.gradients) {
                assert!(one == two, "{} {attention:?} {name}", precision.name());
            }
        }
    }
}

#[test]
fn recompute_keeps_less() {
    let off = StepConfig::example(crate::run::SMALL, 2, 64);
    let dims = stepwatch_model::config::Dims { layers: 8, ..off.dims };
    let off = StepConfig { dims, ..off };
    let on = StepConfig { recompute: true, ..off.clone() };
    let bytes = |config| stepwatch_model::passes::place::peak_live_bytes(&build(config));
    assert!(bytes(&on) * 3 < bytes(&off) * 2, "{} {}", bytes(&on), bytes(&off));
}

#[test]
fn the_pipeline_runs_what_the_backend_has_and_says_what_it_lacks() {
    let config = small(Precision::Fp8Tensorwise, Attention::Naive);
    let full = pipeline(build(&config), &Compile::Full, Backend::Cpu).unwrap();
    assert_eq!(full.applied, [Pass::Layout, Pass::Fusion, Pass::Place]);
    let skipped: Vec<_> = full.skipped.iter().map(|pass| (pass.name.as_str(), pass.reason.as_str())).collect();
    assert_eq!(
        skipped,
        [
            ("search", "the CPU has one algorithm per product: nothing to search"),
            ("graph", "the CPU launches nothing: no graph to capture")
        ]
    );
    assert_eq!(full.step, place(fusion(layout(build(&config)))));
    let none = pipeline(build(&config), &Compile::None, Backend::Cpu).unwrap();
    assert!(none.applied.is_empty() && none.skipped.is_empty());
    assert!(full.step.ops.len() * 3 < none.step.ops.len() * 2, "{} {}", full.step.ops.len(), none.step.ops.len());
}
