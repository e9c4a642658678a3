//! Whether what cuDNN computes on a GPU is what the reference computes, run at once and replayed from a captured graph.
#![allow(unsafe_code)]

use cudarc::driver::{result, sys};

use super::*;
use crate::attention::{FlashBackward, FlashForward, Kernel, Order};
use crate::gpu::{Gpu, Slice};
use crate::op::{Access, Op};
use crate::tensor::Buffer;
use crate::testing::{Random, Tensors};

const fn shape(batch: usize, seq: usize, heads: usize, head_dim: usize) -> Shape {
    Shape::causal(batch, seq, heads, head_dim, Dtype::Bf16)
}

fn op(shape: Shape, direction: Direction) -> Op {
    match direction {
        Direction::Forward => Op::FlashForward(FlashForward { shape, kernel: Kernel::Cudnn }),
        Direction::Backward => Op::FlashBackward(FlashBackward { shape, kernel: Kernel::Cudnn, order: Order::Any }),
    }
}

/// The tensors of an op on the device, by name, what it writes poisoned: unwritten elements are NaN.
struct Device<'a> {
    gpu: &'a Gpu,
    slices: Vec<(String, Slice)>,
    scratch: Slice,
}

impl<'a> Device<'a> {
    fn new(gpu: &'a Gpu, op: &Op, tensors: &Tensors<f32>, scratch_bytes: usize) -> Self {
        let slices = op.signature().into_iter().map(|param| {
            let slice = gpu.allocate(param.bytes()).unwrap();
            if param.access == Access::Read {
                gpu.upload_tensor(&slice, tensors.buffer(&param.name).view()).unwrap();
            }
            (param.name.into_owned(), slice)
        });
        let device = Self { gpu, slices: slices.collect(), scratch: gpu.allocate(scratch_bytes).unwrap() };
        device.poison(op);
        device
    }

    fn poison(&self, op: &Op) {
        for param in op.signature().iter().filter(|param| param.access == Access::Write) {
            self.gpu.fill(self.slice(&param.name), 0xff).unwrap();
        }
        self.gpu.fill(&self.scratch, 0xff).unwrap();
        self.gpu.synchronize().unwrap();
    }

    fn slice(&self, name: &str) -> &Slice {
        &self.slices.iter().find(|slice| slice.0 == name).unwrap().1
    }

    fn bind(&self, attention: &Attention) -> Launch {
        attention.bind(|name| self.slice(name).pointer(), self.scratch.pointer()).unwrap()
    }

    fn run(&self, launch: &Launch) {
        // SAFETY: bound to memory of the signature's sizes that `self` keeps.
        unsafe { launch.enqueue(self.gpu.stream()) }.unwrap();
    }

    /// Captures the launch and replays it.
    fn replay(&self, launch: &Launch) {
        let stream = self.gpu.stream();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is the GPU's own, and everything captured outlives the replay.
        unsafe {
            result::stream::begin_capture(stream, mode).unwrap();
            launch.enqueue(stream).unwrap();
            let graph = result::stream::end_capture(stream).unwrap();
            let mut executable = std::ptr::null_mut();
            sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0).result().unwrap();
            result::graph::launch(executable, stream).unwrap();
            result::stream::synchronize(stream).unwrap();
            sys::cuGraphExecDestroy(executable).result().unwrap();
            sys::cuGraphDestroy(graph).result().unwrap();
        }
    }

    fn assert_like(&self, op: &Op, expected: &Tensors<f32>, how: &str) {
        for param in op.signature().into_iter().filter(|param| param.access == Access::Write) {
            let found: Buffer<f32> = self.gpu.download_tensor(self.slice(&param.name), param.dtype).unwrap();
            let (found, expected) = (found.view().values().into_owned(), expected.get(&param.name));
            let off = if param.dtype == Dtype::F32 {
                distance(found.iter().zip(&expected))
            } else {
                let width = param.shape[1];
                let thirds = if param.name == "dqkv" { 3 } else { 1 };
                largest_distance(&found, &expected, width, width / thirds)
            };
            println!("  {} {how} `{}`: off by {off:.2e}", op.name(), param.name);
            // Roundings to bf16, of P or dS and of the result, on either side; statistics are fp32.
            let most = if param.dtype == Dtype::Bf16 { 5e-3 } else { 1e-5 };
            assert!(off < most, "{} {how} `{}` is off by {off:e}, at most {most:e} is expected", op.name(), param.name);
        }
    }
}

/// ‖found − expected‖ / ‖expected‖; what is expected to be nearly 0 is measured against 1e-4 an element. NaN stays.
fn distance<'a>(pairs: impl Iterator<Item = (&'a f32, &'a f64)>) -> f64 {
    let (mut off, mut size) = (0.0, 0.0);
    for (&found, &expected) in pairs {
        off += (f64::from(found) - expected).powi(2);
        size += expected * expected + 1e-8;
    }
    (off / size).sqrt()
}

/// The largest [`distance`] of a block of 64 rows and `cols` columns: the first rows are larger than the last, and the
/// gradients of values than those of queries, so that one number for all would hide a wrong block.
fn largest_distance(found: &[f32], expected: &[f64], width: usize, cols: usize) -> f64 {
    let blocks = found.chunks(64 * width).zip(expected.chunks(64 * width));
    let distances = blocks.flat_map(|(found, expected)| {
        (0..width).step_by(cols).map(move |from| {
            let part = |row: usize| row * width + from..row * width + from + cols;
            let rows = 0..found.len() / width;
            distance(rows.flat_map(|row| found[part(row)].iter().zip(&expected[part(row)])))
        })
    });
    distances.fold(0.0, |a: f64, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
}

fn library() -> Rc<Library> {
    let path = std::env::var("STEPWATCH_TEST_CUDNN").unwrap_or_else(|_| FILE_NAME.into());
    Rc::new(Library::load(&[path.into()]).unwrap())
}

#[test]
#[ignore = "needs a GPU"]
fn cudnn_agrees_with_the_reference_at_once_and_replayed() {
    let gpu = Gpu::open(0).unwrap();
    let handle = Handle::open(&library()).unwrap();
    println!("cuDNN {} on {}", handle.library().version(), gpu.facts().name);
    let shapes = [
        shape(1, 64, 2, 64),
        shape(1, 128, 1, 128),
        shape(2, 1000, 3, 64),
        shape(1, 2048, 2, 128),
        shape(2, 65, 2, 64),
        shape(3, 1, 2, 64),
        shape(1, 384, 2, 96),
        shape(1, 256, 2, 256),
    ];
    for shape in shapes {
        println!("{shape:?}");
        let mut random = Random::new(7);
        let width = shape.heads * shape.head_dim;
        let mut tensors = Tensors::<f32>::new();
        tensors.put("qkv", Dtype::Bf16, &random.normals(shape.batch * shape.seq * 3 * width));
        tensors.put("dcontext", Dtype::Bf16, &random.normals(shape.batch * shape.seq * width));
        for direction in [Direction::Forward, Direction::Backward] {
            let op = op(shape, direction);
            tensors.run(&op);
            let attention = match Attention::prepare(&handle, shape, direction) {
                Ok(attention) => attention,
                Err(error @ CudnnError::Refused { .. }) if !shape.seq.is_multiple_of(128) => {
                    println!("  {error}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            println!("  {direction:?}: {}, {} bytes of scratch", attention.engine(), attention.scratch_bytes());
            let device = Device::new(&gpu, &op, &tensors, attention.scratch_bytes());
            let launch = device.bind(&attention);
            device.run(&launch);
            device.assert_like(&op, &tensors, "at once");
            device.poison(&op);
            device.replay(&launch);
            device.assert_like(&op, &tensors, "replayed");
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn cudnn_refuses_what_it_cannot_run() {
    let _gpu = Gpu::open(0).unwrap();
    let handle = Handle::open(&library()).unwrap();
    let cases = [
        (Shape { dtype: Dtype::F32, ..shape(1, 128, 1, 64) }, "dtype fp32: bf16 is expected"),
        (shape(1, 128, 1, 36), "head dim 36: a multiple of 8 up to 256 is expected"),
        (shape(1, 128, 1, 264), "head dim 264: a multiple of 8 up to 256 is expected"),
    ];
    for (shape, reason) in cases {
        for direction in [Direction::Forward, Direction::Backward] {
            let error = Attention::prepare(&handle, shape, direction).unwrap_err();
            println!("{error}");
            assert!(error.is_unsupported(), "{error}");
            assert!(error.to_string().ends_with(reason), "{error}");
        }
    }
    let attention = Attention::prepare(&handle, shape(1, 128, 1, 64), Direction::Forward).unwrap();
    assert_eq!(attention.bind(|_| 8, 256).unwrap_err(), CudnnError::Address { name: "qkv", address: 8 });
}

#[test]
fn what_cudnn_cannot_do_is_told_from_what_broke() {
    let call =
        |status| CudnnError::Call { call: "cudnnBackendFinalize", status, name: String::new(), detail: String::new() };
    // NOT_INITIALIZED, BAD_PARAM, NOT_SUPPORTED, …_ARCH_MISMATCH, INTERNAL_ERROR, EXECUTION_FAILED
    let cases = [(1001, true), (2000, false), (3000, true), (3007, true), (4000, false), (5000, false)];
    for (status, unsupported) in cases {
        assert_eq!(call(status).is_unsupported(), unsupported, "{status}");
    }
    assert!(CudnnError::Missing { searched: String::new() }.is_unsupported());
    assert!(!CudnnError::Address { name: "qkv", address: 0 }.is_unsupported());
}
