//! Lists that are wrong in one place, in every recipe: gradients, loss and norm find them where single ops cannot, since
//! every op does what its list says.

use stepwatch_kernels::op::Op;

use super::first_step::{Watching, gradients_only, listed, run};
use super::*;
use crate::config::{Attention, Dims, preset};
use crate::ir::{Step, TensorId};

fn small(precision: Precision) -> StepConfig {
    let dims = Dims { dim: 128, layers: 2, heads: 2, ffn: 256, vocab: 500 };
    StepConfig { precision, attention: Attention::Flash, ..StepConfig::example(dims, 1, 128) }
}

/// What the checks of gradients, loss and norm say of the uncompiled list after a change.
fn judged(config: &StepConfig, change: &dyn Fn(&mut Step)) -> Vec<String> {
    let emulations = Emulations::of(config, 3).unwrap();
    let mut step = listed(config, &Compile::None, Backend::Cpu).unwrap();
    change(&mut step);
    let own = run(config, step, 3, Watching::default()).unwrap();
    let mut failures = Vec::new();
    // As on a GPU: equality bit by bit is not asked.
    judge_gradients((config.precision, Backend::Cuda), (&own, 0), &emulations, &mut failures);
    let twin = &emulations.twin;
    near_fp32(config.precision, (own.loss, own.grad_norm), (twin.loss, twin.grad_norm), &mut failures);
    failures
}

/// The op of a label in a block.
fn position(step: &Step, label: &str, layer: usize) -> usize {
    step.ops.iter().position(|node| node.label == label && node.layer == Some(layer)).unwrap()
}

fn operand(step: &Step, label: &str, layer: usize, index: usize) -> TensorId {
    step.ops[position(step, label, layer)].operands[index]
}

/// The weight of the other block in a forward product, with its scale.
fn other_weight(step: &mut Step) {
    let at = position(step, "gate-up forward", 1);
    let scaled = step.ops[at].operands.len() == 5;
    for index in [1].into_iter().chain(scaled.then_some(3)) {
        step.ops[at].operands[index] = operand(step, "gate-up forward", 0, index);
    }
}

/// A square weight that is read as it is stored where its transpose is meant.
fn dropped_transposition(step: &mut Step) {
    let at = position(step, "output input gradient", 1);
    if let Op::Gemm(gemm) = &mut step.ops[at].op
        && gemm.b.transposed
    {
        gemm.b.transposed = false;
        return;
    }
    // FP8: the transposed copy is made by an op of its own, or by a cast from which only that layout is taken.
    let transposed = step.ops[at].operands[1];
    let maker = step.ops.iter().position(|node| node.writes().any(|id| id == transposed)).unwrap();
    let stored = match &step.ops[maker].op {
        Op::Transpose(_) => step.ops[maker].operands[0],
        other => panic!("{} makes the transposed copy", other.name()),
    };
    step.ops[at].operands[1] = stored;
}

/// Positions that are not turned back.
fn missing_rotation(step: &mut Step) {
    let at = step.ops.iter().position(|node| matches!(&node.op, Op::Rope(rope) if rope.backward)).unwrap();
    step.ops.remove(at);
}

/// The scale of another cast.
fn other_scale(step: &mut Step) {
    let at = position(step, "down weight gradient", 0);
    let same_shape = |id: &TensorId| step.tensor(*id).shape == step.tensor(step.ops[at].operands[2]).shape;
    let other = ["output weight gradient", "qkv weight gradient"].map(|label| operand(step, label, 1, 2));
    let other = other.into_iter().find(same_shape).unwrap();
    step.ops[at].operands[2] = other;
}

/// Another scale of the right shape is not always written before it is read: these are the lists where it is.
const SCALED: [Precision; 4] =
    [Precision::Fp8Tensorwise, Precision::Fp8Delayed, Precision::Fp8Rowwise, Precision::Fp8Block128];

#[test]
fn right_lists_hold() {
    for precision in Precision::ALL {
        assert_eq!(judged(&small(precision), &|_| {}), Vec::<String>::new(), "{}", precision.name());
    }
}

#[test]
fn wrong_lists_are_found_in_every_recipe() {
    type Break = (&'static str, fn(&mut Step));
    let breaks: [Break; 3] = [
        ("the other block's weight", other_weight),
        ("a dropped transposition", dropped_transposition),
        ("a missing rotation", missing_rotation),
    ];
    for precision in Precision::ALL {
        for (what, change) in breaks {
            let failures = judged(&small(precision), &change);
            assert!(
                failures.iter().any(|line| line.contains("dB against")),
                "{} {what}: {failures:?}",
                precision.name()
            );
        }
    }
}

/// The lowest floor that was measured (dim 4096: the recipe's emulations reach 30.3 dB) still tells wrong lists by far. A missing
/// rotation, which passes 32 dB as well, is found by the parts of the gradient: nothing changed there.
#[test]
fn wrong_lists_are_far_below_the_floor_of_wide_models() {
    let config = small(Precision::Bf16);
    let twin = Emulations::of(&config, 3).unwrap().twin;
    for change in [other_weight, dropped_transposition] {
        let mut step = listed(&config, &Compile::None, Backend::Cpu).unwrap();
        change(&mut step);
        let (name, db) = worst_sqnr(&twin, &run(&config, step, 3, Watching::default()).unwrap());
        assert!(db < tolerance::bf16_floor_db(30.3) - 10.0, "{db:.1} dB of {name}");
    }
}

#[test]
fn the_floor_of_bf16_is_what_the_recipe_reaches_where_that_is_less() {
    for (reached, floor) in [(41.0, 32.0), (33.0, 32.0), (32.5, 31.5), (30.99, 29.99)] {
        assert!((tolerance::bf16_floor_db(reached) - floor).abs() < 1e-9, "{reached}");
    }
}

#[test]
fn a_scale_of_another_cast_is_found() {
    for precision in SCALED {
        let failures = judged(&small(precision), &other_scale);
        assert!(failures.iter().any(|line| line.contains("dB against")), "{}: {failures:?}", precision.name());
    }
}

#[test]
fn big_cells_are_cut_and_odd_ones_stay_whole() {
    let big = StepConfig {
        precision: Precision::Fp8Block128,
        attention: Attention::Flash,
        ..StepConfig::example(preset("454m").unwrap(), 16, 2048)
    };
    let cut = sample(&big);
    assert_eq!((cut.dims.layers, cut.batch_size, cut.seq_len), (2, 1, 128));
    assert_eq!((cut.dims.dim, cut.dims.vocab), (1024, 50257));
    // 120 tokens a sequence: one alone is no multiple of 16, all 4 are.
    let odd = StepConfig { precision: Precision::Fp8Rowwise, ..StepConfig::example(preset("tiny").unwrap(), 4, 120) };
    assert_eq!((sample(&odd).batch_size, sample(&odd).seq_len), (4, 120));
}

#[test]
fn the_twin_keeps_depth_and_width_where_fp32_has_time_for_them() {
    let cell = |name: &str, batch| StepConfig {
        precision: Precision::Fp8Block128,
        attention: Attention::Flash,
        ..StepConfig::example(preset(name).unwrap(), batch, 2048)
    };
    let cut = full_size::cut(&cell("454m", 16));
    assert_eq!((cut.dims.layers, cut.batch_size, cut.seq_len), (24, 1, 2048));
    let cut = full_size::cut(&cell("8b-slice", 8));
    assert_eq!((cut.dims.dim, cut.batch_size), (4096, 1));
}

#[test]
fn numbers_that_are_no_numbers_are_written_as_json_can() {
    let nan = Verification { loss: finite(f64::NAN), grad_norm: finite(f64::INFINITY), ..scripted(false) };
    let text = serde_json::to_string(&nan).unwrap();
    assert_eq!(serde_json::from_str::<Verification>(&text).unwrap(), nan);
}

#[test]
fn what_is_no_number_is_not_near_fp32() {
    for (own, wrong) in [((1.0, 1.0), 0), ((f64::NAN, 1.0), 1), ((1.1, f64::INFINITY), 2), ((1.004, 1.09), 0)] {
        let mut failures = Vec::new();
        near_fp32(Precision::Fp8Rowwise, own, (1.0, 1.0), &mut failures);
        assert_eq!(failures.len(), wrong, "{own:?}: {failures:?}");
    }
}

/// How far parts of gradients vary from one draw of roundings to the next: below the margin that they are given.
#[test]
fn parts_vary_less_between_draws_than_their_margin() {
    for precision in Precision::ALL.into_iter().skip(1) {
        let wider = Dims { dim: 256, layers: 4, heads: 4, ffn: 512, vocab: 1000 };
        for (name, dims) in [("2 blocks of 128", small(precision).dims), ("4 blocks of 256", wider)] {
            let config = StepConfig { dims, ..small(precision) };
            let gradients = |seed| {
                let (config, step) = gradients_only(&config).unwrap();
                let roundings = (seed > 0).then(|| OtherRoundings::new(seed));
                run(&config, step, 3, Watching { ops: None, roundings }).unwrap()
            };
            let plain = gradients(0);
            let spreads: Vec<_> = (1..4).map(|seed| sqnrs_by_part(&plain, &gradients(seed))).collect();
            let mut worst = (0.0, String::new());
            for at in 0..spreads[0].len() {
                let all: Vec<f64> = spreads.iter().map(|spread| spread[at].1).collect();
                let range = all.iter().fold(f64::MIN, |a, b| a.max(*b)) - all.iter().fold(f64::MAX, |a, b| a.min(*b));
                if range > worst.0 {
                    worst = (range, format!("{} {all:.1?}", spreads[0][at].0));
                }
            }
            println!("{name} {}: {:.1} dB {}", precision.name(), worst.0, worst.1);
            assert!(worst.0 < PART_MARGIN_DB, "{name} {}: {worst:?}", precision.name());
        }
    }
}

/// What bf16 itself reaches against fp32 by width: what `model/VERIFICATION.md` quotes. `BF16_MODELS` names presets.
#[test]
#[ignore = "a measurement of minutes: run by hand"]
fn bf16_against_fp32_by_width() {
    let models = std::env::var("BF16_MODELS").unwrap_or_else(|_| "454m,1b,8b-slice".to_owned());
    for name in models.split(',') {
        let precision = Precision::Bf16;
        let example = StepConfig::example(preset(name).unwrap(), 8, 2048);
        let cell = sample(&StepConfig { precision, attention: Attention::Flash, ..example });
        for seed in [3, 4] {
            let gradients = |config: &StepConfig, draw: Option<u64>| {
                let (config, step) = gradients_only(config).unwrap();
                run(&config, step, seed, Watching { ops: None, roundings: draw.map(OtherRoundings::new) }).unwrap()
            };
            let twin = gradients(&fp32_twin(&cell), None);
            for draw in [None, Some(1), Some(2)] {
                let found = gradients(&cell, draw);
                let mut all = sqnrs(&twin, &found);
                all.sort_by(|one, two| one.1.total_cmp(&two.1));
                println!("{name} {:?}, seed {seed}, draw {draw:?}:", cell.dims);
                println!("    loss {:+.1e}, worst {:.2?}", found.loss / twin.loss - 1.0, &all[..all.len().min(6)]);
            }
        }
    }
}
