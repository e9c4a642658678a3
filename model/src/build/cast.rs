//! Casts to FP8 as an eager framework launches them: amax, scale, quantise, transpose, each an op of its own.
//!
//! Delayed scaling: the scale of a cast comes from its history at the step's start, the cast's own amax is recorded for the
//! steps to come. Before step 0 a calibration runs forward and backward with current scaling and records the amaxes. A tensor with a
//! known bound is scaled by that: no amax, no history.

use stepwatch_kernels::Dtype;
use stepwatch_kernels::op::Op;
use stepwatch_kernels::precision::{DELAYED_HISTORY, Granularity, Scaled, Timing};
use stepwatch_kernels::quantise::{Amax, Axis, DelayedScale, Quantise, Record, Scale, Tiling};
use stepwatch_kernels::transpose::Transpose;

use super::{Builder, CastKey, Mode, Side, Site};
use crate::ir::{Phase, Start, TensorClass, TensorId};
use crate::linear::ROLES;

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::Input => "x",
            Self::Weight => "w",
            Self::Gradient => "dy",
        }
    }
}

impl Builder<'_> {
    /// Whether any cast of this step is delayed.
    pub(super) fn delayed(&self) -> bool {
        ROLES.into_iter().any(|role| {
            matches!(
                self.config.precision.recipe(role),
                stepwatch_kernels::precision::GemmRecipe::Fp8 { a, .. } if a.timing == Timing::Delayed
            )
        })
    }

    /// The FP8 copy of a tensor with its summed dimension contiguous, and its scale. Made once per tensor and recipe.
    pub(super) fn cast(
        &mut self,
        site: Site,
        tensor: TensorId,
        side: Side,
        stored: [usize; 2],
        axis: Axis,
        scaled: Scaled,
    ) -> (TensorId, TensorId) {
        // One scale for all covers both ways of reading: cast once as stored, transpose the result.
        let tensor_wide = scaled.granularity == Granularity::Tensor;
        let cast_axis = if tensor_wide { Axis::Rows } else { axis };
        let key = CastKey { tensor, format: scaled.format, granularity: scaled.granularity, axis: cast_axis };
        let (q, scale) = match self.casts.get(&key) {
            Some(found) => *found,
            None => {
                let [rows, cols] = stored;
                let tiling = Tiling { rows, cols, granularity: scaled.granularity, axis: cast_axis };
                let made = self.quantise(site, tensor, side, tiling, scaled);
                self.casts.insert(key, made);
                made
            }
        };
        if axis == Axis::Rows { (q, scale) } else { (self.transposed(site, q, side, stored, scaled.format), scale) }
    }

    /// Amax, scale and cast of one tensor.
    fn quantise(
        &mut self,
        site: Site,
        tensor: TensorId,
        side: Side,
        tiling: Tiling,
        scaled: Scaled,
    ) -> (TensorId, TensorId) {
        let dtype = self.step.tensor(tensor).dtype;
        let name = cast_name(site, side, tiling.axis);
        let label = |what: &str| format!("{} {} {what}", site.0.name(), side.name());
        let delayed = scaled.timing == Timing::Delayed;
        let scale = match scaled.timing {
            Timing::Bound => Some(self.bound_scale(&name, scaled)),
            Timing::Delayed if self.mode == Mode::Step => self.delayed.get(&(site, side)).copied(),
            Timing::Current | Timing::Delayed => None,
        };
        let amax = if scaled.timing == Timing::Bound || (scale.is_some() && self.again) {
            // Nothing to find out, or the first forward has recorded it.
            None
        } else {
            let amax = self.per_step(&format!("{name}.amax"), &tiling.scales(), Dtype::F32, TensorClass::Scale);
            self.push(Op::Amax(Amax { tiling, dtype }), &[tensor, amax], &label("amax"));
            Some(amax)
        };
        let scale = match (scale, amax) {
            (None, Some(amax)) => {
                let shape = tiling.scales();
                let scale = self.per_step(&format!("{name}.scale"), &shape, Dtype::F32, TensorClass::Scale);
                let op = Scale { shape, format: scaled.format, power_of_two: scaled.power_of_two };
                self.push(Op::Scale(op), &[amax, scale], &label("scale"));
                scale
            }
            (scale, _) => scale.unwrap_or(tensor),
        };
        let q = self.per_step(&name, &[tiling.rows, tiling.cols], scaled.format, TensorClass::Scratch);
        let op = Quantise { tiling, dtype, format: scaled.format, row_major: true, transposed: false };
        self.push(Op::Quantise(op), &[tensor, scale, q], &label("quantise"));
        if let (true, Some(amax)) = (delayed, amax) {
            let history = self.history(site, side, scaled.format);
            self.push(Op::Record(Record {}), &[amax, self.step.ports.step, history], &label("record"));
        }
        (q, scale)
    }

    /// The scale of a gradient of logits: its bound of 1/T over the largest value of the format, in fp32 as every scale.
    fn bound_scale(&mut self, name: &str, scaled: Scaled) -> TensorId {
        if let Some(found) = self.bound {
            return found;
        }
        let largest = scaled.format.max_finite().unwrap_or(1.0);
        let value = f64::from((self.tokens as f32).recip() / largest);
        let start = Start::Filled { value };
        let scale = self.persistent(&format!("{name}.scale"), &[1], Dtype::F32, TensorClass::Constant, start);
        self.bound = Some(scale);
        scale
    }

    /// The history of one cast, (16) fp32.
    fn history(&mut self, site: Site, side: Side, format: Dtype) -> TensorId {
        if let Some(found) = self.histories.iter().find(|entry| (entry.0, entry.1) == (site, side)) {
            return found.3;
        }
        let name = format!("{}.history", cast_name(site, side, Axis::Rows));
        let history = self.persistent(&name, &[DELAYED_HISTORY], Dtype::F32, TensorClass::History, Start::Zeros);
        self.histories.push((site, side, format, history));
        history
    }

    /// The transposed copy of a cast.
    fn transposed(&mut self, site: Site, q: TensorId, side: Side, stored: [usize; 2], dtype: Dtype) -> TensorId {
        if let Some(found) = self.transposes.get(&q) {
            return *found;
        }
        let [rows, cols] = stored;
        let name = format!("{}.t", self.step.tensor(q).name);
        let y = self.step.add(crate::ir::Tensor {
            name,
            shape: vec![cols, rows],
            dtype,
            class: TensorClass::Scratch,
            start: None,
        });
        let label = format!("{} {} transpose", site.0.name(), side.name());
        self.push(Op::Transpose(Transpose { rows, cols, dtype }), &[q, y], &label);
        self.transposes.insert(q, y);
        y
    }

    /// Runs forward and backward once with current scaling, and records every amax.
    pub(super) fn calibrate(&mut self) {
        self.mode = Mode::Calibration;
        let tape = self.forward();
        self.backward(&tape);
        self.mode = Mode::Step;
        self.phase = Phase::Forward;
        self.casts.clear();
        self.transposes.clear();
    }

    /// The scales of this step, from the histories.
    pub(super) fn delayed_scales(&mut self) {
        self.phase = Phase::Forward;
        for (site, side, format, history) in self.histories.clone() {
            let name = format!("{}.scale", cast_name(site, side, Axis::Rows));
            let scale = self.per_step(&name, &[1], Dtype::F32, TensorClass::Scale);
            self.layer = site.1;
            let label = format!("{} {} delayed scale", site.0.name(), side.name());
            self.push(Op::DelayedScale(DelayedScale { format }), &[history, scale], &label);
            self.delayed.insert((site, side), scale);
        }
        self.layer = None;
    }
}

fn cast_name((linear, layer): Site, side: Side, axis: Axis) -> String {
    let way = if axis == Axis::Columns { ".columns" } else { "" };
    let name = linear.name().replace('-', "_");
    match layer {
        Some(layer) => format!("b{layer}.{name}.{}8{way}", side.name()),
        None => format!("{name}.{}8{way}", side.name()),
    }
}
