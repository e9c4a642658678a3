//! How a cast is launched.

use super::Cast;
use crate::dtype::Dtype;
use crate::gpu::launch::{Launch, Operands};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError, Kernel};

pub(crate) static SOURCE: Source = Source { name: "cast.cu", text: include_str!("cast.cu") };

impl Launch for Cast {
    fn calls(&self, gpu: &Gpu, operands: &Operands<'_>) -> Result<Vec<Call>, GpuError> {
        // Integers move bit for bit, as fp32 would: the only integer cast is a copy.
        let (from, to) = match (self.from, self.to) {
            (Dtype::I32, Dtype::I32) => (Dtype::F32, Dtype::F32),
            (Dtype::I32, _) | (_, Dtype::I32) => {
                return operands.unsupported("integers are not cast to or from floats");
            }
            pair => pair,
        };
        let n: usize = self.shape.iter().product();
        let kernel = Kernel::new(gpu, &SOURCE, &format!("cast_{from}_{to}"))?
            .grid(n.div_ceil(256 * 8), 1)
            .pointer(operands.pointer("x"))
            .pointer(operands.pointer("y"))
            .long(n);
        Ok(vec![kernel.ready()?])
    }
}
