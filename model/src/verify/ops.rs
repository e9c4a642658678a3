//! Products, attention and casts checked where they ran: elements of each distinct op made again in fp64 from its operands
//! as they lie, right after it. On a GPU that reaches the kernels and algorithms that a cell really runs, at its full shape.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stepwatch_kernels::gpu::GpuError;
use stepwatch_kernels::sample::{Pieces, Sampled, gather, is_sampled, sample};
use stepwatch_kernels::tensor::Buffer;

use crate::exec::cuda::Cuda;
use crate::ir::{Node, Step};
use crate::random::Random;

/// Elements of each distinct op.
pub const ELEMENTS: usize = 256;

/// Draws of this purpose, apart from those of weights and tokens.
const STREAM: u64 = 0x6f70_7300;

/// An op that was checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckedOp {
    /// The op, such as `Gemm`.
    pub op: String,
    /// What it does in the model, such as `gate-up forward`.
    pub label: String,
    /// Elements made again in fp64.
    pub elements: u64,
    /// The largest error among them as a share of its tolerance: above 1 it is wrong.
    pub worst_error: f64,
}

/// The checks of one list, op by op as it runs.
#[derive(Debug)]
pub struct OpChecks {
    /// Which op of the list stands for its kind.
    picked: Vec<bool>,
    at: usize,
    random: Random,
    /// What was checked so far, in the order of the list.
    pub checked: Vec<CheckedOp>,
    /// What was wrong, a line each.
    pub failures: Vec<String>,
}

impl OpChecks {
    /// Of all ops that are equal but for the block they belong to, one at random is checked.
    #[must_use]
    pub fn new(step: &Step, seed: u64) -> Self {
        let mut random = Random::new(seed, STREAM);
        let mut kinds: BTreeMap<(String, &str), Vec<usize>> = BTreeMap::new();
        for (at, node) in step.ops.iter().enumerate().filter(|(_, node)| is_sampled(&node.op)) {
            // Specs are plain data: they always serialise.
            let spec = serde_json::to_string(&node.op).unwrap_or_default();
            kinds.entry((spec, &node.label)).or_default().push(at);
        }
        let mut picked = vec![false; step.ops.len()];
        for alike in kinds.values() {
            picked[alike[random.below(alike.len())]] = true;
        }
        Self { picked, at: 0, random, checked: Vec::new(), failures: Vec::new() }
    }

    /// Looks at the next op of the list, which has just run.
    ///
    /// # Errors
    /// Whatever `pieces` could not read.
    pub fn after<P: Pieces>(&mut self, node: &Node, pieces: &mut P) -> Result<(), P::Error> {
        let picked = self.picked.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        if picked {
            let elements = sample(&node.op, ELEMENTS, &mut |n| self.random.below(n), pieces)?;
            self.judge(node, &elements);
        }
        Ok(())
    }

    fn judge(&mut self, node: &Node, elements: &[Sampled]) {
        let Some(worst) = elements.iter().max_by(|one, two| one.error().total_cmp(&two.error())) else { return };
        let wrong = elements.iter().filter(|element| !element.holds()).count();
        if wrong > 0 {
            let Sampled { operand, element, found, expected, tolerance } = worst;
            let block = node.layer.map_or_else(String::new, |layer| format!(" of block {layer}"));
            self.failures.push(format!(
                "{} `{}`{block}: `{operand}`[{element}] is {found:.4e} where fp64 of its operands gives {expected:.4e} \
                 and right arithmetic is off by {tolerance:.1e} at most ({wrong} of {} elements {})",
                node.op.name(),
                node.label,
                elements.len(),
                if wrong == 1 { "is wrong" } else { "are wrong" },
            ));
        }
        self.checked.push(CheckedOp {
            op: node.op.name().to_owned(),
            label: node.label.clone(),
            elements: elements.len() as u64,
            // JSON has no infinity.
            worst_error: worst.error().min(f64::MAX),
        });
    }
}

/// An op's operands in the CPU executor.
pub struct OnCpu<'a> {
    /// The op.
    pub node: &'a Node,
    /// All buffers by tensor.
    pub buffers: &'a [Option<Buffer<f32>>],
}

impl Pieces for OnCpu<'_> {
    type Error = std::convert::Infallible;

    fn pieces(&mut self, operand: usize, starts: &[usize], stride: usize, len: usize) -> Result<Vec<f64>, Self::Error> {
        let buffer = self.buffers[self.node.operands[operand].index()].as_ref();
        // An operand of an op that has just run is there.
        Ok(buffer.map(|buffer| gather(buffer.view(), starts, stride, len)).unwrap_or_default())
    }
}

/// An op's operands on a GPU.
pub struct OnGpu<'a> {
    /// The op.
    pub node: &'a Node,
    /// The executor.
    pub cuda: &'a Cuda,
}

impl Pieces for OnGpu<'_> {
    type Error = GpuError;

    fn pieces(&mut self, operand: usize, starts: &[usize], stride: usize, len: usize) -> Result<Vec<f64>, GpuError> {
        let found = self.cuda.gather(self.node.operands[operand], starts, stride, len)?;
        Ok(found.view().values().iter().map(|value| f64::from(*value)).collect())
    }
}
