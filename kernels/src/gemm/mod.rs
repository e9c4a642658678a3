//! Matrix products: `D = A · Bᵀ`, plain or with scaled FP8 operands, optionally added to C.

mod algorithm;
pub mod cublaslt;
pub(crate) mod launch;
pub(crate) mod product;
mod reference;
mod sample;
pub mod search;

pub use algorithm::Algorithm;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::op::{Class, Param, Spec, SpecError};
use crate::precision::Granularity;

/// One operand of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operand {
    /// Its dtype.
    pub dtype: Dtype,
    /// `false`: stored (rows, k) with k contiguous. `true`: stored (k, rows). FP8 takes `false` only (Hopper is TN only).
    pub transposed: bool,
    /// Granularity of its scale; `None` if it is not scaled.
    pub scaling: Option<Granularity>,
}

impl Operand {
    /// An unscaled operand.
    #[must_use]
    pub const fn plain(dtype: Dtype, transposed: bool) -> Self {
        Self { dtype, transposed, scaling: None }
    }

    /// A scaled FP8 operand.
    #[must_use]
    pub const fn scaled(dtype: Dtype, granularity: Granularity) -> Self {
        Self { dtype, transposed: false, scaling: Some(granularity) }
    }
}

/// `D[i, j] = Σ over l of A[i, l] · B[j, l] (+ C[i, j])`, with A and B dequantised (`value · scale`). Products are summed in
/// the arithmetic type, C is added there, and D is rounded once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gemm {
    /// Rows of D.
    pub m: usize,
    /// Columns of D.
    pub n: usize,
    /// The dimension summed over.
    pub k: usize,
    /// The operand with m rows.
    pub a: Operand,
    /// The operand with n rows.
    pub b: Operand,
    /// Dtype of D, and of C.
    pub d: Dtype,
    /// Adds C (β = 1).
    pub accumulate: bool,
    /// Partial sums may stay in the tensor cores' reduced precision (FP8 on a GPU only).
    pub fast_accumulation: bool,
}

/// Shape of the scales of an operand of `rows` × `cols` (cols summed over). Scales dequantise: `x ≈ q · scale`.
#[must_use]
pub fn scale_shape(granularity: Granularity, rows: usize, cols: usize) -> Vec<usize> {
    match granularity {
        Granularity::Tensor => vec![1],
        Granularity::Row => vec![rows],
        Granularity::Block1x128 => vec![rows, cols.div_ceil(128)],
        Granularity::Block128x128 => vec![rows.div_ceil(128), cols.div_ceil(128)],
    }
}

impl Spec for Gemm {
    fn signature(&self) -> Vec<Param> {
        let Self { m, n, k, .. } = *self;
        let shape = |rows: usize, operand: Operand| if operand.transposed { [k, rows] } else { [rows, k] };
        let mut params =
            vec![Param::read("a", self.a.dtype, &shape(m, self.a)), Param::read("b", self.b.dtype, &shape(n, self.b))];
        if let Some(granularity) = self.a.scaling {
            params.push(Param::read("a_scale", Dtype::F32, &scale_shape(granularity, m, k)));
        }
        if let Some(granularity) = self.b.scaling {
            params.push(Param::read("b_scale", Dtype::F32, &scale_shape(granularity, n, k)));
        }
        if self.accumulate {
            params.push(Param::read("c", self.d, &[m, n]));
        }
        params.push(Param::write("d", self.d, &[m, n]));
        params
    }

    fn class(&self) -> Class {
        Class::Gemm
    }

    #[expect(clippy::cast_precision_loss, reason = "dims are far below 2^53")]
    fn flops(&self) -> f64 {
        2.0 * self.m as f64 * self.n as f64 * self.k as f64
    }

    fn check(&self) -> Result<(), SpecError> {
        let error = |expected| {
            let what = format!("{}×{}×{} {}·{}", self.m, self.n, self.k, self.a.dtype, self.b.dtype);
            Err(SpecError { op: "gemm", what, expected })
        };
        let (a, b) = (self.a, self.b);
        if a.dtype.is_fp8() != b.dtype.is_fp8() {
            return error("both operands are FP8 or neither is");
        }
        if !a.dtype.is_fp8() {
            if a.dtype != b.dtype {
                return error("both operands have one dtype");
            }
            return if a.scaling.is_some() || b.scaling.is_some() {
                error("only FP8 operands are scaled")
            } else {
                Ok(())
            };
        }
        if a.transposed || b.transposed {
            return error("FP8 operands are stored with the summed dimension contiguous: transpose them first");
        }
        if a.dtype == Dtype::E5m2 && b.dtype == Dtype::E5m2 {
            return error("E5M2 × E5M2 is not supported by the hardware's library: one side is E4M3");
        }
        if [self.m, self.n, self.k].iter().any(|dim| !dim.is_multiple_of(16)) {
            return error("FP8 products need m, n and k in multiples of 16");
        }
        match (a.scaling, b.scaling) {
            (Some(Granularity::Tensor), Some(Granularity::Tensor))
            | (Some(Granularity::Row), Some(Granularity::Row)) => Ok(()),
            (
                Some(Granularity::Block1x128 | Granularity::Block128x128),
                Some(Granularity::Block1x128 | Granularity::Block128x128),
            ) if a.scaling != Some(Granularity::Block128x128) || b.scaling != a.scaling => Ok(()),
            _ => error("scales pair tensor with tensor, row with row, and 1×128 with 1×128 or 128×128"),
        }
    }
}
