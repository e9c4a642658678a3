//! Findings on scripted runs: each family once, with its sentence, and their order.

use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::machine::Library;
use stepwatch_record::plan::{Plan, SkippedPass};

use super::scripted::Script;
use crate::conclude;

const QUIET: [f64; 3] = [1000.0, 1001.0, 999.0];

fn findings(script: &Script, reference: &[Script], extra: Vec<Finding>) -> Vec<Finding> {
    let reference: Vec<_> = reference.iter().map(Script::summary).collect();
    conclude(&script.run, &script.summary(), &reference, "baseline", extra).findings
}

fn cell(name: &str) -> Script {
    Script::new("run").cell(name, &QUIET)
}

#[test]
fn each_family_speaks_in_one_sentence() {
    let held = |bits: u64| {
        let mut script = cell("a");
        script.each_round("a", |round| round.samples[1].throttle = bits);
        script
    };
    let mut unsteady = cell("a");
    unsteady.run.rounds[0].record.steady = false;
    let two_versions = cell("a").with(|run| {
        let library = |version: &str| Library { name: "cudnn".into(), version: version.into(), path: "/x".into() };
        run.manifest.machines[0].libraries = vec![library("9.1"), library("9.2")];
    });
    for (script, kind, sentence) in [
        (
            held(0x4),
            Kind::PowerCapped,
            "the GPU ran at its power cap in 1 cell: watts, not kernels, set the clock there",
        ),
        (held(0x40), Kind::ThermalThrottle, "heat slowed the GPU down in 1 cell: their speed is that of the cooling"),
        (
            unsteady,
            Kind::NotSteady,
            "1 round of 1 cell never became steady: their figures depend on how long was measured",
        ),
        (
            Script::new("run").cell("a", &[1000.0, 1100.0, 900.0]),
            Kind::Noisy,
            "the rounds of 1 cell differ by more than the 2.0 % that should be seen",
        ),
        (two_versions, Kind::TwoLibraryVersions, "1 library loaded in two versions: which one ran is not certain"),
    ] {
        let found = findings(&script, &[], vec![]);
        assert_eq!(found.len(), 1, "{sentence}: {found:#?}");
        assert_eq!((found[0].kind, found[0].sentence.as_str()), (kind, sentence));
        assert!(!found[0].evidence.is_empty() && !found[0].next_step.is_empty());
    }
    assert!(findings(&held(0x1), &[], vec![]).is_empty(), "an idle GPU is no finding");
}

#[test]
fn a_changed_plan_is_named_with_both_hashes() {
    let planned = |hash: &str| cell("a").plan("a", Plan { hash: hash.into(), ..Plan::default() });
    let found = findings(&planned("new"), &[planned("old")], vec![]);
    assert_eq!(found[0].kind, Kind::AlgorithmChanged);
    assert!(found[0].evidence[0].starts_with("a~00000000: plan new, in the reference old"), "{:?}", found[0].evidence);
    assert!(findings(&planned("same"), &[planned("same")], vec![]).is_empty());
}

#[test]
fn only_passes_asked_for_by_name_are_missed() {
    let skipped = vec![SkippedPass { name: "graph".into(), reason: "no graphs on a CPU".into() }];
    let plan = Plan { skipped_passes: skipped, ..Plan::default() };
    let named = "m/bf16/layout+graph";
    let found = findings(&cell(named).plan(named, plan.clone()), &[], vec![]);
    assert_eq!(found[0].kind, Kind::NotApplied);
    assert!(found[0].evidence[0].ends_with("`graph` was not applied: no graphs on a CPU"));
    assert!(findings(&cell("m/bf16/full").plan("m/bf16/full", plan), &[], vec![]).is_empty());
}

#[test]
fn findings_from_elsewhere_are_ranked_among_the_others() {
    let extra = Finding {
        kind: Kind::SizeLabelWrong,
        severity: Severity::High,
        sentence: "350M declared, 454.2M built".into(),
        evidence: vec![],
        next_step: String::new(),
        cells: vec![],
    };
    let mut script = cell("a");
    script.each_round("a", |round| round.record.steady = false);
    let found = findings(&script, &[], vec![extra.clone(), extra]);
    let kinds: Vec<Kind> = found.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [Kind::SizeLabelWrong, Kind::NotSteady]);
}

#[test]
fn workloads_that_did_other_work_are_not_compared_in_silence() {
    let told = |parameters: u64, first: f64, later: f64| {
        let mut script = Script::new("run").cell("m/a", &QUIET).cell("m/b", &QUIET).claim("m/a", "m/b", 0.5, false);
        script.run.manifest.cells[1].workload = "theirs".into();
        for name in ["m/a", "m/b"] {
            let (parameters, first, later) = if name == "m/a" { (1000, 10.0, 8.0) } else { (parameters, first, later) };
            script.each_round(name, |round| {
                let ready = round.record.ready.as_mut().expect("scripted rounds are ready");
                (ready.parameters_count, ready.loss) = (Some(parameters), Some(first));
                // Samples count from 0 after the first step: this one saw 20 updates.
                (round.samples[1].step, round.samples[1].loss) = (19, later);
            });
        }
        findings(&script, &[], vec![])
    };
    assert!(told(1000, 10.05, 8.1).is_empty(), "rounding explains that much");
    for (found, evidence) in [
        (told(1001, 10.0, 8.0), "parameters 1 000 against 1 001"),
        (told(1000, 10.2, 8.0), "loss of the first step 10.00 against 10.20"),
        (told(1000, 10.0, 9.0), "loss after 20 updates 8.000 against 9.000"),
    ] {
        assert_eq!((found.len(), found[0].kind, found[0].severity), (1, Kind::UnequalComparison, Severity::High));
        assert!(found[0].evidence[0].ends_with(evidence), "{:?}", found[0].evidence);
        assert_eq!(found[0].cells.len(), 2);
    }
}
