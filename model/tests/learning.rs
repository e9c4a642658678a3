//! Does every precision learn on a GPU as bf16 does? A small model on the bytes of a real text, compiled, many seeds a recipe, each
//! beside bf16 of the same seed. What came of it stands in `model/LEARNING.md`. Run by `ci/gpu`.
//!
//! One training says little: two that differ in nothing but the rounding of some sums part within a hundred steps and end about a
//! percent apart. So differences are taken seed by seed, and a row that only rounds otherwise shows how far chance goes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]
#![allow(clippy::cast_precision_loss)]

use std::path::PathBuf;
use std::time::Instant;

use stepwatch_kernels::Precision;
use stepwatch_model::config::{Attention, Compile, Data, FastAccumulation, Head, StepConfig, preset};
use stepwatch_model::plan::Plan;
use stepwatch_model::session::{Backend, Session};
use stepwatch_model::verify::casts_at;

/// Steps of a training, and the last of them whose mean loss counts.
const STEPS: usize = 300;
const LAST: usize = 50;
const SEEDS: usize = 16;

/// How far a recipe's loss may be from bf16's, relative.
const WITHIN: f64 = 5e-3;

/// Student's t with [`SEEDS`] − 1 degrees of freedom: 99 % of both sides.
const T: f64 = 2.947;

/// The text, in a file of its own: the program may run where the repository is not.
fn corpus(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("stepwatch-learning-{name}-{}.txt", std::process::id()));
    std::fs::write(&path, include_bytes!("../../scenarios/corpus/genesis-exodus.txt")).unwrap();
    path
}

/// `mini` over 1024 tokens a step: in 300 steps it does not see the text once, so that none learns it by heart.
fn mini(precision: Precision, head: Head, compile: Compile, text: &std::path::Path) -> StepConfig {
    StepConfig {
        precision,
        head,
        attention: Attention::Flash,
        compile,
        data: Data::File(text.to_owned()),
        learning_rate: 1e-3,
        lr_warmup_steps: 20,
        ..StepConfig::example(preset("mini").unwrap(), 8, 128)
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

/// One row: what is trained, and whether it is held to the first row's loss.
struct Row {
    name: String,
    config: StepConfig,
    held: bool,
}

fn rows(text: &std::path::Path) -> Vec<Row> {
    let row = |precision: Precision, head, compile, what: &str| Row {
        name: format!("{}{what}", precision.name()),
        config: mini(precision, head, compile, text),
        held: precision.is_fp8(),
    };
    // Uncompiled, bf16 rounds a sum more where the residual is added, and nothing else: that is chance.
    let mut rows = vec![
        row(Precision::Bf16, Head::Bf16, Compile::Full, ""),
        row(Precision::Bf16, Head::Bf16, Compile::None, ", uncompiled"),
        row(Precision::Fp32, Head::Bf16, Compile::Full, ""),
    ];
    let recipes = || Precision::ALL.into_iter().filter(|precision| precision.is_fp8());
    rows.extend(recipes().map(|precision| row(precision, Head::Bf16, Compile::Full, "")));
    rows.extend(recipes().map(|precision| row(precision, Head::Fp8, Compile::Full, ", FP8 head")));
    rows
}

/// Mean of numbers and half the width of its interval.
fn interval(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, T * (variance / n).sqrt())
}

/// One recipe by which of its products accumulate fast, the first as the recipe itself says. The weights' gradients add up 4,096
/// tokens, four times as many as above; the text is read three and a half times.
fn fast_rows(precision: Precision, head: Head, text: &std::path::Path) -> Vec<Row> {
    let all = [FastAccumulation::Forward, FastAccumulation::InputGradient, FastAccumulation::All];
    all.map(|fast_accumulation| Row {
        name: format!("{}, fast accumulation: {}", precision.name(), fast_accumulation.name()),
        config: StepConfig {
            batch_size: 16,
            seq_len: 256,
            fast_accumulation,
            ..mini(precision, head, Compile::Full, text)
        },
        held: true,
    })
    .into()
}

/// The first row is what the others are held to. A recipe fails where it is shown to be off by more than it may be; where the
/// interval holds both, that is printed.
fn compare(rows: &[Row]) {
    let mut first: Vec<f64> = Vec::new();
    let mut wrong = Vec::new();
    println!("{:<44} {:>9} {:>32} {:>6}", "recipe", "mean loss", "of the first, seed by seed, 99 %", "s");
    for Row { name, config, held } in rows {
        let (start, mut plan) = (Instant::now(), None);
        let losses: Vec<f64> = (1..=SEEDS as u64).map(|seed| mean_loss(config, &mut plan, seed)).collect();
        if first.is_empty() {
            first.clone_from(&losses);
        }
        let off: Vec<f64> = losses.iter().zip(&first).map(|(own, first)| own / first - 1.0).collect();
        let ((mean, _), (off, half)) = (interval(&losses), interval(&off));
        let said = match () {
            () if off - half > WITHIN || off + half < -WITHIN => "apart",
            () if off + half <= WITHIN && off - half >= -WITHIN => "within 0.5 %",
            () => "undecided",
        };
        let seconds = start.elapsed().as_secs_f64();
        println!("{name:<44} {mean:>9.4} {:>+10.2} ± {:.2} % {said:<12} {seconds:>6.1}", 100.0 * off, 100.0 * half);
        // It starts at ln 256 = 5.55 nats, and letters' frequencies alone come to about 3.1.
        assert!(mean < 3.0, "{name} learns nothing: {mean} nats");
        // A lower loss is no fault.
        if *held && off - half > WITHIN {
            wrong.push(format!("{name}: {:+.2} ± {:.2} % of the first row's loss", 100.0 * off, 100.0 * half));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[ignore = "needs a GPU"]
fn every_recipe_learns_as_bf16_does() {
    let text = corpus("recipes");
    compare(&rows(&text));
    std::fs::remove_file(&text).unwrap();
}

#[test]
#[ignore = "needs a GPU"]
fn fast_accumulation_of_gradients_learns_as_without() {
    let text = corpus("fast");
    compare(&fast_rows(Precision::Fp8Tensorwise, Head::Bf16, &text));
    compare(&fast_rows(Precision::Fp8Delayed, Head::Fp8, &text));
    std::fs::remove_file(&text).unwrap();
}

/// Delayed scaling looks back: what its casts lose while a model learns, step by step.
#[test]
#[ignore = "needs a GPU"]
fn delayed_scaling_saturates_little_while_it_learns() {
    const COUNTED: [u64; 8] = [0, 1, 2, 5, 20, 50, 150, 299];
    let text = corpus("casts");
    let config = mini(Precision::Fp8Delayed, Head::Fp8, Compile::None, &text);
    let counts = casts_at(&StepConfig { batch_size: 64, seq_len: 256, ..config }, 1, &COUNTED).unwrap();
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

#[test]
fn an_interval_of_three_numbers_by_hand() {
    let (mean, half) = interval(&[1.0, 2.0, 3.0]);
    assert!((mean - 2.0).abs() < 1e-12 && (half - T * (1.0_f64 / 3.0).sqrt()).abs() < 1e-12);
}
