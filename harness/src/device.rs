//! Which devices could run the built-in step here: found by looking at files and by asking NVML, since a CUDA context in the
//! parent would take memory and time on the GPU for the whole sweep.

use std::path::{Path, PathBuf};

use crate::clocks;

/// Something that a CUDA run needs or gains from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name in words.
    pub name: &'static str,
    /// The file that was looked for.
    pub file: &'static str,
    /// Where it was found.
    pub path: Option<PathBuf>,
    /// What its absence costs.
    pub costs: &'static str,
    /// How to get it.
    pub remedy: &'static str,
    /// Whether nothing runs on the GPU without it.
    pub needed: bool,
}

struct Wanted {
    name: &'static str,
    file: &'static str,
    costs: &'static str,
    remedy: &'static str,
    needed: bool,
}

const WANTED: [Wanted; 6] = [
    Wanted {
        name: "GPU driver",
        file: "libcuda.so.1",
        costs: "no CUDA backend: built-in cells run on the CPU, where FP8 is emulated",
        remedy: "install NVIDIA's driver, or start the container with its GPUs",
        needed: true,
    },
    Wanted {
        name: "NVML",
        file: "libnvidia-ml.so.1",
        costs: "no clocks, power, temperature or throttle reasons beside the samples",
        remedy: "it comes with NVIDIA's driver",
        needed: false,
    },
    Wanted {
        name: "cuBLASLt",
        file: "libcublasLt.so",
        costs: "no GEMMs on the GPU",
        remedy: "install the CUDA toolkit 12.9 or newer, or set CUDA_HOME to where it is",
        needed: true,
    },
    Wanted {
        name: "NVRTC",
        file: "libnvrtc.so",
        costs: "no kernels can be compiled for the GPU",
        remedy: "install the CUDA toolkit 12.9 or newer, or set CUDA_HOME to where it is",
        needed: true,
    },
    Wanted {
        name: "cuDNN",
        file: "libcudnn.so",
        costs: "cells with `attention = \"cudnn\"` are skipped",
        remedy: "install cuDNN 9",
        needed: false,
    },
    Wanted {
        name: "CUPTI",
        file: "libcupti.so",
        costs: "`--profile` cannot see inside CUDA graphs",
        remedy: "install the CUDA toolkit with its extras",
        needed: false,
    },
];

/// Looks for everything.
#[must_use]
pub fn parts() -> Vec<Part> {
    let folders = library_folders();
    WANTED
        .iter()
        .map(|wanted| Part {
            name: wanted.name,
            file: wanted.file,
            path: find(wanted.file, &folders),
            costs: wanted.costs,
            remedy: wanted.remedy,
            needed: wanted.needed,
        })
        .collect()
}

/// Whether the CUDA backend can run here.
///
/// # Errors
/// What is missing, in one line.
pub fn cuda() -> Result<(), String> {
    let parts = parts();
    let missing: Vec<String> = parts
        .iter()
        .filter(|part| part.needed && part.path.is_none())
        .map(|part| format!("{} ({})", part.name, part.file))
        .collect();
    if !missing.is_empty() {
        return Err(format!("{} not found", missing.join(", ")));
    }
    match clocks::gpus() {
        Ok((gpus, _)) if gpus.is_empty() => Err("NVML sees no GPU".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Where the loader and our own search look, in that order.
fn library_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
        folders.extend(std::env::split_paths(&path).filter(|folder| !folder.as_os_str().is_empty()));
    }
    for home in ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(std::env::var_os) {
        folders.push(Path::new(&home).join("lib64"));
        folders.push(Path::new(&home).join("extras/CUPTI/lib64"));
    }
    folders.extend(loader_folders(Path::new("/etc/ld.so.conf"), 0));
    let arch = std::env::consts::ARCH;
    folders.extend(
        [format!("/usr/lib/{arch}-linux-gnu"), "/usr/lib64".into(), "/usr/lib".into(), "/lib64".into(), "/lib".into()]
            .map(PathBuf::from),
    );
    folders.push(PathBuf::from("/usr/local/cuda/lib64"));
    folders.push(PathBuf::from("/usr/local/cuda/extras/CUPTI/lib64"));
    folders.push(PathBuf::from("/usr/local/nvidia/lib64"));
    folders.extend(python_folders());
    folders.dedup();
    folders
}

/// The folders that `ld.so.conf` names, includes followed.
fn loader_folders(file: &Path, depth: u32) -> Vec<PathBuf> {
    let Ok(text) = std::fs::read_to_string(file) else { return Vec::new() };
    let mut folders = Vec::new();
    for line in text.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty()) {
        match line.strip_prefix("include ") {
            // A file that includes itself must not hold us.
            Some(pattern) if depth < 3 => {
                let pattern = Path::new(pattern.trim());
                let parent = pattern.parent().unwrap_or(Path::new("/"));
                let ending = pattern.file_name().and_then(|name| name.to_str()).unwrap_or("").trim_start_matches('*');
                let mut files: Vec<PathBuf> = std::fs::read_dir(parent)
                    .into_iter()
                    .flatten()
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| path.to_string_lossy().ends_with(ending))
                    .collect();
                files.sort();
                folders.extend(files.iter().flat_map(|file| loader_folders(file, depth + 1)));
            }
            Some(_) => {}
            None => folders.push(PathBuf::from(line)),
        }
    }
    folders
}

/// NVIDIA's wheels in the active Python environment.
fn python_folders() -> Vec<PathBuf> {
    let children = |folder: PathBuf| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect()
    };
    let homes = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(std::env::var_os).map(PathBuf::from);
    homes
        .flat_map(|home| children(home.join("lib")))
        .flat_map(|python| children(python.join("site-packages/nvidia")))
        .map(|package| package.join("lib"))
        .collect()
}

/// The file in the first folder that has it; a version behind its name will do.
fn find(file: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().find_map(|folder| {
        let exact = folder.join(file);
        if exact.exists() {
            return Some(exact);
        }
        let mut versions: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(|name| name.starts_with(&format!("{file}.")))
            })
            .collect();
        versions.sort();
        versions.pop()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_by_name_or_version_in_the_first_folder() {
        let root = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| root.path().join(name));
        for folder in [&one, &two] {
            std::fs::create_dir(folder).unwrap();
        }
        std::fs::write(one.join("libcublasLt.so.13"), "").unwrap();
        std::fs::write(two.join("libcublasLt.so"), "").unwrap();
        let folders = [one.clone(), two];
        assert_eq!(find("libcublasLt.so", &folders), Some(one.join("libcublasLt.so.13")));
        assert_eq!(find("libcudnn.so", &folders), None);
    }

    #[test]
    fn the_loaders_configuration_is_followed_and_cannot_loop() {
        let root = tempfile::tempdir().unwrap();
        let conf = root.path().join("ld.so.conf");
        let more = root.path().join("conf.d");
        std::fs::create_dir(&more).unwrap();
        std::fs::write(&conf, format!("include {}/*.conf\n/last # comment\n", more.display())).unwrap();
        std::fs::write(more.join("a.conf"), format!("/first\ninclude {}/*.conf\n", more.display())).unwrap();
        let folders = loader_folders(&conf, 0);
        assert_eq!(folders.first(), Some(&PathBuf::from("/first")));
        assert_eq!(folders.last(), Some(&PathBuf::from("/last")));
    }
}
