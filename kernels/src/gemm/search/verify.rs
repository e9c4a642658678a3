//! What is wrong with the results of an algorithm, if anything is: a few elements against fp64, the whole against another algorithm, and
//! one run against a second.

use super::super::Algorithm;
use super::super::cublaslt::{Factor, Matmul, Problem};
use super::SOURCE;
use super::bench::Bench;
use crate::dtype::Dtype;
use crate::gpu::{Call, Gpu, GpuError, Kernel, Prepared, Slice};
use crate::op::{Param, Spec};
use crate::sample::{Pieces, Sampled};

/// Rows and columns of the results that are computed again: 16 · 16 are 256 elements.
const SAMPLED: usize = 16;

impl Bench<'_> {
    /// What is wrong with an algorithm's results, if anything is: elements computed again in fp64, the whole against the
    /// first algorithm that was right, and a second run bit for bit, with what lies in the workspace changed between.
    pub(super) fn verify(&self, algorithm: Algorithm) -> Result<Option<String>, GpuError> {
        let problem = *self.copies[0].problem();
        let Some(own) = self.operands.last() else { return Ok(None) };
        self.run(&problem, algorithm, own, 0xff)?;
        self.run(
            &Problem { d: Factor { pointer: self.other.pointer(), ..problem.d }, ..problem },
            algorithm,
            &self.other,
            0x5a,
        )?;
        let (different, ..) = self.compare(own, &self.other)?;
        if different > 0.0 {
            return Ok(Some(format!("two runs differ in {different} elements")));
        }
        if let Some(why) = self.check_samples()? {
            return Ok(Some(why));
        }
        let Some(reference) = self.reference.get() else {
            let kept = self.gpu.allocate(own.bytes())?;
            self.gpu.copy(&kept, own)?;
            let _ = self.reference.set(kept);
            return Ok(None);
        };
        let (_, noise, signal) = self.compare(reference, own)?;
        let most = 0.004 + self.tolerance();
        let off = (noise / signal.max(f64::MIN_POSITIVE)).sqrt();
        // NaN is near nothing.
        Ok(if off <= most {
            None
        } else {
            Some(format!("off the others by {off:.1e} of the norm, at most {most:.1e} is right"))
        })
    }

    /// Runs into a place that held no numbers, with a workspace full of one byte.
    fn run(&self, problem: &Problem, algorithm: Algorithm, into: &Slice, byte: u8) -> Result<(), GpuError> {
        self.gpu.fill(into, 0xff)?;
        self.gpu.fill(self.gpu.blas()?.workspace(), byte)?;
        let matmul = Matmul::with(self.gpu, problem, algorithm)?;
        self.gpu.enqueue(&Prepared::new(vec![Call::Matmul(Box::new(matmul))], Vec::new()))
    }

    /// How many elements of two results differ, Σ (a − b)² and Σ a².
    fn compare(&self, a: &Slice, b: &Slice) -> Result<(f64, f64, f64), GpuError> {
        let sums = self.gpu.allocate(24)?;
        self.gpu.fill(&sums, 0)?;
        let elements = a.bytes() / self.gemm.d.bytes();
        let kernel = Kernel::new(self.gpu, &SOURCE, &format!("compare_{}", self.gemm.d))?
            .grid(8 * self.gpu.facts().multiprocessors, 1)
            .pointer(a.pointer())
            .pointer(b.pointer())
            .pointer(sums.pointer())
            .long(elements);
        self.gpu.enqueue(&Prepared::new(vec![kernel.ready()?], Vec::new()))?;
        let mut bytes = [0; 24];
        self.gpu.download(&sums, &mut bytes)?;
        let sum = |at: usize| f64::from_le_bytes(std::array::from_fn(|byte| bytes[8 * at + byte]));
        Ok((sum(0), sum(1), sum(2)))
    }

    /// Computes some elements again in fp64 from the operands' own bytes; what is wrong with the result, if anything is.
    fn check_samples(&self) -> Result<Option<String>, GpuError> {
        let columns = spread(self.gemm.n);
        let at: Vec<(usize, usize)> =
            spread(self.gemm.m).into_iter().flat_map(|row| columns.iter().map(move |column| (row, *column))).collect();
        let mut lying = Lying { gpu: self.gpu, params: &self.gemm.signature(), operands: &self.operands };
        let sampled = self.gemm.sample_at(&at, &mut lying)?;
        let worst = sampled.iter().filter(|element| !element.holds()).max_by(|a, b| a.error().total_cmp(&b.error()));
        Ok(worst.map(|Sampled { element, found, expected, .. }| {
            format!("element {element} is {found:e}, {expected:e} is right")
        }))
    }

    /// How far the results of two right algorithms may be apart, as a share of the norm. Hopper's tensor cores keep 14 bits of a
    /// sum of FP8 products until it is promoted.
    const fn tolerance(&self) -> f64 {
        match (self.gemm.a.dtype, self.gemm.fast_accumulation) {
            (Dtype::E4m3 | Dtype::E5m2, true) => 0.05,
            (Dtype::E4m3 | Dtype::E5m2, false) => 0.02,
            (Dtype::F32, _) => 1e-4,
            _ => 1e-3,
        }
    }
}

/// Operands as they lie on the device.
struct Lying<'a> {
    gpu: &'a Gpu,
    params: &'a [Param],
    operands: &'a [Slice],
}

impl Pieces for Lying<'_> {
    type Error = GpuError;

    fn pieces(&mut self, operand: usize, starts: &[usize], stride: usize, len: usize) -> Result<Vec<f64>, GpuError> {
        let found = self.gpu.gather(&self.operands[operand], self.params[operand].dtype, starts, stride, len)?;
        Ok(found.view().values().iter().map(|value| f64::from(*value)).collect())
    }
}

/// [`SAMPLED`] indices below `end`, one from each part of it, the last among them: partial tiles are where kernels err.
fn spread(end: usize) -> Vec<usize> {
    let pick = |part: usize| {
        let (from, to) = (part * end / SAMPLED, ((part + 1) * end / SAMPLED).max(1));
        if part + 1 == SAMPLED { end - 1 } else { from + (part * 7919 + 13) % (to - from).max(1) }
    };
    let mut picked: Vec<usize> = (0..SAMPLED).map(pick).filter(|index| *index < end).collect();
    picked.dedup();
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_reach_from_the_first_part_to_the_last_element() {
        let picked = spread(50_304);
        assert_eq!((picked.len(), picked.last()), (SAMPLED, Some(&50_303)));
        assert!(picked.windows(2).all(|pair| pair[0] < pair[1]) && picked[0] < 50_304 / SAMPLED, "{picked:?}");
        assert_eq!(spread(1), [0]);
        assert!(spread(5).iter().all(|index| *index < 5));
    }
}
