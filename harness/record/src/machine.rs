//! The machine a run was measured on, and the libraries it used: what two runs must share to be comparable.

use serde::{Deserialize, Serialize};

/// One machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// SHA-256 of the host name, 8 hex digits, or the name itself with `--identify`.
    pub host: String,
    /// Operating system and kernel version.
    pub os: String,
    /// CPU model.
    pub cpu: String,
    /// Logical cores this process may use.
    pub cpu_cores: u32,
    /// Main memory, bytes.
    pub memory_bytes: u64,
    /// The GPUs used, none for a CPU run.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    /// Driver version.
    #[serde(default)]
    pub driver: Option<String>,
    /// Libraries with version and path, as found mapped in the worker.
    #[serde(default)]
    pub libraries: Vec<Library>,
}

/// One GPU as NVML describes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Product name.
    pub name: String,
    /// NVML UUID.
    pub uuid: String,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Enforced power limit, W.
    #[serde(default)]
    pub power_limit_w: Option<f64>,
    /// Highest SM clock, Hz.
    #[serde(default)]
    pub max_sm_clock_hz: Option<f64>,
}

/// A library a worker had loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// Its name, such as `cublasLt`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it was loaded from.
    pub path: String,
}

/// The build that measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The version of stepwatch.
    pub version: String,
    /// SHA-256 of the binary, 16 hex digits.
    pub binary: String,
    /// The commit of the directory the run was started in (the user's code), if it is a git checkout.
    #[serde(default)]
    pub commit: Option<String>,
    /// Whether that checkout had uncommitted changes.
    #[serde(default)]
    pub dirty: bool,
}
