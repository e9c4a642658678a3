//! What follows a tensor in the launch that makes it: whether it is stored, its maxima, its scale, its cast. Read off the parts
//! once, here; every fused kernel takes it as it is.

use super::{Fused, Local, Part};
use crate::dtype::Dtype;
use crate::gpu::{Gpu, GpuError, Slice};
use crate::op::Op;
use crate::precision::{DELAYED_HISTORY, Granularity};
use crate::quantise::{Axis, Tiling};

use super::launch::Bound;

/// Maxima that a launch takes of its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Maxima {
    /// Where they are stored; `None` if they never leave the chip.
    pub amax: Option<Local>,
    /// Step counter and history that delayed scaling records them in.
    pub record: Option<(Local, Local)>,
}

/// Where the scale of the cast comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scaling {
    /// It was there before the launch.
    Given(Local),
    /// The launch makes it from its own maxima and stores it.
    Own { scale: Local, power_of_two: bool },
}

/// The cast of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Casting {
    pub format: Dtype,
    pub scaling: Scaling,
    /// As stored, (rows, cols).
    pub q: Option<Local>,
    /// Transposed, (cols, rows).
    pub qt: Option<Local>,
}

/// What becomes of a tensor of `rows` × `cols` in the launch that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epilogue {
    pub rows: usize,
    pub cols: usize,
    pub dtype: Dtype,
    /// Where the tensor is stored; `None` if nobody else reads it.
    pub result: Option<Local>,
    /// What shares a maximum and a scale, and which way the product reads; the whole tensor where there is no cast.
    pub granularity: Granularity,
    pub axis: Axis,
    pub maxima: Option<Maxima>,
    pub cast: Option<Casting>,
}

impl Epilogue {
    /// Reads the parts from `first` on as what follows `result`; `None` if they are anything else than at most one amax, one
    /// scale, one record and one cast of it.
    pub(crate) fn of(fused: &Fused, result: Local, first: usize) -> Option<Self> {
        let (dtype, shape) = match result {
            Local::External(index) => (fused.params[index].dtype, &fused.params[index].shape),
            Local::Hidden(index) => (fused.hidden[index].dtype, &fused.hidden[index].shape),
        };
        let &[rows, cols] = shape.as_slice() else { return None };
        let stored = |local: Local| fused.stores(local).then_some(local);
        let mut found = Self {
            rows,
            cols,
            dtype,
            result: stored(result),
            granularity: Granularity::Tensor,
            axis: Axis::Rows,
            maxima: None,
            cast: None,
        };
        let (mut amax, mut own) = (None, None);
        for Part { op, operands } in &fused.parts[first..] {
            let at = |index: usize| operands[index];
            match op {
                Op::Amax(spec) if at(0) == result && amax.is_none() => {
                    found.tile(&spec.tiling);
                    amax = Some(at(1));
                    found.maxima = Some(Maxima { amax: stored(at(1)), record: None });
                }
                Op::Record(_) if amax == Some(at(0)) => {
                    found.maxima.as_mut()?.record.replace((at(1), at(2))).is_none().then_some(())?;
                }
                Op::Scale(spec) if amax == Some(at(0)) && own.is_none() => {
                    own = Some((at(1), spec.power_of_two, spec.format));
                }
                Op::Quantise(spec) if at(0) == result && found.cast.is_none() => {
                    if found.maxima.is_none() {
                        found.tile(&spec.tiling);
                    }
                    ((found.granularity, found.axis) == (spec.tiling.granularity, spec.tiling.axis)).then_some(())?;
                    let scaling = match own {
                        Some((scale, power_of_two, format)) if scale == at(1) && format == spec.format => {
                            Scaling::Own { scale, power_of_two }
                        }
                        None => Scaling::Given(at(1)),
                        Some(_) => return None,
                    };
                    let q = spec.row_major.then(|| at(2));
                    let qt = spec.transposed.then(|| at(2 + usize::from(spec.row_major)));
                    found.cast = Some(Casting { format: spec.format, scaling, q, qt });
                }
                _ => return None,
            }
        }
        // A scale is made for a cast.
        (own.is_none() || found.cast.is_some()).then_some(found)
    }

    fn tile(&mut self, tiling: &Tiling) {
        (self.granularity, self.axis) = (tiling.granularity, tiling.axis);
    }

    /// `struct Maximum` of `scale.cuh` for one maximum over the whole tensor by a launch of `blocks` blocks, with the memory
    /// that it needs for itself: zero now and after every launch.
    pub(crate) fn maximum(&self, gpu: &Gpu, bound: &Bound<'_>, blocks: usize) -> Result<(Vec<u8>, Slice), GpuError> {
        let own = gpu.allocate(8)?;
        gpu.fill(&own, 0)?;
        let address = |local: Option<Local>| local.map_or(0, |local| bound.pointer(local));
        let record = self.maxima.and_then(|maxima| maxima.record);
        let words = [
            own.pointer(),
            own.pointer() + 4,
            address(self.maxima.and_then(|maxima| maxima.amax)),
            address(record.map(|(_, history)| history)),
            address(record.map(|(step, _)| step)),
        ];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for size in [DELAYED_HISTORY, blocks] {
            bytes.extend(u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
        }
        Ok((bytes, own))
    }
}
