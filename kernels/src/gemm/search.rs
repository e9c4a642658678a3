//! The search for a product's algorithm: cuBLASLt's candidates timed on operands that no cache holds, and settings around the
//! fastest of them that it did not offer; the best verified against fp64, against each other and against themselves, the fastest of
//! those kept.
//!
//! There are reports of algorithms that give wrong FP8 results, and in-place sums differ from run to run: a candidate that
//! fails is dropped and named. Long because timing and verifying share what they run on. It may not know models.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::algorithm::Setting;
use super::cublaslt::{Factor, Matmul, Problem, Scales, version};
use super::{Algorithm, Gemm, Operand};
use crate::dtype::Dtype;
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel, Prepared, Slice};
use crate::op::{Param, Spec};
use crate::sample::{Pieces, Sampled};
use crate::tensor::Buffer;
use crate::timer::{Clocks, Event, median};

pub(crate) static SOURCE: Source = Source { name: "search.cu", text: include_str!("search.cu") };

/// Launches of a candidate before it is timed, and timed ones, of which the median counts.
const WARM_UP: usize = 2;
const REPETITIONS: usize = 5;

/// A candidate whose first launches take this much longer than the best is not timed further, and launches are timed for so long at
/// least: the clocks that they are read by tick in about a microsecond.
const GIVEN_UP: f64 = 1.15;
const LEAST_NS: f64 = 3e5;

/// Rounds through the kinds of settings around the fastest algorithm, and by how much one must be faster to be the centre of the next.
const ROUNDS: usize = 2;
const NEARER: f64 = 0.995;

/// Candidates that are verified and timed again for longer, in turns: a burst of one algorithm runs at a clock that the step
/// does not have.
const FINALISTS: usize = 4;
const TURNS: usize = 6;
const TURN_NS: f64 = 5e6;

/// Finalists within this of the fastest are held, each alone for so long: the clock is then the one that its own power leaves it, as
/// in a step at the power cap, where joules are time. Those within [`CLOSE`] of the fastest then are held once more.
const NEAR: f64 = 1.04;
const HELD_NS: f64 = 150e6;
const CLOSE: f64 = 1.015;
/// Shorter products are not held: a step of such waits for its launches, and not their power sets its clock.
const HELD_FROM_NS: f64 = 4e4;

/// An algorithm must be faster than the library's own choice by this share to replace it: less is noise, and a plan that
/// changes for noise helps nobody.
const WORTH: f64 = 0.01;

/// Rows and columns of the results that are computed again: 16 · 16 are 256 elements.
const SAMPLED: usize = 16;

/// Copies of the operands that launches take in turn, at most.
const MOST_COPIES: usize = 16;

/// Random elements that operands repeat: no power of two, so that no two rows are equal.
const PERIOD: usize = 1_048_573;

/// Counts the ways of choosing that this search has had: what another one chose is no answer of this one.
pub const METHOD: u32 = 2;

/// What a search settled for one product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Its settings in words.
    pub settings: String,
    /// Version of the library that knows it, as it counts them (130100 is 13.1.0).
    pub library: usize,
    /// Its time, ns, held alone where others come near it, else timed in turns with the other finalists.
    pub ns: f64,
    /// The time of the library's own first choice, ns, likewise; `None` if that one failed.
    pub first_ns: Option<f64>,
    /// How many algorithms were timed.
    pub candidates: usize,
    /// Settings of those that were dropped, each with what was wrong.
    #[serde(default)]
    pub dropped: Vec<String>,
}

impl Gemm {
    /// All that decides which algorithms can run it, in words: equal words are one product.
    #[must_use]
    pub fn product(&self) -> String {
        // Addresses at their usual alignment: every tensor is placed so.
        let scales = |operand: Operand| operand.scaling.map(|granularity| Scales { pointer: 0, granularity });
        self.problem(|_| 0, [scales(self.a), scales(self.b)]).product()
    }
}

/// Finds the fastest right algorithm of a product, with operands of its own. Waits for the device. `None` where there is
/// nothing to choose: no result that could be compared.
///
/// # Errors
/// Too little memory, a library that is missing, or no algorithm that gives right results.
pub fn search(gpu: &Gpu, gemm: &Gemm) -> Result<Option<Choice>, GpuError> {
    if !matches!(gemm.d, Dtype::F32 | Dtype::Bf16) {
        return Ok(None);
    }
    let bench = Bench::new(gpu, gemm)?;
    let problem = *bench.copies[0].problem();
    let (first, offered) = Matmul::candidates(gpu, &problem)?;
    let mut times = Vec::new();
    let mut dropped = Vec::new();
    for algorithm in first.into_iter().chain(offered) {
        if times.iter().any(|(known, _)| *known == algorithm) {
            continue;
        }
        let least = least_of(&times).map_or(f64::INFINITY, |(_, cycles)| cycles);
        match bench.cycles(algorithm, least) {
            Ok(cycles) => times.push((algorithm, cycles)),
            // The library refuses what it offered; anything else ends the device.
            Err(GpuError::Blas { status, .. }) => dropped.push(format!("{}: {status}", algorithm.settings())),
            Err(error) => return Err(error),
        }
    }
    bench.around(&mut times)?;
    let candidates = times.len();
    times.sort_by(|one, two| one.1.total_cmp(&two.1));
    // The library's own choice is held against the others whatever its burst said.
    times.sort_by_key(|(algorithm, _)| Some(*algorithm) != first);
    let mut finalists = Vec::new();
    for (algorithm, _) in times {
        if finalists.len() == FINALISTS {
            break;
        }
        match bench.verify(algorithm)? {
            None => finalists.push(algorithm),
            Some(why) => dropped.push(format!("{}: {why}", algorithm.settings())),
        }
    }
    let times = bench.in_turns(&finalists)?;
    let times = bench.held(&finalists, times)?;
    let fastest = times.iter().zip(&finalists).min_by(|one, two| one.0.total_cmp(two.0));
    let Some((&least_ns, &fastest)) = fastest else {
        let what = format!("no algorithm of cuBLASLt gives right results: {}", dropped.join("; "));
        return Err(GpuError::Unsupported { op: gemm.product(), what });
    };
    let first_ns = finalists.iter().position(|finalist| Some(*finalist) == first).map(|at| times[at]);
    let (algorithm, ns) = match (first, first_ns) {
        (Some(first), Some(first_ns)) if least_ns > first_ns * (1.0 - WORTH) => (first, first_ns),
        _ => (fastest, least_ns),
    };
    Ok(Some(Choice {
        algorithm,
        settings: algorithm.settings(),
        library: version()?,
        ns,
        first_ns,
        candidates,
        dropped,
    }))
}

/// The fastest so far.
fn least_of(times: &[(Algorithm, f64)]) -> Option<(Algorithm, f64)> {
    times.iter().copied().min_by(|one, two| one.1.total_cmp(&two.1))
}

/// What one product is timed and verified on.
struct Bench<'a> {
    gpu: &'a Gpu,
    gemm: &'a Gemm,
    /// The product on each copy of its operands.
    copies: Vec<Matmul>,
    /// Operands of the first copy, in the order of the signature.
    operands: Vec<Slice>,
    /// A second place for results, and one for the first that was right.
    other: Slice,
    reference: std::cell::OnceCell<Slice>,
    /// Before and after what is timed.
    clocks: [Clocks; 2],
    _memory: Vec<Slice>,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu, gemm: &'a Gemm) -> Result<Self, GpuError> {
        let params = gemm.signature();
        let bytes: usize = params.iter().map(Param::bytes).sum();
        let copies = (2 * gpu.facts().l2_bytes).div_ceil(bytes.max(1)).clamp(1, MOST_COPIES);
        let scratch = gpu.allocate(gemm.scratch())?;
        let mut memory = vec![scratch.clone()];
        let mut matmuls = Vec::with_capacity(copies);
        let mut first = Vec::new();
        for copy in 0..copies {
            let operands = params.iter().map(|param| operand(gpu, param)).collect::<Result<Vec<_>, _>>()?;
            let bound = Operands { op: "gemm", params: &params, slices: &operands, scratch: &scratch };
            let mut calls = gemm.calls(gpu, &bound)?;
            let Some(Call::Matmul(matmul)) = calls.pop() else { continue };
            // Scales in the library's order: once, since all copies share the place.
            if copy == 0 {
                gpu.enqueue(&Prepared::new(calls, Vec::new()))?;
                gpu.synchronize()?;
                first.clone_from(&operands);
            }
            matmuls.push(*matmul);
            memory.extend(operands);
        }
        let other = gpu.allocate(params.last().map_or(0, Param::bytes))?;
        let reference = std::cell::OnceCell::new();
        let clocks = [Clocks::new(gpu)?, Clocks::new(gpu)?];
        Ok(Self { gpu, gemm, copies: matmuls, operands: first, other, reference, clocks, _memory: memory })
    }

    /// The product on every copy by one algorithm.
    fn by(&self, algorithm: Algorithm) -> Result<Vec<Prepared>, GpuError> {
        let one = |copy: &Matmul| {
            let matmul = Matmul::with(self.gpu, copy.problem(), algorithm)?;
            Ok(Prepared::new(vec![Call::Matmul(Box::new(matmul))], Vec::new()))
        };
        self.copies.iter().map(one).collect()
    }

    /// SM cycles of a launch, the median of a few: they do not depend on the clock, which falls while a search heats the chip. After
    /// two launches it is known whether an algorithm comes near `least`, and of others nothing more.
    fn cycles(&self, algorithm: Algorithm, least: f64) -> Result<f64, GpuError> {
        let products = self.by(algorithm)?;
        let mut products = products.iter().cycle();
        for product in products.by_ref().take(WARM_UP) {
            self.gpu.enqueue(product)?;
        }
        let (ns, cycles) = self.timed(&mut products, 2)?;
        if cycles > GIVEN_UP * least {
            return Ok(cycles);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let launches = (LEAST_NS / ns).clamp(REPETITIONS as f64, 100.0) as usize;
        Ok(self.timed(&mut products, launches)?.1)
    }

    /// Median ns of some launches, and the cycles that they took.
    fn timed<'b>(
        &self,
        products: &mut impl Iterator<Item = &'b Prepared>,
        launches: usize,
    ) -> Result<(f64, f64), GpuError> {
        let events = (0..=launches).map(|_| Event::new(self.gpu)).collect::<Result<Vec<_>, _>>()?;
        let [before, after] = &self.clocks;
        before.record(self.gpu)?;
        events[0].record(self.gpu)?;
        for (event, product) in events[1..].iter().zip(products) {
            self.gpu.enqueue(product)?;
            event.record(self.gpu)?;
        }
        after.record(self.gpu)?;
        self.gpu.synchronize()?;
        let times = events.windows(2).map(|pair| pair[1].since(&pair[0])).collect::<Result<Vec<_>, _>>()?;
        let ns = median(&times);
        let hz = after.since(self.gpu, before)?.map_or(1e9, |(_, hz)| hz);
        Ok((ns, ns * hz / 1e9))
    }

    /// Settings that the library did not offer around the fastest algorithm so far: one kind after the other, the best of each kept,
    /// until a round through all kinds brings nothing. What it refuses is passed over.
    fn around(&self, times: &mut Vec<(Algorithm, f64)>) -> Result<(), GpuError> {
        for _ in 0..ROUNDS {
            let Some((_, start)) = least_of(times) else { return Ok(()) };
            for setting in Setting::ALL {
                let Some((centre, mut least)) = least_of(times) else { return Ok(()) };
                for algorithm in centre.varied(setting) {
                    if times.iter().any(|(known, _)| *known == algorithm) {
                        continue;
                    }
                    match self.cycles(algorithm, least) {
                        Ok(cycles) => {
                            least = least.min(cycles);
                            times.push((algorithm, cycles));
                        }
                        Err(GpuError::Blas { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            if least_of(times).is_none_or(|(_, least)| least > start * NEARER) {
                break;
            }
        }
        Ok(())
    }

    /// Times of algorithms that take turns of [`TURN_NS`], ns: what drifts, drifts for all.
    fn in_turns(&self, algorithms: &[Algorithm]) -> Result<Vec<f64>, GpuError> {
        let products = algorithms.iter().map(|algorithm| self.by(*algorithm)).collect::<Result<Vec<_>, _>>()?;
        let (start, end) = (Event::new(self.gpu)?, Event::new(self.gpu)?);
        let mut times = vec![Vec::with_capacity(TURNS); algorithms.len()];
        let mut launches = vec![REPETITIONS; algorithms.len()];
        for turn in 0..=TURNS {
            for at in 0..algorithms.len() {
                // Who comes first changes, so that nobody always follows the same neighbour.
                let at = (at + turn) % algorithms.len();
                start.record(self.gpu)?;
                for product in products[at].iter().cycle().take(launches[at]) {
                    self.gpu.enqueue(product)?;
                }
                end.record(self.gpu)?;
                end.wait()?;
                #[expect(clippy::cast_precision_loss, reason = "few launches")]
                let ns = end.since(&start)? / launches[at] as f64;
                if turn == 0 {
                    // The first turn says how many launches fill one.
                    launches[at] = turns_of(ns);
                } else {
                    times[at].push(ns);
                }
            }
        }
        Ok(times.iter().map(|times| median(times)).collect())
    }

    /// Times of the algorithms that are near the fastest by running each alone, ns; the others keep theirs, which are slower.
    fn held(&self, algorithms: &[Algorithm], in_turns: Vec<f64>) -> Result<Vec<f64>, GpuError> {
        let least = in_turns.iter().copied().fold(f64::INFINITY, f64::min);
        let near: Vec<usize> = (0..algorithms.len()).filter(|&at| in_turns[at] <= NEAR * least).collect();
        if near.len() < 2 || least < HELD_FROM_NS {
            return Ok(in_turns);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let launches = (HELD_NS / least).clamp(3.0, 30_000.0) as usize;
        let mut times = in_turns;
        for &at in &near {
            times[at] = self.alone(algorithms[at], launches)?;
        }
        // Those that are hard to tell apart once more, in the other order.
        let least = near.iter().map(|&at| times[at]).fold(f64::INFINITY, f64::min);
        let close: Vec<usize> = near.iter().copied().filter(|&at| times[at] <= CLOSE * least).collect();
        if close.len() > 1 {
            for &at in close.iter().rev() {
                times[at] = f64::midpoint(times[at], self.alone(algorithms[at], launches)?);
            }
        }
        // Held at the cap they are slower than in turns: those that were not held must not pass for faster.
        let slowest = near.iter().map(|&at| times[at]).fold(0.0, f64::max);
        for (at, time) in times.iter_mut().enumerate() {
            if !near.contains(&at) {
                *time = time.max(slowest);
            }
        }
        Ok(times)
    }

    /// Time of a launch among so many of one algorithm, ns: the last third of them is timed.
    fn alone(&self, algorithm: Algorithm, launches: usize) -> Result<f64, GpuError> {
        let products = self.by(algorithm)?;
        let (start, end) = (Event::new(self.gpu)?, Event::new(self.gpu)?);
        let timed = launches / 3;
        let mut products = products.iter().cycle();
        for product in products.by_ref().take(launches - timed) {
            self.gpu.enqueue(product)?;
        }
        start.record(self.gpu)?;
        for product in products.take(timed) {
            self.gpu.enqueue(product)?;
        }
        end.record(self.gpu)?;
        end.wait()?;
        #[expect(clippy::cast_precision_loss, reason = "few launches")]
        let ns = end.since(&start)? / timed as f64;
        Ok(ns)
    }

    /// What is wrong with an algorithm's results, if anything is: elements computed again in fp64, the whole against the
    /// first algorithm that was right, and a second run bit for bit, with what lies in the workspace changed between.
    fn verify(&self, algorithm: Algorithm) -> Result<Option<String>, GpuError> {
        let problem = *self.copies[0].problem();
        let Some(own) = self.operands.last() else { return Ok(None) };
        self.run(&problem, algorithm, own, 0xff)?;
        self.run(
            &Problem { d: Factor { pointer: self.other.pointer(), ..problem.d }, ..problem },
            algorithm,
            &self.other,
            0x5a,
        )?;
        let (different, ..) = self.compare(own, &self.other)?;
        if different > 0.0 {
            return Ok(Some(format!("two runs differ in {different} elements")));
        }
        if let Some(why) = self.check_samples()? {
            return Ok(Some(why));
        }
        let Some(reference) = self.reference.get() else {
            let kept = self.gpu.allocate(own.bytes())?;
            self.gpu.copy(&kept, own)?;
            let _ = self.reference.set(kept);
            return Ok(None);
        };
        let (_, noise, signal) = self.compare(reference, own)?;
        let most = 0.004 + self.tolerance();
        let off = (noise / signal.max(f64::MIN_POSITIVE)).sqrt();
        // NaN is near nothing.
        Ok(if off <= most {
            None
        } else {
            Some(format!("off the others by {off:.1e} of the norm, at most {most:.1e} is right"))
        })
    }

    /// Runs into a place that held no numbers, with a workspace full of one byte.
    fn run(&self, problem: &Problem, algorithm: Algorithm, into: &Slice, byte: u8) -> Result<(), GpuError> {
        self.gpu.fill(into, 0xff)?;
        self.gpu.fill(self.gpu.blas()?.workspace(), byte)?;
        let matmul = Matmul::with(self.gpu, problem, algorithm)?;
        self.gpu.enqueue(&Prepared::new(vec![Call::Matmul(Box::new(matmul))], Vec::new()))
    }

    /// How many elements of two results differ, Σ (a − b)² and Σ a².
    fn compare(&self, a: &Slice, b: &Slice) -> Result<(f64, f64, f64), GpuError> {
        let sums = self.gpu.allocate(24)?;
        self.gpu.fill(&sums, 0)?;
        let elements = a.bytes() / self.gemm.d.bytes();
        let kernel = Kernel::new(self.gpu, &SOURCE, &format!("compare_{}", self.gemm.d))?
            .grid(8 * self.gpu.facts().multiprocessors, 1)
            .pointer(a.pointer())
            .pointer(b.pointer())
            .pointer(sums.pointer())
            .long(elements);
        self.gpu.enqueue(&Prepared::new(vec![kernel.ready()?], Vec::new()))?;
        let mut bytes = [0; 24];
        self.gpu.download(&sums, &mut bytes)?;
        let sum = |at: usize| f64::from_le_bytes(std::array::from_fn(|byte| bytes[8 * at + byte]));
        Ok((sum(0), sum(1), sum(2)))
    }

    /// Computes some elements again in fp64 from the operands' own bytes; what is wrong with the result, if anything is.
    fn check_samples(&self) -> Result<Option<String>, GpuError> {
        let columns = spread(self.gemm.n);
        let at: Vec<(usize, usize)> =
            spread(self.gemm.m).into_iter().flat_map(|row| columns.iter().map(move |column| (row, *column))).collect();
        let mut lying = Lying { gpu: self.gpu, params: &self.gemm.signature(), operands: &self.operands };
        let sampled = self.gemm.sample_at(&at, &mut lying)?;
        let worst = sampled.iter().filter(|element| !element.holds()).max_by(|a, b| a.error().total_cmp(&b.error()));
        Ok(worst.map(|Sampled { element, found, expected, .. }| {
            format!("element {element} is {found:e}, {expected:e} is right")
        }))
    }

    /// How far the results of two right algorithms may be apart, as a share of the norm. Hopper's tensor cores keep 14 bits of a
    /// sum of FP8 products until it is promoted.
    const fn tolerance(&self) -> f64 {
        match (self.gemm.a.dtype, self.gemm.fast_accumulation) {
            (Dtype::E4m3 | Dtype::E5m2, true) => 0.05,
            (Dtype::E4m3 | Dtype::E5m2, false) => 0.02,
            (Dtype::F32, _) => 1e-4,
            _ => 1e-3,
        }
    }
}

/// Operands as they lie on the device.
struct Lying<'a> {
    gpu: &'a Gpu,
    params: &'a [Param],
    operands: &'a [Slice],
}

impl Pieces for Lying<'_> {
    type Error = GpuError;

    fn pieces(&mut self, operand: usize, starts: &[usize], stride: usize, len: usize) -> Result<Vec<f64>, GpuError> {
        let found = self.gpu.gather(&self.operands[operand], self.params[operand].dtype, starts, stride, len)?;
        Ok(found.view().values().iter().map(|value| f64::from(*value)).collect())
    }
}

/// Random contents for one operand: rounded normals, repeated with a period that is in step with no row; scales near 0.01.
fn operand(gpu: &Gpu, param: &Param) -> Result<Slice, GpuError> {
    let slice = gpu.allocate(param.bytes())?;
    let seed = param.name.bytes().fold(param.elements() as u64, |seed, byte| seed * 31 + u64::from(byte));
    let scales = param.name.ends_with("_scale");
    // FP8 values as a cast leaves them: the largest near the format's own.
    let spread = if param.dtype.is_fp8() { 64.0 } else { 1.0 };
    let value = |at: usize| {
        let random = normal(seed.wrapping_add(at as u64));
        if scales { 0.01 * (1.0 + 0.2 * random.clamp(-3.0, 3.0)) } else { spread * random }
    };
    let values: Vec<f32> = (0..param.elements().min(PERIOD)).into_par_iter().map(value).collect();
    let block = Buffer::rounded(param.dtype, &values);
    let size = block.len() * param.dtype.bytes();
    let within = |from: usize, bytes: usize| {
        let what = format!("{} bytes at {from} of {}", bytes, slice.bytes());
        slice.slice(from, bytes).ok_or(GpuError::Operand { op: "search", operand: param.name.to_string(), what })
    };
    gpu.upload_tensor(&within(0, size)?, block.view())?;
    for from in (size..param.bytes()).step_by(size.max(1)) {
        let bytes = size.min(param.bytes() - from);
        gpu.copy(&within(from, bytes)?, &within(0, bytes)?)?;
    }
    Ok(slice)
}

/// Standard normal number of an index (SplitMix64 and Box & Muller).
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "random bits")]
fn normal(index: u64) -> f32 {
    let mix = |value: u64| {
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    };
    let bits = mix(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let unit = |bits: u64| (bits as f64 + 0.5) / f64::from(u32::MAX);
    let (u, v) = (unit(bits >> 32).min(1.0), unit(bits & u64::from(u32::MAX)));
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// [`SAMPLED`] indices below `end`, one from each part of it, the last among them: partial tiles are where kernels err.
fn spread(end: usize) -> Vec<usize> {
    let pick = |part: usize| {
        let (from, to) = (part * end / SAMPLED, ((part + 1) * end / SAMPLED).max(1));
        if part + 1 == SAMPLED { end - 1 } else { from + (part * 7919 + 13) % (to - from).max(1) }
    };
    let mut picked: Vec<usize> = (0..SAMPLED).map(pick).filter(|index| *index < end).collect();
    picked.dedup();
    picked
}

/// Launches that fill a turn.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn turns_of(ns: f64) -> usize {
    (TURN_NS / ns).clamp(REPETITIONS as f64, 1000.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::Granularity;

    #[test]
    fn a_products_words_tell_apart_what_algorithms_must() {
        let plain = |dtype| Operand::plain(dtype, false);
        let gemm = Gemm {
            m: 32768,
            n: 3072,
            k: 1024,
            a: plain(Dtype::Bf16),
            b: plain(Dtype::Bf16),
            d: Dtype::Bf16,
            accumulate: false,
            fast_accumulation: false,
        };
        assert_eq!(gemm.product(), "32768×3072×1024 bf16 · bf16 → bf16");
        let other = Gemm { b: Operand::plain(Dtype::Bf16, true), accumulate: true, ..gemm.clone() };
        assert_eq!(other.product(), "32768×3072×1024 bf16 · bf16ᵀ → bf16, accumulates");
        let fp8 = Gemm {
            a: Operand::scaled(Dtype::E5m2, Granularity::Block1x128),
            b: Operand::scaled(Dtype::E4m3, Granularity::Block128x128),
            fast_accumulation: true,
            ..gemm
        };
        assert_eq!(fp8.product(), "32768×3072×1024 e5m2 1x128 · e4m3 128x128 → bf16, fast accumulation");
    }

    #[test]
    fn samples_reach_from_the_first_part_to_the_last_element() {
        let picked = spread(50_304);
        assert_eq!((picked.len(), picked.last()), (SAMPLED, Some(&50_303)));
        assert!(picked.windows(2).all(|pair| pair[0] < pair[1]) && picked[0] < 50_304 / SAMPLED, "{picked:?}");
        assert_eq!(spread(1), [0]);
        assert!(spread(5).iter().all(|index| *index < 5));
    }

    #[test]
    fn random_operands_are_normal() {
        let values: Vec<f64> = (0..100_000).map(|index| f64::from(normal(index))).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|value| value * value).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
