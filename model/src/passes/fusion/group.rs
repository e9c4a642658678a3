//! The bookkeeping of fusion: which ops are in which group, whether an op may move up to one, and a group as one op.

use stepwatch_kernels::fused::{Fused, Hidden, Local, Part, Pattern};
use stepwatch_kernels::op::{Access, Op, Param};

use super::label;
use crate::ir::{Node, Phase, Step, TensorId};

/// The ops of a list and the groups made of them so far. A group stands where its first op stood.
pub(super) struct Groups {
    nodes: Vec<Node>,
    /// Which tensors each op writes.
    writes: Vec<Vec<TensorId>>,
    /// The group of each op.
    group_of: Vec<Option<usize>>,
    groups: Vec<(Pattern, Vec<usize>)>,
    /// The ops that touch each tensor, in order.
    touching: Vec<Vec<usize>>,
}

impl Groups {
    pub(super) fn new(step: &Step, nodes: Vec<Node>) -> Self {
        let mut touching = vec![Vec::new(); step.tensors.len()];
        for (at, node) in nodes.iter().enumerate() {
            for id in &node.operands {
                touching[id.index()].push(at);
            }
        }
        let writes = nodes.iter().map(|node| node.writes().collect()).collect();
        let group_of = vec![None; nodes.len()];
        Self { nodes, writes, group_of, groups: Vec::new(), touching }
    }

    /// Ops of a kind that are in no group yet.
    pub(super) fn starts(&self, is: impl Fn(&Op) -> bool) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&at| self.is_free(at) && is(&self.nodes[at].op)).collect()
    }

    pub(super) fn is_free(&self, at: usize) -> bool {
        self.group_of[at].is_none()
    }

    pub(super) fn op(&self, at: usize) -> &Op {
        &self.nodes[at].op
    }

    pub(super) fn phase(&self, at: usize) -> Phase {
        self.nodes[at].phase
    }

    pub(super) fn operands(&self, at: usize) -> &[TensorId] {
        &self.nodes[at].operands
    }

    pub(super) fn operand(&self, at: usize, index: usize) -> TensorId {
        self.nodes[at].operands[index]
    }

    /// Ops after `at` that touch a tensor and are in no group, in order.
    pub(super) fn touching(&self, tensor: TensorId, at: usize) -> impl Iterator<Item = usize> {
        self.touching[tensor.index()].iter().copied().filter(move |&later| later > at && self.is_free(later))
    }

    /// Adds an op to an open group if it can run where the group's first op stands: nothing that stays between writes what
    /// it touches or touches what it writes.
    pub(super) fn pull(&self, members: &mut Vec<usize>, at: usize) -> bool {
        let first = members[0];
        if !self.is_free(at) || at <= first || members.contains(&at) {
            return false;
        }
        let blocked = self.nodes[at].operands.iter().any(|id| {
            let changes = self.writes[at].contains(id);
            self.touching[id.index()].iter().any(|&other| {
                let place = self.place(other);
                let between = place > first && place < at && other != at && !members.contains(&other);
                between && (changes || self.writes[other].contains(id))
            })
        });
        if !blocked {
            members.push(at);
        }
        !blocked
    }

    /// Where an op runs by now: at its group's first op.
    fn place(&self, at: usize) -> usize {
        self.group_of[at].and_then(|group| self.groups[group].1.first().copied()).unwrap_or(at)
    }

    /// Makes a group of two ops and more; one alone stays what it is. Members run in the order they always had.
    pub(super) fn close(&mut self, pattern: Pattern, mut members: Vec<usize>) {
        if members.len() < 2 {
            return;
        }
        members.sort_unstable();
        for &at in &members {
            self.group_of[at] = Some(self.groups.len());
        }
        self.groups.push((pattern, members));
    }

    /// The list with each group as one op.
    pub(super) fn into_nodes(self, step: &Step) -> Vec<Node> {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for (at, node) in self.nodes.iter().enumerate() {
            match self.group_of[at] {
                None => nodes.push(node.clone()),
                Some(group) if self.groups[group].1[0] == at => nodes.push(self.fused(step, group)),
                Some(_) => {}
            }
        }
        nodes
    }

    /// One group as one op. A tensor that only the group touches becomes a temporary of it.
    fn fused(&self, step: &Step, group: usize) -> Node {
        let (pattern, members) = &self.groups[group];
        let mut externals: Vec<(TensorId, Param)> = Vec::new();
        let mut hidden: Vec<(TensorId, Hidden)> = Vec::new();
        let mut parts = Vec::with_capacity(members.len());
        for (part, &at) in members.iter().enumerate() {
            let node = &self.nodes[at];
            let operands = node.op.signature().into_iter().zip(&node.operands).map(|(param, &id)| {
                if let Some(found) = hidden.iter().position(|(other, _)| *other == id) {
                    return Local::Hidden(found);
                }
                if let Some(found) = externals.iter().position(|(other, _)| *other == id) {
                    let access = &mut externals[found].1.access;
                    // Read first and changed later is an update; written first stays a write.
                    if *access == Access::Read && param.access != Access::Read {
                        *access = Access::Update;
                    }
                    return Local::External(found);
                }
                if param.access == Access::Write && self.only_within(step, group, id) {
                    hidden.push((id, Hidden { dtype: param.dtype, shape: param.shape }));
                    return Local::Hidden(hidden.len() - 1);
                }
                let name = format!("{part}.{}", param.name).into();
                externals.push((id, Param { name, ..param }));
                Local::External(externals.len() - 1)
            });
            let operands = operands.collect();
            parts.push(Part { op: node.op.clone(), operands });
        }
        let first = &self.nodes[members[0]];
        let labels: Vec<&str> = members.iter().map(|&at| self.nodes[at].label.as_str()).collect();
        let several = members.iter().any(|&at| self.nodes[at].layer != first.layer);
        let unread = (0..externals.len()).filter(|&index| self.unread(step, group, externals[index].0)).collect();
        let (operands, params) = externals.into_iter().unzip();
        let hidden = hidden.into_iter().map(|(_, hidden)| hidden).collect();
        Node {
            op: Op::Fused(Fused { pattern: *pattern, parts, params, hidden, unread }),
            operands,
            phase: first.phase,
            label: label(*pattern, &labels),
            layer: if several { None } else { first.layer },
        }
    }

    /// Whether nobody reads a tensor after a group: it does not outlive the step, and no op that runs later touches it.
    fn unread(&self, step: &Step, group: usize, id: TensorId) -> bool {
        let here = self.groups[group].1[0];
        let mut later = self.touching[id.index()].iter().filter(|&&at| self.place(at) > here);
        !step.tensor(id).persistent() && !step.outputs.contains(&id) && later.next().is_none()
    }

    fn only_within(&self, step: &Step, group: usize, id: TensorId) -> bool {
        !step.tensor(id).persistent()
            && !step.outputs.contains(&id)
            && self.touching[id.index()].iter().all(|&at| self.group_of[at] == Some(group))
    }
}
