//! Steps to test with: small models, and a step run a few times with everything it leaves behind.

use std::collections::BTreeMap;

use stepwatch_kernels::op::Access;
use stepwatch_kernels::real::Real;
use stepwatch_kernels::tensor::Buffer;
use stepwatch_model::Precision;
use stepwatch_model::config::{Attention, Dims, StepConfig};
use stepwatch_model::data::Source;
use stepwatch_model::exec::cpu::Cpu;
use stepwatch_model::ir::{Node, Step};

/// The smallest model that every recipe takes: block scales need 128.
pub(crate) const SMALL: Dims = Dims { dim: 128, layers: 2, heads: 4, ffn: 128, vocab: 60 };

/// A step of [`SMALL`] over 128 tokens.
pub(crate) fn small(precision: Precision, attention: Attention) -> StepConfig {
    StepConfig { precision, attention, ..StepConfig::example(SMALL, 2, 64) }
}

/// Gradients are read after the step, so they must outlive it.
pub(crate) fn keep_gradients(step: &mut Step) {
    let gradients: Vec<_> = step.parameters.iter().map(|parameter| parameter.gradient).collect();
    step.outputs.extend(gradients);
}

/// Puts the tokens of a step into its inputs.
pub(crate) fn feed<R: Real>(cpu: &mut Cpu<R>, config: &StepConfig, step: u64) {
    let batch = Source::open(config, 1).unwrap().batch(step);
    let ports = cpu.step().ports;
    cpu.write(ports.ids, &batch.ids);
    cpu.write(ports.targets, &batch.targets);
}

/// What tensors held, as bits, by name.
pub(crate) type Bits = BTreeMap<String, Vec<u32>>;

/// What some steps left behind.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Trace {
    /// Every tensor that ends with its step, as its last op left it, by step.
    pub(crate) passing: Vec<Bits>,
    /// Every tensor that lives on, after the last step.
    pub(crate) lasting: Bits,
    /// Loss and gradient norm of each step.
    pub(crate) scalars: Vec<(f64, f64)>,
}

fn bits(buffer: &Buffer<f32>) -> Vec<u32> {
    buffer.view().values().iter().map(|value| value.to_bits()).collect()
}

/// Runs a step a few times and keeps all that it made.
pub(crate) fn trace(config: &StepConfig, step: Step, steps: u64) -> Trace {
    let mut cpu = Cpu::<f32>::new(step, 1);
    feed(&mut cpu, config, 0);
    cpu.init().unwrap();
    let mut trace = Trace::default();
    for at in 0..steps {
        feed(&mut cpu, config, at);
        let step = cpu.step().clone();
        let mut made = Bits::new();
        let mut watch = |node: &Node, buffers: &mut [Option<Buffer<f32>>]| {
            for (id, access) in node.accesses() {
                if access != Access::Read && !step.tensor(id).persistent() {
                    made.insert(step.tensor(id).name.clone(), bits(buffers[id.index()].as_ref().unwrap()));
                }
            }
        };
        cpu.run_watched(&mut watch).unwrap();
        trace.passing.push(made);
        trace.scalars.push((cpu.scalar(step.ports.loss), cpu.scalar(step.ports.grad_norm)));
    }
    let step = cpu.step();
    for (index, tensor) in step.tensors.iter().enumerate().filter(|(_, tensor)| tensor.persistent()) {
        let id = stepwatch_model::ir::TensorId(index as u32);
        trace.lasting.insert(tensor.name.clone(), bits(cpu.buffer(id).unwrap()));
    }
    trace
}

/// Casts of weights run after the optimiser in one list and before the GEMMs of the next step in the other: at the end of a
/// step theirs are one step apart. What GEMMs make of them is compared.
fn is_weight_cast(name: &str) -> bool {
    name.contains(".w8")
}

/// Panics with the first tensor that two traces both have and that differs.
pub(crate) fn assert_same(what: &str, before: &Trace, after: &Trace) {
    let compare = |place: &str, before: &Bits, after: &Bits| {
        let mut shared = 0;
        for (name, bits) in before.iter().filter(|(name, _)| !is_weight_cast(name)) {
            if let Some(other) = after.get(name) {
                assert!(bits == other, "{what}: {place} `{name}` differs");
                shared += 1;
            }
        }
        shared
    };
    for (step, (before, after)) in before.passing.iter().zip(&after.passing).enumerate() {
        assert!(compare(&format!("step {step}"), before, after) > 10, "{what}");
    }
    assert!(compare("after the last step", &before.lasting, &after.lasting) > 10, "{what}");
    for (before, after) in before.scalars.iter().zip(&after.scalars) {
        assert_eq!(before.0.to_bits(), after.0.to_bits(), "{what}");
        assert_eq!(before.1.to_bits(), after.1.to_bits(), "{what}");
    }
}
