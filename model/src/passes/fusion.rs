//! Neighbouring primitives as one launch, by a list of rules; values that nobody else reads never reach memory.
//!
//! A group takes ops from further down the list up to its first op where nothing between stands in the way. All rules but
//! [`Rule::ResidualIntoGemm`] keep every rounding, so their list is bitwise equal to the one before; that rule removes one
//! and says so in [`Step::removed_roundings`].
//!
//! Long because it is one table of rules: what stands beside a rule decides whether it applies.

mod group;
mod remake;

use stepwatch_kernels::fused::Pattern;
use stepwatch_kernels::op::Op;
use stepwatch_kernels::precision::Granularity;
use stepwatch_kernels::quantise::{Axis, Tiling};
use stepwatch_kernels::transpose::Transpose;

use crate::ir::{Node, Step, TensorId};
use group::Groups;

/// What may be fused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The residual add that follows a product becomes its C (β = 1): the product's own rounding is gone.
    ResidualIntoGemm,
    /// What the backward pass reads of h besides is made again there: nothing of h is kept.
    Remake,
    /// Residual add, RMSNorm, amax or cast of its output.
    NormForward,
    /// RMSNorm backward, the residual gradient's add, amax or cast of the sum.
    NormBackward,
    /// SwiGLU, amax or cast of its output.
    SwigluForward,
    /// SwiGLU backward, amax or cast of its output.
    SwigluBackward,
    /// Rotary positions turned back, amax or cast of dQKV.
    RopeBackward,
    /// Cross-entropy forward and backward, in place over the logits, and the cast of their gradient.
    Loss,
    /// The sums of squares of all gradients, their norm and the clip factor.
    GradientNorm,
    /// All AdamW updates, the step counter, and amax or cast of the new weights.
    Optimiser,
    /// All delayed scales that are taken at one time.
    Scales,
    /// What is left of a cast: amax, scale and cast where a scale covers a row or block, scale and cast otherwise.
    Cast,
}

/// All rules, in the order in which they are tried.
pub const RULES: [Rule; 12] = [
    Rule::ResidualIntoGemm,
    Rule::Remake,
    Rule::Scales,
    Rule::NormForward,
    Rule::NormBackward,
    Rule::SwigluBackward,
    Rule::SwigluForward,
    Rule::RopeBackward,
    Rule::Loss,
    Rule::GradientNorm,
    Rule::Optimiser,
    Rule::Cast,
];

/// The pass: all rules.
#[must_use]
pub fn fusion(step: Step) -> Step {
    fuse(step, &RULES)
}

/// The pass with some of its rules. What runs once before the first step is fused too, so that it calibrates on the numbers
/// that the steps will have.
#[must_use]
pub fn fuse(mut step: Step, rules: &[Rule]) -> Step {
    let (init, ops) = (std::mem::take(&mut step.init), std::mem::take(&mut step.ops));
    step.init = fuse_list(&mut step, init, rules);
    step.ops = fuse_list(&mut step, ops, rules);
    step
}

fn fuse_list(step: &mut Step, mut nodes: Vec<Node>, rules: &[Rule]) -> Vec<Node> {
    if rules.contains(&Rule::ResidualIntoGemm) {
        residual_into_gemm(step, &mut nodes);
    }
    if rules.contains(&Rule::Remake) {
        nodes = remake::remake(step, nodes);
    }
    if rules.contains(&Rule::Loss) {
        nodes = turn_apart(step, nodes);
    }
    let mut groups = Groups::new(step, nodes);
    for rule in rules {
        match rule {
            Rule::ResidualIntoGemm | Rule::Remake => {}
            Rule::Scales => all_of(&mut groups, Pattern::Scales, |op| matches!(op, Op::DelayedScale(_))),
            Rule::NormForward => norm_forward(&mut groups),
            Rule::NormBackward => norm_backward(&mut groups),
            Rule::SwigluForward => {
                producers(&mut groups, Pattern::SwigluForward, |op| matches!(op, Op::SwigluForward(_)), 1);
            }
            Rule::SwigluBackward => swiglu_backward(&mut groups),
            Rule::RopeBackward => {
                producers(&mut groups, Pattern::RopeBackward, |op| matches!(op, Op::Rope(rope) if rope.backward), 2);
            }
            Rule::Loss => loss(&mut groups),
            // Where nothing is clipped the optimiser takes the norm beside its updates.
            Rule::GradientNorm if rules.contains(&Rule::Optimiser) && !clips(&groups) => {}
            Rule::GradientNorm => gradient_norm(&mut groups),
            Rule::Optimiser => optimiser(&mut groups),
            Rule::Cast => casts(&mut groups),
        }
    }
    groups.into_nodes(step)
}

/// `d = a · bᵀ; y = x + d` → `y = a · bᵀ + x`, where only the add reads d.
fn residual_into_gemm(step: &mut Step, nodes: &mut Vec<Node>) {
    let mut at = 0;
    while at < nodes.len() {
        if let Some(add) = residual_of(step, nodes, at) {
            let product = nodes[at].operands.len() - 1;
            let d = nodes[at].operands[product];
            let [a, b, y] = [0, 1, 2].map(|index| nodes[add].operands[index]);
            let residual = if a == d { b } else { a };
            nodes.remove(add);
            let node = &mut nodes[at];
            if let Op::Gemm(gemm) = &mut node.op {
                gemm.accumulate = true;
            }
            node.operands[product] = residual;
            node.operands.push(y);
            let removed = format!("result of {} before the residual add", node.label);
            node.label.push_str(" + residual");
            if step.tensor(d).dtype != stepwatch_kernels::Dtype::F32 && !step.removed_roundings.contains(&removed) {
                step.removed_roundings.push(removed);
            }
        }
        at += 1;
    }
}

/// The add that alone reads a product's result, where it can move up to the product.
fn residual_of(step: &Step, nodes: &[Node], at: usize) -> Option<usize> {
    let Op::Gemm(gemm) = &nodes[at].op else { return None };
    let d = *nodes[at].operands.last()?;
    if gemm.accumulate || step.outputs.contains(&d) || step.tensor(d).persistent() {
        return None;
    }
    let mut readers = (at + 1..nodes.len()).filter(|&later| nodes[later].touches(d));
    let add = readers.next().filter(|&later| matches!(nodes[later].op, Op::Add(_)))?;
    let residual = nodes[add].operands[..2].iter().find(|id| **id != d)?;
    let unmoved = nodes[at..add].iter().all(|node| !node.writes().any(|written| written == *residual));
    (readers.next().is_none() && unmoved).then_some(add)
}

/// Every op of a kind that can move up to the first of it, as often as some are left.
fn all_of(groups: &mut Groups, pattern: Pattern, is: impl Fn(&Op) -> bool) {
    for at in groups.starts(&is) {
        if groups.is_free(at) {
            let mut members = vec![at];
            for other in groups.starts(&is).into_iter().filter(|&other| other > at) {
                groups.pull(&mut members, other);
            }
            groups.close(pattern, members);
        }
    }
}

/// [Residual add →] norm → amax or cast.
fn norm_forward(groups: &mut Groups) {
    for at in groups.starts(|op| matches!(op, Op::Add(_))) {
        let sum = groups.operand(at, 2);
        let norm = groups.touching(sum, at).find(|&later| matches!(groups.op(later), Op::RmsNormForward(_)));
        let mut members = vec![at];
        if let Some(norm) = norm.filter(|&norm| groups.operand(norm, 0) == sum)
            && groups.pull(&mut members, norm)
        {
            pull_casts(groups, &mut members, groups.operand(norm, 2));
            groups.close(Pattern::NormForward, members);
        }
    }
    producers(groups, Pattern::NormForward, |op| matches!(op, Op::RmsNormForward(_)), 2);
}

/// Norm backward → [residual add →] amax or cast.
fn norm_backward(groups: &mut Groups) {
    for at in groups.starts(|op| matches!(op, Op::RmsNormBackward(_))) {
        let dx = groups.operand(at, 4);
        let mut members = vec![at];
        let add = groups.touching(dx, at).find(|&later| matches!(groups.op(later), Op::Add(_)));
        let result = match add {
            Some(add) if groups.pull(&mut members, add) => groups.operand(add, 2),
            _ => dx,
        };
        pull_casts(groups, &mut members, result);
        groups.close(Pattern::NormBackward, members);
    }
}

/// An op and the amax or cast of its result.
fn producers(groups: &mut Groups, pattern: Pattern, is: impl Fn(&Op) -> bool, result: usize) {
    for at in groups.starts(is) {
        let mut members = vec![at];
        pull_casts(groups, &mut members, groups.operand(at, result));
        groups.close(pattern, members);
    }
}

/// [h made again [→ its cast] →] SwiGLU backward → amax or cast.
fn swiglu_backward(groups: &mut Groups) {
    for at in groups.starts(|op| matches!(op, Op::SwigluBackward(_))) {
        let mut members = vec![at];
        if let Some(first) = remake::before(groups, at) {
            members = vec![first];
            if !(first + 1..=at).all(|member| groups.pull(&mut members, member)) {
                members = vec![at];
            }
        }
        pull_casts(groups, &mut members, groups.operand(at, 2));
        groups.close(Pattern::SwigluBackward, members);
    }
}

/// A cast of the logits' gradient in both layouts becomes the cast as stored and its transposition: the launch of the loss holds
/// whole rows on the chip and can write nothing else, and the gradient itself is then gone before the transposed copy is there.
fn turn_apart(step: &Step, nodes: Vec<Node>) -> Vec<Node> {
    let gradients: Vec<TensorId> = nodes
        .iter()
        .filter(|node| matches!(node.op, Op::CrossEntropyBackward(_)))
        .filter_map(|node| node.operands.last().copied())
        .collect();
    let mut out = Vec::with_capacity(nodes.len() + gradients.len());
    for mut node in nodes {
        let mut turned = None;
        if let (Op::Quantise(cast), &[x, scale, q, qt]) = (&mut node.op, node.operands.as_slice())
            && cast.tiling.granularity == Granularity::Tensor
            && gradients.contains(&x)
        {
            cast.transposed = false;
            let Tiling { rows, cols, .. } = cast.tiling;
            let label = node.label.replace("quantise", "transpose");
            let op = Op::Transpose(Transpose { rows, cols, dtype: step.tensor(q).dtype });
            turned = Some(Node { op, operands: vec![q, qt], label, ..node.clone() });
            node.operands = vec![x, scale, q];
        }
        out.push(node);
        out.extend(turned);
    }
    out
}

/// Cross-entropy forward → backward → what of its casts a launch can do that holds whole rows: the cast whose scale is known, or
/// that of rows with their amax and scale.
fn loss(groups: &mut Groups) {
    for at in groups.starts(|op| matches!(op, Op::CrossEntropyForward(_))) {
        let logits = groups.operand(at, 0);
        let backward =
            groups.touching(logits, at).find(|&later| matches!(groups.op(later), Op::CrossEntropyBackward(_)));
        let mut members = vec![at];
        if let Some(backward) = backward
            && groups.pull(&mut members, backward)
        {
            pull_casts_of(groups, &mut members, backward, logits, |tiling| {
                let whole = tiling.granularity == Granularity::Tensor;
                whole || (tiling.granularity == Granularity::Row && tiling.axis == Axis::Rows)
            });
        }
        groups.close(Pattern::Loss, members);
    }
}

/// Whether the updates wait for a factor that clips.
fn clips(groups: &Groups) -> bool {
    !groups.starts(|op| matches!(op, Op::ClipScale(clip) if clip.max_norm > 0.0)).is_empty()
}

/// The sums, and the clip factor that reads them.
fn gradient_norm(groups: &mut Groups) {
    let sums = groups.starts(|op| matches!(op, Op::SumSquares(_)));
    let Some((first, others)) = sums.split_first() else { return };
    let mut members = vec![*first];
    for other in others.iter().copied().chain(groups.starts(|op| matches!(op, Op::ClipScale(_)))) {
        groups.pull(&mut members, other);
    }
    groups.close(Pattern::GradientNorm, members);
}

fn optimiser(groups: &mut Groups) {
    let updates = groups.starts(|op| matches!(op, Op::AdamW(_)));
    let norm = groups.starts(|op| matches!(op, Op::SumSquares(_) | Op::ClipScale(_)));
    let norm = if clips(groups) { Vec::new() } else { norm };
    let counter = groups.starts(|op| matches!(op, Op::Advance(_)));
    let mut all = norm.iter().chain(&updates).chain(&counter).copied();
    let Some(first) = all.next().filter(|_| !updates.is_empty()) else { return };
    let mut members = vec![first];
    for other in all {
        groups.pull(&mut members, other);
    }
    for update in &updates {
        // The weight as GEMMs read it: the copy, or w itself.
        let operands = groups.operands(*update);
        let weight = operands.get(6).copied().unwrap_or(operands[3]);
        pull_casts(groups, &mut members, weight);
    }
    groups.close(Pattern::Optimiser, members);
}

/// Casts that no producer has taken.
fn casts(groups: &mut Groups) {
    for at in groups.starts(|op| matches!(op, Op::Amax(_) | Op::Scale(_))) {
        let tensor_wide = match groups.op(at) {
            Op::Amax(amax) => amax.tiling.granularity == Granularity::Tensor,
            _ => true,
        };
        let mut members = vec![at];
        match groups.op(at) {
            // A launch cannot use a maximum over a whole tensor that it is still taking: this one is for the steps to come,
            // and the cast has its scale already, or it stays alone.
            Op::Amax(_) if tensor_wide => pull_delayed(groups, &mut members),
            Op::Amax(_) => {
                let amax = groups.operand(at, 1);
                let scale = groups.touching(amax, at).find(|&later| matches!(groups.op(later), Op::Scale(_)));
                if let Some(scale) = scale
                    && groups.pull(&mut members, scale)
                {
                    pull_quantises(groups, &mut members, groups.operand(scale, 1));
                }
            }
            _ => pull_quantises(groups, &mut members, groups.operand(at, 1)),
        }
        groups.close(Pattern::Cast, members);
    }
}

/// The record of an amax, and the cast of what it is taken of.
fn pull_delayed(groups: &Groups, members: &mut Vec<usize>) {
    let first = members[0];
    let (x, amax) = (groups.operand(first, 0), groups.operand(first, 1));
    let casts = groups.touching(x, first).filter(|&later| matches!(groups.op(later), Op::Quantise(_)));
    let records = groups.touching(amax, first).filter(|&later| matches!(groups.op(later), Op::Record(_)));
    let wanted: Vec<usize> = casts.chain(records).filter(|&later| groups.phase(later) == groups.phase(first)).collect();
    for later in wanted {
        groups.pull(members, later);
    }
}

fn pull_quantises(groups: &mut Groups, members: &mut Vec<usize>, scale: TensorId) {
    let first = members[0];
    let readers: Vec<usize> =
        groups.touching(scale, first).filter(|&later| matches!(groups.op(later), Op::Quantise(_))).collect();
    for quantise in readers {
        groups.pull(members, quantise);
    }
}

/// Adds to a group what of the casts of `y` can run where `y` is made: a tensor-wide amax; the scale too where it covers a
/// row or a block of one; the cast where its scale is known.
fn pull_casts(groups: &mut Groups, members: &mut Vec<usize>, y: TensorId) {
    pull_casts_of(groups, members, members[0], y, in_reach);
}

/// The same where `maker` is the member that makes y; casts and maxima are taken whose tiling `reached` says so.
fn pull_casts_of(
    groups: &mut Groups,
    members: &mut Vec<usize>,
    maker: usize,
    y: TensorId,
    reached: impl Fn(&Tiling) -> bool,
) {
    let phase = groups.phase(maker);
    // (amax tensor, whether its scale can be made in the same launch)
    let mut amaxes: Vec<(TensorId, bool)> = Vec::new();
    let near = |groups: &Groups, tensor: TensorId| -> Vec<usize> {
        groups.touching(tensor, maker).filter(|&later| groups.phase(later) == phase).collect()
    };
    for later in near(groups, y) {
        if let Op::Amax(amax) = groups.op(later)
            && reached(&amax.tiling)
            && groups.operand(later, 0) == y
        {
            let own_scale = amax.tiling.granularity != Granularity::Tensor;
            if groups.pull(members, later) {
                amaxes.push((groups.operand(later, 1), own_scale));
            }
        }
    }
    for (amax, own_scale) in amaxes {
        for later in near(groups, amax) {
            let wanted = match groups.op(later) {
                Op::Scale(_) => own_scale,
                Op::Record(_) => true,
                _ => false,
            };
            if wanted {
                groups.pull(members, later);
            }
        }
    }
    for later in near(groups, y) {
        if let Op::Quantise(quantise) = groups.op(later)
            && reached(&quantise.tiling)
            && groups.operand(later, 0) == y
        {
            groups.pull(members, later);
        }
    }
}

/// Whether the launch that makes a tensor row by row can also take this maximum of it: over rows or parts of rows, or over
/// everything; not over columns.
fn in_reach(tiling: &Tiling) -> bool {
    tiling.granularity == Granularity::Tensor
        || (tiling.axis == Axis::Rows && tiling.granularity != Granularity::Block128x128)
}

/// The label of a group: its parts' labels in order, each once; for the launches over all parameters, what they are.
fn label(pattern: Pattern, labels: &[&str]) -> String {
    match pattern {
        Pattern::Optimiser if labels.contains(&"clip") => "adamw, all parameters, gradient norm".to_owned(),
        Pattern::Optimiser => "adamw, all parameters".to_owned(),
        Pattern::Scales => "delayed scales".to_owned(),
        _ => {
            let mut parts: Vec<&str> = Vec::new();
            for label in labels {
                if !parts.contains(label) {
                    parts.push(label);
                }
            }
            parts.join(" + ")
        }
    }
}

#[cfg(test)]
mod tests {
    use stepwatch_kernels::Precision;

    use super::*;
    use crate::build::build;
    use crate::check::{check, primitives};
    use crate::config::{Head, StepConfig, preset};
    use crate::passes::layout::layout;

    fn labels(precision: Precision, rules: &[Rule]) -> Vec<String> {
        labels_of(&StepConfig { precision, ..StepConfig::example(preset("tiny").unwrap(), 2, 16) }, rules)
    }

    fn labels_of(config: &StepConfig, rules: &[Rule]) -> Vec<String> {
        let before = layout(build(config));
        let after = fuse(before.clone(), rules);
        assert_eq!(check(&after), Ok(()));
        if !rules.contains(&Rule::ResidualIntoGemm) && !rules.contains(&Rule::Remake) {
            assert_eq!(primitives(&after.ops), primitives(&before.ops));
        }
        after.ops.iter().map(|node| node.label.clone()).collect()
    }

    #[test]
    fn delayed_scaling_casts_where_tensors_are_made() {
        let labels = labels(Precision::Fp8Delayed, &RULES);
        for wanted in [
            "norm forward + qkv x amax + qkv x quantise + qkv x record",
            "swiglu forward + down x amax + down x quantise + down x record",
            "norm backward + residual backward + output dy amax + output dy quantise + output dy record",
            "swiglu forward again + down x quantise again + swiglu backward + gate-up dy amax + gate-up dy quantise + gate-up dy record",
            "rope backward + qkv dy amax + qkv dy quantise + qkv dy record",
            "adamw, all parameters",
            "delayed scales",
            "cross-entropy forward + cross-entropy backward",
            "gradient norm + clip",
            "output forward + residual",
        ] {
            assert!(labels.iter().any(|label| label == wanted), "{wanted} not in {labels:#?}");
        }
        // Only attention's output has no producer of ours to be cast by.
        let casts =
            labels.iter().filter(|label| label.as_str() == "output x amax + output x quantise + output x record");
        assert_eq!(casts.count(), 2);
    }

    #[test]
    fn gradients_that_nothing_clips_are_read_once() {
        let of = |clip, rules: &[Rule]| {
            let config = StepConfig { clip, ..StepConfig::example(preset("tiny").unwrap(), 2, 16) };
            let labels = labels_of(&config, rules);
            ["gradient norm + clip", "adamw, all parameters", "adamw, all parameters, gradient norm"]
                .map(|wanted| labels.iter().any(|label| label == wanted))
        };
        assert_eq!(of(1.0, &RULES), [true, true, false]);
        assert_eq!(of(0.0, &RULES), [false, false, true]);
        // Each rule alone.
        assert_eq!(of(1.0, &[Rule::Optimiser]), [false, true, false]);
        assert_eq!(of(0.0, &[Rule::GradientNorm]), [true, false, false]);
    }

    #[test]
    fn current_scaling_takes_the_amax_where_tensors_are_made_and_casts_after() {
        let labels = labels(Precision::Fp8Tensorwise, &RULES);
        for wanted in [
            "norm forward + qkv x amax",
            "qkv x scale + qkv x quantise",
            "swiglu forward again + down x quantise again + swiglu backward + gate-up dy amax",
        ] {
            assert!(labels.iter().any(|label| label == wanted), "{wanted} not in {labels:#?}");
        }
    }

    #[test]
    fn rows_are_scaled_and_cast_where_they_are_made_and_columns_after() {
        let labels = labels(Precision::Fp8Rowwise, &RULES);
        for wanted in [
            "norm forward + qkv x amax + qkv x scale + qkv x quantise",
            "qkv x amax + qkv x scale + qkv x quantise",
            "swiglu forward again + swiglu backward + gate-up dy amax + gate-up dy scale + gate-up dy quantise",
        ] {
            assert!(labels.iter().any(|label| label == wanted), "{wanted} not in {labels:#?}");
        }
    }

    /// Both products read the gradient of the logits in FP8, and nothing but the loss ever reads them in bf16.
    #[test]
    fn the_gradient_of_the_logits_is_cast_where_it_is_made() {
        // recipe, the loss, what casts it besides
        let cases = [
            (Precision::Fp8Delayed, "head dy quantise", "head dy transpose"),
            (Precision::Fp8Tensorwise, "head dy quantise", "head dy transpose"),
            (
                Precision::Fp8Rowwise,
                "head dy amax + head dy scale + head dy quantise",
                "head dy amax + head dy scale + head dy quantise",
            ),
        ];
        for (precision, of_loss, besides) in cases {
            let example = StepConfig::example(preset("tiny").unwrap(), 2, 16);
            let config = StepConfig { precision, head: Head::Fp8, ..example };
            let found = labels_of(&config, &RULES);
            let loss = format!("cross-entropy forward + cross-entropy backward + {of_loss}");
            let heads: Vec<&str> = found.iter().filter(|label| label.contains("head dy")).map(String::as_str).collect();
            assert_eq!(heads, [loss.as_str(), besides], "{precision:?}");
            let step = fusion(layout(build(&config)));
            let logits = step.tensors.iter().filter(|tensor| tensor.name == "logits").count();
            assert_eq!(logits, 1);
            let reads: Vec<&Node> =
                step.ops.iter().filter(|node| node.reads().any(|id| step.tensor(id).name == "logits")).collect();
            let by_others = reads.iter().filter(|node| !node.label.starts_with("cross-entropy")).count();
            assert_eq!(by_others, usize::from(precision == Precision::Fp8Rowwise), "{precision:?}");
            let Op::Fused(fused) = &reads[0].op else { panic!("{}", reads[0].label) };
            let dropped = fused.unread.iter().any(|&index| step.tensor(reads[0].operands[index]).name == "logits");
            assert_eq!(dropped, precision != Precision::Fp8Rowwise, "{precision:?} stores it in bf16");
        }
    }

    /// Nothing of SwiGLU's product lives from forward to backward, whatever the weight gradient reads of it.
    #[test]
    fn no_fp8_recipe_keeps_the_product_of_swiglu() {
        use crate::ir::Phase;
        let kept = |precision: Precision, rules: &[Rule]| {
            let dims = crate::config::Dims { dim: 128, layers: 2, heads: 2, ffn: 256, vocab: 128 };
            let step = fuse(layout(build(&StepConfig { precision, ..StepConfig::example(dims, 1, 128) })), rules);
            let touched = |index: usize, phase: Phase| {
                let mut of = step.ops.iter().filter(|node| node.phase == phase);
                of.any(|node| node.operands.iter().any(|id| id.index() == index))
            };
            let of_product = |name: &str| name.ends_with(".h") || (name.contains("down.x8") && name.ends_with(".t"));
            let tensors = step.tensors.iter().enumerate().filter(|(_, tensor)| !tensor.persistent());
            let lives = tensors.filter(|(at, _)| touched(*at, Phase::Forward) && touched(*at, Phase::Backward));
            lives.filter(|(_, tensor)| of_product(&tensor.name)).count()
        };
        let without: Vec<Rule> = RULES.into_iter().filter(|rule| *rule != Rule::Remake).collect();
        for precision in Precision::ALL.into_iter().filter(|precision| precision.is_fp8()) {
            assert_eq!(kept(precision, &RULES), 0, "{}", precision.name());
            assert_eq!(kept(precision, &without), 2, "{}: one a block without the rule", precision.name());
        }
    }

    #[test]
    fn without_the_rule_for_products_the_residual_goes_into_the_norm() {
        let labels = labels(Precision::Bf16, &RULES[1..]);
        assert!(labels.iter().any(|label| label == "residual forward + norm forward"), "{labels:#?}");
        assert!(!labels.iter().any(|label| label.contains("+ residual") && label.contains("output")), "{labels:#?}");
    }
}
