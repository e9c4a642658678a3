//! The launches of casts and scales fused with what surrounds them.

use crate::fused::Fused;
use crate::fused::launch::FusedKernel;

pub(crate) fn scales(_fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    None
}

pub(crate) fn cast(_fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    None
}
