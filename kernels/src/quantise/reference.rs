//! What casting to FP8 means, in plain loops.

use super::{Amax, Axis, DelayedScale, Quantise, Record, Scale, Tiling};
use crate::dtype::Dtype;
use crate::io::Io;
use crate::op::Reference;
use crate::precision::{AMAX_EPSILON, Granularity};
use crate::real::Real;

impl Tiling {
    /// Which scale element (row, col) belongs to.
    fn scale_index(&self, row: usize, col: usize) -> usize {
        let (row, col, cols) = match self.axis {
            Axis::Rows => (row, col, self.cols),
            Axis::Columns => (col, row, self.rows),
        };
        match self.granularity {
            Granularity::Tensor => 0,
            Granularity::Row => row,
            Granularity::Block1x128 => row * cols.div_ceil(128) + col / 128,
            Granularity::Block128x128 => row / 128 * cols.div_ceil(128) + col / 128,
        }
    }
}

/// The scale of an amax. NaN stays NaN: a broken tensor must not look healthy.
fn scale_of<R: Real>(amax: R, format: Dtype, power_of_two: bool) -> R {
    let amax = if amax.f32() < AMAX_EPSILON { AMAX_EPSILON } else { amax.f32() };
    let scale = amax / format.max_finite().unwrap_or(1.0);
    R::of(if power_of_two { next_power_of_two(scale) } else { scale })
}

/// The smallest power of two not below a positive normal value.
fn next_power_of_two(value: f32) -> f32 {
    if !value.is_normal() || value.to_bits() & 0x007f_ffff == 0 {
        return value;
    }
    f32::from_bits((value.to_bits() & 0x7f80_0000) + 0x0080_0000)
}

/// The larger of two, NaN if either is.
fn larger<R: Real>(a: R, b: R) -> R {
    if a.is_nan() || a > b { a } else { b }
}

impl Reference for Amax {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let x = io.read("x");
        let mut amax = io.output("amax");
        amax.fill(R::zero());
        for (row, values) in x.chunks_exact(self.tiling.cols).enumerate() {
            for (col, value) in values.iter().enumerate() {
                let out = &mut amax[self.tiling.scale_index(row, col)];
                *out = larger(*out, value.abs());
            }
        }
    }
}

impl Reference for Scale {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let amax = io.read("amax");
        let mut scale = io.output("scale");
        for (scale, &amax) in scale.iter_mut().zip(amax.iter()) {
            *scale = scale_of(amax, self.format, self.power_of_two);
        }
    }
}

impl Reference for DelayedScale {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let history = io.read("history");
        let amax = history.iter().fold(R::zero(), |a, &b| larger(a, b));
        io.output("scale")[0] = scale_of(amax, self.format, false);
    }
}

impl Reference for Record {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (amax, step) = (io.read("amax")[0], io.integers("step")[0]);
        let mut history = io.update("history");
        let slot = usize::try_from(step).unwrap_or_default() % history.len();
        history[slot] = amax;
    }
}

impl Reference for Quantise {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (x, scale) = (io.read("x"), io.read("scale"));
        let Tiling { rows, cols, .. } = self.tiling;
        let mut row_major = self.row_major.then(|| io.output("q"));
        let mut transposed = self.transposed.then(|| io.output("qt"));
        let inverse: Vec<R> = scale.iter().map(|scale| scale.recip()).collect();
        for row in 0..rows {
            for col in 0..cols {
                let value = x[row * cols + col] * inverse[self.tiling.scale_index(row, col)];
                if let Some(q) = &mut row_major {
                    q[row * cols + col] = value;
                }
                if let Some(qt) = &mut transposed {
                    qt[col * rows + row] = value;
                }
            }
        }
    }
}
