//! Faults on demand, so that every way in which a GPU fails can be tested where there is none. Test only: nothing asks for
//! them but the worker's hidden `STEPWATCH_INJECT`.

use cudarc::driver::sys::CUresult;

use super::GpuError;
use super::library::Library;

/// The faults by name.
pub const NAMES: [&str; 8] = [
    "no-driver",
    "old-driver",
    "no-gpu",
    "no-nvrtc",
    "wrong-architecture",
    "out-of-memory",
    "illegal-address",
    "gpu-lost",
];

/// The error that the real fault would be told as; `None` for a name that is none of [`NAMES`].
#[must_use]
pub fn error(name: &str) -> Option<GpuError> {
    let status = |call: &str, status: CUresult| GpuError::of_status(call.to_owned(), status, &format!("{status:?}"));
    Some(match name {
        "no-driver" => GpuError::NoDriver,
        "old-driver" => status("cuInit", CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH),
        "no-gpu" => GpuError::NoDevice { ordinal: 0, found: 0 },
        "no-nvrtc" => GpuError::Library {
            library: Library::Nvrtc.prefix(),
            remedy: Library::Nvrtc.remedy(),
            searched: "nowhere".to_owned(),
        },
        "wrong-architecture" => status("cuModuleLoadData", CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU),
        "out-of-memory" => GpuError::OutOfMemory { asked: 1 << 37, free: 1 << 30 },
        "illegal-address" => status("cuStreamSynchronize", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS),
        "gpu-lost" => status("cuStreamSynchronize", CUresult::CUDA_ERROR_UNKNOWN),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_error_and_no_other_has() {
        assert!(NAMES.iter().all(|name| error(name).is_some()));
        assert_eq!(error("rain"), None);
    }
}
