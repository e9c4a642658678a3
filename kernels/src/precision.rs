//! The recipe table: the one place that knows what a precision means for each GEMM of a training step.
//!
//! A recipe says, per role, in which format each operand is multiplied, how finely it is scaled, from which amax, and
//! how products are accumulated. Everything else (op list, kernels, documentation) asks this table.

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;

/// What a user writes as `precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Everything in fp32, no TF32.
    Fp32,
    /// Weights, activations and gradients in bf16, fp32 accumulation.
    Bf16,
    /// FP8 GEMMs in the blocks, one scale per tensor from its own amax (torchao's `tensorwise`).
    Fp8Tensorwise,
    /// FP8 GEMMs, one scale per tensor from the amax of the last 16 steps (Transformer Engine's `DelayedScaling`).
    Fp8Delayed,
    /// FP8 GEMMs, one scale per row of each operand (torchao's `rowwise`).
    Fp8Rowwise,
    /// As rowwise, with the weight gradient in bf16 (torchao's `rowwise_with_gw_hp`).
    Fp8RowwiseGwHp,
    /// FP8 GEMMs, 1 × 128 scales for activations and gradients, 128 × 128 for weights (DeepSeek-V3's).
    Fp8Block128,
}

/// Which of a linear layer's three products a GEMM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// `Y = X · Wᵀ`.
    Forward,
    /// `dX = dY · W`.
    InputGradient,
    /// `dW = dYᵀ · X`.
    WeightGradient,
}

/// How much of an operand shares one scale. Rows and columns are those of the GEMM operand, whose columns are the
/// dimension that is summed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// One scale for the tensor.
    Tensor,
    /// One scale per row.
    Row,
    /// One scale per 128 consecutive elements of a row.
    Block1x128,
    /// One scale per 128 × 128 block.
    Block128x128,
}

/// Which amax a scale is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timing {
    /// This tensor's own amax, now: a pass over it before it can be cast.
    Current,
    /// The largest amax of the last [`DELAYED_HISTORY`] steps; the first step is calibrated on its own amax.
    Delayed,
    /// A bound that is known before any step: no pass over the tensor, and nothing saturates.
    Bound,
}

/// Steps of amax history that delayed scaling looks back on; the scale comes from their maximum, without margin.
pub const DELAYED_HISTORY: usize = 16;

/// Lower bound of an amax before a scale is made of it, so that a tensor of zeros has a finite scale.
/// Source: torchao `float8/float8_utils.py` (`EPS = 1e-12`).
pub const AMAX_EPSILON: f32 = 1e-12;

/// How one operand of an FP8 GEMM is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scaled {
    /// E4M3 or E5M2.
    pub format: Dtype,
    /// How much shares a scale.
    pub granularity: Granularity,
    /// Whether scales are rounded to powers of two (down in magnitude of the cast values, so none saturates).
    pub power_of_two: bool,
    /// Which amax the scale is made from.
    pub timing: Timing,
}

impl Scaled {
    /// The same for the gradient of the logits. No element of it exceeds 1/T in magnitude, T tokens a step: (softmax − 1) / T
    /// comes near it wherever a token is guessed badly, so that 1/T is what its amax is, and one scale for all needs no amax.
    /// Source of the scale: modded-nanogpt's FP8 head.
    #[must_use]
    pub const fn of_logits(self) -> Self {
        match self.granularity {
            Granularity::Tensor => Self { timing: Timing::Bound, ..self },
            _ => self,
        }
    }
}

/// How a GEMM of one role is computed. Casts to FP8 saturate in every recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GemmRecipe {
    /// Both operands in this dtype, fp32 accumulation.
    Plain(Dtype),
    /// Both operands cast to FP8.
    Fp8 {
        /// The operand that comes from activations: X (forward, weight gradient) or dY (input gradient).
        a: Scaled,
        /// The other: W (forward, input gradient) or dY (weight gradient).
        b: Scaled,
        /// Whether partial sums stay in the tensor cores' reduced precision (cuBLASLt `FAST_ACCUM`); the CPU executor
        /// accumulates in fp32 either way.
        fast_accumulation: bool,
    },
}

impl GemmRecipe {
    /// The same with partial sums in the tensor cores' reduced precision, where products can have them: in FP8 with one scale a
    /// tensor or a row.
    #[must_use]
    pub const fn accumulated_fast(self) -> Self {
        match self {
            Self::Fp8 { a, b, .. } if matches!(a.granularity, Granularity::Tensor | Granularity::Row) => {
                Self::Fp8 { a, b, fast_accumulation: true }
            }
            _ => self,
        }
    }
}

impl Precision {
    /// All precisions, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::Fp32,
        Self::Bf16,
        Self::Fp8Tensorwise,
        Self::Fp8Delayed,
        Self::Fp8Rowwise,
        Self::Fp8RowwiseGwHp,
        Self::Fp8Block128,
    ];

    /// Its name as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp8Tensorwise => "fp8-tensorwise",
            Self::Fp8Delayed => "fp8-delayed",
            Self::Fp8Rowwise => "fp8-rowwise",
            Self::Fp8RowwiseGwHp => "fp8-rowwise-gw-hp",
            Self::Fp8Block128 => "fp8-block128",
        }
    }

    /// The precision of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|precision| precision.name() == name)
    }

    /// Whether any GEMM of it runs in FP8.
    #[must_use]
    pub const fn is_fp8(self) -> bool {
        !matches!(self, Self::Fp32 | Self::Bf16)
    }

    /// The dtype of activations, gradients and of weights as the forward pass reads them.
    #[must_use]
    pub const fn activation(self) -> Dtype {
        match self {
            Self::Fp32 => Dtype::F32,
            _ => Dtype::Bf16,
        }
    }

    /// [`Self::recipe`] for the classifier under `head = "fp8"`: its dY is the gradient of the logits.
    #[must_use]
    pub const fn head_recipe(self, role: Role) -> GemmRecipe {
        match (self.recipe(role), role) {
            (GemmRecipe::Fp8 { a, b, fast_accumulation }, Role::InputGradient) => {
                GemmRecipe::Fp8 { a: a.of_logits(), b, fast_accumulation }
            }
            (GemmRecipe::Fp8 { a, b, fast_accumulation }, Role::WeightGradient) => {
                GemmRecipe::Fp8 { a, b: b.of_logits(), fast_accumulation }
            }
            (recipe, _) => recipe,
        }
    }

    /// What this precision means for one role. Gradients (dY) are E5M2 where a scale covers a whole tensor and E4M3 where
    /// scales are finer (torchao, DeepSeek-V3); E5M2 × E5M2 never meets, because X and W are always E4M3. Fast
    /// accumulation in the forward product only, as in torchao and Transformer Engine: [`GemmRecipe::accumulated_fast`] has more.
    #[must_use]
    pub const fn recipe(self, role: Role) -> GemmRecipe {
        use Granularity::{Block1x128, Block128x128, Row, Tensor};
        use Timing::{Current, Delayed};
        let fast_accumulation = matches!(role, Role::Forward);
        match self {
            Self::Fp32 => GemmRecipe::Plain(Dtype::F32),
            Self::Bf16 => GemmRecipe::Plain(Dtype::Bf16),
            Self::Fp8Tensorwise => fp8(role, Dtype::E5m2, (Tensor, Tensor), false, Current, fast_accumulation),
            Self::Fp8Delayed => fp8(role, Dtype::E5m2, (Tensor, Tensor), false, Delayed, fast_accumulation),
            Self::Fp8Rowwise => fp8(role, Dtype::E4m3, (Row, Row), true, Current, fast_accumulation),
            Self::Fp8RowwiseGwHp => match role {
                Role::WeightGradient => GemmRecipe::Plain(Dtype::Bf16),
                _ => fp8(role, Dtype::E4m3, (Row, Row), true, Current, fast_accumulation),
            },
            Self::Fp8Block128 => match role {
                Role::WeightGradient => fp8(role, Dtype::E4m3, (Block1x128, Block1x128), false, Current, false),
                _ => fp8(role, Dtype::E4m3, (Block1x128, Block128x128), false, Current, false),
            },
        }
    }
}

/// One FP8 row of the table: dY in `gradient`, everything else E4M3.
const fn fp8(
    role: Role,
    gradient: Dtype,
    granularity: (Granularity, Granularity),
    power_of_two: bool,
    timing: Timing,
    fast_accumulation: bool,
) -> GemmRecipe {
    let (a, b) = match role {
        Role::Forward => (Dtype::E4m3, Dtype::E4m3),
        Role::InputGradient => (gradient, Dtype::E4m3),
        Role::WeightGradient => (Dtype::E4m3, gradient),
    };
    GemmRecipe::Fp8 {
        a: Scaled { format: a, granularity: granularity.0, power_of_two, timing },
        b: Scaled { format: b, granularity: granularity.1, power_of_two, timing },
        fast_accumulation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 3] = [Role::Forward, Role::InputGradient, Role::WeightGradient];

    #[test]
    fn names_round_trip_and_serde_agrees() {
        for precision in Precision::ALL {
            assert_eq!(Precision::from_name(precision.name()), Some(precision));
        }
        assert_eq!(Precision::from_name("fp8"), None);
    }

    /// The documentation's row for one precision and role.
    fn row(precision: Precision, role: Role) -> String {
        let name = match role {
            Role::Forward => "forward",
            Role::InputGradient => "input gradient",
            Role::WeightGradient => "weight gradient",
        };
        let cells = match precision.recipe(role) {
            GemmRecipe::Plain(dtype) => format!("{dtype} × {dtype} | – | – | – | fp32"),
            GemmRecipe::Fp8 { a, b, fast_accumulation } => {
                let granularity = |scaled: Scaled| match scaled.granularity {
                    Granularity::Tensor => "tensor",
                    Granularity::Row => "row",
                    Granularity::Block1x128 => "1×128",
                    Granularity::Block128x128 => "128×128",
                };
                let timing = if a.timing == Timing::Delayed { "history of 16" } else { "current" };
                let power = if a.power_of_two { "yes" } else { "no" };
                let sums = if fast_accumulation { "fast" } else { "fp32" };
                format!(
                    "{} × {} | {} × {} | {power} | {timing} | {sums}",
                    a.format,
                    b.format,
                    granularity(a),
                    granularity(b)
                )
            }
        };
        format!("| `{}` | {name} | {cells} |", precision.name())
    }

    #[test]
    fn the_documentation_is_the_table() {
        let page = include_str!("../PRECISION.md");
        let rows: Vec<String> = Precision::ALL.iter().flat_map(|p| ROLES.map(|role| row(*p, role))).collect();
        let missing: Vec<&String> = rows.iter().filter(|row| !page.contains(row.as_str())).collect();
        assert!(missing.is_empty(), "PRECISION.md lacks these rows:\n{}", rows.join("\n"));
    }

    #[test]
    fn fast_accumulation_is_for_scales_of_tensors_and_rows() {
        let fast = |precision: Precision| {
            ROLES.map(|role| match precision.recipe(role).accumulated_fast() {
                GemmRecipe::Plain(_) => None,
                GemmRecipe::Fp8 { fast_accumulation, .. } => Some(fast_accumulation),
            })
        };
        assert_eq!(fast(Precision::Bf16), [None; 3]);
        assert_eq!(fast(Precision::Fp8Delayed), [Some(true); 3]);
        assert_eq!(fast(Precision::Fp8RowwiseGwHp), [Some(true), Some(true), None]);
        assert_eq!(fast(Precision::Fp8Block128), [Some(false); 3]);
    }

    /// Both products that read the gradient of the logits cast it alike: one cast serves both.
    #[test]
    fn the_gradient_of_the_logits_has_one_recipe() {
        for precision in [Precision::Fp8Tensorwise, Precision::Fp8Delayed] {
            let of = |role| match precision.head_recipe(role) {
                GemmRecipe::Fp8 { a, b, .. } => (a, b),
                GemmRecipe::Plain(dtype) => panic!("{dtype}"),
            };
            let (input, weight) = (of(Role::InputGradient), of(Role::WeightGradient));
            assert_eq!((input.0, input.0.timing), (weight.1, Timing::Bound));
            assert_eq!(precision.head_recipe(Role::Forward), precision.recipe(Role::Forward));
            assert!(input.1.timing != Timing::Bound && weight.0.timing != Timing::Bound);
        }
        for role in ROLES {
            let row = Precision::Fp8Rowwise;
            assert_eq!(row.head_recipe(role), row.recipe(role), "rows have scales of their own");
        }
    }

    #[test]
    fn no_recipe_multiplies_e5m2_by_e5m2() {
        for precision in Precision::ALL {
            for role in ROLES {
                if let GemmRecipe::Fp8 { a, b, .. } = precision.recipe(role) {
                    assert!(a.format.is_fp8() && b.format.is_fp8());
                    assert!(!(a.format == Dtype::E5m2 && b.format == Dtype::E5m2), "{} {role:?}", precision.name());
                    // cuBLASLt pairs scalar with scalar, outer with outer, and never 128×128 with 128×128.
                    let pair = (a.granularity, b.granularity);
                    assert_ne!(pair, (Granularity::Block128x128, Granularity::Block128x128));
                    assert_eq!(pair.0 == Granularity::Tensor, pair.1 == Granularity::Tensor);
                    assert_eq!(pair.0 == Granularity::Row, pair.1 == Granularity::Row);
                }
            }
        }
    }
}
