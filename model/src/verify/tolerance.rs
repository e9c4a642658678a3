//! What a recipe's numbers are held to, and why. The measurements behind it are in `model/VERIFICATION.md`.

use stepwatch_kernels::Precision;
use stepwatch_kernels::op::Class;
use stepwatch_kernels::tensor::{Buffer, neighbour};

use crate::ir::Node;
use crate::random::Random;

/// What bf16 gradients must reach against fp32 where the recipe reaches it, dB: measured 36–41 up to dim 1024.
pub const BF16_FLOOR_DB: f64 = 32.0;

/// How far below the recipe's own distance from fp32 a right bf16 step may come, dB: two emulations differ by less in it. What
/// they lose in common is the recipe's, and there the most.
pub(super) const BF16_MARGIN_DB: f64 = 1.0;

/// What a cell's bf16 gradients must reach against fp32, where the worse of two emulations of the recipe reaches `reached_db`: wide
/// models lose more than the usual floor allows to rounding alone.
#[must_use]
pub(super) const fn bf16_floor_db(reached_db: f64) -> f64 {
    BF16_FLOOR_DB.min(reached_db - BF16_MARGIN_DB)
}

/// What fp32 gradients of a compiled list must reach against the uncompiled one, dB: only the order of sums may differ.
pub(super) const FP32_FLOOR_DB: f64 = 80.0;

/// How far below the measured spread of two right emulations a right step's worst gradient may come, dB: the spread itself
/// varies by less from one draw of roundings to the next.
pub(super) const SPREAD_MARGIN_DB: f64 = 3.0;

/// The same for the gradient of each parameter, fused matrices by what they hold: from one draw to the next these vary by up
/// to 3.8 dB.
pub(super) const PART_MARGIN_DB: f64 = 6.0;

/// How likely another right kernel rounds a sum to the other neighbour in bf16. The tensor cores keep about 14 bits of FP8
/// sums (see `stepwatch_kernels::sample`), 6 more than bf16 has: a rounding point lies within that error of one result in
/// 2⁵ (2⁻⁶ on either side).
const PRODUCTS_TURNED: f64 = 1.0 / 32.0;

/// The same for attention, which also rounds P and dS inside: kernels meet those at other scales (a running maximum, a factor
/// applied later), so that every such rounding may differ, and with them about a whole rounding of the result. Two
/// independent roundings differ by 1/√6 of a unit, root mean square: as much as one result in 6 turned.
const ATTENTION_TURNED: f64 = 1.0 / 6.0;

/// Relative tolerances of loss and gradient norm of step 0 against the fp32 twin: (loss, gradient norm).
///
/// fp32 differs by the order of sums. bf16 and FP8 are some 5 times what was measured over sizes and seeds: a mean over
/// many tokens and values hides most of what single gradients lose.
#[must_use]
pub(super) const fn against_fp32(precision: Precision) -> (f64, f64) {
    match precision {
        Precision::Fp32 => (1e-5, 1e-4),
        Precision::Bf16 => (1e-3, 2e-2),
        _ => (5e-3, 1e-1),
    }
}

/// A second right emulation of a recipe: results of products and of attention in bf16, rounded to the other neighbour by
/// chance. Of two right kernels neither is right in such a rounding: they add in different orders.
#[derive(Debug)]
pub struct OtherRoundings {
    random: Random,
    products: f64,
    attention: f64,
}

impl OtherRoundings {
    /// As another right kernel may round.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { attention: ATTENTION_TURNED, ..Self::at_rate(seed, PRODUCTS_TURNED) }
    }

    /// Every result with the same probability.
    #[must_use]
    pub const fn at_rate(seed: u64, rate: f64) -> Self {
        Self { random: Random::new(seed, 0x726f_756e_6400), products: rate, attention: rate }
    }

    /// Changes what an op has just written.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a probability in 32 bits")]
    pub fn after(&mut self, node: &Node, buffers: &mut [Option<Buffer<f32>>]) {
        let rate = match node.class() {
            Class::Gemm => self.products,
            Class::Attention => self.attention,
            _ => return,
        };
        let below = (rate * f64::from(u32::MAX)) as u32;
        for id in node.writes() {
            let Some(Buffer::Bf16(values)) = &mut buffers[id.index()] else { continue };
            for value in values {
                let draw = self.random.bits();
                // Zeros stay: they are no sums that were rounded.
                if ((draw >> 32) as u32) < below && value.to_bits() & 0x7fff != 0 {
                    *value = neighbour(*value, draw & 1 == 0);
                }
            }
        }
    }
}
