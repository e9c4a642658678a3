//! SwiGLU's product made again in the backward pass, where its gradients are taken and both its factors are read anyway: what only
//! the weight gradient reads of it is then not kept from forward to backward. With a scale that covers the tensor that is its
//! transposed FP8 cast; with finer scales the product itself, or its cast along the other axis, which follows where it is made again.
//!
//! No number changes: the same ops over the same operands.

use stepwatch_kernels::op::Op;
use stepwatch_kernels::precision::Granularity;
use stepwatch_kernels::quantise::{Axis, Quantise};

use super::group::Groups;
use crate::ir::{Node, Phase, Step, Tensor, TensorId};

/// Where one product is made again: indices into the list.
struct Site {
    forward: usize,
    kind: Kind,
    /// The only reader of what was kept.
    weight_gradient: usize,
    backward: usize,
}

/// What was kept for the weight gradient.
enum Kind {
    /// The transposed layout of a cast that the forward pass makes in both.
    Transposed { cast: usize },
    /// What follows from the product along its columns: ops that move to where it is made again; none where the weight gradient
    /// reads the product itself.
    Columns { moved: Vec<usize> },
}

/// The list with every such product made again right before SwiGLU's backward, the weight gradient after it.
pub(super) fn remake(step: &mut Step, nodes: Vec<Node>) -> Vec<Node> {
    let sites: Vec<Site> =
        (0..nodes.len()).filter_map(|at| whole(&nodes, at).or_else(|| by_columns(&nodes, at))).collect();
    let gone = |at: usize| {
        let moved = |site: &Site| matches!(&site.kind, Kind::Columns { moved } if moved.contains(&at));
        sites.iter().any(|site| site.weight_gradient == at || moved(site))
    };
    let mut out = Vec::with_capacity(nodes.len() + 2 * sites.len());
    for (at, node) in nodes.iter().enumerate() {
        let mut node = node.clone();
        if gone(at) {
            continue;
        }
        if sites.iter().any(|site| matches!(site.kind, Kind::Transposed { cast } if cast == at)) {
            if let Op::Quantise(cast) = &mut node.op {
                cast.transposed = false;
            }
            node.operands.truncate(3);
        }
        match sites.iter().find(|site| site.backward == at) {
            Some(site) => out.extend(made_again(step, &nodes, site, node)),
            None => out.push(node),
        }
    }
    out
}

/// The SwiGLU at `forward`: what it reads and makes.
fn product(nodes: &[Node], forward: usize) -> Option<[TensorId; 2]> {
    let Node { op: Op::SwigluForward(_), operands, phase: Phase::Forward, .. } = &nodes[forward] else { return None };
    operands.as_slice().try_into().ok()
}

/// Ops after one that touch a tensor.
fn touching(nodes: &[Node], after: usize, tensor: TensorId) -> Vec<usize> {
    (after + 1..nodes.len()).filter(|&at| nodes[at].touches(tensor)).collect()
}

/// The site of the SwiGLU at `forward`: its product is cast in both layouts with one scale in the forward pass, the
/// transposed one is read once, by a product between that and SwiGLU's backward.
fn whole(nodes: &[Node], forward: usize) -> Option<Site> {
    let [_, h] = product(nodes, forward)?;
    let both = |op: &Op| {
        let Op::Quantise(Quantise { tiling, row_major: true, transposed: true, .. }) = op else { return false };
        tiling.granularity == Granularity::Tensor
    };
    let cast = (forward + 1..nodes.len()).find(|&at| both(&nodes[at].op) && nodes[at].operands[0] == h)?;
    let [_, scale, _, qt] = nodes[cast].operands[..] else { return None };
    let [weight_gradient] = touching(nodes, cast, qt)[..] else { return None };
    site(nodes, forward, Kind::Transposed { cast }, weight_gradient, &[scale])
}

/// The site of the SwiGLU at `forward`: beside casts along rows, which the launch that makes the product can make, one weight
/// gradient reads it, or one cast along its columns that a weight gradient reads.
fn by_columns(nodes: &[Node], forward: usize) -> Option<Site> {
    let [_, h] = product(nodes, forward)?;
    let (mut moved, mut direct) = (Vec::new(), None);
    for at in touching(nodes, forward, h) {
        match &nodes[at].op {
            Op::Amax(amax) if amax.tiling.axis == Axis::Columns => moved.push(at),
            Op::Quantise(cast) if cast.tiling.axis == Axis::Columns => moved.push(at),
            Op::Amax(_) | Op::Quantise(_) if nodes[at].phase == Phase::Forward => {}
            Op::Gemm(_) if nodes[at].phase == Phase::Backward => {
                direct.replace(at).is_none().then_some(())?;
            }
            _ => return None,
        }
    }
    if let Some(weight_gradient) = direct {
        return moved.is_empty().then(|| site(nodes, forward, Kind::Columns { moved }, weight_gradient, &[]))?;
    }
    // Amax, the scale of it, and the cast with that scale: read by nobody else.
    let [amax, cast] = moved[..] else { return None };
    let (Op::Amax(_), Op::Quantise(Quantise { row_major: false, .. })) = (&nodes[amax].op, &nodes[cast].op) else {
        return None;
    };
    let [made, of_cast, qt] = [nodes[amax].operands[1], nodes[cast].operands[1], *nodes[cast].operands.get(2)?];
    let [scale] = touching(nodes, amax, made)[..] else { return None };
    let is_scale = matches!(nodes[scale].op, Op::Scale(_)) && nodes[scale].operands[1] == of_cast;
    let only_products = |&&at: &&usize| at != cast;
    let scale_readers = touching(nodes, scale, of_cast);
    let [weight_gradient] = touching(nodes, cast, qt)[..] else { return None };
    let alone = scale_readers.iter().filter(only_products).all(|&at| at == weight_gradient);
    (is_scale && alone).then_some(())?;
    site(nodes, forward, Kind::Columns { moved: vec![amax, scale, cast] }, weight_gradient, &[])
}

/// The site, if the weight gradient is a product that may move behind SwiGLU's backward, and nothing changes before that what the
/// product is made of, or `kept`.
fn site(nodes: &[Node], forward: usize, kind: Kind, weight_gradient: usize, kept: &[TensorId]) -> Option<Site> {
    let [gate_up, _] = product(nodes, forward)?;
    let of_backward = |at: &usize| matches!(nodes[*at].op, Op::SwigluBackward(_)) && nodes[*at].operands[0] == gate_up;
    let backward = (weight_gradient + 1..nodes.len()).find(of_backward)?;
    let moved = &nodes[weight_gradient];
    let changed = |node: &Node| node.writes().any(|id| id == gate_up || kept.contains(&id));
    let last = match &kind {
        Kind::Transposed { cast } => *cast,
        Kind::Columns { .. } => forward,
    };
    let unchanged = !nodes[last + 1..backward].iter().any(changed);
    let free = nodes[weight_gradient + 1..=backward]
        .iter()
        .all(|node| !node.writes().any(|id| moved.touches(id)) && !moved.writes().any(|id| node.touches(id)));
    let is_product = matches!(moved.op, Op::Gemm(_)) && moved.phase == Phase::Backward;
    (unchanged && free && is_product).then_some(Site { forward, kind, weight_gradient, backward })
}

/// SwiGLU's backward behind the product made again, with what follows from it, and the weight gradient.
fn made_again(step: &mut Step, nodes: &[Node], site: &Site, backward: Node) -> Vec<Node> {
    let product = &nodes[site.forward];
    let kept = product.operands[1];
    let Tensor { name, shape, dtype, class, .. } = step.tensor(kept).clone();
    let h = step.add(Tensor { name: format!("{name} (again)"), shape, dtype, class, start: None });
    let again = |node: &Node, label: String| {
        let operands = node.operands.iter().map(|&id| if id == kept { h } else { id }).collect();
        Node { phase: Phase::Backward, label, operands, layer: backward.layer, ..node.clone() }
    };
    let label = |node: &Node| format!("{} again", node.label);
    let mut out = vec![again(product, label(product))];
    match &site.kind {
        Kind::Transposed { cast } => {
            let cast = &nodes[*cast];
            let mut node = again(cast, label(cast));
            node.operands.remove(2);
            if let Op::Quantise(quantise) = &mut node.op {
                (quantise.row_major, quantise.transposed) = (false, true);
            }
            out.extend([node, backward.clone()]);
        }
        Kind::Columns { moved } => {
            out.push(backward.clone());
            out.extend(moved.iter().map(|&at| again(&nodes[at], nodes[at].label.clone())));
        }
    }
    let weight_gradient = &nodes[site.weight_gradient];
    out.push(again(weight_gradient, weight_gradient.label.clone()));
    out
}

/// Where the product that is made again for the SwiGLU backward at `at` begins: right before it, perhaps with its cast between.
pub(super) fn before(groups: &Groups, at: usize) -> Option<usize> {
    let again = |first: usize| {
        matches!(groups.op(first), Op::SwigluForward(_)) && groups.operand(first, 0) == groups.operand(at, 0)
    };
    let one = at.checked_sub(1)?;
    if again(one) {
        return Some(one);
    }
    let first = one.checked_sub(1)?;
    let cast = matches!(groups.op(one), Op::Quantise(Quantise { row_major: false, transposed: true, .. }));
    (cast && again(first) && groups.operand(one, 0) == groups.operand(first, 1)).then_some(first)
}
