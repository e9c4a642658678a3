//! What a process finds when it opens the driver and NVIDIA's libraries: devices, versions, and the files that were loaded.
//!
//! Opening them may end the process or hang it, so it is asked for in a child. It opens no context and may not know who asks.
#![allow(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::library::{self, Library};
use super::{Facts, GpuError, devices, driver};
use crate::attention::cudnn;
use crate::nvrtc;

/// One library, as it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// `driver`, `nvrtc`, `cublasLt`, `cudnn`.
    pub name: String,
    /// Its version, if it said one.
    pub version: Option<String>,
    /// The file that was loaded.
    pub path: Option<String>,
    /// Why it cannot be used, and what to do.
    pub problem: Option<String>,
}

/// Everything that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The visible devices, in CUDA's order.
    pub devices: Vec<Facts>,
    /// The libraries, whether or not they can be used.
    pub libraries: Vec<Found>,
    /// Why nothing runs on a GPU here; `None` if something does.
    pub obstacle: Option<String>,
}

/// Oldest compute capability whose tensor cores take bf16.
const OLDEST: (i32, i32) = (8, 0);

/// Opens everything once.
#[must_use]
pub fn probe() -> Probe {
    let mut cuda = None;
    let listed = devices();
    if let Ok(devices) = &listed {
        cuda = devices.first().map(|device| device.driver_cuda);
    }
    let compiler = nvrtc::version();
    let libraries = vec![
        found(
            "driver",
            "libcuda.so",
            driver().map(|()| cuda.map(|(a, b)| format!("CUDA {a}.{b}")).unwrap_or_default()),
        ),
        found("nvrtc", "libnvrtc.so", compiler.clone().map(|(major, minor)| format!("{major}.{minor}"))),
        found("cublasLt", "libcublasLt.so", blas_version()),
        cudnn_found(),
    ];
    let obstacle = obstacle(&listed, &compiler, &libraries);
    Probe { devices: listed.unwrap_or_default(), libraries, obstacle }
}

/// The first thing that keeps all cells from running, in words that say what to do.
fn obstacle(
    devices: &Result<Vec<Facts>, GpuError>,
    compiler: &Result<(i32, i32), GpuError>,
    libraries: &[Found],
) -> Option<String> {
    let device = match devices {
        Err(error) => return Some(error.to_string()),
        Ok(devices) => match devices.first() {
            None => return Some(GpuError::NoDevice { ordinal: 0, found: 0 }.to_string()),
            Some(device) => device,
        },
    };
    if device.capability < OLDEST {
        let (major, minor) = device.capability;
        return Some(format!(
            "{} has compute capability {major}.{minor}: bf16 needs {}.{} or newer",
            device.name, OLDEST.0, OLDEST.1
        ));
    }
    match compiler {
        Err(error) => return Some(error.to_string()),
        // Machine code of one major version loads on drivers of that version and newer (CUDA's minor-version compatibility).
        Ok((major, minor)) if device.driver_cuda.0 < *major => {
            return Some(format!(
                "the driver is too old: it is for CUDA {}.{} and cannot load what NVRTC {major}.{minor} compiles; update \
                 the driver, or set CUDA_HOME to a toolkit of CUDA {}",
                device.driver_cuda.0, device.driver_cuda.1, device.driver_cuda.0
            ));
        }
        Ok(_) => {}
    }
    let blas = libraries.iter().find(|library| library.name == "cublasLt")?;
    blas.problem.clone()
}

fn found(name: &str, prefix: &str, version: Result<String, GpuError>) -> Found {
    let path = library::mapped().into_iter().find(|file| file.name.starts_with(prefix));
    let path = path.map(|file| file.path.display().to_string());
    let (version, problem) = match version {
        Ok(version) => (Some(version).filter(|version| !version.is_empty()), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Found { name: name.to_owned(), version, path, problem }
}

fn blas_version() -> Result<String, GpuError> {
    Library::CublasLt.load()?;
    // SAFETY: the library was shown to be present; the call takes nothing and returns a number.
    let number = unsafe { cudarc::cublaslt::sys::cublasLtGetVersion() };
    Ok(dotted(number))
}

/// From `cublasLtGetVersion`: 130200 is 13.2.0, and 120805 is 12.8.5.
fn dotted(number: usize) -> String {
    format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
}

fn cudnn_found() -> Found {
    let (version, path, problem) = match cudnn::Library::load(&library::candidates(cudnn::FILE_NAME)) {
        Ok(library) => (Some(library.version().to_string()), Some(library.path().display().to_string()), None),
        Err(error) => (None, None, Some(error.to_string())),
    };
    // A bare name is what the loader was asked for; the map says which file it took.
    let mapped = || library::mapped().into_iter().find(|file| file.name.starts_with("libcudnn.so"));
    let path =
        path.and_then(|path| if path.contains('/') { Some(path) } else { Some(mapped()?.path.display().to_string()) });
    Found { name: "cudnn".to_owned(), version, path, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(capability: (i32, i32), driver_cuda: (i32, i32)) -> Facts {
        Facts {
            ordinal: 0,
            name: "A GPU".to_owned(),
            uuid: String::new(),
            multiprocessors: 1,
            memory_bytes: 1,
            capability,
            shared_bytes_per_block: 1,
            l2_bytes: 1,
            sm_clock_hz: 1,
            driver_cuda,
        }
    }

    #[test]
    fn what_keeps_everything_from_running_is_said_in_one_line() {
        let missing = GpuError::Library { library: "libnvrtc.so", remedy: "install it", searched: "/a".to_owned() };
        let blas = |problem: Option<&str>| {
            let problem = problem.map(str::to_owned);
            vec![Found { name: "cublasLt".to_owned(), version: None, path: None, problem }]
        };
        let good = || Ok(vec![device((9, 0), (13, 0))]);
        let cases = [
            (good(), Ok((13, 0)), blas(None), None),
            (good(), Ok((12, 9)), blas(None), None),
            (Err(GpuError::NoDriver), Ok((13, 0)), blas(None), Some("no NVIDIA driver")),
            (Ok(vec![]), Ok((13, 0)), blas(None), Some("no GPU with ordinal 0")),
            (Ok(vec![device((7, 5), (13, 0))]), Ok((13, 0)), blas(None), Some("A GPU has compute capability 7.5")),
            (
                Ok(vec![device((9, 0), (12, 4))]),
                Ok((13, 0)),
                blas(None),
                Some("the driver is too old: it is for CUDA 12.4"),
            ),
            (good(), Err(missing), blas(None), Some("libnvrtc.so is not found: install it; searched /a")),
            (good(), Ok((13, 0)), blas(Some("no cuBLASLt")), Some("no cuBLASLt")),
        ];
        for (devices, compiler, libraries, expected) in cases {
            let found = obstacle(&devices, &compiler, &libraries);
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{expected:?}");
        }
    }

    #[test]
    fn a_probe_of_any_machine_names_every_library() {
        let probe = probe();
        let names: Vec<&str> = probe.libraries.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["driver", "nvrtc", "cublasLt", "cudnn"]);
        for library in &probe.libraries {
            assert!(library.problem.is_some() != library.version.is_some() || library.name == "driver", "{library:?}");
        }
        assert_eq!(dotted(130_200), "13.2.0");
    }
}
