//! How a CPU reference reaches its operands: by the names of its spec's signature, with rounding on the way out.

use std::borrow::Cow;

use crate::op::Param;
use crate::real::Real;
use crate::tensor::{View, ViewMut};

/// One operand, lent for the duration of one op.
#[derive(Debug)]
pub enum Slot<'a, R> {
    /// An operand with `Access::Read`.
    Read(View<'a, R>),
    /// An operand with `Access::Write` or `Access::Update`.
    Write(ViewMut<'a, R>),
    /// Already handed out.
    Taken,
}

/// The operands of one op on the CPU, in the order of its signature.
#[derive(Debug)]
pub struct Io<'p, 'a, R> {
    params: &'p [Param],
    slots: Vec<Slot<'a, R>>,
}

impl<R: Real> Slot<'_, R> {
    /// Lends it on for reading; `None` if it was handed out.
    #[must_use]
    pub fn reborrow(&self) -> Option<Slot<'_, R>> {
        match self {
            Self::Read(view) => Some(Slot::Read(*view)),
            Self::Write(view) => Some(Slot::Read(view.as_view())),
            Self::Taken => None,
        }
    }

    /// Lends it on for writing; `None` if it may only be read or was handed out.
    pub fn reborrow_mut(&mut self) -> Option<Slot<'_, R>> {
        match self {
            Self::Write(view) => Some(Slot::Write(view.reborrow())),
            Self::Read(_) | Self::Taken => None,
        }
    }
}

impl<'p, 'a, R: Real> Io<'p, 'a, R> {
    /// Binds operands to a signature. The executor has checked shapes and dtypes.
    #[must_use]
    pub fn new(params: &'p [Param], slots: Vec<Slot<'a, R>>) -> Self {
        debug_assert_eq!(params.len(), slots.len());
        Self { params, slots }
    }

    /// Hands out all operands at once, in the order of the signature.
    #[must_use]
    pub fn take_slots(&mut self) -> Vec<Slot<'a, R>> {
        std::mem::take(&mut self.slots)
    }

    fn index(&self, name: &str) -> usize {
        let found = self.params.iter().position(|param| param.name == name);
        // A name that the signature lacks is a bug in the reference, found by its first test.
        found.unwrap_or_else(|| unreachable!("no operand `{name}` in {:?}", self.params))
    }

    /// Whether the signature has this operand (specs with optional ones).
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.params.iter().any(|param| param.name == name)
    }

    /// A read operand as stored.
    #[must_use]
    pub fn view(&self, name: &str) -> View<'a, R> {
        match &self.slots[self.index(name)] {
            Slot::Read(view) => *view,
            _ => unreachable!("operand `{name}` is not read"),
        }
    }

    /// A read operand's values in the arithmetic type.
    #[must_use]
    pub fn read(&self, name: &str) -> Cow<'a, [R]> {
        self.view(name).values()
    }

    /// A read operand's integers.
    #[must_use]
    pub fn integers(&self, name: &str) -> &'a [i32] {
        match self.view(name) {
            View::I32(values) => values,
            _ => unreachable!("operand `{name}` is not i32"),
        }
    }

    /// A written operand: fill all of it; it is rounded to its dtype when the [`Output`] is dropped.
    #[must_use]
    pub fn output(&mut self, name: &str) -> Output<'a, R> {
        self.take(name, false)
    }

    /// An updated operand: holds its old values; rounded to its dtype when the [`Output`] is dropped.
    #[must_use]
    pub fn update(&mut self, name: &str) -> Output<'a, R> {
        self.take(name, true)
    }

    /// A written or updated operand as stored, for what moves elements without looking at them.
    #[must_use]
    pub fn view_mut(&mut self, name: &str) -> ViewMut<'a, R> {
        let index = self.index(name);
        let Slot::Write(view) = std::mem::replace(&mut self.slots[index], Slot::Taken) else {
            unreachable!("operand `{name}` is not written, or was taken twice")
        };
        view
    }

    fn take(&mut self, name: &str, keep: bool) -> Output<'a, R> {
        Output::new(self.view_mut(name), keep)
    }
}

/// A tensor being written in the arithmetic type. Dropping it rounds the values into the tensor's own dtype.
#[derive(Debug)]
pub struct Output<'a, R: Real> {
    view: ViewMut<'a, R>,
    /// The values where the tensor itself is not of the arithmetic type.
    values: Option<Vec<R>>,
}

impl<'a, R: Real> Output<'a, R> {
    fn new(view: ViewMut<'a, R>, keep: bool) -> Self {
        let values = match &view {
            ViewMut::Real(_) => None,
            other if keep => Some(other.as_view().values().into_owned()),
            other => Some(vec![R::zero(); other.as_view().len()]),
        };
        Self { view, values }
    }
}

impl<R: Real> std::ops::Deref for Output<'_, R> {
    type Target = [R];

    fn deref(&self) -> &[R] {
        match (&self.values, &self.view) {
            (Some(values), _) => values,
            (None, ViewMut::Real(values)) => values,
            (None, _) => &[],
        }
    }
}

impl<R: Real> std::ops::DerefMut for Output<'_, R> {
    fn deref_mut(&mut self) -> &mut [R] {
        match (&mut self.values, &mut self.view) {
            (Some(values), _) => values,
            (None, ViewMut::Real(values)) => values,
            (None, _) => &mut [],
        }
    }
}

impl<R: Real> Drop for Output<'_, R> {
    fn drop(&mut self) {
        if let Some(values) = self.values.take() {
            self.view.store(&values);
        }
    }
}
