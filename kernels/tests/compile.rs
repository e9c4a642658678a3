//! Every kernel source compiled for Hopper, without a GPU: what does not compile fails here, and what spills is listed.
//!
//! Needs the run-time compiler (`ci/kernels --install` fetches it). Without it the test says so, and fails if
//! `STEPWATCH_REQUIRE_NVRTC=1`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use stepwatch_kernels::gpu::source::SOURCES;
use stepwatch_kernels::nvrtc;

/// What the assembler said of one kernel.
#[derive(Debug, Default)]
struct Resources {
    name: String,
    registers: u32,
    spilled_bytes: u32,
}

/// Reads the lines of `--ptxas-options=-v`: a kernel's name, its spills, its registers; then those of functions it calls, which
/// are left out.
fn resources(log: &str) -> Vec<Resources> {
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

#[test]
fn every_source_compiles_for_hopper() {
    if let Err(error) = nvrtc::version() {
        let required = std::env::var("STEPWATCH_REQUIRE_NVRTC").is_ok_and(|value| value == "1");
        assert!(!required, "STEPWATCH_REQUIRE_NVRTC=1, and {error}");
        println!("NOT RUN: no kernel was compiled: {error}");
        return;
    }
    let (major, minor) = nvrtc::version().unwrap();
    println!("NVRTC {major}.{minor}, sm_90a");
    let mut kernels = 0;
    for source in SOURCES {
        let compiled =
            nvrtc::compile(source, "sm_90a", &["--ptxas-options=-v"]).unwrap_or_else(|error| panic!("{error}"));
        assert!(compiled.cubin.starts_with(b"\x7fELF"), "{} is machine code", source.name);
        let found = resources(&compiled.log);
        assert!(!found.is_empty(), "{}: the assembler names no kernel: {}", source.name, compiled.log);
        for kernel in &found {
            let spill = if kernel.spilled_bytes > 0 {
                format!(", SPILLS {} bytes", kernel.spilled_bytes)
            } else {
                String::new()
            };
            println!("{:<20} {:<44} {:>3} registers{spill}", source.name, kernel.name, kernel.registers);
            assert!(kernel.registers > 0, "{}", compiled.log);
            // A few words around an unrolled loop are cheap; an array that went to local memory is not.
            assert!(kernel.spilled_bytes <= 64, "{} spills {} bytes", kernel.name, kernel.spilled_bytes);
        }
        kernels += found.len();
    }
    println!("{kernels} kernels");
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
