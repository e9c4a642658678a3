//! The step learns: a small model falls well below where it starts on the bytes of a real text.

use stepwatch_model::Precision;
use stepwatch_model::config::{Attention, Compile, Data, StepConfig, preset};
use stepwatch_model::session::{Backend, Session};

fn last_losses(precision: Precision) -> (f64, f64) {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config.rs");
    let config = StepConfig {
        precision,
        attention: Attention::Flash,
        compile: Compile::Full,
        data: Data::File(text.into()),
        learning_rate: 3e-3,
        lr_warmup_steps: 10,
        ..StepConfig::example(preset("tiny").unwrap(), 4, 64)
    };
    let mut session = Session::open(&config, Backend::Cpu, None, 1).unwrap();
    let losses: Vec<f64> = session.advance(60).unwrap().iter().map(|step| step.loss).collect();
    (losses[0], losses[50..].iter().sum::<f64>() / 10.0)
}

#[test]
fn tiny_learns_and_fp8_follows_fp32() {
    let (start, fp32) = last_losses(Precision::Fp32);
    // Tied embeddings start by guessing the token again, which text with its runs of spaces rewards a little.
    assert!((start - 256_f64.ln()).abs() < 0.3, "{start}");
    assert!(fp32 < 3.3, "{fp32}");
    for precision in [Precision::Bf16, Precision::Fp8Tensorwise, Precision::Fp8Delayed, Precision::Fp8Rowwise] {
        let (_, found) = last_losses(precision);
        println!("{}: {found:.3} nats, fp32 {fp32:.3}", precision.name());
        assert!((found / fp32 - 1.0).abs() < 0.04, "{}: {found} against {fp32}", precision.name());
    }
}
