//! Executors: what runs an op list, and what each backend lacks.

pub mod cpu;
pub mod cuda;
pub mod null;
pub mod search;
pub mod start;

use serde::{Deserialize, Serialize};

use crate::config::Pass;

/// What runs the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// The references, on the CPU.
    Cpu,
    /// The kernels, on a GPU.
    Cuda,
    /// Scripted times, nothing computed.
    Null,
}

impl Backend {
    /// Its name as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Null => "null",
        }
    }

    /// Why a pass does nothing here, if it does nothing.
    #[must_use]
    pub const fn lacks(self, pass: Pass) -> Option<&'static str> {
        match (self, pass) {
            (Self::Cpu, Pass::Search) => Some("the CPU has one algorithm per product: nothing to search"),
            (Self::Cpu, Pass::Graph) => Some("the CPU launches nothing: no graph to capture"),
            _ => None,
        }
    }
}
