//! The launches of cross-entropy forward and backward fused with what surrounds them.

use crate::fused::Fused;
use crate::fused::launch::FusedKernel;

pub(crate) fn loss(_fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    None
}
