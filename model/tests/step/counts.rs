//! What is counted in closed form, against the op list that is built.

use stepwatch_kernels::Class;
use stepwatch_model::Precision;
use stepwatch_model::build::build;
use stepwatch_model::config::{Attention, Compile, Head, OptimizerState, StepConfig, preset};
use stepwatch_model::count::step;
use stepwatch_model::exec::Backend;
use stepwatch_model::ir::TensorClass;
use stepwatch_model::passes::pipeline;
use stepwatch_model::plan::memory_bytes;

fn config(precision: Precision) -> StepConfig {
    let example = StepConfig::example(preset("454m").unwrap(), 16, 2048);
    StepConfig { precision, attention: Attention::Flash, ..example }
}

#[test]
fn flops_are_those_of_the_ops() {
    for precision in [Precision::Bf16, Precision::Fp8Rowwise] {
        for recompute in [false, true] {
            let config = StepConfig { recompute, head: Head::Fp8, ..config(precision) };
            let ops = build(&config).ops;
            let counted = ops.iter().filter(|node| matches!(node.op.class(), Class::Gemm | Class::Attention));
            let flops: f64 = counted.map(|node| node.op.flops()).sum();
            let mut expected = step(&config).flops_per_token * config.tokens() as f64;
            if recompute {
                // The down projection's output is not needed again.
                expected -= 2.0 * 24.0 * 1024.0 * 4096.0 * config.tokens() as f64;
            }
            assert!((flops / expected - 1.0).abs() < 1e-12, "{} {recompute}: {flops} {expected}", precision.name());
        }
    }
}

#[test]
fn lasting_memory_is_exact_and_the_rest_near() {
    for precision in Precision::ALL {
        for (compile, backend) in [
            (Compile::None, Backend::Cpu),
            (Compile::Full, Backend::Cpu),
            (Compile::None, Backend::Cuda),
            (Compile::Full, Backend::Cuda),
        ] {
            for recompute in [false, true] {
                let config = StepConfig { compile: compile.clone(), recompute, ..config(precision) };
                let memory = step(&config).memory;
                let compiled = pipeline(build(&config), &compile, backend).unwrap();
                let list = compiled.step;
                let of = |classes: &[TensorClass]| {
                    let tensors = list.tensors.iter().filter(|tensor| classes.contains(&tensor.class));
                    let lasting = tensors.filter(|tensor| tensor.persistent() || classes == [TensorClass::Gradient]);
                    lasting.map(stepwatch_model::ir::Tensor::bytes).sum::<u64>()
                };
                let what = format!("{} {compile} {backend:?} recompute {recompute}", precision.name());
                assert_eq!(memory.weights, of(&[TensorClass::Weight]), "{what}");
                // The step counter has 4 bytes of its own.
                assert_eq!(memory.optimizer_states + 4, of(&[TensorClass::OptimizerState]), "{what}");
                assert_eq!(memory.gradients, of(&[TensorClass::Gradient]), "{what}");
                let found = memory_bytes(&list);
                let ratio = memory.total as f64 / found as f64;
                println!(
                    "{what}: counted {:.2} GB, placed {:.2} GB, ratio {ratio:.3}",
                    memory.total as f64 / 1e9,
                    found as f64 / 1e9
                );
                assert!((0.95..1.05).contains(&ratio), "{what}: {ratio}");
            }
        }
    }
    let bf16 = StepConfig { optimizer_state: OptimizerState::Bf16, ..config(Precision::Bf16) };
    assert_eq!(step(&bf16).memory.optimizer_states, 4 * 454_214_656);
}
