//! The search for a product's algorithm: cuBLASLt's candidates timed on operands that no cache holds, and settings around the
//! fastest of them that it did not offer; the best verified against fp64, against each other and against themselves, the fastest of
//! those kept.
//!
//! There are reports of algorithms that give wrong FP8 results, and in-place sums differ from run to run: a candidate that
//! fails is dropped and named. Here stands what is tried and kept; `bench` times it, `verify` says what is wrong with its results. None
//! of them may know models.

mod bench;
mod verify;

use serde::{Deserialize, Serialize};

use super::algorithm::Setting;
use super::cublaslt::{Matmul, Scales, version};
use super::{Algorithm, Gemm, Operand};
use crate::dtype::Dtype;
use crate::gpu::source::Source;
use crate::gpu::{Gpu, GpuError};
use bench::Bench;

pub(crate) static SOURCE: Source = Source { name: "search.cu", text: include_str!("search.cu") };

/// Rounds through the kinds of settings around the fastest algorithm, and by how much one must be faster to be the centre of the next.
const ROUNDS: usize = 2;
const NEARER: f64 = 0.995;

/// Candidates that are verified and timed again for longer, in turns: a burst of one algorithm runs at a clock that the step
/// does not have.
const FINALISTS: usize = 4;

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
    /// Whether the library offered it, as it did all of earlier plans; else it is settings that it did not offer, but takes.
    #[serde(default = "offered")]
    pub offered: bool,
    /// Settings of those that were dropped, each with what was wrong.
    #[serde(default)]
    pub dropped: Vec<String>,
}

const fn offered() -> bool {
    true
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
    let known = times.len();
    bench.around(&mut times)?;
    let own: Vec<Algorithm> = times[known..].iter().map(|(algorithm, _)| *algorithm).collect();
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
        offered: !own.contains(&algorithm),
        dropped,
    }))
}

/// The fastest so far.
fn least_of(times: &[(Algorithm, f64)]) -> Option<(Algorithm, f64)> {
    times.iter().copied().min_by(|one, two| one.1.total_cmp(&two.1))
}

impl Bench<'_> {
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
}
