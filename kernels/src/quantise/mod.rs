//! Casting to FP8: largest magnitudes, scales from them (current or delayed), and the cast itself.
//!
//! Scales dequantise: `x ≈ q · scale`. Along [`Axis::Columns`] the operand meant is the transposed tensor: its rows are this
//! tensor's columns, and scales have the shape that the transposed operand needs.

pub(crate) mod count;
pub(crate) mod fused;
pub(crate) mod launch;
mod reference;
mod sample;
pub(crate) mod tile;

use serde::{Deserialize, Serialize};

pub use count::Losses;

use crate::dtype::Dtype;
use crate::gemm::scale_shape;
use crate::op::{Class, Param, Spec, SpecError};
use crate::precision::{DELAYED_HISTORY, Granularity};

/// Which way the GEMM will read the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// As stored: its columns are summed over.
    Rows,
    /// Transposed: its rows are summed over.
    Columns,
}

/// A tensor of `rows` × `cols` and how its scales lie on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tiling {
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub cols: usize,
    /// What shares a scale.
    pub granularity: Granularity,
    /// Which way the GEMM will read it.
    pub axis: Axis,
}

impl Tiling {
    /// Shape of the amaxes and scales.
    #[must_use]
    pub fn scales(&self) -> Vec<usize> {
        match self.axis {
            Axis::Rows => scale_shape(self.granularity, self.rows, self.cols),
            Axis::Columns => scale_shape(self.granularity, self.cols, self.rows),
        }
    }
}

/// `amax = max |x|` over what shares a scale. NaN propagates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amax {
    /// The tensor.
    pub tiling: Tiling,
    /// Its dtype.
    pub dtype: Dtype,
}

impl Spec for Amax {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("x", self.dtype, &[self.tiling.rows, self.tiling.cols]),
            Param::write("amax", Dtype::F32, &self.tiling.scales()),
        ]
    }

    fn class(&self) -> Class {
        Class::Scale
    }
}

/// `scale = max(amax, ε) / largest value of the format`; with `power_of_two` rounded *up* to a power of two, so that no cast
/// value exceeds the format (torchao rounds the inverse down: the same).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// Shape of the amaxes.
    pub shape: Vec<usize>,
    /// The FP8 format.
    pub format: Dtype,
    /// Rounds to powers of two.
    pub power_of_two: bool,
}

impl Spec for Scale {
    fn signature(&self) -> Vec<Param> {
        vec![Param::read("amax", Dtype::F32, &self.shape), Param::write("scale", Dtype::F32, &self.shape)]
    }

    fn class(&self) -> Class {
        Class::Scale
    }
}

/// `scale` from the maximum of the history, as [`Scale`] without powers of two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayedScale {
    /// The FP8 format.
    pub format: Dtype,
}

impl Spec for DelayedScale {
    fn signature(&self) -> Vec<Param> {
        vec![Param::read("history", Dtype::F32, &[DELAYED_HISTORY]), Param::write("scale", Dtype::F32, &[1])]
    }

    fn class(&self) -> Class {
        Class::Scale
    }
}

/// `history[step mod 16] = amax`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {}

impl Spec for Record {
    fn signature(&self) -> Vec<Param> {
        vec![
            Param::read("amax", Dtype::F32, &[1]),
            Param::read("step", Dtype::I32, &[1]),
            Param::update("history", Dtype::F32, &[DELAYED_HISTORY]),
        ]
    }

    fn class(&self) -> Class {
        Class::Scale
    }
}

/// `q = round(x · (1/scale))` to nearest even, saturating, written as stored (`q`), transposed (`qt`), or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantise {
    /// The tensor.
    pub tiling: Tiling,
    /// Its dtype.
    pub dtype: Dtype,
    /// The FP8 format.
    pub format: Dtype,
    /// Writes `q`, (rows, cols).
    pub row_major: bool,
    /// Writes `qt`, (cols, rows).
    pub transposed: bool,
}

impl Spec for Quantise {
    fn signature(&self) -> Vec<Param> {
        let Tiling { rows, cols, .. } = self.tiling;
        let mut params =
            vec![Param::read("x", self.dtype, &[rows, cols]), Param::read("scale", Dtype::F32, &self.tiling.scales())];
        if self.row_major {
            params.push(Param::write("q", self.format, &[rows, cols]));
        }
        if self.transposed {
            params.push(Param::write("qt", self.format, &[cols, rows]));
        }
        params
    }

    fn class(&self) -> Class {
        Class::Quantise
    }

    fn check(&self) -> Result<(), SpecError> {
        let what = || format!("{}×{} to {}", self.tiling.rows, self.tiling.cols, self.format);
        if !self.format.is_fp8() {
            return Err(SpecError { op: "quantise", what: what(), expected: "the format is E4M3 or E5M2" });
        }
        if !self.row_major && !self.transposed {
            return Err(SpecError { op: "quantise", what: what(), expected: "at least one layout is written" });
        }
        Ok(())
    }
}
