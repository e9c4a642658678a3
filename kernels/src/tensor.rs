//! Host memory of a tensor: owned buffers and borrowed views, by dtype.
//!
//! `Dtype::F32` is held as the arithmetic type `R`, so that the same op list also runs in fp64. Everything else is held in
//! its own format, bit for bit what a GPU would hold.

use std::borrow::Cow;

use float8::{F8E4M3, F8E5M2};
use half::bf16;

use crate::dtype::Dtype;
use crate::real::Real;

/// An owned tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Buffer<R> {
    /// `Dtype::F32`, in the arithmetic type.
    Real(Vec<R>),
    /// `Dtype::Bf16`.
    Bf16(Vec<bf16>),
    /// `Dtype::E4m3`.
    E4m3(Vec<F8E4M3>),
    /// `Dtype::E5m2`.
    E5m2(Vec<F8E5M2>),
    /// `Dtype::I32`.
    I32(Vec<i32>),
}

/// A tensor lent for reading.
#[derive(Debug, Clone, Copy)]
pub enum View<'a, R> {
    /// `Dtype::F32`, in the arithmetic type.
    Real(&'a [R]),
    /// `Dtype::Bf16`.
    Bf16(&'a [bf16]),
    /// `Dtype::E4m3`.
    E4m3(&'a [F8E4M3]),
    /// `Dtype::E5m2`.
    E5m2(&'a [F8E5M2]),
    /// `Dtype::I32`.
    I32(&'a [i32]),
}

/// A tensor lent for writing.
#[derive(Debug)]
pub enum ViewMut<'a, R> {
    /// `Dtype::F32`, in the arithmetic type.
    Real(&'a mut [R]),
    /// `Dtype::Bf16`.
    Bf16(&'a mut [bf16]),
    /// `Dtype::E4m3`.
    E4m3(&'a mut [F8E4M3]),
    /// `Dtype::E5m2`.
    E5m2(&'a mut [F8E5M2]),
    /// `Dtype::I32`.
    I32(&'a mut [i32]),
}

impl<R: Real> Buffer<R> {
    /// A buffer of `len` zeros.
    #[must_use]
    pub fn zeros(dtype: Dtype, len: usize) -> Self {
        match dtype {
            Dtype::F32 => Self::Real(vec![R::zero(); len]),
            Dtype::Bf16 => Self::Bf16(vec![bf16::ZERO; len]),
            Dtype::E4m3 => Self::E4m3(vec![F8E4M3::from_bits(0); len]),
            Dtype::E5m2 => Self::E5m2(vec![F8E5M2::from_bits(0); len]),
            Dtype::I32 => Self::I32(vec![0; len]),
        }
    }

    /// A buffer of values rounded to `dtype` (to nearest even; FP8 saturates). Integers are truncated.
    #[must_use]
    pub fn rounded(dtype: Dtype, values: &[R]) -> Self {
        let mut buffer = Self::zeros(dtype, values.len());
        buffer.view_mut().store(values);
        buffer
    }

    /// How many elements it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lends it for reading.
    #[must_use]
    pub fn view(&self) -> View<'_, R> {
        match self {
            Self::Real(values) => View::Real(values),
            Self::Bf16(values) => View::Bf16(values),
            Self::E4m3(values) => View::E4m3(values),
            Self::E5m2(values) => View::E5m2(values),
            Self::I32(values) => View::I32(values),
        }
    }

    /// Lends it for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_, R> {
        match self {
            Self::Real(values) => ViewMut::Real(values),
            Self::Bf16(values) => ViewMut::Bf16(values),
            Self::E4m3(values) => ViewMut::E4m3(values),
            Self::E5m2(values) => ViewMut::E5m2(values),
            Self::I32(values) => ViewMut::I32(values),
        }
    }
}

impl<'a, R: Real> View<'a, R> {
    /// How many elements it holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Real(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::E4m3(values) => values.len(),
            Self::E5m2(values) => values.len(),
            Self::I32(values) => values.len(),
        }
    }

    /// Whether it holds none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its dtype.
    #[must_use]
    pub const fn dtype(&self) -> Dtype {
        match self {
            Self::Real(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
            Self::E4m3(_) => Dtype::E4m3,
            Self::E5m2(_) => Dtype::E5m2,
            Self::I32(_) => Dtype::I32,
        }
    }

    /// Its values in the arithmetic type, exact; borrowed where no conversion is needed.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "integers in tensors are token ids and counters below 2^24")]
    pub fn values(&self) -> Cow<'a, [R]> {
        match self {
            Self::Real(values) => Cow::Borrowed(values),
            Self::Bf16(values) => values.iter().map(|value| R::of(value.to_f32())).collect(),
            Self::E4m3(values) => values.iter().map(|value| R::of(value.to_f32())).collect(),
            Self::E5m2(values) => values.iter().map(|value| R::of(value.to_f32())).collect(),
            Self::I32(values) => values.iter().map(|&value| R::of(value as f32)).collect(),
        }
    }
}

impl<R: Real> ViewMut<'_, R> {
    /// Lends it on for reading.
    #[must_use]
    pub fn as_view(&self) -> View<'_, R> {
        match self {
            Self::Real(values) => View::Real(values),
            Self::Bf16(values) => View::Bf16(values),
            Self::E4m3(values) => View::E4m3(values),
            Self::E5m2(values) => View::E5m2(values),
            Self::I32(values) => View::I32(values),
        }
    }

    /// Lends it on for writing.
    pub fn reborrow(&mut self) -> ViewMut<'_, R> {
        match self {
            Self::Real(values) => ViewMut::Real(values),
            Self::Bf16(values) => ViewMut::Bf16(values),
            Self::E4m3(values) => ViewMut::E4m3(values),
            Self::E5m2(values) => ViewMut::E5m2(values),
            Self::I32(values) => ViewMut::I32(values),
        }
    }

    /// Rounds values into it: to nearest even, FP8 saturating at its largest finite value, integers truncated.
    ///
    /// # Panics
    /// If the lengths differ: that is a bug in the caller.
    #[expect(clippy::cast_possible_truncation, reason = "integers in tensors are token ids and counters below 2^24")]
    pub fn store(&mut self, values: &[R]) {
        assert_eq!(self.as_view().len(), values.len(), "stored values must fill the tensor");
        match self {
            Self::Real(out) => out.copy_from_slice(values),
            Self::Bf16(out) => out.iter_mut().zip(values).for_each(|(out, v)| *out = bf16::from_f32(v.f32())),
            Self::E4m3(out) => out.iter_mut().zip(values).for_each(|(out, v)| *out = F8E4M3::from_f32(v.f32())),
            Self::E5m2(out) => out.iter_mut().zip(values).for_each(|(out, v)| *out = F8E5M2::from_f32(v.f32())),
            Self::I32(out) => out.iter_mut().zip(values).for_each(|(out, v)| *out = v.f32() as i32),
        }
    }
}

/// A value rounded to a floating dtype and back, to nearest even, FP8 saturating. `Dtype::F32` keeps the arithmetic type.
#[must_use]
pub fn rounded<R: Real>(dtype: Dtype, value: R) -> R {
    match dtype {
        Dtype::F32 | Dtype::I32 => value,
        Dtype::Bf16 => R::of(bf16::from_f32(value.f32()).to_f32()),
        Dtype::E4m3 => R::of(F8E4M3::from_f32(value.f32()).to_f32()),
        Dtype::E5m2 => R::of(F8E5M2::from_f32(value.f32()).to_f32()),
    }
}
