//! Where the time of a step goes, op by op: each cell is run a few steps more with clocks between its ops. It may not know
//! what is concluded from it.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Runner, Session, SessionError, feed, nanoseconds};
use crate::config::StepConfig;
use crate::exec::Backend;
use crate::ir::Node;
use crate::plan::Plan;

/// Time, work and traffic of all ops that share class, label and phase, over one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpTime {
    /// The op's class, matrix products by role (`gemm forward`, `gemm input gradient`, `gemm weight gradient`, `gemm head`);
    /// `gap` for time between ops.
    pub class: String,
    /// What the ops do, such as `gate-up forward`.
    pub label: String,
    /// `forward`, `backward`, `optimiser`.
    pub phase: String,
    /// How many a step runs.
    pub count: u64,
    /// Their time, ns per step.
    pub gpu_ns: f64,
    /// Their FLOPs per step.
    pub flops: f64,
    /// Their least bytes per step.
    pub bytes: f64,
}

/// Steps that a profile averages over, after one that is thrown away.
const PROFILED_STEPS: u32 = 3;

/// Where the time of a step goes: the ops of one step by class, label and phase, and the gap between them.
///
/// # Errors
/// As [`Session::open`].
pub fn profile(
    config: &StepConfig,
    backend: Backend,
    plan: Option<&Plan>,
    seed: u64,
) -> Result<Vec<OpTime>, SessionError> {
    let mut session = Session::open(config, backend, plan, seed)?;
    if matches!(session.runner, Runner::Cuda { .. }) {
        return session.profile_gpu();
    }
    let Runner::Cpu { cpu, source } = &mut session.runner else {
        let gpu_ns = session.step()?.gpu_ns as f64;
        let (class, label, phase) = ("gemm".to_owned(), "scripted".to_owned(), "forward".to_owned());
        return Ok(vec![OpTime { class, label, phase, count: 1, gpu_ns, flops: 0.0, bytes: 0.0 }]);
    };
    let mut spent = vec![0_u64; cpu.step().ops.len()];
    let mut gap_ns = 0;
    for step in 0..=PROFILED_STEPS {
        feed(cpu, source, u64::from(step));
        let start = Instant::now();
        let mut ops_ns = 0;
        let mut timed = |at: usize, ns: u64| {
            ops_ns += ns;
            if step > 0 {
                spent[at] += ns;
            }
        };
        cpu.run_timed(&mut timed).map_err(|gone| SessionError::Failed(gone.to_string()))?;
        if step > 0 {
            gap_ns += nanoseconds(start).saturating_sub(ops_ns);
        }
    }
    let spent: Vec<f64> = spent.into_iter().map(|ns| ns as f64 / f64::from(PROFILED_STEPS)).collect();
    Ok(op_times(&cpu.step().ops, &spent, gap_ns as f64 / f64::from(PROFILED_STEPS)))
}

impl Session {
    /// The GPU's part of [`profile`]. The gap is what steps take beyond their ops, measured without events between them.
    fn profile_gpu(&mut self) -> Result<Vec<OpTime>, SessionError> {
        self.step()?;
        let mut steps_ns = 0.0;
        for _ in 0..PROFILED_STEPS {
            steps_ns += self.step()?.gpu_ns as f64 / f64::from(PROFILED_STEPS);
        }
        let Runner::Cuda { cuda, source, .. } = &mut self.runner else { return Ok(Vec::new()) };
        let mut spent = vec![0.0; cuda.step().ops.len()];
        for step in 0..PROFILED_STEPS {
            let times = cuda.run_timed(&source.batch(u64::from(step)))?;
            spent.iter_mut().zip(times).for_each(|(spent, ns)| *spent += ns / f64::from(PROFILED_STEPS));
        }
        let gap_ns = (steps_ns - spent.iter().sum::<f64>()).max(0.0);
        Ok(op_times(&cuda.step().ops, &spent, gap_ns))
    }
}

/// Times of ops by class, label and phase, and the gap between them.
fn op_times(nodes: &[Node], spent: &[f64], gap_ns: f64) -> Vec<OpTime> {
    let mut ops: BTreeMap<(u8, String, String), OpTime> = BTreeMap::new();
    for (node, ns) in nodes.iter().zip(spent) {
        let class = node.booked_class();
        let entry = ops.entry((node.phase as u8, class.clone(), node.label.clone()));
        let total = entry.or_insert_with(|| OpTime {
            class,
            label: node.label.clone(),
            phase: node.phase.name().to_owned(),
            count: 0,
            gpu_ns: 0.0,
            flops: 0.0,
            bytes: 0.0,
        });
        total.count += 1;
        total.gpu_ns += ns;
        total.flops += node.op.flops();
        total.bytes += node.op.bytes();
    }
    let (class, label, phase) = ("gap".to_owned(), "between ops".to_owned(), "forward".to_owned());
    let gap = OpTime { class, label, phase, count: 1, gpu_ns: gap_ns, flops: 0.0, bytes: 0.0 };
    ops.into_values().chain([gap]).collect()
}
