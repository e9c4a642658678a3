//! Holds `STEP.md` against the lists that are built: every primitive that any precision or attention launches is on the page.

use std::collections::BTreeSet;

use stepwatch_kernels::Precision;
use stepwatch_model::build::build;
use stepwatch_model::config::{Attention, Dims, Head, OptimizerState, StepConfig};

#[test]
fn the_page_names_every_primitive_that_is_launched() {
    let page = include_str!("../STEP.md");
    let dims = Dims { dim: 128, layers: 1, heads: 2, ffn: 256, vocab: 128 };
    let mut launched = BTreeSet::new();
    for precision in Precision::ALL {
        for attention in [Attention::Naive, Attention::Flash] {
            for optimizer_state in [OptimizerState::Fp32, OptimizerState::Bf16] {
                let example = StepConfig::example(dims, 1, 128);
                let step = build(&StepConfig { precision, attention, optimizer_state, head: Head::Fp8, ..example });
                launched.extend(step.init.iter().chain(&step.ops).map(|node| node.op.name()));
            }
        }
    }
    assert!(launched.len() > 20, "{launched:?}");
    let missing: Vec<&&str> = launched.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "STEP.md does not name {missing:?}");
}
