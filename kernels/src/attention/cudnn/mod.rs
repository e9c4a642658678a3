//! cuDNN's fused attention: loaded at run time, prepared once for a shape, then enqueued on a stream with fixed memory.
//!
//! Reads packed QKV and writes packed dQKV as they lie. It may not know who owns the memory, or whether a stream is captured.
//! Forward is bitwise repeatable; backward is not, since blocks of keys add to dQ in any order.

mod descriptor;
mod graph;
mod library;
mod plan;
mod sdpa;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::rc::Rc;

use graph::Graph;
pub use library::{FILE_NAME, Library, Version};
use plan::Plan;
pub use plan::{Engine, Handle, Launch};

use super::Shape;
use crate::dtype::Dtype;

/// Attention that cuDNN does not run, and why. All but [`CudnnError::Call`] and [`CudnnError::Address`] are reasons to skip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudnnError {
    /// No library.
    #[error(
        "libcudnn.so.9 is not found: `pip install nvidia-cudnn-cu13` into the active Python, or install cuDNN 9 where the loader looks; searched {searched}"
    )]
    Missing {
        /// Where was looked.
        searched: String,
    },
    /// Another library by its name.
    #[error("{path} is not cuDNN 9: it has no `{symbol}`", path = path.display())]
    NotCudnn {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        symbol: &'static str,
    },
    /// A version with a known fault.
    #[error("cuDNN {version} ({path}) {reason}; install 9.15.1 or newer", path = path.display())]
    Refused {
        /// The version.
        version: Version,
        /// Its file.
        path: PathBuf,
        /// The fault.
        reason: &'static str,
    },
    /// A shape, a dtype or a device without an engine.
    #[error("cuDNN runs no such attention: {reason}")]
    Unsupported {
        /// cuDNN's or our reason.
        reason: String,
    },
    /// A call that failed.
    #[error("{call}: {name} ({status}): {detail}")]
    Call {
        /// The call.
        call: &'static str,
        /// `cudnnStatus_t`.
        status: i32,
        /// Its name.
        name: String,
        /// cuDNN's last error, in its words.
        detail: String,
    },
    /// An operand that kernels could not read.
    #[error("operand `{name}` at {address:#x}: device memory aligned to 16 bytes is expected")]
    Address {
        /// The operand.
        name: &'static str,
        /// Its address.
        address: u64,
    },
}

impl CudnnError {
    /// Whether it says that cuDNN cannot do it here, rather than that something broke.
    #[must_use]
    pub const fn is_unsupported(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::NotCudnn { .. } | Self::Refused { .. } | Self::Unsupported { .. } => true,
            // CUDNN_STATUS_NOT_SUPPORTED and its specific codes; 1001 is a machine that cuDNN cannot start on.
            Self::Call { status, .. } => *status / 1000 == 3 || *status == 1001,
            Self::Address { .. } => false,
        }
    }
}

/// Forward or backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// [`super::FlashForward`]: reads qkv, writes context and lse.
    Forward,
    /// [`super::FlashBackward`]: reads qkv, context, lse and dcontext, writes dqkv.
    Backward,
}

impl Direction {
    fn graph(self, library: &Rc<Library>, shape: Shape) -> Result<Graph, CudnnError> {
        let unsupported = |reason| Err(CudnnError::Unsupported { reason });
        if shape.dtype != Dtype::Bf16 {
            return unsupported(format!("dtype {}: bf16 is expected", shape.dtype));
        }
        // Heads must start on 16 bytes; wider ones get an engine, but are nothing that cuDNN promises (on Hopper).
        if !shape.head_dim.is_multiple_of(8) || shape.head_dim > 256 {
            return unsupported(format!("head dim {}: a multiple of 8 up to 256 is expected", shape.head_dim));
        }
        if let Some(reason) = library.version().refusal_of_length(shape.seq) {
            let (version, path) = (library.version(), library.path().to_path_buf());
            return Err(CudnnError::Refused { version, path, reason });
        }
        match self {
            Self::Forward => sdpa::forward(library, shape),
            Self::Backward => sdpa::backward(library, shape),
        }
    }
}

/// One direction of attention of one shape, compiled for one device.
#[derive(Debug)]
pub struct Attention {
    handle: Rc<Handle>,
    plan: Rc<Plan>,
}

impl Attention {
    /// Compiles the first plan that cuDNN's heuristics offer.
    ///
    /// # Errors
    /// If this cuDNN does not support the shape or the device.
    pub fn prepare(handle: &Rc<Handle>, shape: Shape, direction: Direction) -> Result<Self, CudnnError> {
        let nothing = || CudnnError::Unsupported { reason: "heuristics offer nothing".into() };
        Self::offered(handle, shape, direction, 1)?.into_iter().next().ok_or_else(nothing)
    }

    /// Compiles the plans that cuDNN's heuristics offer, best first, at most `most` of them: for a search.
    ///
    /// # Errors
    /// If there is none.
    pub fn offered(
        handle: &Rc<Handle>,
        shape: Shape,
        direction: Direction,
        most: usize,
    ) -> Result<Vec<Self>, CudnnError> {
        let graph = direction.graph(handle.library(), shape)?;
        let plans = Plan::offered(handle.device(), &graph, most)?;
        Ok(plans.into_iter().map(|plan| Self { handle: Rc::clone(handle), plan: Rc::new(plan) }).collect())
    }

    /// Scratch memory that it needs while it runs, bytes, aligned to 256; may be shared with whatever runs before or after.
    #[must_use]
    pub fn scratch_bytes(&self) -> usize {
        self.plan.scratch_bytes()
    }

    /// Which engine runs it.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        self.plan.engine()
    }

    /// Binds it to memory: the device address of every operand by its name in the op's signature, and of the scratch memory.
    ///
    /// # Errors
    /// If an address is 0 or not aligned to 16 bytes.
    pub fn bind(&self, operand: impl Fn(&str) -> u64, scratch: u64) -> Result<Launch, CudnnError> {
        Launch::new(&self.handle, &self.plan, operand, scratch)
    }
}
