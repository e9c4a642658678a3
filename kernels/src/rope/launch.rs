//! How rotary positions are launched.

use super::Rope;
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "rope.cu", text: include_str!("rope.cu") };

impl Launch for Rope {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let dtype = operands.float(self.dtype)?;
        let pack = Operands::pack(self.dtype, self.head_dim / 2);
        let threads = 2 * self.heads * (self.head_dim / 2 / pack);
        let kernel = Kernel::new(gpu, &SOURCE, &format!("rope_{dtype}_v{pack}"))?
            .grid(self.batch * self.seq, threads.div_ceil(128))
            .block(128)
            .pointer(operands.pointer("cos"))
            .pointer(operands.pointer("sin"))
            .pointer(operands.pointer("qkv"))
            .int(self.seq)
            .int(self.heads)
            .int(self.head_dim)
            .float(if self.backward { -1.0 } else { 1.0 });
        Ok(vec![kernel.ready()?])
    }
}
