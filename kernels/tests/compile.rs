//! Every kernel source compiled for Hopper, without a GPU: what does not compile fails here, and what spills is listed.
//!
//! Needs the run-time compiler (`ci/kernels --install` fetches it). Without it the test says so, and fails if
//! `STEPWATCH_REQUIRE_NVRTC=1`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use stepwatch_kernels::gpu::source::SOURCES;
use stepwatch_kernels::nvrtc::{self, resources};

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
