//! The CPU executor: runs the references over buffers that live as long as the list needs them.
//!
//! Without a placement a buffer is given back after its last use, as an eager framework's allocator does. With one, it is
//! taken away as soon as another tensor is written where it lies: a placement that is wrong is a read of what is gone, not
//! a number that is slightly off.

use std::collections::HashMap;
use std::time::Instant;

use stepwatch_kernels::Dtype;
use stepwatch_kernels::io::{Io, Slot};
use stepwatch_kernels::op::{Access, Param};
use stepwatch_kernels::real::Real;
use stepwatch_kernels::tensor::Buffer;

use super::start;
use crate::ir::{Node, Step, TensorId};
use crate::passes::place;

/// A list that reads what is not there: a bug in a pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("op `{label}` reads `{tensor}`, whose memory is no longer its own")]
pub struct Gone {
    /// The op.
    pub label: String,
    /// The tensor.
    pub tensor: String,
}

/// Shown every op after it ran, with all buffers by tensor; it may change them, as a kernel that errs would.
pub type Watch<'w, R> = dyn FnMut(&Node, &mut [Option<Buffer<R>>]) + 'w;

/// A list with what the executor knows of each op beforehand.
#[derive(Debug)]
struct List {
    nodes: Vec<Node>,
    signatures: Vec<Vec<Param>>,
    /// Tensors whose buffers are given back before each op, since the op writes where they lie.
    before: Vec<Vec<TensorId>>,
    /// Tensors whose buffers are given back after each op.
    after: Vec<Vec<TensorId>>,
}

/// A step on the CPU, with its tensors. `R` is what `Dtype::F32` is held as.
#[derive(Debug)]
pub struct Cpu<R> {
    step: Step,
    init: List,
    ops: List,
    buffers: Vec<Option<Buffer<R>>>,
    /// Buffers of tensors that are gone, for the next of their size.
    spare: HashMap<(Dtype, usize), Vec<Buffer<R>>>,
}

impl<R: Real> Cpu<R> {
    /// A step with the initial contents of `seed`. [`Self::init`] is still to be run.
    #[must_use]
    pub fn new(step: Step, seed: u64) -> Self {
        let mut touched = vec![false; step.tensors.len()];
        for node in step.init.iter().chain(&step.ops) {
            node.operands.iter().for_each(|id| touched[id.index()] = true);
        }
        let tensors = step.tensors.iter().zip(touched);
        let buffers = tensors.map(|(tensor, touched)| {
            // What no op touches (the optimiser's states, where only gradients are wanted) is not even made.
            tensor.start.filter(|_| touched).map(|start| start::contents(tensor, start, seed))
        });
        let buffers = buffers.collect();
        let init = List::new(&step, &step.init, &[]);
        let ops = List::new(&step, &step.ops, &step.outputs);
        Self { step, init, ops, buffers, spare: HashMap::new() }
    }

    /// The step it runs.
    #[must_use]
    pub const fn step(&self) -> &Step {
        &self.step
    }

    /// A tensor's contents, while it has any.
    #[must_use]
    pub fn buffer(&self, id: TensorId) -> Option<&Buffer<R>> {
        self.buffers[id.index()].as_ref()
    }

    /// A tensor's contents, for a test to change.
    pub fn buffer_mut(&mut self, id: TensorId) -> Option<&mut Buffer<R>> {
        self.buffers[id.index()].as_mut()
    }

    /// The first element of a tensor; NaN if it has none.
    #[must_use]
    pub fn scalar(&self, id: TensorId) -> f64 {
        self.buffer(id).and_then(|buffer| buffer.view().values().first().map(|value| value.f64())).unwrap_or(f64::NAN)
    }

    /// Writes an input.
    pub fn write(&mut self, id: TensorId, values: &[i32]) {
        if let Some(Buffer::I32(buffer)) = &mut self.buffers[id.index()] {
            buffer.clear();
            buffer.extend_from_slice(values);
        }
    }

    /// Runs what comes once before the first step; the inputs of step 0 must be there.
    ///
    /// # Errors
    /// [`Gone`], a bug in a pass.
    pub fn init(&mut self) -> Result<(), Gone> {
        run(&self.step, &self.init, &mut self.buffers, &mut self.spare, &mut |_, _| {})
    }

    /// Runs one step.
    ///
    /// # Errors
    /// [`Gone`], a bug in a pass.
    pub fn run(&mut self) -> Result<(), Gone> {
        run(&self.step, &self.ops, &mut self.buffers, &mut self.spare, &mut |_, _| {})
    }

    /// Runs one step and hands over the index of each op with its nanoseconds.
    ///
    /// # Errors
    /// [`Gone`], a bug in a pass.
    pub fn run_timed(&mut self, timed: &mut dyn FnMut(usize, u64)) -> Result<(), Gone> {
        run(&self.step, &self.ops, &mut self.buffers, &mut self.spare, timed)
    }

    /// Runs one step and shows every op with its operands right after it ran.
    ///
    /// # Errors
    /// [`Gone`], a bug in a pass.
    pub fn run_watched(&mut self, watch: &mut Watch<'_, R>) -> Result<(), Gone> {
        for at in 0..self.ops.nodes.len() {
            run_node(&self.step, &self.ops, at, &mut self.buffers, &mut self.spare)?;
            watch(&self.ops.nodes[at], &mut self.buffers);
            give_back(&self.step, &self.ops.after[at], &mut self.buffers, &mut self.spare);
        }
        Ok(())
    }
}

impl List {
    fn new(step: &Step, nodes: &[Node], outputs: &[TensorId]) -> Self {
        let (mut before, mut after) = (vec![Vec::new(); nodes.len()], vec![Vec::new(); nodes.len()]);
        let spans = place::lifetimes(step, nodes, outputs);
        match &step.placement {
            None => {
                for (id, span) in spans {
                    if let Some(after) = after.get_mut(*span.end()) {
                        after.push(id);
                    }
                }
            }
            Some(placement) => {
                let range = |id: TensorId| {
                    let from = placement.offsets[id.index()].unwrap_or(0);
                    from..from + step.tensor(id).bytes()
                };
                // Whether or not the other's life is over: if it is not, the placement is wrong, and reading it will say so.
                for (id, span) in &spans {
                    let own = range(*id);
                    let overlapping = spans.iter().map(|(other, _)| *other).filter(|other| {
                        let theirs = range(*other);
                        other != id && theirs.start < own.end && own.start < theirs.end
                    });
                    before[*span.start()].extend(overlapping);
                }
            }
        }
        let signatures = nodes.iter().map(|node| node.op.signature()).collect();
        Self { nodes: nodes.to_vec(), signatures, before, after }
    }
}

type Spare<R> = HashMap<(Dtype, usize), Vec<Buffer<R>>>;

fn run<R: Real>(
    step: &Step,
    list: &List,
    buffers: &mut [Option<Buffer<R>>],
    spare: &mut Spare<R>,
    timed: &mut dyn FnMut(usize, u64),
) -> Result<(), Gone> {
    for at in 0..list.nodes.len() {
        let start = Instant::now();
        run_node(step, list, at, buffers, spare)?;
        timed(at, u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        give_back(step, &list.after[at], buffers, spare);
    }
    Ok(())
}

fn give_back<R: Real>(step: &Step, ids: &[TensorId], buffers: &mut [Option<Buffer<R>>], spare: &mut Spare<R>) {
    for id in ids {
        if let Some(buffer) = buffers[id.index()].take() {
            spare.entry((step.tensor(*id).dtype, buffer.len())).or_default().push(buffer);
        }
    }
}

/// Runs one op over buffers that hold all its operands; what it writes takes the place of what was there.
///
/// # Errors
/// [`Gone`] if an operand that it reads is not there.
pub fn run_alone<R: Real>(node: &Node, buffers: &mut [Option<Buffer<R>>]) -> Result<(), Gone> {
    let signature = node.op.signature();
    let written = signature.iter().zip(&node.operands).map(|(param, id)| match param.access {
        Access::Read => None,
        Access::Update => buffers[id.index()].take(),
        Access::Write => Some(Buffer::zeros(param.dtype, param.elements())),
    });
    let mut written: Vec<Option<Buffer<R>>> = written.collect();
    let slots = written.iter_mut().zip(&node.operands).map(|(written, id)| match (written, &buffers[id.index()]) {
        (Some(buffer), _) => Ok(Slot::Write(buffer.view_mut())),
        (None, Some(buffer)) => Ok(Slot::Read(buffer.view())),
        (None, None) => Err(Gone { label: node.label.clone(), tensor: format!("tensor {}", id.index()) }),
    });
    let slots = slots.collect::<Result<_, Gone>>()?;
    node.op.run(&mut Io::new(&signature, slots));
    for (buffer, id) in written.into_iter().zip(&node.operands).filter(|(buffer, _)| buffer.is_some()) {
        buffers[id.index()] = buffer;
    }
    Ok(())
}

/// Lends an op its operands and runs it. Written tensors leave the table for that time, so no operand is lent twice.
fn run_node<R: Real>(
    step: &Step,
    list: &List,
    at: usize,
    buffers: &mut [Option<Buffer<R>>],
    spare: &mut Spare<R>,
) -> Result<(), Gone> {
    let (node, signature) = (&list.nodes[at], &list.signatures[at]);
    give_back(step, &list.before[at], buffers, spare);
    let gone = |id: TensorId| Gone { label: node.label.clone(), tensor: step.tensor(id).name.clone() };
    let mut written: Vec<Option<Buffer<R>>> = Vec::with_capacity(signature.len());
    for (param, id) in signature.iter().zip(&node.operands) {
        written.push(match param.access {
            Access::Read => None,
            Access::Update => Some(buffers[id.index()].take().ok_or_else(|| gone(*id))?),
            Access::Write => Some(buffers[id.index()].take().unwrap_or_else(|| {
                let (dtype, elements) = (param.dtype, param.elements());
                let found = spare.get_mut(&(dtype, elements)).and_then(Vec::pop);
                found.unwrap_or_else(|| Buffer::zeros(dtype, elements))
            })),
        });
    }
    let mut slots = Vec::with_capacity(signature.len());
    for (buffer, id) in written.iter_mut().zip(&node.operands) {
        slots.push(match buffer {
            Some(buffer) => Slot::Write(buffer.view_mut()),
            None => Slot::Read(buffers[id.index()].as_ref().ok_or_else(|| gone(*id))?.view()),
        });
    }
    node.op.run(&mut Io::new(signature, slots));
    for (buffer, id) in written.into_iter().zip(&node.operands) {
        if buffer.is_some() {
            buffers[id.index()] = buffer;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::build;
    use crate::config::{StepConfig, preset};

    #[test]
    fn a_wrong_placement_is_a_read_of_what_is_gone() {
        let mut step = place::place(build(&StepConfig::example(preset("tiny").unwrap(), 1, 16)));
        let mut good = Cpu::<f32>::new(step.clone(), 1);
        good.init().unwrap();
        good.run().unwrap();
        for offset in step.placement.as_mut().unwrap().offsets.iter_mut().flatten() {
            *offset = 0;
        }
        let mut bad = Cpu::<f32>::new(step, 1);
        bad.init().unwrap();
        let error = bad.run().unwrap_err().to_string();
        assert!(error.ends_with("whose memory is no longer its own"), "{error}");
    }
}
