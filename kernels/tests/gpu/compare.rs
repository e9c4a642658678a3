//! One op on both sides: the same operands, the reference on the CPU, the kernels on the GPU twice.

use std::collections::HashMap;

use stepwatch_kernels::Dtype;
use stepwatch_kernels::attention::{FlashBackward, Order};
use stepwatch_kernels::gpu::{Gpu, Slice, launch};
use stepwatch_kernels::io::{Io, Slot};
use stepwatch_kernels::op::{Access, Op, Param};
use stepwatch_kernels::sample::{Pieces, gather, sample};
use stepwatch_kernels::tensor::Buffer;

/// Repeatable normal and uniform numbers.
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.next() as f64 / (1_u64 << 53) as f64) as f32
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn normal(&mut self) -> f32 {
        let (u, v) = ((self.uniform() as f64).max(1e-12), self.uniform() as f64);
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

/// How near a kernel must come.
#[derive(Clone, Copy)]
pub enum Near {
    /// Every bit.
    Exact,
    /// ‖difference‖ / ‖reference‖ of every output, and each element within 16 times that of the root mean square or of itself.
    Norm(f64),
    /// ‖difference‖ / ‖reference‖ of every output alone: of sums of very unlike sizes, whose elements [`check_elements`] holds.
    Whole(f64),
}

/// Values of one operand, by the names that signatures use.
pub fn values(param: &Param, random: &mut Random, ids_below: usize) -> Vec<f32> {
    let n = param.elements();
    let mut all = |make: &mut dyn FnMut(&mut Random) -> f32| (0..n).map(|_| make(random)).collect::<Vec<f32>>();
    match param.name.as_ref() {
        "ids" | "targets" => all(&mut |r| r.below(ids_below) as f32),
        "step" => vec![3.0; n],
        // Far from 1 and all different, so that a scale taken from the wrong row or the wrong side shows.
        "scale" | "a_scale" => all(&mut |r| 0.001 * (1.0 + 7.0 * r.uniform())),
        "b_scale" => all(&mut |r| 10.0 * (1.0 + 7.0 * r.uniform())),
        "rstd" | "clip" => all(&mut |r| 0.5 + r.uniform()),
        "lse" => all(&mut |r| 6.0 + r.uniform()),
        "v" | "amax" | "history" => all(&mut |r| 0.01 + r.uniform() * r.uniform()),
        name if name.starts_with("sum") => all(&mut |r| r.uniform()),
        _ => all(&mut |r| r.normal()),
    }
}

/// Runs an op on both sides with random operands, `given` ones excepted.
pub fn check_with(
    gpu: &Gpu,
    op: &Op,
    near: Near,
    ids_below: usize,
    given: &HashMap<&str, Vec<f32>>,
) -> Vec<Buffer<f32>> {
    let params = op.signature();
    let mut random = Random::new(params.iter().map(|p| p.bytes() as u64).sum::<u64>() + 77);
    let mut operands: Vec<Buffer<f32>> = params
        .iter()
        .map(|param| {
            let values = given.get(param.name.as_ref()).cloned();
            Buffer::rounded(param.dtype, &values.unwrap_or_else(|| values_of(param, &mut random, ids_below)))
        })
        .collect();
    let (first, second) = (on_gpu(gpu, op, &params, &operands), on_gpu(gpu, op, &params, &operands));
    let slots = params.iter().zip(&mut operands).map(|(param, buffer)| match param.access {
        Access::Read => Slot::Read(buffer.view()),
        Access::Write | Access::Update => Slot::Write(buffer.view_mut()),
    });
    let slots = slots.collect();
    op.run(&mut Io::new(&params, slots));
    for (index, param) in params.iter().enumerate().filter(|(_, param)| param.access != Access::Read) {
        let what = format!("{} `{}` {:?} {}: {op:?}", op.name(), param.name, param.shape, param.dtype);
        assert!(!repeats(op) || bits(&first[index]) == bits(&second[index]), "two runs differ: {what}");
        let (want, got) = (operands[index].view().values(), first[index].view().values());
        compare(&want, &got, near, &what);
    }
    first
}

/// Whether two runs give the same bits: everything but what is asked to add as it comes.
const fn repeats(op: &Op) -> bool {
    !matches!(op, Op::FlashBackward(FlashBackward { order: Order::Any, .. }))
}

/// Operands in memory, for [`sample`].
struct Held<'a>(&'a [Buffer<f32>]);

impl Pieces for Held<'_> {
    type Error = std::convert::Infallible;

    fn pieces(&mut self, operand: usize, starts: &[usize], stride: usize, len: usize) -> Result<Vec<f64>, Self::Error> {
        let view = self.0[operand].view();
        Ok(gather(view, starts, stride, len))
    }
}

/// Runs an op on the GPU with random operands, `given` ones excepted, and holds about `count` elements of its results to fp64,
/// each with the tolerance of its own sum.
pub fn check_elements(gpu: &Gpu, op: &Op, given: &HashMap<&str, Vec<f32>>, count: usize) {
    let params = op.signature();
    let mut random = Random::new(79);
    let operand = |param: &Param| {
        let values = given.get(param.name.as_ref()).cloned().unwrap_or_else(|| values(param, &mut random, 2));
        Buffer::rounded(param.dtype, &values)
    };
    let operands: Vec<Buffer<f32>> = params.iter().map(operand).collect();
    let found = on_gpu(gpu, op, &params, &operands);
    let Ok(sampled) = sample(op, count, &mut |end| random.below(end), &mut Held(&found));
    let worst = sampled.iter().max_by(|a, b| a.error().total_cmp(&b.error())).expect("elements of this op are sampled");
    println!("{op:?}: the worst of {} elements uses {:.2} of its tolerance", sampled.len(), worst.error());
    assert!(worst.holds(), "{worst:?}: {op:?}");
}

fn values_of(param: &Param, random: &mut Random, ids_below: usize) -> Vec<f32> {
    values(param, random, ids_below)
}

/// [`check_with`], everything random.
pub fn check(gpu: &Gpu, op: &Op, near: Near) {
    check_with(gpu, op, near, 2, &HashMap::new());
}

/// Uploads, poisons what is written whole, runs, downloads everything.
fn on_gpu(gpu: &Gpu, op: &Op, params: &[Param], operands: &[Buffer<f32>]) -> Vec<Buffer<f32>> {
    let slices: Vec<Slice> = params.iter().map(|param| gpu.allocate(param.bytes()).unwrap()).collect();
    for ((param, slice), buffer) in params.iter().zip(&slices).zip(operands) {
        if param.access == Access::Write {
            gpu.fill(slice, 0xff).unwrap();
        } else {
            gpu.upload_tensor(slice, buffer.view()).unwrap();
        }
    }
    let scratch = gpu.allocate(launch::scratch_bytes(op)).unwrap();
    gpu.fill(&scratch, 0xff).unwrap();
    let prepared = launch::prepare(gpu, op, &slices, &scratch).unwrap_or_else(|error| panic!("{error}\n{op:?}"));
    gpu.enqueue(&prepared).unwrap_or_else(|error| panic!("{error}\n{op:?}"));
    gpu.synchronize().unwrap_or_else(|error| panic!("{error}\n{op:?}"));
    params.iter().zip(&slices).map(|(param, slice)| gpu.download_tensor(slice, param.dtype).unwrap()).collect()
}

/// Every element as bits, so that NaN equals itself.
pub fn bits(buffer: &Buffer<f32>) -> Vec<u32> {
    match buffer {
        Buffer::Real(values) => values.iter().map(|v| v.to_bits()).collect(),
        Buffer::Bf16(values) => values.iter().map(|v| v.to_bits().into()).collect(),
        Buffer::E4m3(values) => values.iter().map(|v| v.to_bits().into()).collect(),
        Buffer::E5m2(values) => values.iter().map(|v| v.to_bits().into()).collect(),
        Buffer::I32(values) => values.iter().map(|v| v.cast_unsigned()).collect(),
    }
}

/// Every element of `got` against `want`.
pub fn compare(want: &[f32], got: &[f32], near: Near, what: &str) {
    let mut difference = 0.0_f64;
    let mut norm = 0.0_f64;
    for (index, (&w, &g)) in want.iter().zip(got).enumerate() {
        assert!(w.is_nan() == g.is_nan(), "element {index} is {g}, {w} expected: {what}");
        if w == g || w.is_nan() {
            norm += if w.is_finite() { f64::from(w) * f64::from(w) } else { 0.0 };
            continue;
        }
        assert!(!matches!(near, Near::Exact), "element {index} is {g:e}, {w:e} expected, every bit: {what}");
        difference += (f64::from(w) - f64::from(g)).powi(2);
        norm += f64::from(w) * f64::from(w);
    }
    let (Near::Norm(most) | Near::Whole(most)) = near else { return };
    let root_mean_square = (norm / want.len() as f64).sqrt();
    let error = if norm > 0.0 { (difference / norm).sqrt() } else { difference.sqrt() };
    assert!(error <= most, "relative error {error:.2e}, at most {most:.0e}: {what}");
    if matches!(near, Near::Whole(_)) {
        return;
    }
    for (index, (&w, &g)) in want.iter().zip(got).enumerate().filter(|(_, (w, g))| w != g && !w.is_nan()) {
        let bound = 16.0 * most * f64::from(w.abs()).max(root_mean_square);
        let off = f64::from((w - g).abs());
        assert!(off <= bound, "element {index} is {g:e}, {w:e} expected (error of all {error:.1e}): {what}");
    }
}

/// Tolerance of one rounding to a dtype: results that lie between two of its values may fall to either.
pub const fn one_rounding(dtype: Dtype) -> Near {
    match dtype {
        Dtype::F32 => Near::Norm(1e-5),
        _ => Near::Norm(1e-3),
    }
}
