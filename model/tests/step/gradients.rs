//! The gradient of every parameter against central finite differences in fp64.

use stepwatch_kernels::tensor::Buffer;
use stepwatch_model::build::build;
use stepwatch_model::config::{Attention, Dims, StepConfig};
use stepwatch_model::exec::cpu::Cpu;
use stepwatch_model::ir::TensorId;
use stepwatch_model::random::Random;

use crate::run::{feed, keep_gradients};

const DIMS: Dims = Dims { dim: 16, layers: 2, heads: 2, ffn: 24, vocab: 30 };

/// A step in fp64 with weights large enough that every gradient matters, one coordinate moved by `delta`.
fn stepped(config: &StepConfig, moved: Option<(TensorId, usize)>, delta: f64) -> Cpu<f64> {
    let mut step = build(config);
    keep_gradients(&mut step);
    let parameters = step.parameters.clone();
    let mut cpu = Cpu::<f64>::new(step, 5);
    for parameter in parameters {
        if let Some(Buffer::Real(values)) = cpu.buffer_mut(parameter.weight) {
            let matrix = values[0] != 1.0;
            values.iter_mut().for_each(|value| *value *= if matrix { 15.0 } else { 1.0 });
        }
    }
    if let Some((id, at)) = moved
        && let Some(Buffer::Real(values)) = cpu.buffer_mut(id)
    {
        values[at] += delta;
    }
    feed(&mut cpu, config, 0);
    cpu.init().unwrap();
    cpu.run().unwrap();
    cpu
}

fn assert_gradients(config: &StepConfig) {
    const DELTA: f64 = 1e-4;
    let base = stepped(config, None, 0.0);
    let mut random = Random::new(9, 9);
    for parameter in &base.step().parameters {
        let gradient = base.buffer(parameter.gradient).unwrap().view().values().into_owned();
        let rms = (gradient.iter().map(|g| g * g).sum::<f64>() / gradient.len() as f64).sqrt();
        assert!(rms > 1e-7, "{} has no gradient to check: {rms}", parameter.name);
        let largest = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs())).unwrap();
        let coordinates = (0..5).map(|_| random.below(gradient.len())).chain([largest]);
        for at in coordinates {
            let loss = |delta: f64| {
                let moved = stepped(config, Some((parameter.weight, at)), delta);
                moved.scalar(moved.step().ports.loss)
            };
            let expected = (loss(DELTA) - loss(-DELTA)) / (2.0 * DELTA);
            let error = (gradient[at] - expected).abs();
            assert!(
                error <= 1e-5 * rms.max(expected.abs()),
                "{}[{at}]: backward says {}, finite differences {expected}",
                parameter.name,
                gradient[at]
            );
        }
    }
}

#[test]
fn naive_attention() {
    assert_gradients(&StepConfig { attention: Attention::Naive, ..StepConfig::example(DIMS, 2, 7) });
}

#[test]
fn flash_attention_with_recompute() {
    let config = StepConfig { attention: Attention::Flash, recompute: true, ..StepConfig::example(DIMS, 2, 7) };
    assert_gradients(&config);
}

#[test]
fn the_padding_of_the_vocabulary_has_no_gradient() {
    let cpu = stepped(&StepConfig::example(DIMS, 2, 7), None, 0.0);
    let embedding = &cpu.step().parameters[0];
    assert_eq!(cpu.step().tensor(embedding.gradient).shape, [64, 16]);
    let gradient = cpu.buffer(embedding.gradient).unwrap().view().values().into_owned();
    assert!(gradient[30 * 16..].iter().all(|value| *value == 0.0));
    assert!(gradient[..30 * 16].iter().any(|value| *value != 0.0));
}
