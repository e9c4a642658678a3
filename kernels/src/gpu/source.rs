//! The kernel sources, embedded: one per op folder, and the headers that they share.

use crate::{
    adamw, attention, cast, cross_entropy, embedding, gemm, gradient, quantise, residual, rmsnorm, rope, swiglu,
    transpose,
};

/// One CUDA source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Its file name.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// What sources include, by name.
pub const HEADERS: [Source; 12] = [
    Source { name: "adamw.cuh", text: include_str!("../adamw/adamw.cuh") },
    Source { name: "cast.cuh", text: include_str!("../quantise/cast.cuh") },
    Source { name: "cross_entropy.cuh", text: include_str!("../cross_entropy/cross_entropy.cuh") },
    Source { name: "element.cuh", text: include_str!("element.cuh") },
    Source { name: "gradient.cuh", text: include_str!("../gradient/gradient.cuh") },
    Source { name: "hopper.cuh", text: include_str!("hopper.cuh") },
    Source { name: "reduce.cuh", text: include_str!("reduce.cuh") },
    Source { name: "rows.cuh", text: include_str!("../rmsnorm/rows.cuh") },
    Source { name: "scale.cuh", text: include_str!("../quantise/scale.cuh") },
    Source { name: "swiglu.cuh", text: include_str!("../swiglu/swiglu.cuh") },
    Source { name: "rope.cuh", text: include_str!("../rope/rope.cuh") },
    Source { name: "tile.cuh", text: include_str!("../quantise/tile.cuh") },
];

/// Every source, so that all can be compiled where there is no GPU.
pub static SOURCES: [&Source; 21] = [
    &adamw::launch::SOURCE,
    &attention::launch::FLASH,
    &attention::launch::FLASH_BF16,
    &attention::hopper::SOURCE,
    &attention::hopper_backward::SOURCE,
    &attention::launch::NAIVE,
    &cast::launch::SOURCE,
    &cross_entropy::launch::SOURCE,
    &embedding::launch::SOURCE,
    &gemm::launch::SOURCE,
    &gemm::search::SOURCE,
    &gradient::launch::SOURCE,
    &quantise::count::SOURCE,
    &quantise::launch::SOURCE,
    &residual::launch::SOURCE,
    &rmsnorm::launch::SOURCE,
    &rope::launch::SOURCE,
    &swiglu::launch::SOURCE,
    &transpose::launch::SOURCE,
    &crate::timer::CLOCKS,
    &super::gather::SOURCE,
];
