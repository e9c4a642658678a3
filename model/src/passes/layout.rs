//! Both layouts of an FP8 operand written by the cast that makes it, and the casts of weights done once per update.
//!
//! 1. A cast and the transposes of its result become one cast that writes what is read: as stored, transposed, or both.
//! 2. The casts of weights move behind the optimiser that changed them, and before the first step into `init`; their
//!    results live across steps. Delayed scales of weights are taken just before the optimiser, from the same history.
//!
//! 3. What the forward pass makes and backward only casts is cast in the forward pass: the cast is kept, half as large.
//!
//! No number changes: bitwise equal to the list before.

use std::collections::{HashMap, HashSet};

use stepwatch_kernels::op::Op;
use stepwatch_kernels::quantise::Quantise;

use crate::ir::{Node, Phase, Start, Step, TensorClass, TensorId};

/// The pass.
#[must_use]
pub fn layout(mut step: Step) -> Step {
    step.init = merge_transposes(step.init);
    step.ops = merge_transposes(step.ops);
    let ops = std::mem::take(&mut step.ops);
    step.ops = cast_early(&step, ops);
    move_weight_casts(step)
}

/// 1. One cast for both layouts.
fn merge_transposes(nodes: Vec<Node>) -> Vec<Node> {
    let mut gone = vec![false; nodes.len()];
    let mut merged = nodes.clone();
    for (at, node) in nodes.iter().enumerate() {
        let Op::Quantise(Quantise { row_major: true, transposed: false, .. }) = node.op else { continue };
        let [x, scale, q] = node.operands[..] else { continue };
        let readers: Vec<usize> = (at + 1..nodes.len()).filter(|&later| nodes[later].touches(q)).collect();
        let transposes = |&&later: &&usize| matches!(nodes[later].op, Op::Transpose(_));
        let [transpose] = readers.iter().filter(transposes).copied().collect::<Vec<_>>()[..] else { continue };
        let qt = nodes[transpose].operands[1];
        let row_major = readers.len() > 1;
        if let Op::Quantise(spec) = &mut merged[at].op {
            (spec.row_major, spec.transposed) = (row_major, true);
        }
        merged[at].operands = if row_major { vec![x, scale, q, qt] } else { vec![x, scale, qt] };
        gone[transpose] = true;
    }
    merged.into_iter().zip(gone).filter(|(_, gone)| !gone).map(|(node, _)| node).collect()
}

/// 3. Casts that backward makes of activations that it reads for nothing else, moved behind their last use in forward.
fn cast_early(step: &Step, nodes: Vec<Node>) -> Vec<Node> {
    let of = |phase: Phase| nodes.iter().enumerate().filter(move |(_, node)| node.phase == phase);
    // The last op of the forward pass that touches each activation that it makes.
    let mut last_use: HashMap<TensorId, usize> = HashMap::new();
    for (at, node) in of(Phase::Forward) {
        for id in node.writes().filter(|id| step.tensor(*id).class == TensorClass::Activation) {
            last_use.insert(id, at);
        }
        node.operands.iter().for_each(|id| _ = last_use.get_mut(id).map(|last| *last = at));
    }
    // What each cast is of in the end, and which activations backward reads for something else.
    let mut source: HashMap<TensorId, TensorId> = HashMap::new();
    let mut moved: Vec<Option<TensorId>> = vec![None; nodes.len()];
    let mut read_otherwise: HashSet<TensorId> = HashSet::new();
    for (at, node) in of(Phase::Backward) {
        let first = node.operands[0];
        let found = source.get(&first).copied().or_else(|| last_use.contains_key(&first).then_some(first));
        match node.op {
            Op::Amax(_) | Op::Scale(_) | Op::Quantise(_) | Op::Transpose(_) if found.is_some() => {
                moved[at] = found;
                source.extend(node.writes().zip(found));
            }
            _ => read_otherwise.extend(node.operands.iter().filter(|id| last_use.contains_key(id))),
        }
    }
    let mut behind: HashMap<usize, Vec<Node>> = HashMap::new();
    let mut rest: Vec<(usize, Node)> = Vec::with_capacity(nodes.len());
    for (at, (node, moved)) in nodes.iter().zip(moved).enumerate() {
        match moved.filter(|id| !read_otherwise.contains(id)).and_then(|id| last_use.get(&id)) {
            Some(last) => behind.entry(*last).or_default().push(Node { phase: Phase::Forward, ..node.clone() }),
            None => rest.push((at, node.clone())),
        }
    }
    rest.into_iter()
        .flat_map(|(at, node)| std::iter::once(node).chain(behind.remove(&at).into_iter().flatten()))
        .collect()
}

/// 2. Weights are cast when they change, not when they are read.
fn move_weight_casts(mut step: Step) -> Step {
    let in_chain = weight_casts(&step);
    if !in_chain.contains(&true) {
        return step;
    }
    let mut rest = Vec::with_capacity(step.ops.len());
    let (mut scales, mut casts) = (Vec::new(), Vec::new());
    for (mut node, moved) in std::mem::take(&mut step.ops).into_iter().zip(in_chain) {
        if moved {
            node.phase = Phase::Optimiser;
            if matches!(node.op, Op::DelayedScale(_)) { scales.push(node) } else { casts.push(node) }
        } else {
            rest.push(node);
        }
    }
    // What GEMMs read of a weight now comes from the previous step.
    for id in scales.iter().chain(&casts).flat_map(|node| node.writes().collect::<Vec<_>>()) {
        if rest.iter().any(|node| node.touches(id)) {
            let tensor = &mut step.tensors[id.index()];
            tensor.start = tensor.start.or(Some(Start::Zeros));
            if tensor.class == TensorClass::Scratch {
                tensor.class = TensorClass::Weight;
            }
        }
    }
    step.init.extend(scales.iter().chain(&casts).cloned());
    let optimiser = rest.iter().position(|node| node.phase == Phase::Optimiser).unwrap_or(rest.len());
    rest.splice(optimiser..optimiser, scales);
    rest.extend(casts);
    step.ops = rest;
    step
}

/// Which ops only cast weights: everything that follows from a weight by amax, scale, cast, transpose or record, and the
/// delayed scales that such casts use.
fn weight_casts(step: &Step) -> Vec<bool> {
    let mut derived: HashSet<TensorId> = step.parameters.iter().map(|parameter| parameter.weight).collect();
    let mut scales: HashSet<TensorId> = HashSet::new();
    let mut moved: Vec<bool> = Vec::with_capacity(step.ops.len());
    for node in &step.ops {
        let casts = matches!(node.op, Op::Amax(_) | Op::Scale(_) | Op::Quantise(_) | Op::Transpose(_) | Op::Record(_));
        let chained = casts && node.operands.first().is_some_and(|first| derived.contains(first));
        if chained {
            if let Op::Quantise(_) = node.op {
                scales.insert(node.operands[1]);
            }
            if !matches!(node.op, Op::Record(_)) {
                derived.extend(node.writes());
            }
        }
        moved.push(chained);
    }
    for (node, moved) in step.ops.iter().zip(&mut moved) {
        if matches!(node.op, Op::DelayedScale(_)) {
            *moved = scales.contains(&node.operands[1]);
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use stepwatch_kernels::Precision;

    use super::*;
    use crate::build::build;
    use crate::check::check;
    use crate::config::{StepConfig, preset};

    fn built(precision: Precision) -> Step {
        build(&StepConfig { precision, ..StepConfig::example(preset("tiny").unwrap(), 2, 16) })
    }

    fn count(nodes: &[Node], name: &str) -> usize {
        nodes.iter().filter(|node| node.op.name() == name).count()
    }

    #[test]
    fn no_transpose_is_left_and_weights_are_cast_after_the_optimiser() {
        for precision in Precision::ALL.into_iter().filter(|precision| precision.is_fp8()) {
            if precision == Precision::Fp8Block128 {
                continue;
            }
            let before = built(precision);
            let after = layout(before.clone());
            assert_eq!(check(&after), Ok(()), "{}", precision.name());
            assert!(count(&before.ops, "Transpose") > 0);
            assert_eq!(count(&after.ops, "Transpose"), 0, "{}", precision.name());
            assert_eq!(count(&after.ops, "Quantise"), count(&before.ops, "Quantise"));
            let advance = after.ops.iter().position(|node| node.op.name() == "Advance").unwrap();
            // 2 blocks of 4 products; one cast each where one scale covers both ways of reading, else two.
            let per_weight = if matches!(precision, Precision::Fp8Tensorwise | Precision::Fp8Delayed) { 1 } else { 2 };
            assert_eq!(count(&after.ops[advance..], "Quantise"), 8 * per_weight);
        }
    }

    #[test]
    fn inputs_of_linears_keep_only_the_layout_that_backward_reads() {
        let after = layout(built(Precision::Fp8Tensorwise));
        let both = after
            .ops
            .iter()
            .filter(|node| matches!(node.op, Op::Quantise(Quantise { row_major: true, transposed: true, .. })));
        // x, w and dy of 8 products: each is read both ways.
        assert_eq!(both.count(), 24);
        let rowwise = layout(built(Precision::Fp8Rowwise));
        let one = rowwise
            .ops
            .iter()
            .filter(|node| matches!(node.op, Op::Quantise(Quantise { row_major: false, transposed: true, .. })));
        assert_eq!(one.count(), 24);
    }

    #[test]
    fn activations_that_backward_only_casts_are_cast_in_forward() {
        let example = StepConfig::example(preset("tiny").unwrap(), 2, 16);
        let after = layout(build(&StepConfig {
            precision: Precision::Fp8Rowwise,
            attention: crate::config::Attention::Flash,
            ..example
        }));
        let backward = || after.ops.iter().filter(|node| node.phase == Phase::Backward);
        let casts: Vec<&str> = backward()
            .filter(|node| matches!(node.op, Op::Quantise(_)) && node.label.contains(" x "))
            .map(|node| node.label.as_str())
            .collect();
        // Tiled attention's backward reads its own output as it is: that is cast where it is read, once a block.
        assert_eq!(casts, ["output x quantise"; 2]);
        for name in ["b0.h", "b0.norm1", "b0.norm2"] {
            let read = backward().any(|node| node.operands.iter().any(|id| after.tensor(*id).name == name));
            assert!(!read, "{name} is kept");
        }
    }

    #[test]
    fn a_bf16_step_stays_as_it_is() {
        let before = built(Precision::Bf16);
        assert_eq!(layout(before.clone()), before);
    }
}
