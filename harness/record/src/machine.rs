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
    /// PCI address, such as `00000000:1B:00.0`.
    #[serde(default)]
    pub pci_id: Option<String>,
    /// Power limit that the board comes with, W.
    #[serde(default)]
    pub power_limit_default_w: Option<f64>,
    /// Whether error-correcting memory is on.
    #[serde(default)]
    pub ecc: Option<bool>,
    /// Whether it is cut into instances (MIG).
    #[serde(default)]
    pub mig: Option<bool>,
    /// Whether the driver keeps it initialised while nobody uses it.
    #[serde(default)]
    pub persistence: Option<bool>,
}

/// A GPU at one moment, as NVML describes it. What it does not say is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuState {
    /// Processes on it that are none of ours.
    #[serde(default)]
    pub other_processes: Option<u32>,
    /// Memory in use, bytes, the driver's own included.
    #[serde(default)]
    pub memory_used_bytes: Option<u64>,
    /// Enforced power limit, W.
    #[serde(default)]
    pub power_limit_w: Option<f64>,
    /// Whether error-correcting memory is on.
    #[serde(default)]
    pub ecc: Option<bool>,
    /// Corrected memory errors since the driver was loaded.
    #[serde(default)]
    pub ecc_corrected: Option<u64>,
    /// Uncorrected memory errors since the driver was loaded.
    #[serde(default)]
    pub ecc_uncorrected: Option<u64>,
    /// Whether it is cut into instances (MIG).
    #[serde(default)]
    pub mig: Option<bool>,
    /// Whether the driver keeps it initialised while nobody uses it.
    #[serde(default)]
    pub persistence: Option<bool>,
    /// Energy since the driver was loaded, J.
    #[serde(default)]
    pub energy_j: Option<f64>,
    /// Temperature, °C.
    #[serde(default)]
    pub temperature_c: Option<f64>,
}

/// What the parent saw of a GPU from before a worker started until after it ended. Observed, never set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuWatch {
    /// NVML UUID.
    pub uuid: String,
    /// Before the worker started.
    pub before: GpuState,
    /// After it ended.
    pub after: GpuState,
    /// The most processes beside the worker's own that were seen on it meanwhile.
    #[serde(default)]
    pub other_processes_meanwhile: u32,
    /// Xid errors that the driver reported meanwhile, in order; absent where it does not report them.
    #[serde(default)]
    pub xid: Option<Vec<u64>>,
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
