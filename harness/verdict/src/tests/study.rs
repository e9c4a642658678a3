//! What the study says in words: what passes bring, what to use, and why a claim on FP8 cannot hold at this size.

use stepwatch_record::comparison::Conclusion;
use stepwatch_record::finding::{Finding, Kind};
use stepwatch_record::profile::{OpClass, Profile};
use stepwatch_record::waiver::Known;

use super::scripted::{Script, TOKENS, id};
use crate::conclude;

fn conclusion(script: &Script) -> Conclusion {
    conclude(&script.run, &script.summary(), &[], "", vec![], &Known::default())
}

fn only(conclusion: &Conclusion, kind: Kind) -> &Finding {
    let found: Vec<&Finding> = conclusion.findings.iter().filter(|finding| finding.kind == kind).collect();
    assert_eq!(found.len(), 1, "{kind:?} in {:#?}", conclusion.findings);
    found[0]
}

/// A cell whose step takes so many ms in every round but for a trace of noise, with the classes of its profile.
fn cell(script: Script, name: &str, step_ms: f64, classes: &[(&str, f64)]) -> Script {
    let rate = TOKENS as f64 / step_ms * 1e3;
    let op = |(class, ms): &(&str, f64)| OpClass {
        class: (*class).into(),
        label: (*class).into(),
        phase: "forward".into(),
        count: 1,
        gpu_ns: ms * 1e6,
        flops: 0.0,
        bytes: 0.0,
    };
    let ops = classes.iter().map(op).collect();
    script
        .cell(name, &[rate, rate * 1.0005, rate * 0.9995])
        .with(|run| run.profiles.push(Profile { cell: id(name), ops }))
}

fn study() -> Script {
    let script = cell(Script::new("r"), "m/bf16/none", 120.0, &[("gemm forward", 60.0), ("gemm head", 20.0)]);
    let script = cell(script, "m/bf16/full", 100.0, &[("gemm forward", 50.0), ("gemm head", 20.0), ("norm", 30.0)]);
    let script = cell(script, "m/fp8-delayed/none", 200.0, &[("gemm forward", 30.0), ("quantise", 120.0)]);
    let script = cell(script, "m/fp8-delayed/layout", 160.0, &[("gemm forward", 30.0), ("quantise", 80.0)]);
    cell(script, "m/fp8-delayed/full", 80.0, &[("gemm forward", 28.0), ("quantise", 2.0)])
}

#[test]
fn each_pass_says_what_it_gives_back_and_from_which_ops() {
    let found = conclusion(&study());
    let ladders: Vec<&Finding> = found.findings.iter().filter(|f| f.kind == Kind::WhatPassesBring).collect();
    assert_eq!(ladders.len(), 2, "one for each precision: {ladders:#?}");
    let fp8 = ladders.iter().find(|f| f.cells.contains(&id("m/fp8-delayed/layout"))).unwrap();
    assert!(fp8.sentence.starts_with("compiling makes m/fp8-delayed/none 2.5"), "{}", fp8.sentence);
    assert!(fp8.sentence.contains("most of all layout → full: 2"), "{}", fp8.sentence);
    assert_eq!(fp8.evidence.len(), 2, "{:?}", fp8.evidence);
    assert!(fp8.evidence[0].starts_with("none → layout: 200") && fp8.evidence[0].contains("quantise -40.0 ms"));
    // Of many ladders those that gain the most are told, and how many others there are.
    let many = (0..6).fold(Script::new("r"), |script, i| {
        let script = cell(script, &format!("m{i}/bf16/none"), 100.0, &[]);
        cell(script, &format!("m{i}/bf16/full"), 90.0 - f64::from(i), &[])
    });
    let many = conclusion(&many);
    let told: Vec<&Finding> = many.findings.iter().filter(|f| f.kind == Kind::WhatPassesBring).collect();
    assert_eq!(told.len(), 4);
    assert!(told[0].sentence.contains("m5/bf16/none") && told[3].evidence.last().unwrap() == "2 more ladders");
    // On a CPU fused ops run part by part: nothing is said there.
    let cpu = study().with(|run| run.manifest.backend = "cpu".into());
    assert!(conclusion(&cpu).findings.iter().all(|f| f.kind != Kind::WhatPassesBring && f.kind != Kind::Fastest));
}

#[test]
fn the_fastest_way_is_named_with_what_it_gains_and_a_tie_stays_in_bf16() {
    let found = conclusion(&study());
    let fastest = only(&found, Kind::Fastest);
    assert!(fastest.sentence.contains("m/fp8-delayed/full") && fastest.sentence.contains("the fastest in BF16"));
    assert!(
        fastest.next_step.starts_with("train with precision = fp8-delayed, compile = full"),
        "{}",
        fastest.next_step
    );
    // The headline answers the question first: 100 ms over 80 ms.
    assert!(found.headline.starts_with("FP8 is at best 1.250 × BF16 (1.2"), "{}", found.headline);
    assert!(found.headline.ends_with("5 cells measured; no reference yet"), "{}", found.headline);
    let twice = cell(cell(study(), "n/bf16/full", 100.0, &[]), "n/fp8-delayed/full", 200.0, &[]);
    let twice = conclusion(&twice).headline;
    assert!(twice.starts_with("FP8 is at best 0.500…1.250 × BF16 over 2 models and batches; 7 cells"), "{twice}");
    let cpu = conclusion(&study().with(|run| run.manifest.backend = "cpu".into())).headline;
    assert!(cpu.starts_with("5 cells measured"), "{cpu}");
    let script = cell(Script::new("r"), "m/bf16/full", 100.0, &[]);
    let tie = conclusion(&cell(script, "m/fp8-delayed/full", 99.99, &[]));
    let step = &only(&tie, Kind::Fastest).next_step;
    assert!(step.starts_with("stay in BF16") && step.ends_with("not shown to be faster here"), "{step}");
}

#[test]
fn a_refuted_claim_says_what_could_be_gained_and_what_it_would_need() {
    let claimed = |ratio| study().claim("m/fp8-delayed/full", "m/bf16/full", ratio, false);
    let found = conclusion(&claimed(1.7));
    let evidence = &only(&found, Kind::ClaimRefuted).evidence;
    let command = &only(&found, Kind::ClaimRefuted).command;
    assert_eq!(command, "stepwatch explain r 'm/fp8-delayed/full' 'm/bf16/full'");
    // 50 of 100 ms are linears; the classifier stays in BF16: 1 / (1 − 0.25).
    assert!(evidence[1].contains("50 % of its step") && evidence[1].contains("at most 1.333 ×"), "{evidence:?}");
    assert!(evidence[1].contains("1.7 × needs 82 % of the step"), "{evidence:?}");
    let beyond = conclusion(&claimed(2.5));
    assert!(only(&beyond, Kind::ClaimRefuted).evidence[1].contains("no step can be 2.5 × as fast"));
    let gain = found.gains.iter().find(|gain| gain.of == id("m/fp8-delayed/full")).unwrap();
    assert!((gain.bound.unwrap() - 4.0 / 3.0).abs() < 1e-6 && (gain.ratio - 1.25).abs() < 0.01, "{gain:?}");
    // How FP8 products accumulate is nothing that BF16 has: such a cell has the same twin.
    let fast = study().with(|run| {
        for cell in run.manifest.cells.iter_mut().filter(|cell| cell.id.0.starts_with("m/")) {
            let fast = if cell.id.0.contains("fp8") { "all" } else { "forward" };
            cell.parameters.insert("fast_accumulation".into(), fast.into());
        }
    });
    assert_eq!(conclusion(&fast).gains.len(), conclusion(&study()).gains.len());
    // Where the classifier takes FP8 too, its product counts.
    let head = study().with(|run| {
        for cell in run.manifest.cells.iter_mut().filter(|cell| cell.id.0.starts_with("m/")) {
            cell.parameters.insert("head".into(), "fp8".into());
        }
    });
    let gains = conclusion(&head).gains;
    assert!(gains.iter().any(|gain| (gain.product_share.unwrap() - 0.7).abs() < 1e-6), "{gains:?}");
}
