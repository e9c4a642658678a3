//! What the tests of this crate share: tensors by name that ops run on, seeded random numbers, and gradients by central
//! differences. It knows signatures and dtypes, and no op.

use std::collections::BTreeMap;

use crate::dtype::Dtype;
use crate::io::{Io, Slot};
use crate::op::{Access, Op};
use crate::real::Real;
use crate::tensor::Buffer;

/// Tensors by name. An op finds its operands under the names of its signature.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tensors<R> {
    buffers: BTreeMap<String, Buffer<R>>,
}

impl<R: Real> Tensors<R> {
    pub(crate) fn new() -> Self {
        Self { buffers: BTreeMap::new() }
    }

    /// With one more tensor, rounded to its dtype.
    pub(crate) fn with(mut self, name: &str, dtype: Dtype, values: &[f64]) -> Self {
        self.put(name, dtype, values);
        self
    }

    pub(crate) fn put(&mut self, name: &str, dtype: Dtype, values: &[f64]) {
        let values: Vec<R> = values.iter().map(|&value| R::of_f64(value)).collect();
        self.buffers.insert(name.into(), Buffer::rounded(dtype, &values));
    }

    pub(crate) fn insert(&mut self, name: &str, buffer: Buffer<R>) {
        self.buffers.insert(name.into(), buffer);
    }

    pub(crate) fn buffer(&self, name: &str) -> &Buffer<R> {
        self.buffers.get(name).unwrap_or_else(|| panic!("no tensor `{name}` in {:?}", self.buffers.keys()))
    }

    /// A tensor's values.
    pub(crate) fn get(&self, name: &str) -> Vec<f64> {
        self.buffer(name).view().values().iter().map(|value| value.f64()).collect()
    }

    /// Runs an op on the tensors with the names of its signature.
    pub(crate) fn run(&mut self, op: &Op) -> &mut Self {
        self.run_as(op, &[])
    }

    /// Runs an op with some operands under other names: (name in the signature, name here).
    pub(crate) fn run_as(&mut self, op: &Op, names: &[(&str, &str)]) -> &mut Self {
        op.check().unwrap();
        let params = op.signature();
        let here = |name: &str| {
            names.iter().find(|(theirs, _)| *theirs == name).map_or_else(|| name.to_owned(), |(_, ours)| (*ours).into())
        };
        let mut written: Vec<Option<Buffer<R>>> = Vec::new();
        for param in &params {
            let name = here(&param.name);
            written.push(match param.access {
                Access::Read => None,
                // What a written tensor held must not matter.
                Access::Write => Some(Buffer::rounded(param.dtype, &vec![R::of(77.0); param.elements()])),
                Access::Update => Some(self.buffers.remove(&name).unwrap_or_else(|| panic!("no tensor `{name}`"))),
            });
        }
        let slots = params.iter().zip(&mut written).map(|(param, written)| {
            let slot = match written {
                Some(buffer) => Slot::Write(buffer.view_mut()),
                None => Slot::Read(self.buffer(&here(&param.name)).view()),
            };
            let (dtype, len) = match &slot {
                Slot::Read(view) => (view.dtype(), view.len()),
                Slot::Write(view) => (view.as_view().dtype(), view.as_view().len()),
                Slot::Taken => unreachable!(),
            };
            assert_eq!((dtype, len), (param.dtype, param.elements()), "{} operand `{}`", op.name(), param.name);
            slot
        });
        let slots: Vec<_> = slots.collect();
        op.run(&mut Io::new(&params, slots));
        for (param, buffer) in params.iter().zip(written) {
            if let Some(buffer) = buffer {
                self.buffers.insert(here(&param.name), buffer);
            }
        }
        self
    }
}

/// A small generator (SplitMix64, Steele et al. 2014): the same numbers for the same seed, everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal with standard deviation 1.
    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    pub(crate) fn normals(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| self.normal()).collect()
    }

    /// Integers below a bound, as a tensor holds them.
    #[expect(clippy::cast_precision_loss, reason = "small integers")]
    pub(crate) fn integers(&mut self, len: usize, below: u64) -> Vec<f64> {
        (0..len).map(|_| (self.next() % below) as f64).collect()
    }
}

/// Σ a·b.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Asserts that two lists agree to `tolerance`, relative to the largest magnitude expected (and to 1 where that is smaller).
#[track_caller]
pub(crate) fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs() / size;
        assert!(off <= tolerance, "[{index}] is {found:e}, expected {expected:e}: off by {off:e}");
    }
}

/// Asserts that `gradient` is the gradient of `loss` at `x`, by central differences at every element (or 64 of them).
#[track_caller]
pub(crate) fn assert_gradient(x: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(x.len(), gradient.len());
    const STEP: f64 = 1e-5;
    let every = x.len().div_ceil(64);
    for index in (0..x.len()).step_by(every) {
        let at = |step: f64| {
            let mut moved = x.to_vec();
            moved[index] += step;
            loss(&moved)
        };
        // Fourth order, so that what is left is the rounding of the loss.
        let difference = (8.0 * (at(STEP) - at(-STEP)) - (at(2.0 * STEP) - at(-2.0 * STEP))) / (12.0 * STEP);
        let off = (difference - gradient[index]).abs() / difference.abs().max(1.0);
        assert!(off < 1e-8, "[{index}] is {:e}, differences say {difference:e}: off by {off:e}", gradient[index]);
    }
}
