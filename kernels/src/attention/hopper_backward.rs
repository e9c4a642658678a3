//! The tiled backward for Hopper, not yet launched.

use crate::gpu::source::Source;

pub(crate) static SOURCE: Source =
    Source { name: "flash_hopper_backward.cu", text: include_str!("flash_hopper_backward.cu") };
