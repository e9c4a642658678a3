//! How AdamW is launched.

use super::{AdamW, Advance, BETA1, BETA2, EPSILON};
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "adamw.cu", text: include_str!("adamw.cu") };

impl AdamW {
    /// `struct Rates` of the kernel: six fp32, three fp64, one u32, padded to 8 bytes.
    #[expect(clippy::cast_possible_truncation, reason = "fp32 constants are rounded once, as in the reference")]
    pub(super) fn rates(&self) -> Vec<u8> {
        let singles = [BETA1, 1.0 - BETA1, BETA2, 1.0 - BETA2, EPSILON, self.weight_decay];
        let doubles = [BETA1, BETA2, self.learning_rate];
        let mut bytes: Vec<u8> = singles.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
        bytes.extend(doubles.iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend(self.warmup.to_le_bytes());
        bytes.extend([0; 4]);
        bytes
    }
}

impl Launch for AdamW {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let (gradient, state) = (operands.float(self.gradient)?, operands.float(self.state)?);
        let n: usize = self.shape.iter().product();
        let copy = self.copy.map(|dtype| operands.float(dtype)).transpose()?;
        let suffix = copy.map(|dtype| format!("_copy_{dtype}")).unwrap_or_default();
        let mut kernel = Kernel::new(gpu, &SOURCE, &format!("adamw_{gradient}_{state}{suffix}"))?
            .grid(n.div_ceil(256 * 8).min(2048), 1)
            .pointer(operands.pointer("g"))
            .pointer(operands.pointer("clip"))
            .pointer(operands.pointer("step"))
            .pointer(operands.pointer("w"))
            .pointer(operands.pointer("m"))
            .pointer(operands.pointer("v"))
            .long(n)
            .structure(&self.rates());
        if copy.is_some() {
            kernel = kernel.pointer(operands.pointer("copy"));
        }
        Ok(vec![kernel.ready()?])
    }
}

impl Launch for Advance {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        let kernel = Kernel::new(gpu, &SOURCE, "advance")?.block(1).pointer(operands.pointer("step"));
        Ok(vec![kernel.ready()?])
    }
}
