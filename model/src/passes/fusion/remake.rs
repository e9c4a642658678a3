//! SwiGLU's product made again in the backward pass, where its gradients are taken and both its factors are read anyway: its
//! transposed FP8 cast, which only the weight gradient reads, is then not kept from forward to backward.
//!
//! No number changes: the same op over the same operands, cast with the same scale.

use stepwatch_kernels::op::Op;
use stepwatch_kernels::precision::Granularity;
use stepwatch_kernels::quantise::Quantise;

use super::group::Groups;
use crate::ir::{Node, Phase, Step, Tensor};

/// Where one product is made again: indices into the list.
struct Site {
    forward: usize,
    cast: usize,
    /// The only reader of the transposed cast.
    weight_gradient: usize,
    backward: usize,
}

/// The list with every such product made again right before SwiGLU's backward, the weight gradient after it.
pub(super) fn remake(step: &mut Step, nodes: Vec<Node>) -> Vec<Node> {
    let sites: Vec<Site> = (0..nodes.len()).filter_map(|at| site(&nodes, at)).collect();
    let mut out = Vec::with_capacity(nodes.len() + 2 * sites.len());
    for (at, node) in nodes.iter().enumerate() {
        let mut node = node.clone();
        if sites.iter().any(|site| site.weight_gradient == at) {
            continue;
        }
        if sites.iter().any(|site| site.cast == at) {
            if let Op::Quantise(cast) = &mut node.op {
                cast.transposed = false;
            }
            node.operands.truncate(3);
        }
        let site = sites.iter().find(|site| site.backward == at);
        if let Some(site) = site {
            out.extend(made_again(step, &nodes, site));
        }
        out.push(node);
        out.extend(site.map(|site| nodes[site.weight_gradient].clone()));
    }
    out
}

/// The site of the SwiGLU at `forward`: its product is cast in both layouts with one scale in the forward pass, the
/// transposed one is read once, by a product between that and SwiGLU's backward.
fn site(nodes: &[Node], forward: usize) -> Option<Site> {
    let Node { op: Op::SwigluForward(_), operands, phase: Phase::Forward, .. } = &nodes[forward] else { return None };
    let [gate_up, h] = operands[..] else { return None };
    let both = |op: &Op| {
        let Op::Quantise(Quantise { tiling, row_major: true, transposed: true, .. }) = op else { return false };
        tiling.granularity == Granularity::Tensor
    };
    let later = |from: usize| nodes.iter().enumerate().skip(from + 1);
    let cast = later(forward).find(|(_, node)| both(&node.op) && node.operands[0] == h)?.0;
    let [_, scale, _, qt] = nodes[cast].operands[..] else { return None };
    let readers: Vec<usize> = later(cast).filter(|(_, node)| node.touches(qt)).map(|(at, _)| at).collect();
    let [weight_gradient] = readers[..] else { return None };
    let of_backward = |node: &Node| matches!(node.op, Op::SwigluBackward(_)) && node.operands[0] == gate_up;
    let backward = later(weight_gradient).find(|(_, node)| of_backward(node))?.0;
    let moved = &nodes[weight_gradient];
    let changed = |node: &Node| node.writes().any(|id| id == gate_up || id == scale);
    let kept = !later(cast).take(backward - cast - 1).any(|(_, node)| changed(node));
    let free = nodes[weight_gradient + 1..=backward]
        .iter()
        .all(|node| !node.writes().any(|id| moved.touches(id)) && !moved.writes().any(|id| node.touches(id)));
    let is_product = matches!(moved.op, Op::Gemm(_)) && moved.phase == Phase::Backward;
    (kept && free && is_product).then_some(Site { forward, cast, weight_gradient, backward })
}

/// The product and its transposed cast once more.
fn made_again(step: &mut Step, nodes: &[Node], site: &Site) -> [Node; 2] {
    let (product, cast) = (&nodes[site.forward], &nodes[site.cast]);
    let Tensor { name, shape, dtype, class, .. } = step.tensor(product.operands[1]).clone();
    let h = step.add(Tensor { name: format!("{name} (again)"), shape, dtype, class, start: None });
    let again = |node: &Node| Node { phase: Phase::Backward, label: format!("{} again", node.label), ..node.clone() };
    let mut product = Node { operands: vec![product.operands[0], h], ..again(product) };
    product.layer = nodes[site.backward].layer;
    let mut cast = Node { operands: vec![h, cast.operands[1], cast.operands[3]], ..again(cast) };
    if let Op::Quantise(quantise) = &mut cast.op {
        (quantise.row_major, quantise.transposed) = (false, true);
    }
    [product, cast]
}

/// Where the product that is made again for the SwiGLU backward at `at` begins: right before it, with its cast between.
pub(super) fn before(groups: &Groups, at: usize) -> Option<usize> {
    let first = at.checked_sub(2)?;
    let [product, cast] = [first, first + 1].map(|at| groups.op(at));
    let again = matches!(product, Op::SwigluForward(_))
        && groups.operand(first, 0) == groups.operand(at, 0)
        && matches!(cast, Op::Quantise(Quantise { row_major: false, transposed: true, .. }))
        && groups.operand(first + 1, 0) == groups.operand(first, 1);
    again.then_some(first)
}
