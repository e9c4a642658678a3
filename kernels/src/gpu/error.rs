//! What can go wrong between a spec and a running kernel, each with what to do about it.

use cudarc::driver::DriverError;

/// A GPU that could not be found, asked or made to work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// No driver library.
    #[error(
        "no NVIDIA driver: libcuda.so.1 is not on the loader's path; install the driver, or run with `--backend cpu`"
    )]
    NoDriver,
    /// A driver without a device.
    #[error("no GPU with ordinal {ordinal}: the driver shows {found}; check CUDA_VISIBLE_DEVICES")]
    NoDevice {
        /// What was asked for.
        ordinal: usize,
        /// How many there are.
        found: usize,
    },
    /// A driver call failed.
    #[error("{call} failed: {status}")]
    Driver {
        /// The call, or the kernel that was launched.
        call: String,
        /// The driver's name and text for it.
        status: String,
    },
    /// A library that is not installed where users have it.
    #[error("{library} is not found: {remedy}; searched {searched}")]
    Library {
        /// Its file name.
        library: &'static str,
        /// How to get it.
        remedy: &'static str,
        /// Where was looked.
        searched: String,
    },
    /// A kernel's source that does not compile.
    #[error("kernel source {source_name} does not compile for {architecture}: {log}")]
    Compile {
        /// The file.
        source_name: &'static str,
        /// The target.
        architecture: String,
        /// The compiler's own words.
        log: String,
    },
    /// A call of the run-time compiler failed.
    #[error("nvrtc {call} failed: {status}")]
    Nvrtc {
        /// The call.
        call: &'static str,
        /// Its status.
        status: String,
    },
    /// A cuBLASLt call failed.
    #[error("cuBLASLt {call} failed for {what}: {status}")]
    Blas {
        /// The call.
        call: &'static str,
        /// The product, with its shape.
        what: String,
        /// Its status.
        status: String,
    },
    /// Not enough memory.
    #[error(
        "out of GPU memory: {asked} bytes asked for, {free} free; lower `batch_size` or `seq_len`, or set `recompute`"
    )]
    OutOfMemory {
        /// What was asked for, bytes.
        asked: usize,
        /// What was free, bytes.
        free: usize,
    },
    /// An op that no kernel here runs.
    #[error("{op}: {what}")]
    Unsupported {
        /// The op.
        op: String,
        /// What is not supported, and what is.
        what: String,
    },
    /// An operand that does not fit its op: a bug in the plan.
    #[error("{op} operand `{operand}`: {what}")]
    Operand {
        /// The op.
        op: &'static str,
        /// The operand.
        operand: String,
        /// What is wrong with it.
        what: String,
    },
}

impl GpuError {
    pub(crate) fn driver(call: impl Into<String>, error: DriverError) -> Self {
        let text = |found: Result<&std::ffi::CStr, DriverError>| found.map(|s| s.to_string_lossy().into_owned());
        let name = text(error.error_name()).unwrap_or_else(|_| format!("{:?}", error.0));
        let meaning = text(error.error_string()).unwrap_or_default();
        Self::Driver { call: call.into(), status: format!("{name}: {meaning}") }
    }
}
