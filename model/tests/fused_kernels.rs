//! Every fused kernel that a preset's step asks for, compiled for Hopper without a GPU: what does not compile fails here, and
//! what spills is listed.
//!
//! Needs the run-time compiler (`ci/kernels --install` fetches it). Without it the test says so, and fails if
//! `STEPWATCH_REQUIRE_NVRTC=1`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use stepwatch_kernels::fused::launch::Variant;
use stepwatch_kernels::fused::{Fused, Pattern};
use stepwatch_kernels::nvrtc;
use stepwatch_kernels::op::Op;
use stepwatch_model::Precision;
use stepwatch_model::build::build;
use stepwatch_model::check_config;
use stepwatch_model::config::{Head, StepConfig, preset};
use stepwatch_model::passes::{fusion::fusion, layout::layout};

/// Where the classifier may run.
const HEADS: [Head; 2] = [Head::Bf16, Head::Fp8];

/// Fusions of every preset and precision, with and without the layout pass.
fn fusions() -> Vec<Fused> {
    let mut all = Vec::new();
    for name in ["tiny", "mini", "350m", "454m", "1b", "8b-slice"] {
        for (precision, head) in Precision::ALL.into_iter().flat_map(|precision| HEADS.map(|head| (precision, head))) {
            let config = StepConfig { precision, head, ..StepConfig::example(preset(name).unwrap(), 1, 128) };
            if check_config(&config).is_err() {
                continue;
            }
            let unclipped = StepConfig { clip: 0.0, ..config.clone() };
            let compiled = [fusion(build(&config)), fusion(layout(build(&config))), fusion(layout(build(&unclipped)))];
            for step in compiled {
                all.extend(step.init.into_iter().chain(step.ops).filter_map(|node| match node.op {
                    Op::Fused(fused) => Some(fused),
                    _ => None,
                }));
            }
        }
    }
    all
}

/// Casts and delayed scales run in one launch each, in every recipe.
#[test]
fn every_cast_and_scale_of_a_step_has_a_kernel() {
    for precision in
        Precision::ALL.into_iter().filter(|precision| !matches!(precision, Precision::Fp32 | Precision::Bf16))
    {
        let config = StepConfig { precision, ..StepConfig::example(preset("454m").unwrap(), 16, 2048) };
        let step = fusion(layout(build(&config)));
        let mut found = 0;
        for node in step.init.iter().chain(&step.ops) {
            if let Op::Fused(fused) = &node.op
                && matches!(fused.pattern, Pattern::Cast | Pattern::Scales)
            {
                assert_eq!(fused.variants().len(), 1, "{} of {precision:?}: {fused:?}", node.label);
                found += 1;
            }
        }
        assert!(found > 0, "{precision:?} casts nothing");
    }
}

/// A store of a pack that the compiler took apart into elements: four neighbours or more of 1 or 2 bytes, one behind the other. It
/// does so where something between them might read what they write, and the kernel is right and half as fast.
fn taken_apart(ptx: &str) -> Option<String> {
    let mut last: Option<(&str, usize, usize)> = None;
    for line in ptx.lines().map(str::trim).filter(|line| line.starts_with("st.") && !line.contains(".shared.")) {
        let (op, place) = line.split_once('[').unwrap();
        let (place, _) = place.split_once(']').unwrap();
        let (base, offset) =
            place.split_once('+').map_or((place, 0), |(base, offset)| (base, offset.parse().unwrap_or(0)));
        let bytes = match op.trim().rsplit('.').next() {
            _ if op.contains(".v") => 0,
            Some("u8" | "b8" | "s8") => 1,
            Some("u16" | "b16" | "s16") => 2,
            _ => 0,
        };
        let run = match last {
            Some((before, at, run)) if bytes > 0 && before == base && offset == at + bytes => run + 1,
            _ => 1,
        };
        if run == 4 {
            return Some(line.to_owned());
        }
        last = (bytes > 0).then_some((base, offset, run));
    }
    None
}

#[test]
fn packs_that_are_taken_apart_are_seen() {
    let stores = |lines: &[&str]| taken_apart(&lines.join("\n"));
    let four = [
        "st.u16 [%rd1], %rs1;",
        "mov.u32 %r1, 0;",
        "st.u16 [%rd1+2], %rs2;",
        "st.u16 [%rd1+4], %rs3;",
        "st.u16 \t[%rd1+6], %rs4;",
    ];
    assert_eq!(stores(&four).as_deref(), Some("st.u16 \t[%rd1+6], %rs4;"));
    assert_eq!(stores(&four[..4]), None);
    // Neighbours of several tensors, element by element, and whole packs.
    assert_eq!(
        stores(&["st.u16 [%rd1], %rs1;", "st.u16 [%rd2], %rs1;", "st.u16 [%rd1+2], %rs1;", "st.u16 [%rd2+2], %rs1;"]),
        None
    );
    assert_eq!(stores(&["st.v4.u16 [%rd1], {%rs1};"; 4]), None);
}

#[test]
fn every_fused_kernel_of_every_preset_compiles_for_hopper() {
    if let Err(error) = nvrtc::version() {
        let required = std::env::var("STEPWATCH_REQUIRE_NVRTC").is_ok_and(|value| value == "1");
        assert!(!required, "STEPWATCH_REQUIRE_NVRTC=1, and {error}");
        println!("NOT RUN: no kernel was compiled: {error}");
        return;
    }
    let mut variants: Vec<Variant> = Vec::new();
    for variant in fusions().iter().flat_map(Fused::variants) {
        if !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    let mut modules: Vec<(&Variant, Vec<&str>)> = Vec::new();
    for variant in &variants {
        let same = |(other, _): &&mut (&Variant, Vec<&str>)| {
            other.source == variant.source && other.defines == variant.defines
        };
        match modules.iter_mut().find(same) {
            Some((_, names)) => names.push(variant.name),
            None => modules.push((variant, vec![variant.name])),
        }
    }
    for (variant, names) in &modules {
        let options: Vec<String> = variant.defines.iter().map(|define| format!("--define-macro={define}")).collect();
        let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
        options.push("--ptxas-options=-v");
        let compiled = nvrtc::compile(variant.source, "sm_90a", &options)
            .unwrap_or_else(|error| panic!("{error} with {:?}", variant.defines));
        assert!(compiled.ptx.contains("st."), "{}: no assembly to read", variant.source.name);
        assert_eq!(taken_apart(&compiled.ptx), None, "{} {:?}", variant.source.name, variant.defines);
        let found = nvrtc::resources(&compiled.log);
        println!("{} {}", variant.source.name, variant.defines.join(" "));
        for name in names {
            let kernel = found.iter().find(|kernel| kernel.name == *name);
            let kernel = kernel.unwrap_or_else(|| panic!("no kernel `{name}` in {}", compiled.log));
            println!("    {name:<36} {:>3} registers, {} bytes spilled", kernel.registers, kernel.spilled_bytes);
            assert!(kernel.spilled_bytes <= 64, "{name} spills {} bytes", kernel.spilled_bytes);
        }
    }
    println!("{} kernels in {} modules", variants.len(), modules.len());
}

/// Loss, gradient norm and optimiser of the 454M step are one op each, with a kernel, in every precision.
#[test]
fn the_loss_the_norm_and_the_optimiser_have_kernels() {
    for precision in Precision::ALL {
        let config = StepConfig { precision, ..StepConfig::example(preset("454m").unwrap(), 16, 2048) };
        let step = fusion(layout(build(&config)));
        for pattern in [Pattern::Loss, Pattern::GradientNorm, Pattern::Optimiser] {
            let found: Vec<&Fused> = step
                .ops
                .iter()
                .filter_map(|node| match &node.op {
                    Op::Fused(fused) if fused.pattern == pattern => Some(fused),
                    _ => None,
                })
                .collect();
            assert_eq!(found.len(), 1, "{pattern:?} of {precision:?}");
            assert!(!found[0].variants().is_empty(), "{pattern:?} of {precision:?} has a kernel");
        }
    }
}

/// SwiGLU and rotary positions of the 454M step are one launch each with what is behind them, whatever the FP8 recipe.
#[test]
fn every_activation_with_a_cast_has_a_kernel() {
    for precision in Precision::ALL {
        let config = StepConfig { precision, ..StepConfig::example(preset("454m").unwrap(), 16, 2048) };
        let step = fusion(layout(build(&config)));
        let mut found = 0;
        for node in &step.ops {
            let Op::Fused(fused) = &node.op else { continue };
            if matches!(fused.pattern, Pattern::SwigluForward | Pattern::SwigluBackward | Pattern::RopeBackward) {
                assert_eq!(fused.variants().len(), 1, "{:?} of {precision:?} has a kernel", fused.pattern);
                found += 1;
            }
        }
        let expected = if matches!(precision, Precision::Fp32 | Precision::Bf16) { 0 } else { 3 * 24 };
        assert_eq!(found, expected, "{precision:?}");
    }
}

/// Prints what the compilation of a step's fused kernels takes, one after the other and all threads at once: into an empty
/// folder named by `STEPWATCH_CACHE`, so that nothing is found there.
#[test]
#[ignore = "prints seconds of this machine; wants an empty STEPWATCH_CACHE"]
fn seconds_of_a_cold_start() {
    for precision in [Precision::Bf16, Precision::Fp8Tensorwise, Precision::Fp8Delayed] {
        let config = StepConfig { precision, ..StepConfig::example(preset("454m").unwrap(), 16, 2048) };
        let step = fusion(layout(build(&config)));
        let fused = step.init.iter().chain(&step.ops).filter_map(|node| match &node.op {
            Op::Fused(fused) => Some(fused),
            _ => None,
        });
        let variants: Vec<Variant> = fused.flat_map(Fused::variants).collect();
        let start = std::time::Instant::now();
        let compiled = nvrtc::compile_ahead(&variants, (9, 0));
        let threads = std::env::var("RAYON_NUM_THREADS").unwrap_or_else(|_| "all".to_owned());
        println!(
            "{}: {compiled} sources in {:.2} s, {threads} threads",
            precision.name(),
            start.elapsed().as_secs_f64()
        );
    }
}

/// No fusion of a preset's compiled step falls to its parts, at the sizes that are measured, and nothing of the
/// calibration before it: parts alone need memory for what is between them.
#[test]
fn every_fusion_of_every_preset_has_a_kernel() {
    for (name, batch_size) in [("350m", 16), ("454m", 16), ("1b", 8), ("8b-slice", 8)] {
        let precisions = Precision::ALL.into_iter().filter(|precision| *precision != Precision::Fp32);
        for (precision, head) in precisions.flat_map(|precision| HEADS.map(|head| (precision, head))) {
            let config = StepConfig { precision, head, ..StepConfig::example(preset(name).unwrap(), batch_size, 2048) };
            let step = fusion(layout(build(&config)));
            let mut alone: Vec<String> = Vec::new();
            for node in step.init.iter().chain(&step.ops) {
                if let Op::Fused(fused) = &node.op
                    && fused.variants().is_empty()
                    && !alone.contains(&node.label)
                {
                    alone.push(node.label.clone());
                }
            }
            assert!(alone.is_empty(), "{name} {} {head:?} head: {alone:#?} run part by part", precision.name());
        }
    }
}
