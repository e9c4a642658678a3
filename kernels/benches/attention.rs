//! What `flash` and cuDNN reach on a GPU, forward and backward, in TFLOP/s by CUDA events, beside the SM clock and the power that
//! they were held at for a second. `cargo bench -p stepwatch-kernels --bench attention`; on a machine without Rust run the
//! program itself with `--bench`. A name as argument selects what criterion repeats; the table is printed whole.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark: its macros make undocumented items"
)]

use std::collections::HashMap;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use stepwatch_kernels::attention::{FlashBackward, FlashForward, Kernel, Order, Shape};
use stepwatch_kernels::gpu::{Gpu, Prepared, Slice, launch};
use stepwatch_kernels::tensor::Buffer;
use stepwatch_kernels::timer::{Clocks, Event};
use stepwatch_kernels::{Dtype, Op};

/// The shapes that peers are measured at: causal, bf16.
const SHAPES: [Shape; 4] = [
    Shape::causal(16, 2048, 16, 64, Dtype::Bf16),
    Shape::causal(8, 2048, 16, 128, Dtype::Bf16),
    Shape::causal(4, 8192, 16, 64, Dtype::Bf16),
    Shape::causal(4, 8192, 16, 128, Dtype::Bf16),
];

/// How long each is held for the table.
const HELD: Duration = Duration::from_secs(1);

/// One op, prepared on the operands that all ops of its shape share.
struct Bench<'a> {
    gpu: &'a Gpu,
    name: String,
    prepared: Prepared,
    flops: f64,
}

/// Normal numbers by the sum of four uniform ones, a stretch of them that is no multiple of a row, over and over.
fn fill(gpu: &Gpu, slice: &Slice, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f32::from(u16::try_from(state >> 48).unwrap()) / 65_536.0 - 0.5
    };
    let values: Vec<f32> = (0..1_000_016).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 1.732).collect();
    let stretch = Buffer::<f32>::rounded(Dtype::Bf16, &values);
    let bytes = values.len() * 2;
    for offset in (0..slice.bytes()).step_by(bytes) {
        let len = bytes.min(slice.bytes() - offset);
        let part = slice.slice(offset, len).unwrap();
        let short = Buffer::<f32>::rounded(Dtype::Bf16, &values[..len / 2]);
        gpu.upload_tensor(&part, if len == bytes { stretch.view() } else { short.view() }).unwrap();
    }
}

/// Forward and backward of everyone who runs a shape; backward on what the forward left.
fn benches(gpu: &Gpu, shape: Shape) -> Vec<Bench<'_>> {
    let Shape { batch, seq, heads, head_dim, .. } = shape;
    let mut operands: HashMap<String, Slice> = HashMap::new();
    let mut out = Vec::new();
    for (who, kernel) in [("flash", Kernel::Flash), ("cudnn", Kernel::Cudnn)] {
        let backward = |order| Op::FlashBackward(FlashBackward { shape, kernel, order });
        let mut ops =
            vec![("forward", Op::FlashForward(FlashForward { shape, kernel })), ("backward", backward(Order::Any))];
        if kernel == Kernel::Flash {
            ops.push(("backward, deterministic", backward(Order::Fixed)));
        }
        for (what, op) in ops {
            let slices: Vec<Slice> = op
                .signature()
                .iter()
                .map(|param| {
                    let slice = || {
                        let slice = gpu.allocate(param.bytes()).unwrap();
                        if matches!(param.name.as_ref(), "qkv" | "dcontext") {
                            fill(gpu, &slice, param.bytes() as u64);
                        }
                        slice
                    };
                    operands.entry(param.name.to_string()).or_insert_with(slice).clone()
                })
                .collect();
            let scratch = gpu.allocate(launch::scratch_bytes(&op)).unwrap();
            let name = format!("B{batch} H{heads} S{seq} hd {head_dim}: {who} {what}");
            match launch::prepare(gpu, &op, &slices, &scratch) {
                Ok(prepared) => {
                    gpu.enqueue(&prepared).unwrap();
                    gpu.synchronize().unwrap();
                    out.push(Bench { gpu, name, prepared, flops: op.flops() });
                }
                Err(error) => println!("{name}: {error}"),
            }
        }
    }
    out
}

impl Bench<'_> {
    /// Seconds of `repeats` launches by the GPU's own clock, and its SM clock meanwhile, Hz. `meanwhile` runs when all are enqueued.
    fn time(&self, repeats: u64, meanwhile: impl FnOnce()) -> (f64, f64) {
        let (before, after) = (Clocks::new(self.gpu).unwrap(), Clocks::new(self.gpu).unwrap());
        let (start, end) = (Event::new(self.gpu).unwrap(), Event::new(self.gpu).unwrap());
        before.record(self.gpu).unwrap();
        start.record(self.gpu).unwrap();
        for _ in 0..repeats {
            self.gpu.enqueue(&self.prepared).unwrap();
        }
        end.record(self.gpu).unwrap();
        after.record(self.gpu).unwrap();
        meanwhile();
        end.wait().unwrap();
        let clock = after.since(self.gpu, &before).unwrap().map_or(f64::NAN, |(_, hz)| hz);
        (end.since(&start).unwrap() / 1e9, clock)
    }

    /// A line of the table: the second half of what was held, when clock and power have settled.
    fn hold(&self, device: Option<&Device<'_>>) {
        let (once, _) = self.time(4, || ());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousands")]
        let repeats = (HELD.as_secs_f64() / 2.0 / (once / 4.0)).ceil() as u64;
        self.time(repeats, || ());
        let mut watts = None;
        let (seconds, clock) = self.time(repeats, || {
            std::thread::sleep(HELD / 4);
            watts = device.and_then(power);
        });
        let power = watts.map_or_else(|| "–".to_owned(), |watts| format!("{watts:.0}"));
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let each = seconds / repeats as f64;
        println!(
            "{:<52} {:>9.1} {:>8.0} {:>6.0} {power:>6}",
            self.name,
            each * 1e6,
            self.flops / each / 1e12,
            clock / 1e6
        );
    }
}

/// Power at this moment, W: `NVML_FI_DEV_POWER_INSTANT`. Source: nvml.h.
fn power(device: &Device<'_>) -> Option<f64> {
    match device.field_values_for(&[FieldId(186)]).ok()?.pop()?.ok()?.value.ok()? {
        SampleValue::U32(milliwatts) => Some(f64::from(milliwatts) / 1e3),
        _ => None,
    }
}

fn attention(criterion: &mut Criterion) {
    let gpu = match Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(error) => {
            println!("not measured: {error}");
            return;
        }
    };
    let nvml = Nvml::init().ok();
    let device = nvml.as_ref().and_then(|nvml| nvml.device_by_uuid(gpu.facts().uuid.as_str()).ok());
    println!("{}\n{:<52} {:>9} {:>8} {:>6} {:>6}", gpu.facts().name, "", "µs", "TFLOP/s", "MHz", "W");
    for shape in SHAPES {
        for bench in benches(&gpu, shape) {
            bench.hold(device.as_ref());
        }
    }
    for shape in SHAPES {
        for bench in benches(&gpu, shape) {
            let mut group = criterion.benchmark_group("attention");
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "FLOPs are positive and far below 2^64"
            )]
            group.throughput(Throughput::Elements(bench.flops as u64));
            group.bench_function(&bench.name, |bencher| {
                bencher.iter_custom(|repeats| Duration::from_secs_f64(bench.time(repeats, || ()).0));
            });
            group.finish();
        }
    }
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = attention
}
criterion_main!(all);
