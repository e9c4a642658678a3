//! The element types of tensors, their sizes and their largest finite values.

use serde::{Deserialize, Serialize};

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dtype {
    /// IEEE binary32. The finite-difference tests run it as binary64.
    F32,
    /// bfloat16: 8 exponent bits, 7 fraction bits.
    Bf16,
    /// FP8 E4M3 (OCP "FN": no infinity, largest value 448).
    E4m3,
    /// FP8 E5M2 (IEEE-like: infinity, largest finite value 57344).
    E5m2,
    /// 32-bit integer: token ids, counters.
    I32,
}

impl Dtype {
    /// Size of one element, bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::Bf16 => 2,
            Self::E4m3 | Self::E5m2 => 1,
        }
    }

    /// Whether it is one of the two FP8 formats.
    #[must_use]
    pub const fn is_fp8(self) -> bool {
        matches!(self, Self::E4m3 | Self::E5m2)
    }

    /// The largest finite value; `None` for integers. Source: OCP 8-bit Floating Point Specification 1.0, table 1.
    #[must_use]
    pub const fn max_finite(self) -> Option<f32> {
        match self {
            Self::F32 => Some(f32::MAX),
            Self::Bf16 => Some(3.389_531_4e38),
            Self::E4m3 => Some(448.0),
            Self::E5m2 => Some(57344.0),
            Self::I32 => None,
        }
    }

    /// Its name as written in messages and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "fp32",
            Self::Bf16 => "bf16",
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
            Self::I32 => "i32",
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
