//! Does every precision learn on a GPU as bf16 does? A small model on the bytes of a real text, compiled, three seeds a recipe.
//! What came of it stands in `model/LEARNING.md`. Run by `ci/gpu`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]
#![allow(clippy::cast_precision_loss)]

use std::path::PathBuf;
use std::time::Instant;

use stepwatch_kernels::Precision;
use stepwatch_model::config::{Attention, Compile, Data, Head, StepConfig, preset};
use stepwatch_model::plan::Plan;
use stepwatch_model::session::{Backend, Session};
use stepwatch_model::verify::casts_at;

/// Steps of a training, and the last of them whose mean loss counts.
const STEPS: usize = 300;
const LAST: usize = 50;
const SEEDS: [u64; 3] = [1, 2, 3];

/// How far a recipe's mean loss may be from bf16's, relative.
const WITHIN: f64 = 5e-3;

/// The text, in a file of its own: the program may run where the repository is not.
fn corpus() -> PathBuf {
    let path = std::env::temp_dir().join(format!("stepwatch-learning-{}.txt", std::process::id()));
    std::fs::write(&path, include_bytes!("../../scenarios/corpus/genesis-exodus.txt")).unwrap();
    path
}

/// `mini` over 16,384 tokens a step: batches so large that seeds and recipes differ little by chance.
fn mini(precision: Precision, head: Head, text: &std::path::Path) -> StepConfig {
    StepConfig {
        precision,
        head,
        attention: Attention::Flash,
        compile: Compile::Full,
        data: Data::File(text.to_owned()),
        learning_rate: 1e-3,
        lr_warmup_steps: 20,
        ..StepConfig::example(preset("mini").unwrap(), 64, 256)
    }
}

/// Mean loss of the last steps of one training; every seed runs by the algorithms of the first.
fn mean_loss(config: &StepConfig, plan: &mut Option<Plan>, seed: u64) -> f64 {
    let mut session = Session::open(config, Backend::Cuda, plan.as_ref(), seed).unwrap();
    let mut steps = session.advance(STEPS).unwrap();
    steps.extend(session.drain().unwrap());
    assert_eq!(steps.len(), STEPS);
    plan.get_or_insert_with(|| session.plan().clone());
    steps[STEPS - LAST..].iter().map(|step| step.loss).sum::<f64>() / LAST as f64
}

#[test]
#[ignore = "needs a GPU"]
fn every_recipe_learns_as_bf16_does() {
    let text = corpus();
    let recipes = Precision::ALL.into_iter().filter(|precision| precision.is_fp8());
    let with_heads = [Precision::Fp8Tensorwise, Precision::Fp8Delayed, Precision::Fp8Rowwise, Precision::Fp8Block128];
    let mut cells = vec![(Precision::Bf16, Head::Bf16)];
    cells.extend(recipes.map(|precision| (precision, Head::Bf16)));
    cells.extend(with_heads.map(|precision| (precision, Head::Fp8)));
    let mut bf16 = f64::NAN;
    let mut wrong = Vec::new();
    println!("{:<28} {:>24} {:>9} {:>9} {:>6}", "recipe", "mean loss by seed", "mean", "of bf16", "s");
    for (precision, head) in cells {
        let (start, mut plan) = (Instant::now(), None);
        let config = mini(precision, head, &text);
        let losses = SEEDS.map(|seed| mean_loss(&config, &mut plan, seed));
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        if precision == Precision::Bf16 {
            bf16 = mean;
        }
        let off = mean / bf16 - 1.0;
        let name = format!("{}{}", precision.name(), if head == Head::Fp8 { ", FP8 head" } else { "" });
        let [one, two, three] = losses;
        let seconds = start.elapsed().as_secs_f64();
        println!("{name:<28} {one:>8.4}{two:>8.4}{three:>8.4} {mean:>9.4} {:>+8.2} % {seconds:>6.1}", 100.0 * off);
        // Another guess of the same bits starts at ln 256 = 5.55 nats.
        if !(mean < 3.0 && off.abs() <= WITHIN) {
            wrong.push(format!("{name}: {mean:.4} nats, {:+.2} % of bf16's {bf16:.4}", 100.0 * off));
        }
    }
    std::fs::remove_file(&text).unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Delayed scaling looks back: what its casts lose while a model learns, step by step.
#[test]
#[ignore = "needs a GPU"]
fn delayed_scaling_saturates_little_while_it_learns() {
    const COUNTED: [u64; 8] = [0, 1, 2, 5, 20, 50, 150, 299];
    let text = corpus();
    let counts = casts_at(&mini(Precision::Fp8Delayed, Head::Fp8, &text), 1, &COUNTED).unwrap();
    std::fs::remove_file(&text).unwrap();
    println!("{:>5} {:<10} {:>12} {:>10} {:>10}", "step", "of", "values", "saturated", "to zero");
    for count in &counts.0 {
        let (values, over) = (count.values, count.overflows);
        println!("{:>5} {:<10} {values:>12} {over:>10} {:>10}", count.step, count.class, count.underflows);
        assert!(over as f64 <= 1e-3 * values as f64, "{count:?}");
        // Step 0 is calibrated on itself.
        assert!(count.step > 0 || over == 0, "{count:?}");
    }
    assert_eq!(counts.0.len(), 3 * COUNTED.len());
}
