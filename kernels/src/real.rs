//! The arithmetic type of the CPU references: `f32` as on the GPU, or `f64` for finite differences.

/// `f32` or `f64`.
pub trait Real:
    num_traits::Float + std::ops::AddAssign + std::iter::Sum + Send + Sync + std::fmt::Debug + 'static
{
    /// From fp32, exact.
    fn of(value: f32) -> Self;
    /// From fp64, rounded to nearest even.
    fn of_f64(value: f64) -> Self;
    /// To fp32, rounded to nearest even.
    fn f32(self) -> f32;
    /// To fp64, exact.
    fn f64(self) -> f64;
    /// To fp32 on the way to a narrower format: fp64 is rounded to odd, so that rounding the result to nearest even again,
    /// to at most 22 bits, is as good as rounding once. Source: Boldo & Melquiond 2008.
    fn narrow(self) -> f32;
}

impl Real for f32 {
    fn of(value: f32) -> Self {
        value
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounding is the contract")]
    fn of_f64(value: f64) -> Self {
        value as Self
    }
    fn f32(self) -> f32 {
        self
    }
    fn f64(self) -> f64 {
        f64::from(self)
    }
    fn narrow(self) -> f32 {
        self
    }
}

impl Real for f64 {
    fn of(value: f32) -> Self {
        Self::from(value)
    }
    fn of_f64(value: f64) -> Self {
        value
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounding is the contract")]
    fn f32(self) -> f32 {
        self as f32
    }
    fn f64(self) -> f64 {
        self
    }
    fn narrow(self) -> f32 {
        let nearest = self.f32();
        let back = Self::from(nearest);
        if back == self || self.is_nan() || nearest.to_bits() & 1 == 1 {
            return nearest;
        }
        // The even neighbour was taken: the odd one lies on the other side.
        let bits = nearest.to_bits();
        f32::from_bits(if back.abs() > self.abs() { bits - 1 } else { bits + 1 })
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn narrowing_rounds_to_odd() {
        let ulp = 2f64.powi(-23);
        // value, result
        let cases: &[(f64, f32)] = &[
            (1.0, 1.0),
            (1.0 + ulp / 8.0, 1.0 + f32::EPSILON),
            (1.0 + ulp * 7.0 / 8.0, 1.0 + f32::EPSILON),
            (1.0 + ulp * 9.0 / 8.0, 1.0 + f32::EPSILON),
            (-1.0 - ulp / 8.0, -1.0 - f32::EPSILON),
            (1e300, f32::MAX),
            (f64::INFINITY, f32::INFINITY),
            (1e-300, f32::from_bits(1)),
            (-1e-300, -f32::from_bits(1)),
            (0.0, 0.0),
        ];
        for &(value, expected) in cases {
            assert_eq!(value.narrow().to_bits(), expected.to_bits(), "{value:e}");
        }
        assert!(f64::NAN.narrow().is_nan());
    }

    #[test]
    fn fp64_reaches_bf16_in_one_rounding() {
        // Just above a tie between two bf16 values, by less than fp32 can see: rounding twice would fall back to the tie.
        let tie = 1.0 + 2f64.powi(-8);
        assert_eq!(bf16::from_f32(tie.narrow()).to_f32(), 1.0);
        assert_eq!(bf16::from_f32((tie + 2f64.powi(-40)).narrow()).to_f32(), 1.007_812_5);
        assert_eq!(bf16::from_f32((tie + 2f64.powi(-40)).f32()).to_f32(), 1.0);
    }
}
