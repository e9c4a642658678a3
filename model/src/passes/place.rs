//! Lifetimes into one arena: every tensor that ends with its step gets an offset, so that addresses are known beforehand.
//!
//! Greedy by size: the largest tensor first, at the lowest offset where nothing that lives at the same time lies. Source of
//! the order: Pisarchyk & Lee 2020, "Efficient Memory Management for Deep Neural Net Inference".

use std::ops::RangeInclusive;

use crate::ir::{Node, Placement, Step, TensorId};

/// Every tensor starts at a multiple of this, as CUDA allocations do.
pub const ALIGNMENT: u64 = 256;

/// The pass.
#[must_use]
pub fn place(mut step: Step) -> Step {
    let mut offsets = vec![None; step.tensors.len()];
    // `init` and the steps use the arena at different times.
    let init = arrange(&step, &lifetimes(&step, &step.init, &[]), &mut offsets);
    let ops = arrange(&step, &lifetimes(&step, &step.ops, &step.outputs), &mut offsets);
    step.placement = Some(Placement { offsets, arena_bytes: init.max(ops) });
    step
}

/// When each tensor that ends with its step is live: from its first touch to its last, both included; outputs to the end.
#[must_use]
pub fn lifetimes(step: &Step, nodes: &[Node], outputs: &[TensorId]) -> Vec<(TensorId, RangeInclusive<usize>)> {
    let mut spans: Vec<Option<(usize, usize)>> = vec![None; step.tensors.len()];
    for (at, node) in nodes.iter().enumerate() {
        for id in &node.operands {
            let span = spans[id.index()].get_or_insert((at, at));
            span.1 = at;
        }
    }
    for id in outputs {
        if let Some(span) = &mut spans[id.index()] {
            span.1 = nodes.len();
        }
    }
    let ids = (0..).map(TensorId);
    ids.zip(spans)
        .filter(|(id, _)| !step.tensor(*id).persistent())
        .filter_map(|(id, span)| span.map(|(first, last)| (id, first..=last)))
        .collect()
}

/// The most bytes that live at once, without any arena: what an allocator that frees after the last use needs.
#[must_use]
pub fn peak_live_bytes(step: &Step) -> u64 {
    let peak = |nodes: &[Node], outputs: &[TensorId]| {
        let mut change = vec![0_i64; nodes.len() + 2];
        for (id, span) in lifetimes(step, nodes, outputs) {
            let bytes = i64::try_from(step.tensor(id).bytes()).unwrap_or(i64::MAX);
            change[*span.start()] += bytes;
            change[*span.end() + 1] -= bytes;
        }
        let live = change.iter().scan(0_i64, |live, change| {
            *live += change;
            Some(*live)
        });
        u64::try_from(live.max().unwrap_or(0)).unwrap_or(0)
    };
    peak(&step.init, &[]).max(peak(&step.ops, &step.outputs))
}

/// Gives every tensor an offset; returns the end of the highest.
fn arrange(step: &Step, spans: &[(TensorId, RangeInclusive<usize>)], offsets: &mut [Option<u64>]) -> u64 {
    let size = |id: TensorId| step.tensor(id).bytes().next_multiple_of(ALIGNMENT);
    let mut order: Vec<&(TensorId, RangeInclusive<usize>)> = spans.iter().collect();
    order.sort_by_key(|(id, span)| (std::cmp::Reverse(size(*id)), *span.start(), *id));
    let mut placed: Vec<(u64, u64, &RangeInclusive<usize>)> = Vec::with_capacity(order.len());
    let mut end = 0;
    for (id, span) in order {
        let bytes = size(*id);
        // Tensors of `init` that steps also use keep the offset of their steps: each list starts afresh.
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|(_, _, other)| span.start() <= other.end() && other.start() <= span.end())
            .map(|(from, to, _)| (*from, *to))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (from, to) in taken {
            if offset + bytes <= from {
                break;
            }
            offset = offset.max(to);
        }
        offsets[id.index()] = Some(offset);
        placed.push((offset, offset + bytes, span));
        end = end.max(offset + bytes);
    }
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stepwatch_kernels::{Dtype, Precision};

    use super::*;
    use crate::build::build;
    use crate::config::{StepConfig, preset};
    use crate::ir::{Tensor, TensorClass};

    fn assert_disjoint(step: &Step, spans: &[(TensorId, RangeInclusive<usize>)], offsets: &[Option<u64>], end: u64) {
        for (index, (id, span)) in spans.iter().enumerate() {
            let from = offsets[id.index()].unwrap();
            let to = from + step.tensor(*id).bytes();
            assert!(from.is_multiple_of(ALIGNMENT) && to <= end);
            for (other, other_span) in &spans[index + 1..] {
                let other_from = offsets[other.index()].unwrap();
                let other_to = other_from + step.tensor(*other).bytes();
                let together = span.start() <= other_span.end() && other_span.start() <= span.end();
                assert!(!together || to <= other_from || other_to <= from, "{id:?} {other:?}");
            }
        }
    }

    #[test]
    fn no_two_live_tensors_of_a_step_overlap_and_little_is_wasted() {
        for precision in [Precision::Bf16, Precision::Fp8Delayed, Precision::Fp8Rowwise] {
            let step = build(&StepConfig { precision, ..StepConfig::example(preset("tiny").unwrap(), 2, 64) });
            let placed = place(step);
            let placement = placed.placement.as_ref().unwrap();
            let spans = lifetimes(&placed, &placed.ops, &placed.outputs);
            assert_disjoint(&placed, &spans, &placement.offsets, placement.arena_bytes);
            assert!(placement.arena_bytes >= peak_live_bytes(&placed));
            assert!(placement.arena_bytes as f64 <= 1.2 * peak_live_bytes(&placed) as f64 + 65536.0);
        }
    }

    proptest! {
        #[test]
        fn no_two_live_tensors_overlap(shapes in prop::collection::vec((1_usize..5000, 0_usize..40, 0_usize..12), 1..60)) {
            let mut step = build(&StepConfig::example(preset("tiny").unwrap(), 1, 2));
            step.tensors.clear();
            let spans: Vec<_> = shapes
                .iter()
                .map(|&(elements, first, length)| {
                    let (shape, class) = (vec![elements], TensorClass::Scratch);
                    let id = step.add(Tensor { name: String::new(), shape, dtype: Dtype::Bf16, class, start: None });
                    (id, first..=first + length)
                })
                .collect();
            let mut offsets = vec![None; step.tensors.len()];
            let end = arrange(&step, &spans, &mut offsets);
            assert_disjoint(&step, &spans, &offsets, end);
        }
    }
}
