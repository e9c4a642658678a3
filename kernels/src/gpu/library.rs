//! Where users have NVIDIA's libraries: the toolkit, the active Python's wheels, the loader's own path. Finds them, loads
//! them by full path before anything else can load another copy, and says which files are mapped.
//!
//! It may not know devices or kernels.
#![allow(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library as UnixLibrary, RTLD_GLOBAL, RTLD_NOW};

use super::GpuError;

/// Points at the NVRTC library or at the folder that holds it; wins over every other place.
pub const NVRTC_VARIABLE: &str = "STEPWATCH_NVRTC";

/// A CUDA library that this process maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// Its file name, with the version that the name carries.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// The libraries asked for, with what they are called and how to get them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    /// The run-time compiler.
    Nvrtc,
    /// Matrix products.
    CublasLt,
}

impl Library {
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Nvrtc => "libnvrtc.so",
            Self::CublasLt => "libcublasLt.so",
        }
    }

    pub(crate) const fn remedy(self) -> &'static str {
        match self {
            Self::Nvrtc => {
                "install the CUDA toolkit 12.9 or newer, or `pip install nvidia-cuda-nvrtc` into the active Python, or set STEPWATCH_NVRTC to its folder"
            }
            Self::CublasLt => {
                "install the CUDA toolkit 12.9 or newer, or `pip install nvidia-cublas` into the active Python, or set CUDA_HOME"
            }
        }
    }

    fn is_present(self) -> bool {
        // SAFETY: opening a library runs its initialisers; these are NVIDIA's, made to be opened this way.
        unsafe {
            match self {
                Self::Nvrtc => cudarc::nvrtc::sys::is_culib_present(),
                Self::CublasLt => cudarc::cublaslt::sys::is_culib_present(),
            }
        }
    }

    /// Makes sure that it is loaded, once a process.
    pub(crate) fn load(self) -> Result<(), GpuError> {
        static NVRTC: OnceLock<bool> = OnceLock::new();
        static CUBLASLT: OnceLock<bool> = OnceLock::new();
        let once = match self {
            Self::Nvrtc => &NVRTC,
            Self::CublasLt => &CUBLASLT,
        };
        let present = *once.get_or_init(|| {
            if let Some(path) = self.find() {
                self.preload(&path);
            }
            self.is_present()
        });
        let searched = || {
            let folders = folders(self).into_iter().map(|folder| folder.display().to_string());
            folders.chain(["the loader's path".to_owned()]).collect::<Vec<_>>().join(", ")
        };
        if present {
            Ok(())
        } else {
            Err(GpuError::Library { library: self.prefix(), remedy: self.remedy(), searched: searched() })
        }
    }

    /// The file that [`Self::load`] would take, if one lies where users have it.
    pub(crate) fn find(self) -> Option<PathBuf> {
        folders(self).iter().find_map(|folder| newest(folder, self.prefix()))
    }

    /// Loads it by its full path, so that later requests by name meet this copy.
    fn preload(self, path: &Path) {
        let folder = path.parent().unwrap_or(Path::new("/"));
        // NVRTC opens its builtins by bare name, which finds them only if they are loaded already.
        let companion = if self == Self::Nvrtc { newest(folder, "libnvrtc-builtins.so") } else { None };
        for file in companion.iter().map(PathBuf::as_path).chain([path]) {
            // SAFETY: opening a library runs its initialisers; these are NVIDIA's, made to be opened this way. A failure is
            // no harm: the library is then asked for by name.
            if let Ok(library) = unsafe { UnixLibrary::open(Some(file), RTLD_NOW | RTLD_GLOBAL) } {
                std::mem::forget(library);
            }
        }
    }
}

/// Where a library may lie, in order of preference, its bare name last: where the loader looks.
#[must_use]
pub(crate) fn candidates(file_name: &str) -> Vec<PathBuf> {
    let found = folders(Library::CublasLt).into_iter().filter_map(|folder| newest(&folder, file_name));
    found.chain([PathBuf::from(file_name)]).collect()
}

/// The CUDA libraries that this process maps, as the kernel shows them.
#[must_use]
pub fn mapped() -> Vec<Mapped> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut found: Vec<Mapped> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter_map(|path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            let ours = ["libcuda.so", "libnvrtc", "libcublas", "libcudnn", "libnvidia-ptxjitcompiler", "libnvidia-ml"];
            ours.iter().any(|prefix| name.starts_with(prefix)).then_some(Mapped { name, path })
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup();
    found
}

/// Folders to look in, in order of preference.
fn folders(library: Library) -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut folders = Vec::new();
    if library == Library::Nvrtc
        && let Some(path) = variable(NVRTC_VARIABLE)
    {
        folders.push(if path.is_file() { path.parent().map(Path::to_path_buf).unwrap_or_default() } else { path });
    }
    for root in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable) {
        folders.extend(["lib64", "targets/x86_64-linux/lib", "lib"].map(|sub| root.join(sub)));
    }
    folders.push(PathBuf::from("/usr/local/cuda/lib64"));
    let mut toolkits: Vec<PathBuf> = children(Path::new("/usr/local"));
    toolkits.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda-")));
    toolkits.reverse();
    folders.extend(toolkits.into_iter().map(|path| path.join("lib64")));
    folders.extend(python_roots().iter().flat_map(|root| wheel_folders(root)));
    folders.retain(|folder| folder.is_dir());
    folders
}

/// Roots of the active Python: its environment, or the parent of the folder that holds `python3`.
fn python_roots() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(std::env::var_os).map(PathBuf::from).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let python = std::env::split_paths(&path).find(|folder| folder.join("python3").is_file());
    roots.extend(python.as_deref().and_then(Path::parent).map(Path::to_path_buf));
    roots
}

/// `<root>/lib/python3.*/{site,dist}-packages/nvidia/*/lib`.
fn wheel_folders(root: &Path) -> Vec<PathBuf> {
    let pythons = children(&root.join("lib")).into_iter();
    let pythons =
        pythons.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")));
    pythons
        .flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages).join("nvidia")))
        .flat_map(|nvidia| children(&nvidia))
        .map(|package| package.join("lib"))
        .collect()
}

/// What a folder holds, sorted; nothing if it cannot be read.
fn children(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The file of the highest version whose name starts so; compiler variants (`.alt.`) are not meant.
fn newest(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let matching = children(folder).into_iter().filter(|path| {
        path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.starts_with(prefix) && !name.contains(".alt.")
        })
    });
    matching.max_by_key(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.split('.').filter_map(|part| part.parse::<u32>().ok()).collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_taken_and_variants_are_not() {
        let folder = std::env::temp_dir().join(format!("stepwatch-library-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in
            ["libnvrtc.so", "libnvrtc.so.12", "libnvrtc.so.13.0.88", "libnvrtc.alt.so.14", "libnvrtc-builtins.so.13.0"]
        {
            std::fs::write(folder.join(name), b"").unwrap();
        }
        assert_eq!(newest(&folder, "libnvrtc.so"), Some(folder.join("libnvrtc.so.13.0.88")));
        assert_eq!(newest(&folder, "libnvrtc-builtins.so"), Some(folder.join("libnvrtc-builtins.so.13.0")));
        assert_eq!(newest(&folder, "libcublasLt.so"), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn wheels_are_found_below_the_packages_of_a_python() {
        let root = std::env::temp_dir().join(format!("stepwatch-python-{}", std::process::id()));
        let lib = root.join("lib/python3.12/site-packages/nvidia/cu13/lib");
        std::fs::create_dir_all(&lib).unwrap();
        assert!(wheel_folders(&root).contains(&lib));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
