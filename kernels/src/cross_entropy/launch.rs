//! How cross-entropy is launched.

use super::{Backward, Forward, Mean};
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "cross_entropy.cu", text: include_str!("cross_entropy.cu") };

/// Threads for one row; the kernels are bounded by it.
const THREADS: usize = 512;

impl Launch for Forward {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let (dtype, pack) = (operands.float(self.dtype)?, Operands::pack(self.dtype, self.padded));
        let kernel = Kernel::new(gpu, &SOURCE, &format!("cross_entropy_forward_{dtype}_v{pack}"))?
            .grid(self.rows, 1)
            .block(THREADS)
            .pointer(operands.pointer("logits"))
            .pointer(operands.pointer("targets"))
            .pointer(operands.pointer("loss"))
            .pointer(operands.pointer("lse"))
            .int(self.vocab)
            .int(self.padded);
        Ok(vec![kernel.ready()?])
    }
}

impl Launch for Backward {
    #[expect(clippy::cast_precision_loss, reason = "rows are far below 2^24")]
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let (dtype, pack) = (operands.float(self.dtype)?, Operands::pack(self.dtype, self.padded));
        let kernel = Kernel::new(gpu, &SOURCE, &format!("cross_entropy_backward_{dtype}_v{pack}"))?
            .grid(self.rows, 1)
            .block(THREADS)
            .pointer(operands.pointer("targets"))
            .pointer(operands.pointer("lse"))
            .pointer(operands.pointer("logits"))
            .int(self.vocab)
            .int(self.padded)
            .float((self.rows as f32).recip());
        Ok(vec![kernel.ready()?])
    }
}

impl Launch for Mean {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let kernel = Kernel::new(gpu, &SOURCE, "mean_loss")?
            .block(1024)
            .pointer(operands.pointer("loss"))
            .pointer(operands.pointer("mean"))
            .int(self.rows);
        Ok(vec![kernel.ready()?])
    }
}
