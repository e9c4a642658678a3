//! Every kernel against its CPU reference on a GPU: odd and even shapes, every recipe's product, each run twice and equal bit
//! by bit. Run by `ci/gpu`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs, unreachable_pub)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_lossless)]

mod attention;
mod compare;
mod elementwise;
mod fused;
mod fused_cast;
mod fused_elementwise;
mod fused_norm;
mod fused_step;
mod gemm;
mod quantise;
mod rates;

use stepwatch_kernels::gpu::{self, Gpu, library};
use stepwatch_kernels::timer::{Clocks, Event};

/// The device that the tests use.
fn open() -> Gpu {
    Gpu::open(0).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
#[ignore = "needs a GPU"]
fn the_device_says_what_it_is_and_what_is_mapped() {
    let gpu = open();
    println!("{:#?}", gpu.facts());
    assert_eq!(&gpu::devices().unwrap()[0], gpu.facts());
    assert!(gpu.facts().uuid.starts_with("GPU-") && gpu.facts().uuid.len() == 40, "{}", gpu.facts().uuid);
    assert!(gpu.facts().multiprocessors > 0 && gpu.facts().memory_bytes > 1 << 30);
    println!("cuBLASLt {}", stepwatch_kernels::gemm::cublaslt::version().unwrap());
    println!("NVRTC {:?}", stepwatch_kernels::nvrtc::version().unwrap());
    let mapped = library::mapped();
    for library in &mapped {
        println!("{} {}", library.name, library.path.display());
    }
    for name in ["libcuda.so", "libnvrtc", "libcublasLt"] {
        assert!(mapped.iter().any(|library| library.name.starts_with(name)), "{name} is mapped");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn more_memory_than_there_is_is_an_error_with_the_numbers() {
    let gpu = open();
    let error = gpu.allocate(1 << 45).unwrap_err().to_string();
    assert!(error.starts_with("out of GPU memory: 35184372088832 bytes asked for, "), "{error}");
}

#[test]
#[ignore = "needs a GPU"]
fn memory_is_counted_by_what_is_allocated_here() {
    let gpu = open();
    let one = gpu.allocate(1 << 20).unwrap();
    drop(gpu.allocate(3 << 20).unwrap());
    let part = one.slice(0, 16);
    drop(one);
    // The part keeps the whole: 1 + 2 MiB are less than what was there at once before.
    let two = gpu.allocate(2 << 20).unwrap();
    assert_eq!(gpu.peak_bytes(), 4 << 20);
    drop(part);
    let three = gpu.allocate(3 << 20).unwrap();
    assert_eq!(gpu.peak_bytes(), 5 << 20);
    drop((two, three));
}

#[test]
#[ignore = "needs a GPU"]
fn the_clock_on_the_chip_agrees_with_its_events() {
    let gpu = open();
    let (before, after) = (Clocks::new(&gpu).unwrap(), Clocks::new(&gpu).unwrap());
    let (start, end) = (Event::new(&gpu).unwrap(), Event::new(&gpu).unwrap());
    let memory = gpu.allocate(1 << 30).unwrap();
    gpu.fill(&memory, 0).unwrap();
    start.record(&gpu).unwrap();
    before.record(&gpu).unwrap();
    for byte in 0..100 {
        gpu.fill(&memory, byte).unwrap();
    }
    after.record(&gpu).unwrap();
    end.record(&gpu).unwrap();
    end.wait().unwrap();
    let ns = end.since(&start).unwrap();
    let (cycles, hz) = after.since(&gpu, &before).unwrap().unwrap();
    println!("{ns} ns, {cycles} cycles, {:.0} MHz", hz / 1e6);
    let clock = gpu.facts().sm_clock_hz as f64;
    assert!(hz > 0.1 * clock && hz < 1.1 * clock, "{hz} Hz, at most {clock}");
    assert!((cycles as f64 / hz * 1e9 / ns - 1.0).abs() < 0.2, "{cycles} cycles at {hz} Hz in {ns} ns");
}
