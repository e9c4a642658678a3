//! Compiles kernel sources to machine code for the chip found, and keeps the results on disk.
//!
//! An entry's name is a hash of everything that decides its content: source, headers, options, compiler version. Entries are
//! written aside and renamed; one whose checksum is wrong is compiled again, not trusted. It may not know what kernels do.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{result, sys};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::fused::launch::Variant;
use crate::gpu::GpuError;
use crate::gpu::library::Library;
use crate::gpu::source::{HEADERS, Source};

/// Options for every kernel. No fast math: what may be approximate says so in its source.
const OPTIONS: [&str; 1] = ["--std=c++17"];

/// First bytes of an entry.
const MAGIC: &[u8; 8] = b"swcubin1";

/// Machine code of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// The cubin.
    pub cubin: Vec<u8>,
    /// The same before it was assembled, for tests to read; empty where it came from the disk.
    pub ptx: String,
    /// What the compiler said; empty where it was not asked.
    pub log: String,
    /// Whether it came from the disk.
    pub cached: bool,
}

/// Version of the run-time compiler, (major, minor).
///
/// # Errors
/// If no compiler is found or it does not answer.
pub fn version() -> Result<(i32, i32), GpuError> {
    Library::Nvrtc.load()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both pointers are to live integers; the library was shown to be present.
    status("nvrtcVersion", unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) })?;
    Ok((major, minor))
}

/// The target of a compute capability: architecture-specific (`a`) from 9.0 on, where tensor-core instructions need it.
#[must_use]
pub fn architecture((major, minor): (i32, i32)) -> String {
    let suffix = if major >= 9 { "a" } else { "" };
    format!("sm_{major}{minor}{suffix}")
}

/// Machine code for a source with some names defined (`NAME=value`), from the disk where it is there.
///
/// # Errors
/// If no compiler is found, or the source does not compile.
pub(crate) fn cubin(source: &Source, defines: &[String], architecture: &str) -> Result<Compiled, GpuError> {
    let compiler = version()?;
    let folder = cache_folder().map(|folder| folder.join("kernels"));
    let entry = folder.map(|folder| folder.join(entry_name(source, defines, architecture, compiler)));
    if let Some(cubin) = entry.as_deref().and_then(read_entry) {
        return Ok(Compiled { cubin, ptx: String::new(), log: String::new(), cached: true });
    }
    let options: Vec<String> = defines.iter().map(|define| format!("--define-macro={define}")).collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let compiled = compile(source, architecture, &options)?;
    if let Some(entry) = entry {
        // A cache that cannot be written costs time at the next start and nothing else.
        let _ = write_entry(&entry, &compiled.cubin);
    }
    Ok(compiled)
}

/// Compiles what the disk does not hold of these, as many at once as there are threads; how many that were. What does not
/// compile is met again, with its error, where it is asked for; without a disk there is nothing to be ahead with.
#[must_use]
pub fn compile_ahead(variants: &[Variant], capability: (i32, i32)) -> usize {
    if cache_folder().is_none() {
        return 0;
    }
    let architecture = architecture(capability);
    // Kernels of one source and the same names defined are one module.
    let mut modules: Vec<(&'static Source, &[String])> = Vec::new();
    for Variant { source, defines, .. } in variants {
        if !modules.iter().any(|(other, same)| (other.name, *same) == (source.name, defines.as_slice())) {
            modules.push((*source, defines.as_slice()));
        }
    }
    let compiled = modules.par_iter().map(|(source, defines)| cubin(source, defines, &architecture));
    compiled.filter(|compiled| matches!(compiled, Ok(Compiled { cached: false, .. }))).count()
}

/// Compiles, whatever the disk holds, with further options.
///
/// # Errors
/// If no compiler is found, or the source does not compile.
pub fn compile(source: &Source, architecture: &str, options: &[&str]) -> Result<Compiled, GpuError> {
    Library::Nvrtc.load()?;
    let text = |text: &str| CString::new(text).unwrap_or_default();
    let (program_text, name) = (text(source.text), text(source.name));
    let headers: Vec<(CString, CString)> = HEADERS.iter().map(|h| (text(h.text), text(h.name))).collect();
    let header_texts: Vec<*const c_char> = headers.iter().map(|h| h.0.as_ptr()).collect();
    let header_names: Vec<*const c_char> = headers.iter().map(|h| h.1.as_ptr()).collect();
    let mut program = std::ptr::null_mut();
    // SAFETY: every string outlives the program, which is destroyed below; the counts are the vectors' lengths.
    let created = unsafe {
        sys::nvrtcCreateProgram(
            &raw mut program,
            program_text.as_ptr(),
            name.as_ptr(),
            i32::try_from(headers.len()).unwrap_or_default(),
            header_texts.as_ptr(),
            header_names.as_ptr(),
        )
    };
    status("nvrtcCreateProgram", created)?;
    let target = format!("--gpu-architecture={architecture}");
    let options: Vec<&str> = OPTIONS.iter().chain(options).copied().chain([target.as_str()]).collect();
    // SAFETY: the program is live until destroyed here, once.
    unsafe {
        let compiled = finish(program, source, architecture, &options);
        let _ = result::destroy_program(program);
        compiled
    }
}

/// Compiles a created program and fetches log and code.
///
/// # Safety
/// `program` is live.
unsafe fn finish(
    program: sys::nvrtcProgram,
    source: &Source,
    architecture: &str,
    options: &[&str],
) -> Result<Compiled, GpuError> {
    // SAFETY: the caller's promise; buffers have the sizes that the library asked for.
    unsafe {
        let outcome = result::compile_program(program, options);
        let bytes = result::get_program_log(program).unwrap_or_default();
        let log: Vec<u8> = bytes.iter().map(|&c| c.cast_unsigned()).take_while(|&c| c != 0).collect();
        let log = String::from_utf8_lossy(&log).trim().to_owned();
        if outcome.is_err() {
            let architecture = architecture.to_owned();
            return Err(GpuError::Compile { source_name: source.name, architecture, log });
        }
        let mut size = 0;
        status("nvrtcGetCUBINSize", sys::nvrtcGetCUBINSize(program, &raw mut size))?;
        let mut cubin = vec![0_u8; size];
        status("nvrtcGetCUBIN", sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()))?;
        status("nvrtcGetPTXSize", sys::nvrtcGetPTXSize(program, &raw mut size))?;
        let mut ptx = vec![0_u8; size];
        status("nvrtcGetPTX", sys::nvrtcGetPTX(program, ptx.as_mut_ptr().cast()))?;
        let ptx = String::from_utf8_lossy(&ptx).trim_end_matches('\0').to_owned();
        Ok(Compiled { cubin, ptx, log, cached: false })
    }
}

fn status(call: &'static str, status: sys::nvrtcResult) -> Result<(), GpuError> {
    status.result().map_err(|error| GpuError::Nvrtc { call, status: format!("{:?}", error.0) })
}

/// Where what costs time to find is kept; `None` if there is no home to put it in.
#[must_use]
pub fn cache_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("STEPWATCH_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("stepwatch")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".cache/stepwatch")))
}

fn entry_name(source: &Source, defines: &[String], architecture: &str, (major, minor): (i32, i32)) -> String {
    let version = format!("{major}.{minor}");
    let mut hash = Sha256::new();
    let texts = HEADERS.iter().flat_map(|h| [h.name, h.text]);
    let defines = defines.iter().map(String::as_str);
    let parts = [source.name, source.text].into_iter().chain(texts).chain(OPTIONS).chain([architecture, &version]);
    for part in parts.chain(defines) {
        hash.update(part.len().to_le_bytes());
        hash.update(part.as_bytes());
    }
    let hash: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{architecture}-{hash}.cubin", source.name.trim_end_matches(".cu"))
}

/// An entry's machine code; `None` if it is missing, cut short or changed.
fn read_entry(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let (checksum, cubin) = rest.split_at_checked(32)?;
    (Sha256::digest(cubin).as_slice() == checksum && !cubin.is_empty()).then(|| cubin.to_vec())
}

fn write_entry(path: &Path, cubin: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let aside = path.with_extension(format!("{}.tmp", std::process::id()));
    let bytes = [MAGIC.as_slice(), Sha256::digest(cubin).as_slice(), cubin].concat();
    std::fs::write(&aside, bytes)?;
    std::fs::rename(&aside, path)
}

/// What the assembler said of one kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Its name.
    pub name: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread that went to local memory because registers did not suffice.
    pub spilled_bytes: u32,
}

/// Reads the lines of `--ptxas-options=-v`: a kernel's name, its spills, its registers; then those of functions it calls, which
/// are left out.
#[must_use]
pub fn resources(log: &str) -> Vec<Resources> {
    let number = |text: &str| text.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(0);
    let mut found: Vec<Resources> = Vec::new();
    let mut called = false;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or(rest).to_owned();
            found.push(Resources { name, ..Resources::default() });
        }
        let Some(last) = found.last_mut() else { continue };
        if let Some((_, name)) = line.split_once("Function properties for ") {
            called = name.trim() != last.name;
        }
        if called {
            continue;
        }
        if let Some((before, _)) = line.split_once(" bytes spill stores") {
            last.spilled_bytes = number(before);
        }
        if let Some((_, rest)) = line.split_once("Used ") {
            last.registers = rest.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source = Source { name: "probe.cu", text: "extern \"C\" __global__ void probe() {}" };

    #[test]
    fn an_entry_is_read_back_and_a_changed_one_is_not() {
        let path = std::env::temp_dir().join(format!("stepwatch-cache-{}/probe.cubin", std::process::id()));
        assert_eq!(read_entry(&path), None);
        write_entry(&path, b"machine code").unwrap();
        assert_eq!(read_entry(&path).as_deref(), Some(b"machine code".as_slice()));
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_entry(&path), None, "a flipped bit");
        std::fs::write(&path, &bytes[..20]).unwrap();
        assert_eq!(read_entry(&path), None, "cut short");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn everything_that_decides_the_code_decides_the_name() {
        let name = entry_name(&SOURCE, &[], "sm_90a", (13, 0));
        assert!(name.starts_with("probe-sm_90a-"));
        let other = Source { text: "extern \"C\" __global__ void other() {}", ..SOURCE };
        for changed in [
            entry_name(&other, &[], "sm_90a", (13, 0)),
            entry_name(&SOURCE, &[], "sm_90", (13, 0)),
            entry_name(&SOURCE, &[], "sm_90a", (13, 1)),
            entry_name(&SOURCE, &["WIDTH=8".to_owned()], "sm_90a", (13, 0)),
        ] {
            assert_ne!(name, changed);
        }
    }

    #[test]
    fn hopper_is_targeted_with_its_own_instructions() {
        assert_eq!(architecture((9, 0)), "sm_90a");
        assert_eq!(architecture((8, 9)), "sm_89");
        assert_eq!(architecture((10, 0)), "sm_100a");
    }

    #[test]
    fn the_assemblers_words_are_read() {
        let log = "ptxas info    : Compiling entry function 'a_kernel' for 'sm_90a'\n\
                   ptxas info    : Function properties for a_kernel\n\
                   ptxas         .     24 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads\n\
                   ptxas info    : Used 255 registers, used 1 barriers\n\
                   ptxas info    : Function properties for __internal_accurate_pow\n\
                   ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n";
        let found = resources(log);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].registers, found[0].spilled_bytes), ("a_kernel", 255, 16));
    }
}
