//! The three products of a linear layer, each as the recipe table says: plain, or cast to FP8 and scaled.

use stepwatch_kernels::Dtype;
use stepwatch_kernels::gemm::{Gemm, Operand};
use stepwatch_kernels::op::Op;
use stepwatch_kernels::precision::{GemmRecipe, Role};
use stepwatch_kernels::quantise::Axis;

use super::{Builder, Mode, Side, Site};
use crate::eligibility::runs_in_fp8;
use crate::ir::TensorId;
use crate::linear::{Linear, role_name};

/// One operand of a product before its recipe is applied: the tensor, and how the product reads it.
#[derive(Clone, Copy)]
struct Source {
    tensor: TensorId,
    side: Side,
    /// Rows and columns as stored.
    stored: [usize; 2],
    /// `Columns`: the product sums over the stored rows.
    axis: Axis,
}

impl Builder<'_> {
    fn recipe(&self, linear: Linear, role: Role) -> GemmRecipe {
        let recipe = match linear {
            _ if !runs_in_fp8(self.config, linear) => GemmRecipe::Plain(self.dtype),
            Linear::Head => self.config.precision.head_recipe(role),
            _ => self.config.precision.recipe(role),
        };
        // A row of the classifier's weight gradient sums over all tokens, and few were to be the row's own: fast sums drop the others
        // beside those (PRECISION.md of the kernels).
        let allowed = (linear, role) != (Linear::Head, Role::WeightGradient);
        if allowed && self.config.fast_accumulation.adds(role) { recipe.accumulated_fast() } else { recipe }
    }

    /// `y = x · wᵀ`: x (T, K), w (N, K), y (T, N).
    pub(super) fn linear_forward(&mut self, linear: Linear, x: TensorId, parameter: usize, y: TensorId) {
        let (inputs, outputs) = (linear.inputs(&self.dims), linear.outputs(&self.dims));
        let x = Source { tensor: x, side: Side::Input, stored: [self.tokens, inputs], axis: Axis::Rows };
        let w =
            Source { tensor: self.weight(parameter), side: Side::Weight, stored: [outputs, inputs], axis: Axis::Rows };
        self.product(linear, Role::Forward, x, w, y);
    }

    /// `dx = dy · w`: dy (T, N), w (N, K), dx (T, K).
    pub(super) fn linear_input_gradient(&mut self, linear: Linear, dy: TensorId, parameter: usize, dx: TensorId) {
        let (inputs, outputs) = (linear.inputs(&self.dims), linear.outputs(&self.dims));
        let dy = Source { tensor: dy, side: Side::Gradient, stored: [self.tokens, outputs], axis: Axis::Rows };
        let w = Source {
            tensor: self.weight(parameter),
            side: Side::Weight,
            stored: [outputs, inputs],
            axis: Axis::Columns,
        };
        self.product(linear, Role::InputGradient, dy, w, dx);
    }

    /// `dw = dyᵀ · x`: dy (T, N), x (T, K), dw (N, K). Calibration has no use for it: no amax depends on it.
    pub(super) fn linear_weight_gradient(&mut self, linear: Linear, dy: TensorId, x: TensorId, parameter: usize) {
        if self.mode == Mode::Calibration {
            return;
        }
        let (inputs, outputs) = (linear.inputs(&self.dims), linear.outputs(&self.dims));
        let dy = Source { tensor: dy, side: Side::Gradient, stored: [self.tokens, outputs], axis: Axis::Columns };
        let x = Source { tensor: x, side: Side::Input, stored: [self.tokens, inputs], axis: Axis::Columns };
        let dw = self.gradient(parameter);
        self.product(linear, Role::WeightGradient, dy, x, dw);
    }

    /// `d = a · bᵀ` by the recipe of the role.
    fn product(&mut self, linear: Linear, role: Role, a: Source, b: Source, d: TensorId) {
        let site: Site = (linear, self.layer);
        let shape = linear.product(&self.dims, self.tokens, role);
        let gemm = |a: Operand, b: Operand, fast_accumulation: bool, dtype: Dtype| {
            Op::Gemm(Gemm { m: shape.m, n: shape.n, k: shape.k, a, b, d: dtype, accumulate: false, fast_accumulation })
        };
        let label = format!("{} {}", linear.name(), role_name(role));
        match self.recipe(linear, role) {
            GemmRecipe::Plain(dtype) => {
                let plain = |source: Source| Operand::plain(dtype, source.axis == Axis::Columns);
                let op = gemm(plain(a), plain(b), false, dtype);
                self.push(op, &[a.tensor, b.tensor, d], &label);
            }
            GemmRecipe::Fp8 { a: first, b: second, fast_accumulation } => {
                // The table names X (or dY) first; the product's rows are dY's in the weight gradient.
                let (for_a, for_b) = if role == Role::WeightGradient { (second, first) } else { (first, second) };
                let (qa, a_scale) = self.cast(site, a.tensor, a.side, a.stored, a.axis, for_a);
                let (qb, b_scale) = self.cast(site, b.tensor, b.side, b.stored, b.axis, for_b);
                let op = gemm(
                    Operand::scaled(for_a.format, for_a.granularity),
                    Operand::scaled(for_b.format, for_b.granularity),
                    fast_accumulation,
                    self.dtype,
                );
                self.push(op, &[qa, qb, a_scale, b_scale, d], &label);
            }
        }
    }
}
