//! A small seeded generator: the same seed gives the same weights and tokens on every machine and in every version.
//!
//! SplitMix64 (Steele, Lea & Flood 2014), normal variates by Box & Muller 1958. Independent streams of one seed start from
//! mixed states.

use crate::normal::{pair, uniform};

/// A stream of pseudo-random numbers.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
    spare: Option<f64>,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Pairs of normals that are made side by side.
const LANES: usize = 32;

#[inline(always)]
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Pairs of normals from the draws behind a state, in the widest instructions that the machine has. No closure: what is to run
/// in them must be inlined into them.
struct Pairs<'a> {
    start: u64,
    out: &'a mut [[f64; 2]],
}

impl pulp::WithSimd for Pairs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let mut state = self.start;
        for out in self.out.chunks_mut(LANES) {
            // Firsts and seconds apart, so that lanes are neighbours.
            let (mut firsts, mut seconds) = ([0.0; LANES], [0.0; LANES]);
            for lane in 0..LANES {
                // Draw number n is the mixed state n steps on, whatever came before.
                let draw = state.wrapping_add(GOLDEN.wrapping_mul(2 * lane as u64 + 1));
                (firsts[lane], seconds[lane]) = pair(mix(draw), mix(draw.wrapping_add(GOLDEN)));
            }
            out.iter_mut().zip(firsts.into_iter().zip(seconds)).for_each(|(out, both)| *out = both.into());
            state = state.wrapping_add(GOLDEN.wrapping_mul(2 * LANES as u64));
        }
    }
}

impl Random {
    /// Stream `stream` of `seed`.
    #[must_use]
    pub const fn new(seed: u64, stream: u64) -> Self {
        Self { state: mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add(stream.wrapping_mul(GOLDEN))), spare: None }
    }

    /// The same as if so many times 64 bits were taken already.
    #[must_use]
    pub const fn at(seed: u64, stream: u64, taken: u64) -> Self {
        let start = Self::new(seed, stream);
        Self { state: start.state.wrapping_add(GOLDEN.wrapping_mul(taken)), spare: None }
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in [0, 1), 53 bits.
    pub const fn uniform(&mut self) -> f64 {
        uniform(self.bits())
    }

    /// Uniform in 0..bound; 0 where bound is 0.
    #[expect(clippy::cast_possible_truncation, reason = "the product's high half is below bound")]
    pub const fn below(&mut self, bound: usize) -> usize {
        ((self.bits() as u128 * bound as u128) >> 64) as usize
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (one, two) = (self.bits(), self.bits());
        let (first, second) = pair(one, two);
        self.spare = Some(second);
        first
    }

    /// Standard normals, as many as there is room for: those that [`Self::normal`] would give one by one.
    pub fn normals(&mut self, out: &mut [f64]) {
        let spare = usize::from(self.spare.is_some()).min(out.len());
        let (first, rest) = out.split_at_mut(spare);
        first.fill_with(|| self.normal());
        let (pairs, last) = rest.as_chunks_mut::<2>();
        let start = self.state;
        let drawn = 2 * pairs.len() as u64;
        pulp::Arch::new().dispatch(Pairs { start, out: pairs });
        self.state = start.wrapping_add(GOLDEN.wrapping_mul(drawn));
        last.fill_with(|| self.normal());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_pinned_and_differ() {
        // Pinned: a change of these changes the losses of every stored run.
        let mut random = Random::new(1, 0);
        assert_eq!(
            [random.bits(), random.bits()],
            [Random::new(1, 0).bits(), {
                let mut again = Random::new(1, 0);
                again.bits();
                again.bits()
            }]
        );
        assert_ne!(Random::new(1, 0).bits(), Random::new(1, 1).bits());
        assert_ne!(Random::new(1, 0).bits(), Random::new(2, 0).bits());
    }

    #[test]
    fn a_stream_is_entered_anywhere() {
        let mut from_start = Random::new(3, 9);
        let all: Vec<f64> = (0..10).map(|_| from_start.normal()).collect();
        // Two draws make two normals.
        let mut from_fourth = Random::at(3, 9, 4);
        assert_eq!((4..10).map(|_| from_fourth.normal()).collect::<Vec<_>>(), all[4..]);
    }

    #[test]
    fn many_normals_are_those_of_one_by_one() {
        for (before, count) in [(0, 64), (1, 64), (1, 1), (0, 7), (3, 130), (2, 0)] {
            let (mut one, mut many) = (Random::new(11, 4), Random::new(11, 4));
            for random in [&mut one, &mut many] {
                (0..before).for_each(|_| _ = random.normal());
            }
            let mut out = vec![0.0; count];
            many.normals(&mut out);
            // Bit for bit, and both go on alike.
            let expected: Vec<f64> = (0..count).map(|_| one.normal()).collect();
            assert_eq!(out, expected, "{count} after {before}");
            assert_eq!(many.normal().to_bits(), one.normal().to_bits(), "{count} after {before}");
        }
    }

    #[test]
    fn normals_have_mean_0_and_variance_1() {
        let mut random = Random::new(7, 3);
        let values: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|value| value * value).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn below_stays_below() {
        let mut random = Random::new(7, 3);
        assert!((0..1000).all(|_| random.below(3) < 3));
        assert_eq!(random.below(0), 0);
    }
}
