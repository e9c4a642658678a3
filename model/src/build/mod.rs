//! From a configuration to the op list of its step: forward, backward, optimiser, in the order of the paper, one primitive
//! per op as an eager framework would launch it.
//!
//! The list built here is what `compile = "none"` runs; everything else is a pass over it. It may not know any executor.

mod attention;
mod backward;
mod cast;
mod forward;
mod linear;
mod optimizer;

use std::collections::HashMap;

use stepwatch_kernels::Dtype;
use stepwatch_kernels::op::Op;
use stepwatch_kernels::precision::Granularity;
use stepwatch_kernels::quantise::Axis;

use crate::config::{Dims, StepConfig};
use crate::ir::{Node, Parameter, Phase, Ports, Start, Step, Tensor, TensorClass, TensorId};
use crate::linear::Linear;

/// Standard deviation of the initial weights of matrices.
pub const INIT_STD: f64 = 0.02;

/// Builds the step of a configuration that passed [`crate::check_config`].
///
/// Declares inputs, tables and parameters; casts the masters into the weights that GEMMs read (once); with delayed scaling
/// calibrates on the first batch (once); then forward, backward, optimiser.
#[must_use]
pub fn build(config: &StepConfig) -> Step {
    let mut builder = Builder::new(config);
    builder.cast_masters();
    if builder.delayed() {
        builder.calibrate();
        builder.delayed_scales();
    }
    let tape = builder.forward();
    builder.backward(&tape);
    builder.optimizer();
    builder.step
}

/// The weights of one block.
#[derive(Debug, Clone, Copy)]
struct BlockWeights {
    norm1: usize,
    qkv: usize,
    output: usize,
    norm2: usize,
    gate_up: usize,
    down: usize,
}

/// Which operand of a linear a cast is of: histories of delayed scaling are kept by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    /// The linear's input.
    Input,
    /// Its weight.
    Weight,
    /// The gradient of its output.
    Gradient,
}

/// Where a linear stands: which product, which block.
type Site = (Linear, Option<usize>);

/// How a tensor was cast: enough to find the cast again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct CastKey {
    tensor: TensorId,
    format: Dtype,
    granularity: Granularity,
    axis: Axis,
}

/// Whether ops are written for the step itself or for the calibration before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The step.
    Step,
    /// Once before step 0, with current scaling, to fill the amax histories.
    Calibration,
}

struct Builder<'c> {
    config: &'c StepConfig,
    dims: Dims,
    /// Tokens, T.
    tokens: usize,
    /// Dtype of activations, gradients and weights as read.
    dtype: Dtype,
    mode: Mode,
    phase: Phase,
    /// Inside the second forward of a block under `recompute`.
    again: bool,
    layer: Option<usize>,
    step: Step,
    blocks: Vec<BlockWeights>,
    embedding: usize,
    final_norm: usize,
    cos: TensorId,
    sin: TensorId,
    /// FP8 copies and scales already made.
    casts: HashMap<CastKey, (TensorId, TensorId)>,
    /// Histories and this step's scales of delayed scaling, by site, in order of first use.
    histories: Vec<(Site, Side, Dtype, TensorId)>,
    delayed: HashMap<(Site, Side), TensorId>,
    /// The scale of the logits' gradient, where its bound is what it is made from.
    bound: Option<TensorId>,
    /// Tensor wide casts in both layouts.
    transposes: HashMap<TensorId, TensorId>,
}

impl<'c> Builder<'c> {
    fn new(config: &'c StepConfig) -> Self {
        let none = TensorId(u32::MAX);
        let ports = Ports { ids: none, targets: none, step: none, loss: none, grad_norm: none };
        let step = Step {
            tensors: Vec::new(),
            init: Vec::new(),
            ops: Vec::new(),
            parameters: Vec::new(),
            ports,
            outputs: Vec::new(),
            placement: None,
            removed_roundings: Vec::new(),
        };
        let mut builder = Self {
            config,
            dims: config.dims,
            tokens: config.tokens(),
            dtype: config.precision.activation(),
            mode: Mode::Step,
            phase: Phase::Forward,
            again: false,
            layer: None,
            step,
            blocks: Vec::new(),
            embedding: 0,
            final_norm: 0,
            cos: none,
            sin: none,
            casts: HashMap::new(),
            histories: Vec::new(),
            delayed: HashMap::new(),
            bound: None,
            transposes: HashMap::new(),
        };
        builder.declare();
        builder
    }

    /// Inputs, tables, the step counter, parameters.
    fn declare(&mut self) {
        let (tokens, dims) = (self.tokens, self.dims);
        let table = [self.config.seq_len, dims.head_dim() / 2];
        self.step.ports.ids = self.persistent("ids", &[tokens], Dtype::I32, TensorClass::Input, Start::Zeros);
        self.step.ports.targets = self.persistent("targets", &[tokens], Dtype::I32, TensorClass::Input, Start::Zeros);
        self.step.ports.step = self.persistent("step", &[1], Dtype::I32, TensorClass::OptimizerState, Start::Zeros);
        self.cos = self.persistent("rope.cos", &table, Dtype::F32, TensorClass::Constant, Start::RopeCos);
        self.sin = self.persistent("rope.sin", &table, Dtype::F32, TensorClass::Constant, Start::RopeSin);
        self.embedding = self.parameter("embedding.w", &[dims.padded_vocab(), dims.dim]);
        for layer in 0..dims.layers {
            let matrix = |linear: Linear| [linear.outputs(&dims), linear.inputs(&dims)];
            let mut add = |name: &str, shape: &[usize]| self.parameter(&format!("b{layer}.{name}"), shape);
            let weights = BlockWeights {
                norm1: add("norm1.w", &[dims.dim]),
                qkv: add("qkv.w", &matrix(Linear::Qkv)),
                output: add("output.w", &matrix(Linear::Output)),
                norm2: add("norm2.w", &[dims.dim]),
                gate_up: add("gate_up.w", &matrix(Linear::GateUp)),
                down: add("down.w", &matrix(Linear::Down)),
            };
            self.blocks.push(weights);
        }
        self.final_norm = self.parameter("norm.w", &[dims.dim]);
    }

    /// Declares a parameter: the weight that ops read, its gradient, and a master where the optimiser keeps one. Matrices
    /// start normal with [`INIT_STD`], norms at 1.
    fn parameter(&mut self, name: &str, shape: &[usize]) -> usize {
        let index = self.step.parameters.len();
        let start = if shape.len() > 1 {
            Start::Normal { std: INIT_STD, stream: u32::try_from(index).unwrap_or(u32::MAX) }
        } else {
            Start::Ones
        };
        let weight = self.persistent(name, shape, self.dtype, TensorClass::Weight, start);
        let master = match self.master_dtype() {
            Some(dtype) => self.persistent(&format!("{name}.master"), shape, dtype, TensorClass::OptimizerState, start),
            None => weight,
        };
        let gradient = self.per_step(&format!("d{name}"), shape, self.dtype, TensorClass::Gradient);
        self.step.parameters.push(Parameter { name: name.to_owned(), weight, master, gradient });
        index
    }

    fn persistent(&mut self, name: &str, shape: &[usize], dtype: Dtype, class: TensorClass, start: Start) -> TensorId {
        self.step.add(Tensor { name: name.to_owned(), shape: shape.to_vec(), dtype, class, start: Some(start) })
    }

    fn per_step(&mut self, name: &str, shape: &[usize], dtype: Dtype, class: TensorClass) -> TensorId {
        let mut name = name.to_owned();
        if self.again {
            name.push_str(" (again)");
        }
        if self.mode == Mode::Calibration {
            name.insert_str(0, "calibration.");
        }
        self.step.add(Tensor { name, shape: shape.to_vec(), dtype, class, start: None })
    }

    /// An activation of this block, in the activations' dtype.
    fn activation(&mut self, name: &str, shape: &[usize]) -> TensorId {
        let name = self.local(name);
        self.per_step(&name, shape, self.dtype, TensorClass::Activation)
    }

    /// Row statistics of this block, fp32.
    fn statistics(&mut self, name: &str, shape: &[usize]) -> TensorId {
        let name = self.local(name);
        self.per_step(&name, shape, Dtype::F32, TensorClass::Activation)
    }

    /// A name within the current block; gradients keep their `d` in front.
    fn local(&self, name: &str) -> String {
        match (self.layer, name.strip_prefix('d').filter(|rest| rest.starts_with(':'))) {
            (Some(layer), Some(rest)) => format!("db{layer}.{}", &rest[1..]),
            (None, Some(rest)) => format!("d{}", &rest[1..]),
            (Some(layer), None) => format!("b{layer}.{name}"),
            (None, None) => name.to_owned(),
        }
    }

    fn push(&mut self, op: Op, operands: &[TensorId], label: &str) {
        let node = Node {
            op,
            operands: operands.to_vec(),
            phase: self.phase,
            label: if self.again { format!("{label} again") } else { label.to_owned() },
            layer: self.layer,
        };
        match self.mode {
            Mode::Step => self.step.ops.push(node),
            Mode::Calibration => self.step.init.push(node),
        }
    }

    fn weight(&self, index: usize) -> TensorId {
        self.step.parameters[index].weight
    }

    /// Where a parameter's gradient goes; calibration throws gradients away.
    fn gradient(&mut self, index: usize) -> TensorId {
        let gradient = self.step.parameters[index].gradient;
        if self.mode == Mode::Step {
            return gradient;
        }
        let Tensor { name, shape, dtype, .. } = self.step.tensor(gradient).clone();
        self.per_step(&name, &shape, dtype, TensorClass::Scratch)
    }
}
