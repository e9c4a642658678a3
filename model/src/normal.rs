//! Normal variates for initial contents: Box & Muller 1958 in arithmetic that compilers turn into vector instructions, since a
//! model has hundreds of millions of them. Only additions, products, quotients and roots, none contracted: the same bits on every
//! machine.
//!
//! Logarithm, sine and cosine are those of fdlibm (Sun Microsystems 1993; below one unit in the last place), without branches for
//! arguments that do not occur here. The angle is reduced in turns, which is exact.
#![expect(clippy::excessive_precision, reason = "coefficients as fdlibm prints them")]

use std::f64::consts::TAU;

/// 2⁵² as bits: or-ed to a whole number below 2⁵² it is 2⁵² + that number.
const WHOLE: u64 = 0x4330_0000_0000_0000;

/// A whole number below 2⁵².
#[inline(always)]
const fn whole(value: u64) -> f64 {
    f64::from_bits(WHOLE | value) - f64::from_bits(WHOLE)
}

/// Uniform in [0, 1): the upper 53 bits.
#[inline(always)]
pub(crate) const fn uniform(bits: u64) -> f64 {
    let bits = bits >> 11;
    (whole(bits >> 32) * 4_294_967_296.0 + whole(bits & 0xffff_ffff)) / (1_u64 << 53) as f64
}

/// ln x for normal x > 0.
#[inline(always)]
fn ln(x: f64) -> f64 {
    const LN2_HI: f64 = 6.931_471_803_691_238_164_90e-01;
    const LN2_LO: f64 = 1.908_214_929_270_587_700_02e-10;
    const LG: [f64; 7] = [
        6.666_666_666_666_735_130e-01,
        3.999_999_999_940_941_908e-01,
        2.857_142_874_366_239_149e-01,
        2.222_219_843_214_978_396e-01,
        1.818_357_216_161_805_012e-01,
        1.531_383_769_920_937_332e-01,
        1.479_819_860_511_658_591e-01,
    ];
    /// The upper half of √½: x = 2ᵏ · m with m in [√½, √2).
    const HALF_ROOT: u64 = 0x3fe6_a09e << 32;
    let shifted = x.to_bits().wrapping_add((0x3ff0_0000 << 32) - HALF_ROOT);
    let k = whole(shifted >> 52) - 1023.0;
    let f = f64::from_bits((shifted & 0x000f_ffff_ffff_ffff) + HALF_ROOT) - 1.0;
    let half_square = 0.5 * f * f;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let odd = w * (LG[1] + w * (LG[3] + w * LG[5]));
    let even = z * (LG[0] + w * (LG[2] + w * (LG[4] + w * LG[6])));
    s * (half_square + even + odd) + k * LN2_LO - half_square + f + k * LN2_HI
}

/// Sine and cosine of so many turns in [0, 1).
#[inline(always)]
fn sin_cos_of_turns(turns: f64) -> (f64, f64) {
    const S: [f64; 6] = [
        -1.666_666_666_666_663_243_48e-01,
        8.333_333_333_322_489_461_24e-03,
        -1.984_126_982_985_794_931_34e-04,
        2.755_731_370_707_006_767_89e-06,
        -2.505_076_025_340_686_341_95e-08,
        1.589_690_995_211_550_102_21e-10,
    ];
    const C: [f64; 6] = [
        4.166_666_666_666_660_190_37e-02,
        -1.388_888_888_887_410_957_49e-03,
        2.480_158_728_947_672_941_78e-05,
        -2.755_731_435_139_066_330_35e-07,
        2.087_572_321_298_174_827_90e-09,
        -1.135_964_755_778_819_482_65e-11,
    ];
    // Added to a number below 2⁵¹ it leaves the nearest whole one in the last bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let rounded = 4.0 * turns + ROUND;
    let quarter = rounded.to_bits();
    let x = (turns - 0.25 * (rounded - ROUND)) * TAU;
    let z = x * x;
    let sine = x + x * z * (S[0] + z * (S[1] + z * (S[2] + z * (S[3] + z * (S[4] + z * S[5])))));
    let tail = z * z * (C[0] + z * (C[1] + z * (C[2] + z * (C[3] + z * (C[4] + z * C[5])))));
    let cosine = 1.0 - (0.5 * z - tail);
    let odd = quarter & 1 == 1;
    let (sin, cos) = if odd { (cosine, sine) } else { (sine, cosine) };
    // A quarter turn makes a sine of a cosine; two turn both signs.
    let sign = |bit: u64| (bit & 2) << 62;
    (f64::from_bits(sin.to_bits() ^ sign(quarter)), f64::from_bits(cos.to_bits() ^ sign(quarter.wrapping_add(1))))
}

/// Two standard normal variates from two draws of 64 bits.
#[inline(always)]
pub(crate) fn pair(one: u64, two: u64) -> (f64, f64) {
    // 1 − u is in (0, 1]: its logarithm is finite.
    let radius = (-2.0 * ln(1.0 - uniform(one))).sqrt();
    let (sin, cos) = sin_cos_of_turns(uniform(two));
    (radius * cos, radius * sin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn logarithm_sine_and_cosine_are_the_systems_to_the_last_digits() {
        let mut random = Random::new(5, 1);
        let near = |found: f64, expected: f64, scale: f64| (found - expected).abs() <= 4.0 * f64::EPSILON * scale;
        for _ in 0..200_000 {
            let u = random.uniform();
            // Also the smallest numbers that occur.
            for x in [1.0 - u, u * 2_f64.powi(-40) + 2_f64.powi(-53), 1.0 - u * 1e-6] {
                assert!(near(ln(x), x.ln(), x.ln().abs()), "ln {x:e}: {} for {}", ln(x), x.ln());
            }
            let (sin, cos) = sin_cos_of_turns(u);
            // The expected angle is itself rounded.
            assert!(near(sin, (TAU * u).sin(), 1.0) && near(cos, (TAU * u).cos(), 1.0), "{u} turns: {sin} {cos}");
        }
        assert_eq!((ln(1.0), ln(2_f64.powi(-53))), (0.0, 2_f64.powi(-53).ln()));
        let quarters = [0.0, 0.25, 0.5, 0.75].map(sin_cos_of_turns);
        assert_eq!(
            quarters.map(|(sin, cos)| (sin + 0.0, cos + 0.0)),
            [(0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0)]
        );
    }

    #[test]
    fn uniform_takes_all_its_bits() {
        for bits in [0, 1 << 11, u64::MAX, 0x8000_0000_0000_0000, 0x0123_4567_89ab_cdef] {
            assert_eq!(uniform(bits), (bits >> 11) as f64 / (1_u64 << 53) as f64, "{bits:x}");
        }
    }

    #[test]
    fn pairs_are_pinned() {
        // A change of these changes the weights, and so the losses, of every stored run.
        let of = |one, two| {
            let (first, second) = pair(one, two);
            [first.to_bits(), second.to_bits()]
        };
        let found = [of(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210), of(u64::MAX, 0), of(0, u64::MAX)];
        let pinned = [[0x3fb8_2743_771e_2249, 0xbf65_96da_a36e_db71], [0x4021_24b2_800e_da48, 0], [1 << 63, 0]];
        assert_eq!(found, pinned, "{found:x?}");
    }
}
