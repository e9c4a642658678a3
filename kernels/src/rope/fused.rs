//! The launches of rotary positions turned back fused with what surrounds them.

use crate::fused::Fused;
use crate::fused::launch::FusedKernel;

pub(crate) fn backward(_fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    None
}
