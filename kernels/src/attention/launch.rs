//! How attention is launched: the naive form's products through cuBLASLt and its softmax, and the tiled form.

use super::cudnn::{self, Direction};
use super::{
    FlashBackward, FlashForward, Kernel as Runner, Mask, Product, ProductKind, Shape, SoftmaxBackward, SoftmaxForward,
};
use super::{hopper, hopper_backward};
use crate::dtype::Dtype;
use crate::gemm::cublaslt::{Factor, Matmul, Problem};
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static NAIVE: Source = Source { name: "naive.cu", text: include_str!("naive.cu") };
pub(crate) static FLASH: Source = Source { name: "flash.cu", text: include_str!("flash.cu") };
pub(crate) static FLASH_BF16: Source = Source { name: "flash_bf16.cu", text: include_str!("flash_bf16.cu") };

/// Queries and keys of a tile of `flash.cu`.
const TILE: usize = 32;

/// Queries and keys of a tile of `flash_bf16.cu`.
const TILE_BF16: usize = 64;

impl Shape {
    /// 1/sqrt(hd), as the reference rounds it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "rounded once, as in the reference"
    )]
    pub(super) fn softmax_scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }

    pub(super) fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// `struct Heads` of the flash kernels.
    fn heads_bytes(&self) -> Vec<u8> {
        let sizes = [self.seq, self.heads, self.head_dim].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        sizes.iter().flat_map(|size| size.to_le_bytes()).chain(self.softmax_scale().to_le_bytes()).collect()
    }

    /// Whether the tensor-core kernels take it.
    pub(super) fn on_tensor_cores(&self) -> bool {
        self.dtype == Dtype::Bf16 && matches!(self.head_dim, 64 | 128)
    }
}

impl Launch for Product {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        operands.float(self.shape.dtype)?;
        let s = self.shape;
        let bytes = s.dtype.bytes();
        let (seq, hd, width) = (s.seq, s.head_dim, s.width());
        let address = |name: &str, elements: usize| operands.pointer(name) + (elements * bytes) as u64;
        let mut calls = Vec::with_capacity(s.batch + 1);
        if self.kind == ProductKind::ValueGradient {
            // The spec writes the other two thirds as 0.
            let (pitch, rows) = (3 * width * bytes, s.batch * seq);
            calls.push(Call::Zero { pointer: operands.pointer("dqkv"), pitch, width: 2 * width * bytes, rows });
        }
        for batch in 0..s.batch {
            // Heads of one sequence: `third` of a packed tensor, a context, or the pairs of positions.
            let packed = |name, third: usize, transposed| Factor {
                pointer: address(name, batch * seq * 3 * width + third * width),
                dtype: s.dtype,
                stride: 3 * width,
                transposed,
                batch_stride: hd,
                scaling: None,
            };
            let context = |name, transposed| Factor {
                pointer: address(name, batch * seq * width),
                stride: width,
                ..packed(name, 0, transposed)
            };
            let pairs = |name, transposed| Factor {
                pointer: address(name, batch * s.heads * seq * seq),
                stride: seq,
                batch_stride: seq * seq,
                ..packed(name, 0, transposed)
            };
            let ((m, n, k), a, b, d) = match self.kind {
                ProductKind::Scores => {
                    ((seq, seq, hd), packed("qkv", 0, false), packed("qkv", 1, false), pairs("scores", false))
                }
                ProductKind::ProbabilityGradient => {
                    ((seq, seq, hd), context("dcontext", false), packed("qkv", 2, false), pairs("dp", false))
                }
                ProductKind::Context => {
                    ((seq, hd, seq), pairs("p", false), packed("qkv", 2, true), context("context", false))
                }
                ProductKind::ValueGradient => {
                    ((seq, hd, seq), pairs("p", true), context("dcontext", true), packed("dqkv", 2, false))
                }
                ProductKind::QueryGradient => {
                    ((seq, hd, seq), pairs("ds", false), packed("qkv", 1, true), packed("dqkv", 0, false))
                }
                ProductKind::KeyGradient => {
                    ((seq, hd, seq), pairs("ds", true), packed("qkv", 0, true), packed("dqkv", 1, false))
                }
            };
            let problem = Problem { m, n, k, batch: s.heads, a, b, c: None, d, fast_accumulation: false };
            calls.push(Call::Matmul(Box::new(Matmul::new(gpu, &problem)?)));
        }
        Ok(calls)
    }
}

impl Launch for SoftmaxForward {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let s = self.shape;
        let (dtype, pack) = (operands.float(s.dtype)?, Operands::pack(s.dtype, s.seq));
        let kernel = Kernel::new(gpu, &NAIVE, &format!("softmax_forward_{dtype}_v{pack}"))?
            .grid(s.batch * s.heads * s.seq, 1)
            .block(128)
            .shared(4 * s.seq.next_multiple_of(8))
            .pointer(operands.pointer("scores"))
            .pointer(operands.pointer("p"))
            .int(s.seq)
            .float(s.softmax_scale());
        Ok(vec![kernel.ready()?])
    }
}

impl Launch for SoftmaxBackward {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let s = self.shape;
        let (dtype, pack) = (operands.float(s.dtype)?, Operands::pack(s.dtype, s.seq));
        let kernel = Kernel::new(gpu, &NAIVE, &format!("softmax_backward_{dtype}_v{pack}"))?
            .grid(s.batch * s.heads * s.seq, 1)
            .block(128)
            .pointer(operands.pointer("p"))
            .pointer(operands.pointer("dp"))
            .pointer(operands.pointer("ds"))
            .int(s.seq)
            .float(s.softmax_scale());
        Ok(vec![kernel.ready()?])
    }
}

/// Refuses what the tiled kernels do not run.
fn check(shape: Shape, gpu: &Gpu, operands: &Operands<'_>) -> Result<&'static str, GpuError> {
    if !hopper::takes(shape, gpu) && (shape.mask, shape.kv_heads) != (Mask::Causal, shape.heads) {
        return operands.unsupported(
            "without the causal mask, or with heads that share keys: only in bf16 at head dims 64 and 128 on compute \
             capability 9.0",
        );
    }
    if shape.head_dim > 256 {
        return operands.unsupported(format!("head width {}: at most 256 is expected", shape.head_dim));
    }
    operands.float(shape.dtype)
}

/// cuDNN's kernel, with scratch memory that all ops of one shape share.
fn by_cudnn(gpu: &Gpu, shape: Shape, direction: Direction, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
    let (attention, scratch) = gpu.cudnn_attention(shape, direction)?;
    let launch = attention.bind(|name| operands.pointer(name), scratch.pointer())?;
    Ok(vec![Call::Cudnn { launch: Box::new(launch), _scratch: scratch }])
}

impl From<cudnn::CudnnError> for GpuError {
    fn from(error: cudnn::CudnnError) -> Self {
        let text = error.to_string();
        if error.is_unsupported() {
            Self::Unsupported { op: "attention `cudnn`".to_owned(), what: text }
        } else {
            Self::Driver { call: "cuDNN attention".to_owned(), status: text }
        }
    }
}

impl Launch for FlashForward {
    /// The counter that blocks take tiles off.
    fn scratch(&self) -> usize {
        if self.kernel == Runner::Cudnn { 0 } else { hopper::SCRATCH }
    }

    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        if self.kernel == Runner::Cudnn {
            return by_cudnn(gpu, self.shape, Direction::Forward, operands);
        }
        let s = self.shape;
        let dtype = check(s, gpu, operands)?;
        if hopper::takes(s, gpu) {
            return hopper::forward(s, gpu, operands);
        }
        let kernel = if s.on_tensor_cores() {
            Kernel::new(gpu, &FLASH_BF16, &format!("flash_bf16_forward_{}", s.head_dim))?
                .grid(s.seq.div_ceil(TILE_BF16), s.batch * s.heads)
                .block(128)
                // Queries, then two tiles each of keys and values.
                .shared(5 * TILE_BF16 * s.head_dim * 2)
        } else {
            Kernel::new(gpu, &FLASH, &format!("flash_forward_{dtype}"))?
                .grid(s.seq.div_ceil(TILE), s.batch * s.heads)
                .shared(4 * (4 * TILE * (s.head_dim + 1) + TILE * (TILE + 1)))
        };
        let kernel = kernel
            .pointer(operands.pointer("qkv"))
            .pointer(operands.pointer("context"))
            .pointer(operands.pointer("lse"))
            .structure(&s.heads_bytes());
        Ok(vec![kernel.ready()?])
    }
}

impl Launch for FlashBackward {
    /// delta, (B, H, S) fp32, or what the kernels for Hopper keep.
    fn scratch(&self) -> usize {
        if self.kernel == Runner::Cudnn {
            return 0;
        }
        let delta = 4 * self.shape.batch * self.shape.heads * self.shape.seq;
        delta.max(hopper_backward::scratch(self.shape))
    }

    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        if self.kernel == Runner::Cudnn {
            return by_cudnn(gpu, self.shape, Direction::Backward, operands);
        }
        let s = self.shape;
        let dtype = check(s, gpu, operands)?;
        if hopper::takes(s, gpu) {
            return hopper_backward::backward(self, gpu, operands);
        }
        let delta = Kernel::new(gpu, &FLASH, &format!("flash_delta_{dtype}"))?
            .grid((s.batch * s.heads * s.seq).div_ceil(8), 1)
            .pointer(operands.pointer("context"))
            .pointer(operands.pointer("dcontext"))
            .pointer(operands.scratch())
            .int(s.batch)
            .structure(&s.heads_bytes());
        let mut calls = vec![delta.ready()?];
        for part in ["keys", "queries"] {
            let kernel = if s.on_tensor_cores() {
                // Two tiles that stay, two pairs that come and go, and for keys two buffers of log-sum-exps and deltas.
                Kernel::new(gpu, &FLASH_BF16, &format!("flash_bf16_backward_{part}_{}", s.head_dim))?
                    .grid(s.seq.div_ceil(TILE_BF16), s.batch * s.heads)
                    .block(128)
                    .shared(6 * TILE_BF16 * s.head_dim * 2 + 4 * TILE_BF16 * 4)
            } else {
                let tiles = if part == "keys" { 6 } else { 5 };
                Kernel::new(gpu, &FLASH, &format!("flash_backward_{part}_{dtype}"))?
                    .grid(s.seq.div_ceil(TILE), s.batch * s.heads)
                    .shared(4 * (tiles * TILE * (s.head_dim + 1) + 2 * TILE * (TILE + 1)))
            };
            let kernel = kernel
                .pointer(operands.pointer("qkv"))
                .pointer(operands.pointer("dcontext"))
                .pointer(operands.pointer("lse"))
                .pointer(operands.scratch())
                .pointer(operands.pointer("dqkv"))
                .structure(&s.heads_bytes());
            calls.push(kernel.ready()?);
        }
        Ok(calls)
    }
}
