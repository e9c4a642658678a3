//! All AdamW updates of a step as one launch, with the step counter and what follows the weights: tensor-wide maxima, the
//! history of delayed scaling, casts with scales that were there before, and casts with scales per row. Where nothing is clipped
//! the norm of the gradients too, by a small launch behind it. Equal bit by bit to the parts; parts of other kinds run alone
//! after it. Here stands which parts of a fusion the kernel takes; `launch` launches it.

mod launch;

use super::AdamW;
use crate::dtype::Dtype;
use crate::fused::launch::FusedKernel;
use crate::fused::{Fused, Local, Part};
use crate::op::{Access, Op};
use crate::precision::Granularity;
use crate::quantise::{Amax, Axis, Quantise, Tiling};

/// Warps of a block.
const WARPS: usize = 8;
/// Elements of a chunk in a line, and rows and columns of a tile: what one block works on at a time.
const CHUNK: usize = 8192;
const TILE: (usize, usize) = (128, 64);

/// One parameter's update and what is made of its new weight.
#[derive(Debug)]
struct Weight<'a> {
    spec: &'a AdamW,
    /// g, clip, step, w, m, v, and the copy if there is one.
    operands: &'a [Local],
    /// Where the maximum is stored, if one is taken; `None` inside if it never leaves the chip.
    amax: Option<(Local, Option<Local>)>,
    /// The history that the maximum is recorded in, and how far the step counter is by then.
    record: Option<(Local, usize)>,
    /// Scale, row-major and transposed results.
    cast: Option<(&'a Quantise, Local, Option<Local>, Option<Local>)>,
    /// The cast with a scale per row.
    rows: Option<RowCast>,
}

/// Maxima, scales and cast of a weight's rows: what of them is stored, and where.
#[derive(Debug, Clone, Copy)]
struct RowCast {
    amax: Local,
    scale: Local,
    q: Local,
    tiling: Tiling,
    power_of_two: bool,
}

/// How a parameter is cut into chunks: `enum Chunks` of the kernel.
#[derive(Debug, Clone, Copy)]
enum Chunks {
    Line,
    Tile(usize, usize),
    Rows(usize, usize),
}

#[derive(Debug)]
struct Optimiser<'a> {
    fused: &'a Fused,
    weights: Vec<Weight<'a>>,
    /// Each gradient whose squares are summed, and the sum.
    sums: Vec<(Local, Local)>,
    /// The norm and the factor, where nothing is clipped.
    norm: Option<(Local, Local)>,
    /// How far the step counter moves.
    advance: usize,
    /// Element type of the casts.
    format: Dtype,
    /// Which parts the kernel takes.
    taken: Vec<bool>,
}

/// Takes all updates, which must share clip factor, counter, rates and dtypes, and of the other parts those that it can; the
/// rest runs after it, part by part: scales per block, casts of shapes that are no multiples of 16 and of rows over 8192.
pub(crate) fn optimiser(fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    let mut found = Optimiser::new(fused);
    let format = fused.parts.iter().find_map(|part| match &part.op {
        Op::Quantise(quantise) => Some(quantise.format),
        _ => None,
    });
    found.format = format.unwrap_or(found.format);
    for part in &fused.parts {
        let taken = found.take(part)?;
        found.taken.push(taken);
    }
    (!found.weights.is_empty() && found.sums_are_whole() && found.rest_is_apart())
        .then(|| -> Box<dyn FusedKernel + '_> { Box::new(found) })
}

const fn external(local: Local) -> bool {
    matches!(local, Local::External(_))
}

impl Weight<'_> {
    /// What products read: the copy, or the state itself.
    fn weight(&self) -> Local {
        *self.operands.get(6).unwrap_or(&self.operands[3])
    }

    fn dtype(&self) -> Dtype {
        self.spec.copy.unwrap_or(self.spec.state)
    }

    fn elements(&self) -> usize {
        self.spec.shape.iter().product()
    }

    fn kind(&self) -> Chunks {
        match (&self.cast, &self.rows) {
            (_, Some(rows)) => Chunks::Rows(rows.tiling.rows, rows.tiling.cols),
            (Some((spec, ..)), _) => Chunks::Tile(spec.tiling.rows, spec.tiling.cols),
            _ => Chunks::Line,
        }
    }

    fn chunks(&self) -> usize {
        match self.kind() {
            Chunks::Line => self.elements().div_ceil(CHUNK),
            Chunks::Tile(rows, cols) => rows.div_ceil(TILE.0) * cols.div_ceil(TILE.1),
            Chunks::Rows(rows, cols) => rows.div_ceil(CHUNK / cols),
        }
    }
}

impl<'a> Optimiser<'a> {
    fn new(fused: &'a Fused) -> Self {
        let (weights, sums, taken) = (Vec::new(), Vec::new(), Vec::new());
        Self { fused, weights, sums, norm: None, advance: 0, format: Dtype::E4m3, taken }
    }

    /// Whether the kernel takes a part; `None` if it cannot take the fusion at all.
    fn take(&mut self, part: &'a Part) -> Option<bool> {
        let at = &part.operands;
        match &part.op {
            Op::SumSquares(_) => {
                (self.norm.is_none() && self.weights.is_empty()).then_some(())?;
                self.sums.push((at[0], at[1]));
                Some(true)
            }
            Op::ClipScale(spec) => {
                // A factor that is no 1 has to be there before the first update.
                let own = self.sums.iter().map(|(_, sum)| sum).eq(&at[..spec.count]);
                (spec.max_norm == 0.0 && own && self.norm.is_none() && self.weights.is_empty()).then_some(())?;
                self.norm = Some((at[spec.count], at[spec.count + 1]));
                Some(true)
            }
            Op::AdamW(spec) => self.take_update(spec, at).map(|()| true),
            Op::Advance(_) => {
                (self.weights.first()?.operands[2] == at[0]).then_some(())?;
                self.advance += 1;
                Some(true)
            }
            Op::Amax(spec) if spec.tiling.granularity == Granularity::Row => Some(self.take_rows(spec, at)),
            Op::Scale(_) => {
                Some(self.weights.iter().any(|w| w.rows.is_some_and(|r| r.amax == at[0] && r.scale == at[1])))
            }
            Op::Amax(spec) => {
                let weight =
                    self.weights.iter_mut().find(|w| w.weight() == at[0] && w.amax.is_none() && w.rows.is_none());
                let weight = weight.filter(|_| spec.tiling.granularity == Granularity::Tensor);
                let stored = self.fused.stores(at[1]).then_some(at[1]);
                Some(weight.is_some_and(|weight| weight.amax.replace((at[1], stored)).is_none()))
            }
            Op::Record(_) => {
                let advance = self.advance;
                let of = |w: &&mut Weight<'_>| w.amax.is_some_and(|(amax, _)| amax == at[0]) && w.record.is_none();
                let weight = self.weights.iter_mut().find(of).filter(|w| w.operands[2] == at[1] && external(at[2]));
                Some(weight.is_some_and(|weight| weight.record.replace((at[2], advance)).is_none()))
            }
            Op::Quantise(spec) => {
                let by_row =
                    |w: &Weight<'_>| w.weight() == at[0] && w.rows.is_some_and(|r| r.scale == at[1] && r.q == at[2]);
                Some(self.weights.iter().any(by_row) || self.take_cast(spec, at))
            }
            _ => Some(false),
        }
    }

    fn take_update(&mut self, spec: &'a AdamW, operands: &'a [Local]) -> Option<()> {
        let weight = Weight { spec, operands, amax: None, record: None, cast: None, rows: None };
        let first = self.weights.first().unwrap_or(&weight);
        let rates = |spec: &AdamW| (spec.learning_rate.to_bits(), spec.warmup);
        let dtypes = |spec: &AdamW| (spec.gradient, spec.state, spec.copy);
        let alike = first.operands[1..3] == operands[1..3]
            && rates(first.spec) == rates(spec)
            && dtypes(first.spec) == dtypes(spec)
            && [Some(spec.gradient), Some(spec.state), spec.copy]
                .into_iter()
                .flatten()
                .all(|dtype| matches!(dtype, Dtype::F32 | Dtype::Bf16));
        let own = self.norm.map(|(_, factor)| factor);
        let placed = operands.iter().all(|&local| external(local) || Some(local) == own);
        // The counter moves once, after the updates.
        (alike && self.advance == 0 && placed).then_some(())?;
        self.weights.push(weight);
        Some(())
    }

    /// Whether either no squares are summed, or those of the gradients of all updates, with the norm of them all; and the updates
    /// are not clipped by another factor.
    fn sums_are_whole(&self) -> bool {
        let Some((norm, factor)) = self.norm else { return self.sums.is_empty() };
        let once = |weight: &Weight<'_>| self.sums.iter().filter(|(g, _)| *g == weight.operands[0]).count() == 1;
        let clipped = |weight: &Weight<'_>| weight.operands[1] == factor;
        external(norm)
            && self.sums.len() == self.weights.len()
            && self.weights.iter().all(|weight| once(weight) && clipped(weight))
    }

    /// An amax per row, if the scale made of it and the cast with that are there too and rows fit into a chunk.
    fn take_rows(&mut self, spec: &Amax, at: &[Local]) -> bool {
        let tiling = spec.tiling;
        let parts = &self.fused.parts;
        let found = parts.iter().find_map(|part| match &part.op {
            Op::Scale(scale) if part.operands[0] == at[1] && scale.format == self.format => {
                Some((part.operands[1], scale.power_of_two))
            }
            _ => None,
        });
        let Some((scale, power_of_two)) = found else { return false };
        let q = parts.iter().find_map(|part| match &part.op {
            Op::Quantise(cast) if part.operands[..2] == [at[0], scale] => {
                let whole = cast.row_major && !cast.transposed && cast.tiling == tiling && cast.format == self.format;
                whole.then(|| part.operands[2])
            }
            _ => None,
        });
        let Some(q) = q.filter(|&q| external(q) && external(scale)) else { return false };
        let fits = tiling.axis == Axis::Rows && tiling.cols.is_multiple_of(8) && (8..=CHUNK).contains(&tiling.cols);
        let free =
            |w: &&mut Weight<'_>| w.weight() == at[0] && w.amax.is_none() && w.cast.is_none() && w.rows.is_none();
        let weight = self.weights.iter_mut().find(free).filter(|_| fits);
        let rows = RowCast { amax: at[1], scale, q, tiling, power_of_two };
        weight.is_some_and(|weight| weight.rows.replace(rows).is_none())
    }

    /// Casts by tiles of a weight whose scale nobody makes here.
    fn take_cast(&mut self, spec: &'a Quantise, at: &[Local]) -> bool {
        let Tiling { rows, cols, granularity, .. } = spec.tiling;
        let made = |local: Local| {
            self.fused
                .parts
                .iter()
                .any(|part| matches!(part.op, Op::Scale(_) | Op::DelayedScale(_)) && part.operands[1] == local)
        };
        let fits = granularity == Granularity::Tensor
            && rows.is_multiple_of(16)
            && cols.is_multiple_of(16)
            && spec.format == self.format
            && at[1..].iter().all(|&local| external(local))
            && !made(at[1]);
        let weight = self
            .weights
            .iter_mut()
            .find(|w| w.weight() == at[0] && w.cast.is_none() && w.rows.is_none())
            .filter(|_| fits);
        let q = spec.row_major.then(|| at[2]);
        let qt = spec.transposed.then(|| at[2 + usize::from(spec.row_major)]);
        weight.is_some_and(|weight| weight.cast.replace((spec, at[1], q, qt)).is_none())
    }

    /// Whether no part that runs alone meets a temporary of the kernel's, which has no place in memory, or changes what the
    /// kernel reads.
    fn rest_is_apart(&self) -> bool {
        let parts = || self.fused.parts.iter().zip(&self.taken);
        let kernels: Vec<Local> =
            parts().filter(|(_, taken)| **taken).flat_map(|(part, _)| part.operands.clone()).collect();
        parts().filter(|(_, taken)| !**taken).all(|(part, _)| {
            let signature = part.op.signature();
            part.operands.iter().zip(&signature).all(|(local, param)| {
                let amax = self.weights.iter().any(|w| {
                    let of_rows = w.rows.map(|rows| rows.amax).filter(|&amax| !self.fused.stores(amax));
                    matches!(w.amax, Some((amax, None)) if amax == *local) || of_rows == Some(*local)
                });
                !kernels.contains(local) || (external(*local) && !amax && param.access == Access::Read)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adamw::Advance;
    use crate::fused::{Hidden, Pattern};
    use crate::op::Spec;
    use crate::quantise::{Record, Scale};

    /// One update of a matrix with a bf16 copy, the counter, and what follows the copy. Operands by their numbers: 0–6 of the
    /// update, 7 the scale, 8 the history, 9 and 10 the casts; the amax is a temporary.
    fn fused(rows: usize, cols: usize, follow: &[Op], operands: &[&[Local]]) -> Fused {
        let spec = AdamW {
            shape: vec![rows, cols],
            gradient: Dtype::Bf16,
            state: Dtype::F32,
            copy: Some(Dtype::Bf16),
            learning_rate: 1e-3,
            warmup: 0,
            weight_decay: 0.1,
        };
        let params = spec.signature();
        let update = Part { op: Op::AdamW(spec), operands: (0..7).map(Local::External).collect() };
        let advance = Part { op: Op::Advance(Advance {}), operands: vec![Local::External(2)] };
        let others = follow.iter().zip(operands).map(|(op, at)| Part { op: op.clone(), operands: at.to_vec() });
        let parts = [update, advance].into_iter().chain(others).collect();
        let hidden = vec![Hidden { dtype: Dtype::F32, shape: vec![1] }];
        Fused { pattern: Pattern::Optimiser, parts, params, hidden, unread: Vec::new() }
    }

    /// Which of the parts after the update and the counter the kernel takes.
    fn taken(fused: &Fused) -> Option<Vec<bool>> {
        let mut found = Optimiser::new(fused);
        for part in &fused.parts {
            let taken = found.take(part)?;
            found.taken.push(taken);
        }
        found.rest_is_apart().then(|| found.taken[2..].to_vec())
    }

    #[test]
    fn what_follows_a_weight_is_taken_or_left_to_a_launch_of_its_own() {
        let (e, h) = (Local::External, Local::Hidden(0));
        let tensor = |rows, cols| Tiling { rows, cols, granularity: Granularity::Tensor, axis: Axis::Rows };
        let by_row = |rows, cols| Tiling { granularity: Granularity::Row, ..tensor(rows, cols) };
        let amax = |tiling| Op::Amax(Amax { tiling, dtype: Dtype::Bf16 });
        let cast = |tiling, transposed| {
            let (dtype, format) = (Dtype::Bf16, Dtype::E4m3);
            Op::Quantise(Quantise { tiling, dtype, format, row_major: true, transposed })
        };
        let record = Op::Record(Record {});
        let scale = |rows| Op::Scale(Scale { shape: vec![rows], format: Dtype::E4m3, power_of_two: false });
        let delayed: [&[Local]; 3] = [&[e(6), h], &[e(6), e(7), e(9), e(10)], &[h, e(2), e(8)]];
        let rowwise: [&[Local]; 3] = [&[e(6), h], &[h, e(7)], &[e(6), e(7), e(9)]];
        let check = |rows, cols, follow: &[Op], operands: &[&[Local]], expected: Option<&[bool]>| {
            let fused = fused(rows, cols, follow, operands);
            assert_eq!(taken(&fused).as_deref(), expected, "{rows} × {cols}");
            assert_eq!(fused.variants().is_empty(), expected.is_none());
        };
        let of_delayed = |rows, cols| [amax(tensor(rows, cols)), cast(tensor(rows, cols), true), record.clone()];
        let of_rows = |rows, cols| [amax(by_row(rows, cols)), scale(rows), cast(by_row(rows, cols), false)];
        check(1024, 4096, &of_delayed(1024, 4096), &delayed, Some(&[true; 3]));
        // No whole tiles.
        check(37, 53, &of_delayed(37, 53), &delayed, Some(&[true, false, true]));
        check(32, 1024, &of_rows(32, 1024), &rowwise, Some(&[true; 3]));
        // A row that no chunk holds.
        check(32, 14_336, &of_rows(32, 14_336), &rowwise, Some(&[false; 3]));
        // The scale made of the kernel's own amax, which has no place in memory.
        let current = [amax(tensor(32, 32)), scale(1), cast(tensor(32, 32), false)];
        check(32, 32, &current, &rowwise, None);
    }
}
