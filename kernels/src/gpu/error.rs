//! What can go wrong between a spec and a running kernel, each with what to do about it.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

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
    /// Not enough memory for something whose size the driver keeps to itself: modules, streams, workspaces.
    #[error("out of GPU memory in {call}; lower `batch_size` or `seq_len`, or set `recompute`")]
    NoMemoryFor {
        /// The call.
        call: String,
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
        Self::of_status(call.into(), error.0, &format!("{name}: {meaning}"))
    }

    /// What a status of the driver means for whoever asked: too little memory, a machine that cannot run this, or a failure.
    pub(super) fn of_status(call: String, status: CUresult, text: &str) -> Self {
        match (status, advice(status)) {
            (CUresult::CUDA_ERROR_OUT_OF_MEMORY, _) => Self::NoMemoryFor { call },
            (_, Some((Advice::CannotRun, what))) => {
                Self::Unsupported { op: call, what: format!("the driver says {text}; {what}") }
            }
            (_, Some((Advice::Broken, what))) => Self::Driver { call, status: format!("{text}; {what}") },
            (_, None) => Self::Driver { call, status: text.to_owned() },
        }
    }
}

/// Whether a status speaks of the machine or of what ran on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advice {
    /// Nothing of the kind can run here.
    CannotRun,
    /// Something ran and broke; the process's context is lost.
    Broken,
}

/// What to do about the statuses that a user meets. Source of their meaning: cuda.h, `cudaError_enum`.
const fn advice(status: CUresult) -> Option<(Advice, &'static str)> {
    use Advice::{Broken, CannotRun};
    Some(match status {
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            (CannotRun, "the driver is too old or half updated: install a newer one, or restart the machine")
        }
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => (
            CannotRun,
            "what was compiled does not fit this GPU and driver: install a driver as new as the CUDA toolkit, or an older toolkit",
        ),
        CUresult::CUDA_ERROR_NO_DEVICE => (CannotRun, "check that this machine or container was given a GPU"),
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS => (
            Broken,
            "a kernel reached outside its memory: this is a bug; `compute-sanitizer stepwatch …` names the kernel",
        ),
        CUresult::CUDA_ERROR_LAUNCH_TIMEOUT => {
            (Broken, "the driver ended a kernel that ran too long on a GPU with a display")
        }
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE => {
            (Broken, "the GPU's memory is damaged: take it out of service until it was reset")
        }
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
        | CUresult::CUDA_ERROR_DEVICE_NOT_LICENSED
        | CUresult::CUDA_ERROR_SYSTEM_NOT_READY
        | CUresult::CUDA_ERROR_UNKNOWN => {
            (Broken, "the GPU does not answer or fell off the bus: see `dmesg` for Xid errors, and restart the machine")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_the_machine_cannot_or_the_work_broke() {
        let of = |status| GpuError::of_status("cuX".to_owned(), status, "NAME: meaning");
        assert!(matches!(of(CUresult::CUDA_ERROR_OUT_OF_MEMORY), GpuError::NoMemoryFor { .. }));
        for status in [CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU] {
            let error = of(status);
            assert!(matches!(error, GpuError::Unsupported { .. }), "{error}");
            assert!(error.to_string().starts_with("cuX: the driver says NAME: meaning; "), "{error}");
        }
        let broken = of(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert!(matches!(broken, GpuError::Driver { .. }));
        assert!(broken.to_string().contains("a kernel reached outside its memory"), "{broken}");
        assert_eq!(of(CUresult::CUDA_ERROR_INVALID_VALUE).to_string(), "cuX failed: NAME: meaning");
    }
}
