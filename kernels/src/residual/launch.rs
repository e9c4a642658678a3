//! How the residual sum is launched.

use super::Add;
use crate::dtype::Dtype;
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "residual.cu", text: include_str!("residual.cu") };

impl Launch for Add {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let dtype = operands.float(self.dtype)?;
        let n = self.rows * self.dim;
        let per_thread = if self.dtype == Dtype::Bf16 { 8 } else { 4 };
        let kernel = Kernel::new(gpu, &SOURCE, &format!("add_{dtype}"))?
            .grid(n.div_ceil(256 * per_thread), 1)
            .pointer(operands.pointer("a"))
            .pointer(operands.pointer("b"))
            .pointer(operands.pointer("y"))
            .long(n);
        Ok(vec![kernel.ready()?])
    }
}
