//! How fast the CPU executor runs `tiny` at batch 4 × 128: the target is 20 steps a second in fp32 on 2 cores.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use stepwatch_model::Precision;
use stepwatch_model::config::{Attention, Compile, StepConfig, preset};
use stepwatch_model::session::{Backend, Session};

fn step(c: &mut Criterion) {
    let Some(dims) = preset("tiny") else { return };
    for (precision, compile) in [
        (Precision::Fp32, Compile::None),
        (Precision::Fp32, Compile::Full),
        (Precision::Bf16, Compile::Full),
        (Precision::Fp8Tensorwise, Compile::Full),
    ] {
        let name = format!("tiny 4×128 {} {compile}", precision.name());
        let config =
            StepConfig { precision, compile, attention: Attention::Flash, ..StepConfig::example(dims, 4, 128) };
        let Ok(mut session) = Session::open(&config, Backend::Cpu, None, 1) else { continue };
        c.bench_function(&name, |b| b.iter(|| black_box(session.advance(1))));
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
