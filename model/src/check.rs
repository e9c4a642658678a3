//! Whether an op list is legal: run after `build` and after every pass, so that a wrong pass is named by the op it broke.

use stepwatch_kernels::op::{Access, Op, Param};

use crate::ir::{Node, Step, TensorClass, TensorId};

/// What is wrong with an op list: always a bug in `build` or in a pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("op {index} `{label}` ({op}), operand `{operand}`: found {found}, expected {expected}")]
pub struct CheckError {
    /// Its place in its list.
    pub index: usize,
    /// Its label.
    pub label: String,
    /// Its op.
    pub op: &'static str,
    /// Which operand, or what else of it.
    pub operand: String,
    /// What is there.
    pub found: String,
    /// What should be.
    pub expected: String,
}

/// Proves a step legal.
///
/// Every operand has the shape and dtype of its op's signature; everything is written before it is read, per step or by
/// living across steps; nothing is written whole twice in a step; inputs and tables are never written; no op writes what it
/// names twice; every parameter has a gradient and exactly one update; outputs are there.
///
/// # Errors
/// The first op that breaks a rule.
pub fn check(step: &Step) -> Result<(), CheckError> {
    check_list(step, &step.init)?;
    let written = check_list(step, &step.ops)?;
    for id in &step.outputs {
        if !written[id.index()] {
            return Err(whole_step(
                &step.tensor(*id).name,
                "an output that nothing writes",
                "a value at the step's end",
            ));
        }
    }
    check_parameters(step, &written)
}

/// Checks one list; returns which tensors it writes.
fn check_list(step: &Step, nodes: &[Node]) -> Result<Vec<bool>, CheckError> {
    let mut written = vec![false; step.tensors.len()];
    for (index, node) in nodes.iter().enumerate() {
        let error = |operand: &str, found: String, expected: &str| CheckError {
            index,
            label: node.label.clone(),
            op: node.op.name(),
            operand: operand.to_owned(),
            found,
            expected: expected.to_owned(),
        };
        if let Err(spec) = node.op.check() {
            return Err(error("the op itself", spec.what.clone(), spec.expected));
        }
        let signature = node.op.signature();
        if signature.len() != node.operands.len() {
            let found = format!("{} operands", node.operands.len());
            return Err(error("all", found, &format!("{}", signature.len())));
        }
        for (position, (param, id)) in signature.iter().zip(&node.operands).enumerate() {
            check_operand(step, param, *id, &mut written)
                .map_err(|(found, expected)| error(&param.name, found, &expected))?;
            let writes = param.access != Access::Read;
            let twice = node.operands.iter().enumerate().any(|(other, same)| other != position && same == id);
            if writes && twice {
                return Err(error(
                    &param.name,
                    format!("`{}` named twice", step.tensor(*id).name),
                    "one name for what is written",
                ));
            }
        }
    }
    Ok(written)
}

/// One operand against its parameter; `Err` holds what was found and what was expected.
fn check_operand(step: &Step, param: &Param, id: TensorId, written: &mut [bool]) -> Result<(), (String, String)> {
    let Some(tensor) = step.tensors.get(id.index()) else {
        return Err((format!("tensor {}", id.0), format!("one of {} tensors", step.tensors.len())));
    };
    let name = &tensor.name;
    if (tensor.dtype, &tensor.shape) != (param.dtype, &param.shape) {
        return Err((
            format!("`{name}` {} {:?}", tensor.dtype, tensor.shape),
            format!("{} {:?}", param.dtype, param.shape),
        ));
    }
    let fixed = matches!(tensor.class, TensorClass::Input | TensorClass::Constant);
    if param.access != Access::Read && fixed {
        return Err((format!("`{name}` written"), "inputs and tables stay as they are".to_owned()));
    }
    let defined = tensor.persistent() || written[id.index()];
    match param.access {
        Access::Read | Access::Update if !defined => {
            Err((format!("`{name}` before anything wrote it"), "a write earlier in the list".to_owned()))
        }
        Access::Write if written[id.index()] => {
            Err((format!("`{name}` written a second time"), "one write per step".to_owned()))
        }
        Access::Read => Ok(()),
        Access::Write | Access::Update => {
            written[id.index()] = true;
            Ok(())
        }
    }
}

fn check_parameters(step: &Step, written: &[bool]) -> Result<(), CheckError> {
    let mut updates = vec![0_usize; step.tensors.len()];
    for node in &step.ops {
        for (id, access) in node.accesses() {
            if access == Access::Update {
                updates[id.index()] += 1;
            }
        }
    }
    for parameter in &step.parameters {
        if !written[parameter.gradient.index()] {
            return Err(whole_step(&parameter.name, "no gradient", "one op that writes it"));
        }
        let found = updates[parameter.master.index()];
        if found != 1 {
            return Err(whole_step(&parameter.name, &format!("{found} updates"), "exactly one"));
        }
    }
    Ok(())
}

fn whole_step(operand: &str, found: &str, expected: &str) -> CheckError {
    CheckError {
        index: 0,
        label: "whole step".to_owned(),
        op: "list",
        operand: operand.to_owned(),
        found: found.to_owned(),
        expected: expected.to_owned(),
    }
}

/// How many primitives a list launches, those inside fusions included.
#[must_use]
pub fn primitives(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| if let Op::Fused(fused) = &node.op { fused.parts.len() } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use stepwatch_kernels::Dtype;

    use super::*;
    use crate::build::build;
    use crate::config::{StepConfig, preset};

    fn tiny() -> Step {
        build(&StepConfig::example(preset("tiny").unwrap(), 2, 16))
    }

    fn find(step: &Step, label: &str) -> usize {
        step.ops.iter().position(|node| node.label == label).unwrap()
    }

    #[test]
    fn every_broken_list_is_named_by_op_operand_found_and_expected() {
        type Break = fn(&mut Step);
        let cases: [(Break, &str); 8] = [
            (
                |step| {
                    let at = find(step, "qkv forward");
                    step.ops[at].operands.swap(0, 1);
                },
                "op 2 `qkv forward` (Gemm), operand `a`: found `b0.qkv.w` fp32 [192, 64], expected fp32 [32, 64]",
            ),
            (
                |step| {
                    let at = find(step, "embedding forward");
                    step.ops.remove(at);
                },
                "op 0 `norm forward` (RmsNormForward), operand `x`: found `x0` before anything wrote it, expected a write \
                 earlier in the list",
            ),
            (
                |step| {
                    let at = find(step, "qkv forward");
                    let again = step.ops[at].clone();
                    step.ops.insert(at + 1, again);
                },
                "op 3 `qkv forward` (Gemm), operand `d`: found `b0.qkv` written a second time, expected one write per step",
            ),
            (
                |step| {
                    let at = find(step, "adamw");
                    let again = step.ops[at].clone();
                    step.ops.insert(at, again);
                },
                "op 0 `whole step` (list), operand `embedding.w`: found 2 updates, expected exactly one",
            ),
            (
                |step| {
                    let at = find(step, "residual forward");
                    let x = step.ops[at].operands[0];
                    step.ops[at].operands[2] = x;
                },
                "op 9 `residual forward` (Add), operand `y`: found `x0` written a second time, expected one write per step",
            ),
            (
                |step| {
                    let at = find(step, "mean loss");
                    step.ops[at].operands.pop();
                },
                "op 33 `mean loss` (MeanLoss), operand `all`: found 1 operands, expected 2",
            ),
            (
                |step| {
                    let id = step.ports.step;
                    step.tensors[id.index()].class = TensorClass::Constant;
                },
                "op 108 `step counter` (Advance), operand `step`: found `step` written, expected inputs and tables stay as they are",
            ),
            (
                |step| {
                    let at = find(step, "mean loss");
                    step.ops.remove(at);
                },
                "op 0 `whole step` (list), operand `loss`: found an output that nothing writes, expected a value at the step's end",
            ),
        ];
        for (break_it, message) in cases {
            let mut step = tiny();
            assert_eq!(check(&step), Ok(()));
            break_it(&mut step);
            let found = check(&step).unwrap_err().to_string();
            // The index of late ops moves with every op that is added before them.
            let after_index = |text: &str| text.split_once('`').map(|(_, rest)| rest.to_owned()).unwrap();
            assert_eq!(after_index(&found), after_index(message));
        }
    }

    #[test]
    fn a_wrong_dtype_is_found() {
        let mut step = tiny();
        let id = step.ops[1].operands[2];
        step.tensors[id.index()].dtype = Dtype::Bf16;
        assert!(check(&step).unwrap_err().to_string().contains("`b0.norm1` bf16 [32, 64], expected fp32 [32, 64]"));
    }
}
