//! Host memory of a tensor: owned buffers and borrowed views, by dtype.
//!
//! `Dtype::F32` is held as the arithmetic type `R`, so that the same op list also runs in fp64. Everything else is held in
//! its own format, bit for bit what a GPU would hold.

use std::borrow::Cow;

use float8::{F8E4M3, F8E5M2};
use half::bf16;
use rayon::prelude::*;

use crate::dtype::Dtype;
use crate::fp8;
use crate::real::Real;

/// Elements converted at a time by one thread; what is smaller is converted where it is asked for.
pub(crate) const CHUNK: usize = 1 << 14;

/// Runs the same code on two tensors of one dtype, whatever it is: for what moves elements without looking at them.
macro_rules! same_dtype {
    ($from:expr, $to:expr, |$x:ident, $y:ident| $body:expr) => {
        match ($from, $to) {
            ($crate::tensor::View::Real($x), $crate::tensor::ViewMut::Real($y)) => $body,
            ($crate::tensor::View::Bf16($x), $crate::tensor::ViewMut::Bf16($y)) => $body,
            ($crate::tensor::View::E4m3($x), $crate::tensor::ViewMut::E4m3($y)) => $body,
            ($crate::tensor::View::E5m2($x), $crate::tensor::ViewMut::E5m2($y)) => $body,
            ($crate::tensor::View::I32($x), $crate::tensor::ViewMut::I32($y)) => $body,
            _ => unreachable!("the signature gives both operands one dtype"),
        }
    };
}
pub(crate) use same_dtype;

/// Fills `out` from `values`, element by element, in parallel where it pays.
fn convert<A: Copy + Sync, B: Send>(values: &[A], out: &mut [B], one: impl Fn(A) -> B + Sync) {
    let run = |(values, out): (&[A], &mut [B])| {
        for (out, &value) in out.iter_mut().zip(values) {
            *out = one(value);
        }
    };
    if values.len() <= CHUNK {
        return run((values, out));
    }
    values.par_chunks(CHUNK).zip(out.par_chunks_mut(CHUNK)).for_each(run);
}

/// [`convert`] into memory of its own.
fn converted<A: Copy + Sync, R: Real>(values: &[A], one: impl Fn(A) -> R + Sync) -> Vec<R> {
    let mut out = vec![R::zero(); values.len()];
    convert(values, &mut out, one);
    out
}

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
            // The upper half of an fp32: unlike the crate's conversion this keeps even the bits of a NaN, and it vectorises.
            Self::Bf16(values) => {
                converted(values, |value| R::of(f32::from_bits(u32::from(value.to_bits()) << 16))).into()
            }
            Self::E4m3(values) => {
                let table = &*fp8::E4M3_VALUES;
                converted(values, |value| R::of(table[usize::from(value.to_bits())])).into()
            }
            Self::E5m2(values) => {
                let table = &*fp8::E5M2_VALUES;
                converted(values, |value| R::of(table[usize::from(value.to_bits())])).into()
            }
            Self::I32(values) => converted(values, |value| R::of(value as f32)).into(),
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
            Self::Bf16(out) => convert(values, out, |v| to_bf16(v.narrow())),
            Self::E4m3(out) => convert(values, out, |v| fp8::e4m3(v.narrow())),
            Self::E5m2(out) => convert(values, out, |v| fp8::e5m2(v.narrow())),
            Self::I32(out) => convert(values, out, |v| v.f32() as i32),
        }
    }
}

/// A value rounded to a floating dtype and back, to nearest even, FP8 saturating. `Dtype::F32` keeps the arithmetic type.
#[must_use]
pub fn rounded<R: Real>(dtype: Dtype, value: R) -> R {
    match dtype {
        Dtype::F32 | Dtype::I32 => value,
        Dtype::Bf16 => R::of(to_bf16(value.narrow()).to_f32()),
        Dtype::E4m3 => R::of(fp8::e4m3(value.narrow()).to_f32()),
        Dtype::E5m2 => R::of(fp8::e5m2(value.narrow()).to_f32()),
    }
}

/// The next bf16 away from zero, or towards it.
#[must_use]
pub const fn neighbour(value: bf16, away: bool) -> bf16 {
    bf16::from_bits(if away { value.to_bits().wrapping_add(1) } else { value.to_bits().wrapping_sub(1) })
}

/// To bf16, to nearest even; a NaN becomes the one NaN 0x7fff, as `cvt.rn.bf16.f32` does. Branch-free, so that it vectorises.
fn to_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    // The largest finite values carry into the exponent and so become infinity, as they should.
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let code = if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded };
    #[expect(clippy::cast_possible_truncation, reason = "the upper half was moved down")]
    let code = code as u16;
    bf16::from_bits(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DTYPES: [Dtype; 5] = [Dtype::F32, Dtype::Bf16, Dtype::E4m3, Dtype::E5m2, Dtype::I32];

    #[test]
    fn buffers_round_to_their_dtype() {
        let values = [0.3f32, -0.0, 1e9, -1e9, f32::NAN, f32::INFINITY, 1e-30, 257.0];
        // dtype, what is held
        let cases: &[(Dtype, [f32; 8])] = &[
            (Dtype::F32, values),
            (Dtype::Bf16, [0.300_781_25, -0.0, 998_244_352.0, -998_244_352.0, f32::NAN, f32::INFINITY, 1.0e-30, 256.0]),
            (Dtype::E4m3, [0.3125, -0.0, 448.0, -448.0, f32::NAN, 448.0, 0.0, 256.0]),
            (Dtype::E5m2, [0.3125, -0.0, 57_344.0, -57_344.0, f32::NAN, 57_344.0, 0.0, 256.0]),
            (Dtype::I32, [0.0, 0.0, 1e9, -1e9, 0.0, 2_147_483_600.0, 0.0, 257.0]),
        ];
        for (dtype, expected) in cases {
            let buffer = Buffer::rounded(*dtype, &values);
            let found = buffer.view().values().into_owned();
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                let close = index == 6 && *dtype == Dtype::Bf16 && (found - expected).abs() < 1e-32;
                let equal = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
                assert!(close || equal, "{dtype} [{index}]: {found:e}, expected {expected:e}");
                if *dtype != Dtype::I32 {
                    let alone = rounded(*dtype, values[index]);
                    assert!(alone.to_bits() == found.to_bits() || alone.is_nan(), "{dtype} [{index}] alone");
                }
            }
            assert_eq!((buffer.len(), buffer.view().dtype()), (8, *dtype));
        }
    }

    #[test]
    fn long_tensors_are_converted_as_short_ones() {
        // More than one chunk, the last partial.
        let len = 3 * CHUNK + 17;
        let values: Vec<f32> = (0u16..).take(251).map(|value| f32::from(value) - 125.0).cycle().take(len).collect();
        for dtype in DTYPES {
            let long = Buffer::rounded(dtype, &values);
            let found = long.view().values().into_owned();
            for index in [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 5, len - 1] {
                let short = Buffer::rounded(dtype, &values[index..=index]);
                assert_eq!(short.view().values()[0].to_bits(), found[index].to_bits(), "{dtype} [{index}]");
            }
        }
    }

    #[test]
    fn to_bf16_agrees_with_the_crate_on_all_numbers() {
        // Every upper half with lower halves below, at and above the tie.
        for upper in 0..=u16::MAX {
            for lower in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(upper) << 16 | lower);
                let expected = if value.is_nan() { 0x7fff } else { bf16::from_f32(value).to_bits() };
                assert_eq!(to_bf16(value).to_bits(), expected, "{value:e}");
            }
        }
    }

    #[test]
    fn zeros_are_zeros_and_views_lend_on() {
        for dtype in DTYPES {
            let mut buffer = Buffer::<f64>::zeros(dtype, 3);
            assert_eq!(buffer.view().values().as_ref(), [0.0; 3]);
            let mut view = buffer.view_mut();
            view.reborrow().store(&[1.0, 2.0, 3.0]);
            assert_eq!(view.as_view().values().as_ref(), [1.0, 2.0, 3.0], "{dtype}");
            assert!(!buffer.is_empty() && Buffer::<f64>::zeros(dtype, 0).is_empty());
        }
    }

    #[test]
    #[should_panic(expected = "stored values must fill the tensor")]
    fn a_wrong_length_is_not_stored() {
        Buffer::<f32>::zeros(Dtype::Bf16, 3).view_mut().store(&[1.0, 2.0]);
    }
}
