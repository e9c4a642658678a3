//! The optimiser: gradient norm, clip factor, one AdamW update per parameter, the step counter.

use stepwatch_kernels::Dtype;
use stepwatch_kernels::op::Op;
use stepwatch_kernels::{adamw, gradient};

use super::Builder;
use crate::config::OptimizerState;
use crate::ir::{Phase, Start, TensorClass};

impl Builder<'_> {
    /// Dtype of the master weights, where the optimiser keeps a copy that GEMMs don't read.
    pub(super) fn master_dtype(&self) -> Option<Dtype> {
        (self.config.optimizer_state == OptimizerState::Fp32 && self.dtype != Dtype::F32).then_some(Dtype::F32)
    }

    /// 1. sum of squares per gradient; 2. norm and clip factor; 3. AdamW, decay on matrices only; 4. step counter.
    pub(super) fn optimizer(&mut self) {
        self.phase = Phase::Optimiser;
        let parameters = self.step.parameters.clone();
        let mut sums = Vec::with_capacity(parameters.len() + 2);
        for parameter in &parameters {
            let shape = self.step.tensor(parameter.gradient).shape.clone();
            let sum = self.per_step(&format!("d{}.sum", parameter.name), &[1], Dtype::F32, TensorClass::Scratch);
            let op = gradient::SumSquares { shape, dtype: self.dtype };
            self.push(Op::SumSquares(op), &[parameter.gradient, sum], "gradient norm");
            sums.push(sum);
        }
        let norm = self.per_step("grad_norm", &[1], Dtype::F32, TensorClass::Scratch);
        let clip = self.per_step("clip", &[1], Dtype::F32, TensorClass::Scratch);
        let op = gradient::ClipScale { count: parameters.len(), max_norm: self.config.clip };
        sums.extend([norm, clip]);
        self.push(Op::ClipScale(op), &sums, "clip");
        self.step.ports.grad_norm = norm;
        self.step.outputs.push(norm);

        for parameter in &parameters {
            let master = self.step.tensor(parameter.master).clone();
            let copy = (parameter.master != parameter.weight).then_some(self.dtype);
            let state = |name: &str| format!("{}.{name}", parameter.name);
            let class = TensorClass::OptimizerState;
            let m = self.persistent(&state("m"), &master.shape, master.dtype, class, Start::Zeros);
            let v = self.persistent(&state("v"), &master.shape, master.dtype, class, Start::Zeros);
            let op = adamw::AdamW {
                shape: master.shape.clone(),
                gradient: self.dtype,
                state: master.dtype,
                copy,
                learning_rate: self.config.learning_rate,
                warmup: self.config.lr_warmup_steps,
                weight_decay: if master.shape.len() > 1 { self.config.weight_decay } else { 0.0 },
            };
            let mut operands = vec![parameter.gradient, clip, self.step.ports.step, parameter.master, m, v];
            operands.extend(copy.map(|_| parameter.weight));
            self.push(Op::AdamW(op), &operands, "adamw");
        }
        self.push(Op::Advance(adamw::Advance {}), &[self.step.ports.step], "step counter");
    }
}
