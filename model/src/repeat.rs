//! Real work done twice: a step that is slower by about a wanted share and leaves the same bits, to learn what a comparison
//! of builds finds. For experiments: [`VARIABLE`] is in no scenario, and a plan says nothing of it.
//!
//! A spin would give power back and be no regression at the power cap; a product that is run once more takes time and power
//! as slower code does. Only products that read and write different tensors are repeated, right behind themselves.

use std::collections::BTreeSet;

use stepwatch_kernels::op::{Access, Op};

use crate::ir::{Node, Step};

/// The share of a step's FLOPs that is done twice, such as `0.01`, in every step of a session; nothing where it is not set.
pub const VARIABLE: &str = "STEPWATCH_REPEAT";

/// The fractional part of the golden ratio.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// The share that the environment asks for.
///
/// # Errors
/// In words, if it is no share.
pub fn asked() -> Result<f64, String> {
    let Ok(text) = std::env::var(VARIABLE) else { return Ok(0.0) };
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("{VARIABLE} is `{text}`: expected the share of a step's FLOPs to do twice, from 0 to 1")),
    }
}

/// A step that runs some of its products twice, evenly spread over the list, until they make up `share` of its FLOPs.
///
/// Products far larger than the others (the classifier's) are left out, so that small shares can be met. The step is the
/// same where `share` is 0, or where no product can be repeated.
#[must_use]
pub fn repeated(mut step: Step, share: f64) -> Step {
    let mut products: Vec<usize> =
        step.ops.iter().enumerate().filter(|(_, node)| is_repeatable(node)).map(|(index, _)| index).collect();
    let flops = |index: &usize| step.ops[*index].op.flops();
    let mut sizes: Vec<f64> = products.iter().map(flops).collect();
    sizes.sort_by(f64::total_cmp);
    let Some(&median) = sizes.get(sizes.len() / 2) else { return step };
    products.retain(|index| flops(index) <= 4.0 * median);
    let wanted = share * step.ops.iter().map(|node| node.op.flops()).sum::<f64>();
    let mut twice = BTreeSet::new();
    let mut done = 0.0;
    // Multiples of the golden ratio fill a circle evenly at every count, whatever the period of the list (Weyl).
    for nth in 1.. {
        if done >= wanted || twice.len() == products.len() {
            break;
        }
        let index = products[((f64::from(nth) * GOLDEN).fract() * products.len() as f64) as usize];
        if twice.insert(index) {
            done += flops(&index);
        }
    }
    let nodes = std::mem::take(&mut step.ops);
    for (index, node) in nodes.into_iter().enumerate() {
        if twice.contains(&index) {
            step.ops.push(node.clone());
        }
        step.ops.push(node);
    }
    step
}

/// Whether an op is a product that finds its operands as they were when it is run again.
fn is_repeatable(node: &Node) -> bool {
    let Op::Gemm(gemm) = &node.op else { return false };
    let operands = node.operands.iter().zip(access_of(node));
    let (written, read): (Vec<_>, Vec<_>) = operands.partition(|(_, access)| *access != Access::Read);
    // What is added to may lie where the sum goes.
    !gemm.accumulate && written.iter().all(|(id, _)| read.iter().all(|(other, _)| other != id))
}

fn access_of(node: &Node) -> impl Iterator<Item = Access> {
    node.op.signature().into_iter().map(|param| param.access)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use crate::config::{Compile, StepConfig, preset};
    use crate::data::Source;
    use crate::exec::Backend;
    use crate::exec::cpu::Cpu;
    use crate::session::{compile, feed};

    fn config(precision: Precision, compile: Compile) -> StepConfig {
        StepConfig { precision, compile, ..StepConfig::example(preset("tiny").unwrap(), 2, 64) }
    }

    fn flops(step: &Step) -> f64 {
        step.ops.iter().map(|node| node.op.flops()).sum()
    }

    /// Loss and gradient norm of two steps.
    fn losses(step: Step, config: &StepConfig) -> Vec<[f64; 2]> {
        let source = Source::open(config, 7).unwrap();
        let mut cpu = Cpu::<f32>::new(step, 7);
        feed(&mut cpu, &source, 0);
        cpu.init().unwrap();
        let mut run = |number| {
            feed(&mut cpu, &source, number);
            cpu.run().unwrap();
            [cpu.scalar(cpu.step().ports.loss), cpu.scalar(cpu.step().ports.grad_norm)]
        };
        vec![run(0), run(1)]
    }

    #[test]
    fn products_done_twice_leave_the_same_bits() {
        for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp8Delayed] {
            for passes in [Compile::None, Compile::Full] {
                let config = config(precision, passes);
                let step = || compile(&config, Backend::Cpu).unwrap().step;
                let slower = repeated(step(), 0.3);
                let more = flops(&slower) / flops(&step()) - 1.0;
                assert!((0.3..0.6).contains(&more), "{}: {more}", precision.name());
                assert_eq!(losses(slower, &config), losses(step(), &config), "{} {}", precision.name(), config.compile);
            }
        }
    }

    #[test]
    fn small_shares_of_a_large_step_are_met_closely_and_phases_stay_in_order() {
        let config = StepConfig {
            precision: Precision::Fp8Delayed,
            compile: Compile::Full,
            ..StepConfig::example(preset("454m").unwrap(), 16, 2048)
        };
        let step = || compile(&config, Backend::Cuda).unwrap().step;
        for share in [0.005, 0.01, 0.02, 0.04] {
            let slower = repeated(step(), share);
            let more = flops(&slower) / flops(&step()) - 1.0;
            assert!((share..share + 0.007).contains(&more), "{share}: {more}");
            assert!(slower.ops.is_sorted_by_key(|node| node.phase));
        }
        assert_eq!(repeated(step(), 0.0).ops.len(), step().ops.len());
    }
}
