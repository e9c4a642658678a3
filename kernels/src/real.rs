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
}
