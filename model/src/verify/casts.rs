//! What casts to FP8 lose at the ends of the format's range, counted by what they cast.

use serde::{Deserialize, Serialize};
use stepwatch_kernels::op::Op;
use stepwatch_kernels::quantise::{Losses, Quantise};
use stepwatch_kernels::tensor::Buffer;

use crate::ir::Node;

/// What the casts of one kind of tensor lost in one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CastCount {
    /// The step, from 0.
    pub step: u64,
    /// `activation`, `weight` or `gradient`.
    pub class: String,
    /// Values cast.
    pub values: u64,
    /// Values that saturated: beyond the largest one by more than rounding would take back.
    pub overflows: u64,
    /// Values that were not zero and became zero.
    pub underflows: u64,
}

/// Counts of all casts, by step and class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CastCounts(pub Vec<CastCount>);

impl CastCounts {
    /// Adds what one cast lost.
    pub fn add(&mut self, step: u64, node: &Node, quantise: &Quantise, losses: Losses) {
        let class = class(node);
        let values = (quantise.tiling.rows * quantise.tiling.cols) as u64;
        let found = self.0.iter_mut().position(|count| (count.step, count.class.as_str()) == (step, class));
        let at = found.unwrap_or_else(|| {
            self.0.push(CastCount { step, class: class.to_owned(), values: 0, overflows: 0, underflows: 0 });
            self.0.len() - 1
        });
        let count = &mut self.0[at];
        count.values += values;
        count.overflows += losses.overflows;
        count.underflows += losses.underflows;
    }

    /// Adds a cast that has just run on the CPU; other ops are passed over.
    pub fn after(&mut self, step: u64, node: &Node, buffers: &[Option<Buffer<f32>>]) {
        let Op::Quantise(quantise) = &node.op else { return };
        let values = |operand: usize| Some(buffers[node.operands.get(operand)?.index()].as_ref()?.view().values());
        if let (Some(x), Some(scale)) = (values(0), values(1)) {
            self.add(step, node, quantise, quantise.losses(&x, &scale));
        }
    }

    /// Overflows and underflows of one step.
    #[must_use]
    pub fn totals(&self, step: u64) -> (u64, u64) {
        let of_step = || self.0.iter().filter(|count| count.step == step);
        (of_step().map(|count| count.overflows).sum(), of_step().map(|count| count.underflows).sum())
    }
}

/// What a cast of an uncompiled list casts: its label names the linear's operand, `x`, `w` or `dy`.
fn class(node: &Node) -> &'static str {
    match node.label.split(' ').find(|word| matches!(*word, "w" | "dy")) {
        Some("w") => "weight",
        Some(_) => "gradient",
        None => "activation",
    }
}
