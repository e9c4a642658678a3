//! How the kernel over all AdamW updates is compiled and launched: its tables, its scratch memory and the small launches behind it.
//! It may not know which parts of a fusion it takes.

use super::{Chunks, Optimiser, WARPS, Weight};
use crate::dtype::Dtype;
use crate::fused::Local;
use crate::fused::launch::{Bound, FusedKernel, Variant};
use crate::gpu::source::Source;
use crate::gpu::{Call, Gpu, GpuError};
use crate::precision::{AMAX_EPSILON, DELAYED_HISTORY};

static SOURCE: Source = Source { name: "adamw_fused.cu", text: include_str!("../fused.cu") };

/// Threads of a block that updates, and blocks of a multiprocessor: what their registers allow.
const THREADS: usize = 32 * WARPS;
const RESIDENT: usize = 3;
/// Threads of a block that adds up a parameter's squares.
const NORM_THREADS: usize = 1024;

impl Optimiser<'_> {
    fn casts(&self) -> bool {
        self.weights.iter().any(|weight| weight.amax.is_some() || weight.cast.is_some() || weight.rows.is_some())
    }

    fn variant(&self) -> Option<Variant> {
        let first = self.weights.first()?;
        let element = |dtype: Dtype| match dtype {
            Dtype::F32 => "float",
            other => other.name(),
        };
        let defines = vec![
            format!("GRADIENT={}", element(first.spec.gradient)),
            format!("STATE={}", element(first.spec.state)),
            format!("WEIGHT={}", element(first.dtype())),
            format!("FORMAT={}", self.format.name()),
            format!("COPY={}", u8::from(first.spec.copy.is_some())),
            format!("CASTS={}", u8::from(self.casts())),
            format!("NORM={}", u8::from(self.norm.is_some())),
            format!("BLOCKS={RESIDENT}"),
        ];
        Some(Variant { source: &SOURCE, defines, name: "adamw_all" })
    }

    /// Whether a second launch gathers the maxima of whole weights.
    fn gathers(&self) -> bool {
        self.weights.iter().any(|weight| weight.amax.is_some())
    }

    /// Where each weight's maxima start, in words from the end of the parts' scratch, and where they end.
    fn places(&self) -> (Vec<usize>, usize) {
        let mut end = 0;
        let place = |weight: &Weight<'_>| {
            let start = end;
            end += weight.amax.map_or(0, |_| weight.chunks() * WARPS);
            start
        };
        (self.weights.iter().map(place).collect(), end)
    }

    /// Scratch of the parts that run alone, bytes.
    fn scratch_of_rest(&self) -> usize {
        let all = self.taken.iter().all(|taken| *taken);
        if all { 0 } else { self.fused.scratch_of_parts().next_multiple_of(16) }
    }

    /// Where in scratch memory the sums of squares start, bytes: of each warp of each chunk in fp64, then of each parameter in fp32.
    fn squares_at(&self) -> usize {
        (self.scratch_of_rest() + 4 * self.places().1).next_multiple_of(16)
    }

    /// Sums of squares of a parameter.
    fn squares_of(weight: &Weight<'_>) -> usize {
        weight.chunks() * WARPS
    }

    /// Address of each parameter's sums of squares; 0 where none are taken.
    fn squares(&self, bound: &Bound<'_>) -> Vec<u64> {
        let mut at = bound.scratch() + self.squares_at() as u64;
        let place = |weight: &Weight<'_>| {
            let own = at;
            at += 8 * Self::squares_of(weight) as u64;
            if self.norm.is_some() { own } else { 0 }
        };
        self.weights.iter().map(place).collect()
    }

    /// Address of each weight's maxima.
    fn maxima(&self, bound: &Bound<'_>) -> Vec<u64> {
        let start = bound.scratch() + self.scratch_of_rest() as u64;
        self.places().0.into_iter().map(|place| start + 4 * place as u64).collect()
    }

    /// `struct Parameter` of the kernel, once a weight.
    fn parameters(&self, bound: &Bound<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ((weight, maxima), squares) in self.weights.iter().zip(self.maxima(bound)).zip(self.squares(bound)) {
            let operand = |index: usize| bound.optional(weight.operands.get(index).copied());
            let (scale, q, qt) = match (weight.cast, weight.rows) {
                (_, Some(rows)) => (Some(rows.scale), Some(rows.q), None),
                (Some((_, scale, q, qt)), _) => (Some(scale), q, qt),
                _ => (None, None, None),
            };
            let (kind, rows, cols) = match weight.kind() {
                Chunks::Line => (0, 0, 0),
                Chunks::Tile(rows, cols) => (1, rows, cols),
                Chunks::Rows(rows, cols) => (2, rows, cols),
            };
            let of_rows = weight.rows.map(|rows| rows.amax).filter(|&amax| self.fused.stores(amax));
            let tensors = [0, 3, 4, 5, 6].map(operand);
            let cast = [weight.elements() as u64, bound.optional(scale), bound.optional(q), bound.optional(qt)];
            bytes.extend(tensors.iter().chain(&cast).flat_map(|word| word.to_le_bytes()));
            bytes.extend([rows, cols].into_iter().flat_map(word));
            let made = [weight.amax.map_or(0, |_| maxima), bound.optional(of_rows), squares];
            bytes.extend(made.iter().flat_map(|word| word.to_le_bytes()));
            #[expect(clippy::cast_possible_truncation, reason = "rounded once, as in the reference")]
            bytes.extend((weight.spec.weight_decay as f32).to_le_bytes());
            let power_of_two = usize::from(weight.rows.is_some_and(|rows| rows.power_of_two));
            bytes.extend([kind, power_of_two, 0].into_iter().flat_map(word));
        }
        bytes
    }

    /// The launch that makes the norm of the squares: `struct Squares` of the kernel, once a parameter, in the order of the sums.
    fn gather_norm(&self, gpu: &Gpu, bound: &Bound<'_>, variant: &Variant) -> Result<Option<Call>, GpuError> {
        let Some((norm, factor)) = self.norm else { return Ok(None) };
        let addresses = self.squares(bound);
        let mut bytes = Vec::new();
        for (g, sum) in &self.sums {
            let own = self.weights.iter().zip(&addresses).find(|(weight, _)| weight.operands[0] == *g);
            let Some((weight, address)) = own else { continue };
            let sum = bound.optional(self.fused.stores(*sum).then_some(*sum));
            bytes.extend([*address, sum].into_iter().flat_map(u64::to_le_bytes));
            bytes.extend([Self::squares_of(weight), 0].into_iter().flat_map(word));
        }
        let of_parameters = self.weights.iter().map(Self::squares_of).sum::<usize>() * 8;
        let kernel = Variant { name: "adamw_norm", ..variant.clone() }
            .kernel(gpu)?
            .grid(self.weights.len(), 1)
            .block(NORM_THREADS)
            .table(gpu.table(&bytes)?)
            .pointer(bound.scratch() + (self.squares_at() + of_parameters) as u64)
            .table(gpu.table(&[0; 4])?)
            .pointer(bound.pointer(norm))
            .pointer(bound.optional(self.fused.stores(factor).then_some(factor)));
        kernel.ready().map(Some)
    }

    /// The launch that gathers the maxima of whole weights: `struct WeightMaximum` of the kernel, once each.
    fn gather(&self, gpu: &Gpu, bound: &Bound<'_>, variant: &Variant, step: Local) -> Result<Call, GpuError> {
        let mut bytes = Vec::new();
        let mut count = 0;
        for (weight, maxima) in self.weights.iter().zip(self.maxima(bound)) {
            let Some((_, stored)) = weight.amax else { continue };
            let history = weight.record.map(|(history, _)| history);
            let addresses = [maxima, bound.optional(stored), bound.optional(history)];
            bytes.extend(addresses.iter().flat_map(|address| address.to_le_bytes()));
            let late = self.advance - weight.record.map_or(self.advance, |(_, steps)| steps);
            bytes.extend([weight.chunks() * WARPS, DELAYED_HISTORY, late, 0].into_iter().flat_map(word));
            count += 1;
        }
        let variant = Variant { name: "adamw_maxima", ..variant.clone() };
        let kernel = variant.kernel(gpu)?.grid(count, 1).block(THREADS).table(gpu.table(&bytes)?);
        kernel.pointer(bound.pointer(step)).ready()
    }
}

/// A size as the kernels' tables hold it.
fn word(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

impl FusedKernel for Optimiser<'_> {
    fn variants(&self) -> Vec<Variant> {
        let update = self.variant();
        let also = |wanted: bool, name| update.clone().filter(|_| wanted).map(|all| Variant { name, ..all });
        let (maxima, norm) = (also(self.gathers(), "adamw_maxima"), also(self.norm.is_some(), "adamw_norm"));
        update.into_iter().chain(maxima).chain(norm).collect()
    }

    fn scratch(&self) -> usize {
        let of_each = |weight: &Weight<'_>| 8 * Self::squares_of(weight) + 4;
        let squares = self.norm.map_or(0, |_| self.weights.iter().map(of_each).sum());
        self.squares_at() + squares
    }

    fn calls(&self, gpu: &Gpu, bound: &Bound<'_>) -> Result<Vec<Call>, GpuError> {
        let (Some(first), Some(variant)) = (self.weights.first(), self.variant()) else { return Ok(Vec::new()) };
        // Counts the blocks that have read the step counter.
        let through = gpu.table(&[0; 4])?;
        let chunks: Vec<[u32; 2]> = (0_u32..)
            .zip(&self.weights)
            .flat_map(|(index, weight)| (0_u32..).take(weight.chunks()).map(move |number| [index, number]))
            .collect();
        let chunk_bytes: Vec<u8> = chunks.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
        let kernel = variant
            .kernel(gpu)?
            .grid(chunks.len().min(gpu.facts().multiprocessors * RESIDENT).max(1), 1)
            .block(THREADS)
            .table(gpu.table(&self.parameters(bound))?)
            .table(gpu.table(&chunk_bytes)?)
            .int(chunks.len())
            .pointer(if self.norm.is_some() { 0 } else { bound.pointer(first.operands[1]) })
            .pointer(bound.pointer(first.operands[2]))
            .int(self.advance)
            .table(through)
            .float(AMAX_EPSILON)
            .float(self.format.max_finite().unwrap_or(1.0))
            .structure(&first.spec.rates());
        let mut calls = vec![kernel.ready()?];
        calls.extend(self.gather_norm(gpu, bound, &variant)?);
        if self.gathers() {
            calls.push(self.gather(gpu, bound, &variant, first.operands[2])?);
        }
        calls.extend(bound.parts(self.fused, gpu, |index| !self.taken[index])?);
        Ok(calls)
    }
}
