//! The CUDA executor: the op list on a GPU, every op prepared once and enqueued in order, every tensor at a fixed address.
//!
//! Steps are submitted ahead: nothing waits for the GPU but the reading of what a step left behind, some steps later. It may
//! not know kernels or libraries; it asks the kernels crate for both. Long because every way to run one list (ahead, timed,
//! watched) shares its tensors.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Instant;

use stepwatch_kernels::Dtype;
use stepwatch_kernels::fused::launch::Variant;
use stepwatch_kernels::gemm::Algorithm;
use stepwatch_kernels::gpu::launch::{prepare, scratch_bytes};
use stepwatch_kernels::gpu::{Facts, Gpu, GpuError, Graph, Inbox, Marks, Outbox, Prepared, Slice, devices};
use stepwatch_kernels::nvrtc::compile_ahead;
use stepwatch_kernels::op::Op;
use stepwatch_kernels::quantise::{Losses, Quantise};
use stepwatch_kernels::tensor::Buffer;
use stepwatch_kernels::timer::{Clocks, Event, clock_between};

use super::start::{self, Contents, Piece};
use crate::data::Batch;
use crate::ir::{Node, Phase, Start, Step, TensorId};
use crate::passes::place::{ALIGNMENT, place};

/// Steps that may be under way: the host prepares one while the GPU runs another and a third is read.
const AHEAD: usize = 3;

/// What measuring adds to a step on the device: the kernels that read the clocks before and behind it, the events around it and
/// between its phases, and the copies of both readings.
pub const MEASURING: [(&str, usize); 3] = [("kernels", 2), ("events", 4), ("copies", 2)];

/// Events that tell what an event takes.
const EVENTS_ALONE: usize = 64;

/// How a list is run where there is a choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    /// The algorithm of each product; those without one run by the library's first heuristic.
    pub algorithms: Vec<(String, Algorithm)>,
    /// Whether the step is captured as one graph.
    pub graph: bool,
}

/// A step that has ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    /// When it ended, ns since the instant given to [`Cuda::open`].
    pub t_ns: u64,
    /// From its first op to its last, ns.
    pub gpu_ns: u64,
    /// The same by phase: forward, backward, optimiser.
    pub phases_ns: [u64; 3],
    /// [`Self::gpu_ns`] in cycles of the SM clock.
    pub cycles: u64,
    /// Its mean loss, nats.
    pub loss: f64,
    /// Norm of its gradients before clipping.
    pub grad_norm: f64,
}

/// What one step under way needs for itself.
#[derive(Debug)]
struct Slot {
    ids: Outbox,
    targets: Outbox,
    /// Loss, gradient norm, both readings of the clocks.
    results: Inbox,
    before: Clocks,
    after: Clocks,
    start: Event,
    /// Where the backward pass and the optimiser begin.
    marks: [(usize, Rc<Event>); 2],
    end: Event,
    /// The step with this slot's marks, if it is run as a graph.
    graph: Option<Graph>,
}

/// A step on a GPU, with its tensors.
#[derive(Debug)]
pub struct Cuda {
    step: Step,
    ops: Rc<[Prepared]>,
    is_graph: bool,
    /// Whether steps run without clocks and events, and end without times.
    is_bare: bool,
    /// Why there is no graph though one was asked for.
    refused: Option<String>,
    tensors: Vec<Option<Slice>>,
    free: VecDeque<Slot>,
    under_way: VecDeque<Slot>,
    /// A point in the stream whose host time is known: `base_ns`.
    base: Event,
    base_ns: u64,
    gpu: Gpu,
}

impl Cuda {
    /// Places a step on the first visible GPU, gives its tensors the contents of `seed`, compiles and prepares every op, and
    /// runs what comes once, with the tokens of step 0. Times are counted from `opened`.
    ///
    /// # Errors
    /// What the GPU, its driver, its libraries or its memory lack.
    pub fn open(step: Step, seed: u64, first: &Batch, opened: Instant) -> Result<Self, GpuError> {
        Self::open_with(step, seed, first, opened, &Choices::default())
    }

    /// [`Self::open`] with what passes chose. A graph that cannot be captured is no error: [`Self::refused`] says why, and
    /// the step runs launch by launch.
    ///
    /// # Errors
    /// As [`Self::open`], and an algorithm that the library does not accept.
    pub fn open_with(
        mut step: Step,
        seed: u64,
        first: &Batch,
        opened: Instant,
        choices: &Choices,
    ) -> Result<Self, GpuError> {
        // Asked first: nothing is computed for a GPU that is not there.
        let found = devices()?;
        // Beside the context, the memory and the initial contents, none of which need a kernel.
        let variants = variants(&step);
        let capability = found.first().map(|facts| facts.capability);
        let ahead = std::thread::spawn(move || capability.map_or(0, |capability| compile_ahead(&variants, capability)));
        let contents = Contents::make(&step, seed);
        let gpu = Gpu::open(0)?;
        choices.algorithms.iter().for_each(|(product, algorithm)| gpu.pin(product, *algorithm));
        if step.placement.is_none() {
            // An eager framework's allocator reuses memory too; addresses are fixed here either way.
            step = place(step);
        }
        let tensors = allocate(&gpu, &step)?;
        let nodes = step.init.iter().chain(&step.ops);
        let scratch = gpu.allocate(nodes.map(|node| scratch_bytes(&node.op)).max().unwrap_or(0))?;
        gpu.compiled_ahead(ahead.join().unwrap_or(0));
        let prepare_all = |nodes: &[Node]| {
            let prepared = nodes.iter().map(|node| prepare(&gpu, &node.op, &operands(&tensors, node)?, &scratch));
            prepared.collect::<Result<Vec<Prepared>, GpuError>>()
        };
        let (init, ops) = (prepare_all(&step.init)?, Rc::from(prepare_all(&step.ops)?));
        let mut free = VecDeque::with_capacity(AHEAD);
        for _ in 0..AHEAD {
            free.push_back(slot(&gpu, first.ids.len(), bounds(&step.ops))?);
        }
        let refused = if choices.graph { capture_all(&gpu, &ops, &mut free) } else { None };
        let is_graph = choices.graph && refused.is_none();
        let base = Event::new(&gpu)?;
        let under_way = VecDeque::with_capacity(AHEAD);
        let base_ns = 0;
        let is_bare = false;
        let mut cuda = Self { step, ops, is_graph, is_bare, refused, tensors, free, under_way, base, base_ns, gpu };
        fill(&cuda.gpu, &cuda.step, &cuda.tensors, &contents)?;
        cuda.feed(first)?;
        init.iter().try_for_each(|op| cuda.gpu.enqueue(op))?;
        cuda.base.record(&cuda.gpu)?;
        cuda.base.wait()?;
        cuda.base_ns = u64::try_from(opened.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(cuda)
    }

    /// What the device says of itself.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        self.gpu.facts()
    }

    /// The device, for what is not of the step.
    pub(crate) const fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Device memory that tensors and workspaces took at most, bytes; loaded kernels and the context are not counted.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.gpu.peak_bytes() as u64
    }

    /// The step it runs.
    #[must_use]
    pub const fn step(&self) -> &Step {
        &self.step
    }

    /// How many launches a step is; those of a graph are made by the device.
    #[must_use]
    pub fn launches(&self) -> usize {
        self.ops.iter().map(Prepared::launches).sum()
    }

    /// Kernel sources that had to be compiled, since the disk did not hold them.
    #[must_use]
    pub fn kernels_compiled(&self) -> u64 {
        self.gpu.compiled().0 as u64
    }

    /// Why the step is no graph though one was asked for.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Takes the clocks and events out of the steps to come, or puts them back. No step may be under way: what is, is dropped.
    ///
    /// # Errors
    /// Whatever ended the device, or a graph that cannot be captured again.
    pub fn measure(&mut self, on: bool) -> Result<(), GpuError> {
        while self.oldest()?.is_some() {}
        for slot in &mut self.free {
            let clocks = if on { slot.before.slice().bytes() + slot.after.slice().bytes() } else { 0 };
            slot.results = Inbox::new(&self.gpu, 2 * Dtype::F32.bytes() + clocks)?;
            if slot.graph.is_some() {
                let marks: &[_] = if on { &slot.marks } else { &[] };
                slot.graph = Some(self.gpu.capture(&self.ops, marks)?);
            }
        }
        self.is_bare = !on;
        Ok(())
    }

    /// Enqueues one step. Waits only for the oldest of the steps under way where there are too many, and returns it.
    ///
    /// # Errors
    /// Whatever ended the device.
    pub fn submit(&mut self, batch: &Batch) -> Result<Option<Ended>, GpuError> {
        let ended = if self.free.is_empty() { self.oldest()? } else { None };
        let Some(mut slot) = self.free.pop_front() else { return Ok(ended) };
        let ports = self.step.ports;
        slot.ids.send(&self.gpu, &batch.ids, slice(&self.tensors, ports.ids)?)?;
        slot.targets.send(&self.gpu, &batch.targets, slice(&self.tensors, ports.targets)?)?;
        let (loss, norm) = (slice(&self.tensors, ports.loss)?, slice(&self.tensors, ports.grad_norm)?);
        if self.is_bare {
            self.enqueue_step(&slot, &[])?;
            slot.results.post(&self.gpu, &[loss, norm])?;
        } else {
            slot.before.record(&self.gpu)?;
            slot.start.record(&self.gpu)?;
            self.enqueue_step(&slot, &slot.marks)?;
            slot.end.record(&self.gpu)?;
            slot.after.record(&self.gpu)?;
            slot.results.post(&self.gpu, &[loss, norm, slot.before.slice(), slot.after.slice()])?;
        }
        self.under_way.push_back(slot);
        Ok(ended)
    }

    /// The ops of a step, as its slot's graph or one by one with marks.
    fn enqueue_step(&self, slot: &Slot, marks: &Marks) -> Result<(), GpuError> {
        match &slot.graph {
            Some(graph) => self.gpu.launch(graph),
            None => self.gpu.enqueue_all(&self.ops, marks),
        }
    }

    /// Waits for the oldest step under way, if there is one.
    ///
    /// # Errors
    /// Whatever ended the device.
    pub fn oldest(&mut self) -> Result<Option<Ended>, GpuError> {
        let Some(slot) = self.under_way.pop_front() else { return Ok(None) };
        let bytes = slot.results.take()?;
        let float = |at: usize| f64::from(f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        let (loss, grad_norm) = (float(0), float(4));
        if self.is_bare {
            self.free.push_back(slot);
            return Ok(Some(Ended { t_ns: 0, gpu_ns: 0, phases_ns: [0; 3], cycles: 0, loss, grad_norm }));
        }
        let (before, after) = bytes[8..].split_at((bytes.len() - 8) / 2);
        let cycles = clock_between(before, after).map_or(0, |(cycles, _)| cycles);
        let [(_, backward), (_, optimiser)] = &slot.marks;
        let ended = Ended {
            t_ns: self.base_ns + slot.end.since(&self.base)? as u64,
            gpu_ns: slot.end.since(&slot.start)? as u64,
            phases_ns: [
                backward.since(&slot.start)? as u64,
                optimiser.since(backward)? as u64,
                slot.end.since(optimiser)? as u64,
            ],
            cycles,
            loss,
            grad_norm,
        };
        self.free.push_back(slot);
        Ok(Some(ended))
    }

    /// Runs one step with an event between its ops; the time of each op, ns, less what an event itself takes. A graph is
    /// timed as a graph; else, where the GPU waits for the host, that wait is part of the op it waited for.
    ///
    /// # Errors
    /// Whatever ended the device.
    pub fn run_timed(&mut self, batch: &Batch) -> Result<Vec<f64>, GpuError> {
        self.feed(batch)?;
        let spans = self.timed(&self.ops, 0..=self.ops.len())?;
        // Events alone, one right behind the other.
        let mut alone = self.timed(&Rc::from(Vec::new()), 0..=EVENTS_ALONE)?;
        alone.sort_by(f64::total_cmp);
        let event_ns = alone.get(alone.len() / 2).copied().unwrap_or_default();
        Ok(spans.into_iter().map(|ns| (ns - event_ns).max(0.0)).collect())
    }

    /// The time between marks in a list of work, ns.
    fn timed(&self, ops: &Rc<[Prepared]>, marks: RangeInclusive<usize>) -> Result<Vec<f64>, GpuError> {
        let marks: Vec<_> =
            marks.map(|index| Ok((index, Rc::new(Event::new(&self.gpu)?)))).collect::<Result<_, GpuError>>()?;
        // Dropped at the end: it must not go before its launch is through.
        let graph = if self.is_graph { Some(self.gpu.capture(ops, &marks)?) } else { None };
        match &graph {
            Some(graph) => self.gpu.launch(graph)?,
            None => self.gpu.enqueue_all(ops, &marks)?,
        }
        self.gpu.synchronize()?;
        marks.windows(2).map(|pair| pair[1].1.since(&pair[0].1)).collect()
    }

    /// Runs one step op by op and hands over each op right after it was enqueued, while its operands are still its own:
    /// reading one waits for it.
    ///
    /// # Errors
    /// Whatever ended the device or the watch.
    pub fn run_watched<E: From<GpuError>>(
        &mut self,
        batch: &Batch,
        watch: &mut dyn FnMut(&Self, &Node) -> Result<(), E>,
    ) -> Result<(), E> {
        self.feed(batch)?;
        for (op, node) in self.ops.iter().zip(&self.step.ops) {
            self.gpu.enqueue(op)?;
            watch(self, node)?;
        }
        Ok(self.gpu.synchronize()?)
    }

    /// Pieces of a tensor: from each of `starts`, `len` elements that lie `stride` apart.
    ///
    /// # Errors
    /// If the step does not touch the tensor, a piece reaches past its end, or whatever ended the device.
    pub fn gather(&self, id: TensorId, starts: &[usize], stride: usize, len: usize) -> Result<Buffer<f32>, GpuError> {
        self.gpu.gather(slice(&self.tensors, id)?, self.step.tensor(id).dtype, starts, stride, len)
    }

    /// What a cast of these operands loses.
    ///
    /// # Errors
    /// If the step does not touch them, or whatever ended the device.
    pub fn cast_losses(&self, quantise: &Quantise, x: TensorId, scale: TensorId) -> Result<Losses, GpuError> {
        quantise.losses_on_gpu(&self.gpu, slice(&self.tensors, x)?, slice(&self.tensors, scale)?)
    }

    /// A tensor's contents; waits for all that was submitted. Tensors that end with their step hold what was last written
    /// where they lie.
    ///
    /// # Errors
    /// If the step does not touch it, or whatever ended the device.
    pub fn read(&self, id: TensorId) -> Result<Buffer<f32>, GpuError> {
        self.gpu.download_tensor(slice(&self.tensors, id)?, self.step.tensor(id).dtype)
    }

    /// Writes the inputs and waits.
    fn feed(&self, batch: &Batch) -> Result<(), GpuError> {
        for (id, values) in [(self.step.ports.ids, &batch.ids), (self.step.ports.targets, &batch.targets)] {
            let view = stepwatch_kernels::tensor::View::I32(values);
            self.gpu.upload_tensor(slice(&self.tensors, id)?, view)?;
        }
        Ok(())
    }
}

/// The kernels written for the fusions of a step.
fn variants(step: &Step) -> Vec<Variant> {
    let mut variants: Vec<Variant> = Vec::new();
    for node in step.init.iter().chain(&step.ops) {
        let Op::Fused(fused) = &node.op else { continue };
        for variant in fused.variants() {
            if !variants.contains(&variant) {
                variants.push(variant);
            }
        }
    }
    variants
}

fn slot(gpu: &Gpu, tokens: usize, [backward, optimiser]: [usize; 2]) -> Result<Slot, GpuError> {
    let mark = |index| Event::new(gpu).map(|event| (index, Rc::new(event)));
    let (before, after) = (Clocks::new(gpu)?, Clocks::new(gpu)?);
    let scalars = 2 * Dtype::F32.bytes();
    Ok(Slot {
        ids: Outbox::new(gpu, 4 * tokens)?,
        targets: Outbox::new(gpu, 4 * tokens)?,
        results: Inbox::new(gpu, scalars + before.slice().bytes() + after.slice().bytes())?,
        before,
        after,
        start: Event::new(gpu)?,
        marks: [mark(backward)?, mark(optimiser)?],
        end: Event::new(gpu)?,
        graph: None,
    })
}

/// Captures the step for every slot, each with its own marks; says why if that is refused, and leaves none.
fn capture_all(gpu: &Gpu, ops: &Rc<[Prepared]>, slots: &mut VecDeque<Slot>) -> Option<String> {
    let graphs: Result<Vec<Graph>, GpuError> = slots.iter().map(|slot| gpu.capture(ops, &slot.marks)).collect();
    match graphs {
        Ok(graphs) => {
            slots.iter_mut().zip(graphs).for_each(|(slot, graph)| slot.graph = Some(graph));
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Where the backward pass and the optimiser begin: phases follow each other in every list.
fn bounds(nodes: &[Node]) -> [usize; 2] {
    [Phase::Backward, Phase::Optimiser].map(|phase| nodes.iter().take_while(|node| node.phase < phase).count())
}

/// One allocation for what lives across steps and one for the arena, cut by tensor.
fn allocate(gpu: &Gpu, step: &Step) -> Result<Vec<Option<Slice>>, GpuError> {
    let touched = start::touched(step);
    let mut offsets: Vec<Option<u64>> = vec![None; step.tensors.len()];
    let mut end = 0;
    for (index, tensor) in step.tensors.iter().enumerate().filter(|(index, t)| touched[*index] && t.persistent()) {
        offsets[index] = Some(end);
        end = (end + tensor.bytes()).next_multiple_of(ALIGNMENT);
    }
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let lasting = gpu.allocate(size(end))?;
    let arena = gpu.allocate(size(step.placement.as_ref().map_or(0, |placement| placement.arena_bytes)))?;
    let placed = |index: usize| step.placement.as_ref().and_then(|placement| placement.offsets[index]);
    let cut = |(index, tensor): (usize, &crate::ir::Tensor)| {
        let (memory, offset) = match offsets[index] {
            Some(offset) => (&lasting, offset),
            None => (&arena, placed(index)?),
        };
        memory.slice(size(offset), size(tensor.bytes()))
    };
    Ok(step.tensors.iter().enumerate().map(cut).collect())
}

/// Gives tensors that live across steps their first contents.
fn fill(gpu: &Gpu, step: &Step, tensors: &[Option<Slice>], contents: &Contents) -> Result<(), GpuError> {
    for (tensor, slice) in step.tensors.iter().zip(tensors) {
        if let (Some(Start::Zeros), Some(slice)) = (tensor.start, slice) {
            gpu.fill(slice, 0)?;
        }
    }
    for Piece { index, from, values } in contents.pieces() {
        let bytes = step.tensors[index].dtype.bytes();
        let whole = slice(tensors, TensorId(u32::try_from(index).unwrap_or(u32::MAX)))?;
        let Some(part) = whole.slice(from * bytes, values.len() * bytes) else { continue };
        gpu.upload_tensor(&part, values.view())?;
    }
    Ok(())
}

fn operands(tensors: &[Option<Slice>], node: &Node) -> Result<Vec<Slice>, GpuError> {
    node.operands.iter().map(|id| slice(tensors, *id).cloned()).collect()
}

fn slice(tensors: &[Option<Slice>], id: TensorId) -> Result<&Slice, GpuError> {
    tensors.get(id.index()).and_then(Option::as_ref).ok_or_else(|| GpuError::Operand {
        op: "step",
        operand: format!("tensor {}", id.index()),
        what: "it has no place in memory: no op touches it".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use crate::build::build;
    use crate::config::{Compile, StepConfig, preset};
    use crate::exec::Backend;
    use crate::passes::pipeline;

    #[test]
    fn phases_follow_each_other_in_every_list() {
        for precision in Precision::ALL {
            for compile in [Compile::None, Compile::Full] {
                let config = StepConfig { precision, ..StepConfig::example(preset("454m").unwrap(), 1, 2048) };
                let step = pipeline(build(&config), &compile, Backend::Cuda).unwrap().step;
                let what = format!("{} {compile}", precision.name());
                assert!(step.ops.is_sorted_by_key(|node| node.phase), "{what}");
                let [backward, optimiser] = bounds(&step.ops);
                assert_eq!(step.ops[backward].phase, Phase::Backward, "{what}");
                assert_eq!(step.ops[optimiser].phase, Phase::Optimiser, "{what}");
                assert!(backward > 0 && optimiser > backward, "{what}");
            }
        }
    }
}
