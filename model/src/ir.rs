//! The op list of one training step: tensors, and the kernels' ops over them in the order in which they run.
//!
//! Plain data. Built by `build`, proved legal by `check`, rewritten by `passes`, run by `exec`.

use serde::{Deserialize, Serialize};
use stepwatch_kernels::Dtype;
use stepwatch_kernels::fused::Pattern;
use stepwatch_kernels::op::{Access, Class, Op};

use crate::linear::Linear;

/// A tensor of a [`Step`], by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TensorId(pub u32);

impl TensorId {
    /// The index into [`Step::tensors`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a tensor is for; memory is reported by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TensorClass {
    /// Tokens, written from outside before each step.
    Input,
    /// Tables that never change.
    Constant,
    /// Parameters as the GEMMs read them, and their FP8 copies where those outlive a step.
    Weight,
    /// Gradients of parameters.
    Gradient,
    /// Master weights, moments, the step counter.
    OptimizerState,
    /// What the forward pass makes, and gradients of it.
    Activation,
    /// Logits, and in their place their gradient.
    Logits,
    /// Magnitudes and scales of FP8 casts.
    Scale,
    /// Amax histories of delayed scaling.
    History,
    /// Casts, transposes and whatever else lives for a few ops.
    Scratch,
}

/// What a tensor holds before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
    /// Normal with mean 0; every tensor has its own stream of the seed, by its place among the parameters.
    Normal {
        /// Standard deviation.
        std: f64,
        /// The stream.
        stream: u32,
    },
    /// One value everywhere.
    Filled {
        /// The value.
        value: f64,
    },
    /// Cosines of the rotary angles, (S, hd/2).
    RopeCos,
    /// Sines of the rotary angles, (S, hd/2).
    RopeSin,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Its name; gradients are `d` and the name of what they are the gradient of.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Its dtype.
    pub dtype: Dtype,
    /// What it is for.
    pub class: TensorClass,
    /// What it holds before the first step. A tensor that has this lives across steps, all others end with their step.
    pub start: Option<Start>,
}

impl Tensor {
    /// Whether it lives across steps.
    #[must_use]
    pub const fn persistent(&self) -> bool {
        self.start.is_some()
    }

    /// How many elements it has.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its size on a device, bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.elements() * self.dtype.bytes()) as u64
    }
}

/// The part of a step an op belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Tokens to loss.
    Forward,
    /// Loss to gradients.
    Backward,
    /// Gradients to new weights.
    Optimiser,
}

impl Phase {
    /// Its name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Optimiser => "optimiser",
        }
    }
}

/// One op and the tensors it works on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The op.
    pub op: Op,
    /// Its operands, in the order of `op.signature()`.
    pub operands: Vec<TensorId>,
    /// The part of the step it belongs to.
    pub phase: Phase,
    /// What it does in the model, such as `gate-up forward`; equal in all blocks.
    pub label: String,
    /// The block it belongs to.
    pub layer: Option<usize>,
}

impl Node {
    /// The operands with what the op does with each.
    pub fn accesses(&self) -> impl Iterator<Item = (TensorId, Access)> {
        let signature = self.op.signature();
        self.operands
            .iter()
            .copied()
            .zip(signature.into_iter().map(|param| param.access))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Tensors whose old value it needs.
    pub fn reads(&self) -> impl Iterator<Item = TensorId> {
        self.accesses().filter(|(_, access)| *access != Access::Write).map(|(id, _)| id)
    }

    /// Tensors it changes.
    pub fn writes(&self) -> impl Iterator<Item = TensorId> {
        self.accesses().filter(|(_, access)| *access != Access::Read).map(|(id, _)| id)
    }

    /// The class its time is booked under: a fusion's leading work, whichever of its parts comes first.
    #[must_use]
    pub fn class(&self) -> Class {
        match &self.op {
            Op::Fused(fused) => match fused.pattern {
                Pattern::NormForward | Pattern::NormBackward => Class::Norm,
                Pattern::Cast => Class::Quantise,
                _ => self.op.class(),
            },
            op => op.class(),
        }
    }

    /// The same in words as records have it, matrix products by what they are for.
    #[must_use]
    pub fn booked_class(&self) -> String {
        let class = self.class();
        let roles = ["forward", "input gradient", "weight gradient"];
        // A product that adds the residual says so behind its role.
        let label = self.label.split(" + ").next().unwrap_or_default();
        match roles.into_iter().find(|role| label.ends_with(role)) {
            Some(_) if class == Class::Gemm && label.starts_with(Linear::Head.name()) => "gemm head".to_owned(),
            Some(role) if class == Class::Gemm => format!("gemm {role}"),
            _ => class.name().to_owned(),
        }
    }

    /// Whether it touches a tensor at all.
    #[must_use]
    pub fn touches(&self, id: TensorId) -> bool {
        self.operands.contains(&id)
    }
}

/// A parameter and the tensors that belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// As the GEMMs read it.
    pub weight: TensorId,
    /// As the optimiser keeps it; the same tensor where there is no master copy.
    pub master: TensorId,
    /// Its gradient.
    pub gradient: TensorId,
}

/// Where every tensor that ends with its step lies in one arena.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Byte offset of each tensor, by index; `None` for tensors outside the arena.
    pub offsets: Vec<Option<u64>>,
    /// Size of the arena, bytes.
    pub arena_bytes: u64,
}

/// What the outside reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Token ids, (T) i32: written before each step.
    pub ids: TensorId,
    /// The token after each, (T) i32: written before each step.
    pub targets: TensorId,
    /// Steps done, (1) i32.
    pub step: TensorId,
    /// Mean loss, nats, (1) fp32: read after each step.
    pub loss: TensorId,
    /// Norm of all gradients before clipping, (1) fp32: read after each step.
    pub grad_norm: TensorId,
}

/// One training step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// All tensors; a pass leaves tensors behind that nothing touches any more.
    pub tensors: Vec<Tensor>,
    /// Run once, with the inputs of step 0 in place: casts of the first weights, calibration of delayed scaling.
    pub init: Vec<Node>,
    /// The step, in order.
    pub ops: Vec<Node>,
    /// The parameters, in the order of the forward pass.
    pub parameters: Vec<Parameter>,
    /// What the outside reads and writes.
    pub ports: Ports,
    /// Tensors that end with their step and are still read after it: loss, gradient norm, and gradients when they are compared.
    pub outputs: Vec<TensorId>,
    /// Where tensors lie, once `place` has run.
    pub placement: Option<Placement>,
    /// What passes changed in the numbers: each entry names a rounding that is gone.
    pub removed_roundings: Vec<String>,
}

impl Step {
    /// A tensor by its id.
    #[must_use]
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// Adds a tensor.
    pub fn add(&mut self, tensor: Tensor) -> TensorId {
        self.tensors.push(tensor);
        TensorId(u32::try_from(self.tensors.len() - 1).unwrap_or(u32::MAX))
    }

    /// Bytes of all tensors that live across steps and that anything touches.
    #[must_use]
    pub fn persistent_bytes(&self) -> u64 {
        let mut touched = vec![false; self.tensors.len()];
        for node in self.init.iter().chain(&self.ops) {
            node.operands.iter().for_each(|id| touched[id.index()] = true);
        }
        let live = self.tensors.iter().zip(touched).filter(|(tensor, touched)| *touched && tensor.persistent());
        live.map(|(tensor, _)| tensor.bytes()).sum()
    }
}
