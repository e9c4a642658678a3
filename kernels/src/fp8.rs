//! Rounding to the two FP8 formats and back, bit for bit as `cvt.rn.satfinite` does it: to nearest even, beyond the largest
//! finite value (infinity too) to that value, NaN to the one NaN 0x7f; all 2³² fp32 values agree with an H100. Branch-free, so
//! that casts of whole tensors vectorise.
//! Source of the formats: OCP 8-bit Floating Point Specification 1.0.

use std::sync::LazyLock;

use float8::{F8E4M3, F8E5M2};

/// Rounds to a format with `FRACTION` fraction bits, exponent bias `BIAS` and largest finite value `largest` (bits of fp32).
fn encode<const FRACTION: u32, const BIAS: u32>(value: f32, largest: u32) -> u8 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let finite = magnitude.min(largest);
    // Normal: round off the low bits, ties to even, then move the exponent to its bias.
    let cut = 23 - FRACTION;
    let rounded = finite + ((1 << (cut - 1)) - 1) + ((finite >> cut) & 1);
    let normal = (rounded >> cut).wrapping_sub((127 - BIAS) << FRACTION);
    // Subnormal: adding a power of two whose last place is the format's smallest step lets the FPU round to that step.
    let anchor = f32::from_bits((127 + 1 - BIAS + 23 - FRACTION) << 23);
    let subnormal = (f32::from_bits(finite) + anchor).to_bits() - anchor.to_bits();
    let smallest_normal = (127 + 1 - BIAS) << 23;
    let code = if finite < smallest_normal { subnormal } else { normal } | (bits >> 24 & 0x80);
    let code = if magnitude > 0x7f80_0000 { 0x7f } else { code };
    #[expect(clippy::cast_possible_truncation, reason = "seven bits of magnitude and the sign")]
    let code = code as u8;
    code
}

/// To E4M3.
pub(crate) fn e4m3(value: f32) -> F8E4M3 {
    F8E4M3::from_bits(encode::<3, 7>(value, 0x43e0_0000)) // 448
}

/// To E5M2.
pub(crate) fn e5m2(value: f32) -> F8E5M2 {
    F8E5M2::from_bits(encode::<2, 15>(value, 0x4760_0000)) // 57344
}

/// The value of every E4M3 code.
pub(crate) static E4M3_VALUES: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| F8E4M3::from_bits(byte(code)).to_f32()));

/// The value of every E5M2 code.
pub(crate) static E5M2_VALUES: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| F8E5M2::from_bits(byte(code)).to_f32()));

#[expect(clippy::cast_possible_truncation, reason = "indices below 256")]
const fn byte(code: usize) -> u8 {
    code as u8
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    /// The value of a code from the definition alone: sign, exponent, fraction.
    fn value_of(code: u8, fraction_bits: i32, bias: i32) -> f64 {
        let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
        let (exponent, fraction) =
            (i32::from(code & 0x7f) >> fraction_bits, i32::from(code) & ((1 << fraction_bits) - 1));
        let steps = f64::from(fraction) / f64::from(1 << fraction_bits);
        match (exponent, fraction_bits) {
            (15, 3) if fraction == 7 => f64::NAN,
            (31, 2) if fraction == 0 => sign * f64::INFINITY,
            (31, 2) => f64::NAN,
            (0, _) => sign * steps * 2f64.powi(1 - bias),
            _ => sign * (1.0 + steps) * 2f64.powi(exponent - bias),
        }
    }

    /// The nearest finite code by search over all of them; of two equally near the one with an even last bit.
    fn nearest(value: f64, fraction_bits: i32, bias: i32) -> u8 {
        if value.is_nan() {
            return 0x7f;
        }
        let sign = if value.is_sign_negative() { 0x80 } else { 0 };
        let codes = (0..0x7fu8).filter(|code| value_of(*code, fraction_bits, bias).is_finite());
        let distance = |code: u8| (value.abs().min(1e6) - value_of(code, fraction_bits, bias)).abs();
        let best = codes.min_by(|&a, &b| distance(a).partial_cmp(&distance(b)).unwrap().then((a & 1).cmp(&(b & 1))));
        best.unwrap() | sign
    }

    fn check(value: f32) {
        let context = || format!("{value:e} ({:#010x})", value.to_bits());
        assert_eq!(e4m3(value).to_bits(), nearest(f64::from(value), 3, 7), "e4m3 {}", context());
        assert_eq!(e5m2(value).to_bits(), nearest(f64::from(value), 2, 15), "e5m2 {}", context());
    }

    #[test]
    fn every_bf16_rounds_to_the_nearest_code() {
        for bits in 0..=u16::MAX {
            check(bf16::from_bits(bits).to_f32());
        }
    }

    #[test]
    fn ties_neighbours_of_ties_and_limits() {
        for (fraction, bias) in [(3, 7), (2, 15)] {
            for code in 0..0x7eu8 {
                let (low, high) = (value_of(code, fraction, bias), value_of(code + 1, fraction, bias));
                #[expect(clippy::cast_possible_truncation, reason = "midpoints are exact in fp32")]
                let tie = ((low + high) / 2.0) as f32;
                if tie.is_finite() {
                    for value in [tie, tie.next_up(), tie.next_down()] {
                        check(value);
                        check(-value);
                    }
                }
            }
        }
        // value, E4M3 code, E5M2 code
        let cases: &[(f32, u8, u8)] = &[
            (0.0, 0x00, 0x00),
            (-0.0, 0x80, 0x80),
            (1.0, 0x38, 0x3c),
            (448.0, 0x7e, 0x5f),
            (464.0, 0x7e, 0x5f), // halfway to what would be 480
            (480.0, 0x7e, 0x60), // E5M2: a tie between 448 and 512
            (57344.0, 0x7e, 0x7b),
            (61440.0, 0x7e, 0x7b), // halfway to what would be 65536
            (1e9, 0x7e, 0x7b),
            (-1e9, 0xfe, 0xfb),
            (f32::INFINITY, 0x7e, 0x7b),
            (f32::NEG_INFINITY, 0xfe, 0xfb),
            (f32::NAN, 0x7f, 0x7f),
            (-f32::NAN, 0x7f, 0x7f),
            (1.0625, 0x38, 0x3c),          // E4M3: a tie, down to even
            (1.1875, 0x3a, 0x3d),          // E4M3: a tie, up to even
            (0.001_953_125, 0x01, 0x18),   // 2⁻⁹, the smallest E4M3
            (0.000_976_562_5, 0x00, 0x14), // 2⁻¹⁰: half of it, to even
            (0.000_976_563, 0x01, 0x14),
            (f32::MIN_POSITIVE, 0x00, 0x00),
            (1e-45, 0x00, 0x00),
        ];
        for &(value, four, five) in cases {
            assert_eq!((e4m3(value).to_bits(), e5m2(value).to_bits()), (four, five), "{value:e}");
        }
    }

    #[test]
    fn every_code_round_trips() {
        for code in 0..=u8::MAX {
            let (four, five) = (E4M3_VALUES[usize::from(code)], E5M2_VALUES[usize::from(code)]);
            for (value, expected) in [(four, value_of(code, 3, 7)), (five, value_of(code, 2, 15))] {
                assert!(f64::from(value) == expected || (value.is_nan() && expected.is_nan()), "{code:#04x}: {value}");
            }
            if !four.is_nan() {
                assert_eq!(e4m3(four).to_bits(), code);
            }
            // Infinity is a code of E5M2 that no cast makes.
            if five.is_finite() {
                assert_eq!(e5m2(five).to_bits(), code);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn any_fp32_rounds_to_the_nearest_code(bits in any::<u32>(), scaled in -600.0f32..600.0) {
            check(f32::from_bits(bits));
            check(scaled);
            check(scaled / 1024.0);
        }

        #[test]
        fn the_crate_agrees_on_numbers(bits in any::<u32>(), scaled in -500.0f32..500.0) {
            for value in [f32::from_bits(bits), scaled].into_iter().filter(|value| !value.is_nan()) {
                prop_assert_eq!(e4m3(value).to_bits(), F8E4M3::from_f32(value).to_bits());
                prop_assert_eq!(e5m2(value).to_bits(), F8E5M2::from_f32(value).to_bits());
            }
        }
    }
}
