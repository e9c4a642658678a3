//! How SwiGLU is launched.

use super::{Backward, Forward};
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "swiglu.cu", text: include_str!("swiglu.cu") };

impl Launch for Forward {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let (dtype, pack) = (operands.float(self.dtype)?, Operands::pack(self.dtype, self.ffn));
        let kernel = Kernel::new(gpu, &SOURCE, &format!("swiglu_forward_{dtype}_v{pack}"))?
            .grid(self.rows, self.ffn.div_ceil(pack * 128))
            .block(128)
            .pointer(operands.pointer("gate_up"))
            .pointer(operands.pointer("h"))
            .int(self.ffn);
        Ok(vec![kernel.ready()?])
    }
}

impl Launch for Backward {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let (dtype, pack) = (operands.float(self.dtype)?, Operands::pack(self.dtype, self.ffn));
        let kernel = Kernel::new(gpu, &SOURCE, &format!("swiglu_backward_{dtype}_v{pack}"))?
            .grid(self.rows, self.ffn.div_ceil(pack * 128))
            .block(128)
            .pointer(operands.pointer("gate_up"))
            .pointer(operands.pointer("dh"))
            .pointer(operands.pointer("dgate_up"))
            .int(self.ffn);
        Ok(vec![kernel.ready()?])
    }
}
