//! The launches of SwiGLU fused with what surrounds them.

use crate::fused::Fused;
use crate::fused::launch::FusedKernel;

pub(crate) fn forward(_fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    None
}

pub(crate) fn backward(_fused: &Fused) -> Option<Box<dyn FusedKernel + '_>> {
    None
}
