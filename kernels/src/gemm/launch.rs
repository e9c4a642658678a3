//! How a matrix product is launched: cuBLASLt, behind a reordering of scales where they cover blocks.

use super::cublaslt::{Factor, Matmul, Problem, Scales};
use super::{Gemm, Operand, scale_shape};
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};
use crate::precision::Granularity;

pub(crate) static SOURCE: Source = Source { name: "gemm.cu", text: include_str!("gemm.cu") };

/// k-blocks of 128 × 128 scales in cuBLASLt's order: padded to a multiple of 4.
const fn padded(blocks: usize) -> usize {
    blocks.next_multiple_of(4)
}

impl Gemm {
    /// Bytes of the reordered scales of one operand, on 256-byte boundaries; 0 where they are read as they are.
    fn reordered(&self, operand: Operand, rows: usize) -> usize {
        let shape = |granularity| scale_shape(granularity, rows, self.k);
        let scales = match operand.scaling {
            Some(granularity @ Granularity::Block1x128) => shape(granularity).iter().product(),
            Some(granularity @ Granularity::Block128x128) => shape(granularity)[0] * padded(shape(granularity)[1]),
            _ => 0,
        };
        (4 * scales).next_multiple_of(256)
    }

    /// The scales of an operand as cuBLASLt reads them, behind the call that makes them so.
    fn scales(
        &self,
        gpu: &Gpu,
        calls: &mut Vec<Call>,
        (operand, rows): (Operand, usize),
        (pointer, scratch): (u64, u64),
    ) -> Result<Option<Scales>, GpuError> {
        let Some(granularity) = operand.scaling else { return Ok(None) };
        let shape = scale_shape(granularity, rows, self.k);
        let kernel = match granularity {
            Granularity::Tensor | Granularity::Row => return Ok(Some(Scales { pointer, granularity })),
            Granularity::Block1x128 => Kernel::new(gpu, &SOURCE, "scales_by_column")?
                .grid(shape[0].div_ceil(256), shape[1])
                .pointer(pointer)
                .pointer(scratch)
                .int(shape[0])
                .int(shape[1]),
            Granularity::Block128x128 => Kernel::new(gpu, &SOURCE, "scales_padded")?
                .grid((shape[0] * padded(shape[1])).div_ceil(256), 1)
                .pointer(pointer)
                .pointer(scratch)
                .int(shape[0])
                .int(shape[1])
                .int(padded(shape[1])),
        };
        calls.push(kernel.ready()?);
        Ok(Some(Scales { pointer: scratch, granularity }))
    }
}

impl Gemm {
    /// What cuBLASLt is asked for: addresses by operand, scales of A and B as it reads them.
    pub(super) fn problem(&self, pointer: impl Fn(&str) -> u64, scales: [Option<Scales>; 2]) -> Problem {
        let (m, n, k) = (self.m, self.n, self.k);
        let factor = |name, operand: Operand, rows, scaling| Factor {
            pointer: pointer(name),
            dtype: operand.dtype,
            stride: if operand.transposed { rows } else { k },
            transposed: operand.transposed,
            batch_stride: 0,
            scaling,
        };
        Problem {
            m,
            n,
            k,
            batch: 1,
            a: factor("a", self.a, m, scales[0]),
            b: factor("b", self.b, n, scales[1]),
            c: self.accumulate.then(|| pointer("c")),
            d: Factor { stride: n, ..factor("d", Operand::plain(self.d, false), m, None) },
            fast_accumulation: self.fast_accumulation,
        }
    }
}

impl Launch for Gemm {
    /// Scales of A, then of B, in cuBLASLt's order.
    fn scratch(&self) -> usize {
        self.reordered(self.a, self.m) + self.reordered(self.b, self.n)
    }

    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let (m, n) = (self.m, self.n);
        let mut calls = Vec::new();
        let (a_scratch, b_scratch) = (operands.scratch(), operands.scratch() + self.reordered(self.a, m) as u64);
        let a_scales = self.scales(gpu, &mut calls, (self.a, m), (operands.pointer("a_scale"), a_scratch))?;
        let b_scales = self.scales(gpu, &mut calls, (self.b, n), (operands.pointer("b_scale"), b_scratch))?;
        let problem = self.problem(|name| operands.pointer(name), [a_scales, b_scales]);
        calls.push(Call::Matmul(Box::new(Matmul::new(gpu, &problem)?)));
        Ok(calls)
    }
}
