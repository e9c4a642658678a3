//! What fills device memory where most of it is taken: the tensors that live at the peak of a step, by what they are. It may not
//! know any executor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ir::{Step, TensorClass};
use crate::passes::place::lifetimes;

/// The moment of a step at which most memory is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// The op that runs then.
    pub op: String,
    /// Bytes of what lives then, tensors that live across steps included.
    pub live_bytes: u64,
    /// Bytes that the plan takes: more than that by what the arena wastes, and by tensors' alignment.
    pub placed_bytes: u64,
    /// What lives then: tensors of all blocks under one name, largest first.
    pub parts: Vec<PeakPart>,
}

/// Tensors of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeakPart {
    /// Their name, the block left out.
    pub name: String,
    /// What they are for.
    pub class: TensorClass,
    /// How many.
    pub count: u64,
    /// All together, bytes.
    pub bytes: u64,
}

/// The peak of a step's list.
#[must_use]
pub fn peak(step: &Step) -> Peak {
    let spans = lifetimes(step, &step.ops, &step.outputs);
    let mut change = vec![0_i64; step.ops.len() + 2];
    for (id, span) in &spans {
        let bytes = i64::try_from(step.tensor(*id).bytes()).unwrap_or(i64::MAX);
        change[*span.start()] += bytes;
        change[*span.end() + 1] -= bytes;
    }
    let live = change.iter().scan(0_i64, |live, change| {
        *live += change;
        Some(*live)
    });
    let most = live.enumerate().max_by_key(|(at, bytes)| (*bytes, std::cmp::Reverse(*at)));
    let (at, bytes) = most.unwrap_or((0, 0));
    let mut parts: BTreeMap<String, PeakPart> = BTreeMap::new();
    let mut add = |index: usize| {
        let tensor = &step.tensors[index];
        let (name, class) = (name_of_all(&tensor.name), tensor.class);
        let part = parts.entry(name.clone()).or_insert(PeakPart { name, class, count: 0, bytes: 0 });
        part.count += 1;
        part.bytes += tensor.bytes();
    };
    spans.iter().filter(|(_, span)| span.contains(&at)).for_each(|(id, _)| add(id.index()));
    let touched = crate::exec::start::touched(step);
    (0..step.tensors.len()).filter(|&index| touched[index] && step.tensors[index].persistent()).for_each(&mut add);
    let mut parts: Vec<PeakPart> = parts.into_values().collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    Peak {
        op: step.ops.get(at).map_or_else(String::new, |node| node.label.clone()),
        live_bytes: u64::try_from(bytes).unwrap_or(0) + step.persistent_bytes(),
        placed_bytes: crate::plan::memory_bytes(step),
        parts,
    }
}

/// A name without its block: `b3.qkv` and `db3.qkv` are `b*.qkv` and `db*.qkv`.
fn name_of_all(name: &str) -> String {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let letters = first.trim_end_matches(|c: char| c.is_ascii_digit());
    if letters.len() < first.len() && matches!(letters, "b" | "db") {
        return format!("{letters}*.{rest}");
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use stepwatch_kernels::Precision;

    use super::*;
    use crate::build::build;
    use crate::config::{Attention, Compile, Head, OptimizerState, StepConfig, preset};
    use crate::exec::Backend;
    use crate::passes::pipeline;

    fn compiled(name: &str, batch_size: usize, precision: Precision) -> Peak {
        with_head(name, batch_size, precision, Head::Bf16)
    }

    fn with_head(name: &str, batch_size: usize, precision: Precision, head: Head) -> Peak {
        let config = config(name, batch_size, precision, head);
        peak(&pipeline(build(&config), &Compile::Full, Backend::Cuda).unwrap().step)
    }

    fn config(name: &str, batch_size: usize, precision: Precision, head: Head) -> StepConfig {
        StepConfig {
            precision,
            head,
            attention: Attention::Cudnn,
            compile: Compile::Full,
            optimizer_state: OptimizerState::Bf16,
            clip: 0.0,
            ..StepConfig::example(preset(name).unwrap(), batch_size, 2048)
        }
    }

    /// `list` estimates without building a step.
    #[test]
    fn the_estimate_is_near_what_the_plan_places() {
        for (name, batch_size) in [("350m", 16), ("454m", 16), ("1b", 8), ("8b-slice", 8)] {
            for precision in Precision::ALL.into_iter().filter(|precision| *precision != Precision::Fp32) {
                let heads = if precision.is_fp8() { vec![Head::Bf16, Head::Fp8] } else { vec![Head::Bf16] };
                for head in heads {
                    let config = config(name, batch_size, precision, head);
                    let estimate = crate::count::step(&config).memory.total as f64;
                    let placed = with_head(name, batch_size, precision, head).placed_bytes as f64;
                    let off = estimate / placed - 1.0;
                    println!("{name} ×{batch_size} {} {head:?}: {:+.2} %", precision.name(), 100.0 * off);
                    assert!(off.abs() < 0.025, "{name} {} {head:?}: {:+.2} %", precision.name(), 100.0 * off);
                }
            }
        }
    }

    /// What is kept from forward to backward decides the memory of a compiled step: printed, and held to what it is.
    #[test]
    fn a_compiled_step_keeps_only_what_backward_reads() {
        // PyTorch's peak of these steps (fp8: tensor-wise), GiB, beside ours at most.
        for (precision, most, peer) in [
            (Precision::Bf16, 36.1, 40.7),
            (Precision::Fp8Tensorwise, 30.2, 30.9),
            (Precision::Fp8Delayed, 30.2, 30.9),
            (Precision::Fp8Rowwise, 29.4, 31.4),
            (Precision::Fp8RowwiseGwHp, 30.9, 31.4),
            (Precision::Fp8Block128, 29.4, 31.4),
        ] {
            let found = compiled("454m", 16, precision);
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            println!(
                "{}: {:.2} GiB live, {:.2} placed, at {}; PyTorch {peer}",
                precision.name(),
                gib(found.live_bytes),
                gib(found.placed_bytes),
                found.op
            );
            for part in found.parts.iter().take(24) {
                println!("    {:>7.3} GiB  {:>3} × {} ({:?})", gib(part.bytes), part.count, part.name, part.class);
            }
            assert!(gib(found.placed_bytes) <= most, "{}: {:.2} GiB", precision.name(), gib(found.placed_bytes));
            assert_eq!(found.parts.iter().map(|part| part.bytes).sum::<u64>(), found.live_bytes);
        }
    }

    /// An FP8 head holds the logits and their gradient in FP8 at once where a bf16 head makes one of the other in place.
    #[test]
    fn an_fp8_head_takes_little_more() {
        for precision in Precision::ALL.into_iter().filter(|precision| precision.is_fp8()) {
            let gib = |peak: &Peak| peak.placed_bytes as f64 / f64::from(1 << 30);
            let (plain, fp8) = (compiled("454m", 16, precision), with_head("454m", 16, precision, Head::Fp8));
            let more = gib(&fp8) - gib(&plain);
            println!("{}: {:.2} GiB, FP8 head {:.2} at {}", precision.name(), gib(&plain), gib(&fp8), fp8.op);
            for part in fp8.parts.iter().take(6) {
                println!(
                    "    {:>7.3} GiB  {:>3} × {} ({:?})",
                    part.bytes as f64 / f64::from(1 << 30),
                    part.count,
                    part.name,
                    part.class
                );
            }
            assert!(more <= 1.6, "{}: {more:.2} GiB more", precision.name());
        }
    }

    #[test]
    fn every_preset_fits_an_80_gb_gpu_at_8_and_16_rows() {
        for (name, batch_size) in [("350m", 16), ("454m", 16), ("1b", 8), ("8b-slice", 8)] {
            for precision in Precision::ALL.into_iter().filter(|precision| *precision != Precision::Fp32) {
                let found = compiled(name, batch_size, precision).placed_bytes;
                println!("{name} ×{batch_size} {}: {:.2} GiB", precision.name(), found as f64 / f64::from(1 << 30));
                // Workspaces, kernels and the context have the rest of 79.6 GiB.
                assert!(found < 72 << 30, "{name} {}: {found} bytes", precision.name());
            }
        }
    }
}
