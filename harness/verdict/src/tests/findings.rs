//! Findings on scripted runs: each family once, with its sentence, and their order.

use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::machine::{GpuState, GpuWatch, Library};
use stepwatch_record::message::Canary;
use stepwatch_record::plan::{Plan, SkippedPass};
use stepwatch_record::profile::{OpClass, Profile};
use stepwatch_record::waiver::Known;

use super::scripted::{Script, id};
use crate::conclude;

const QUIET: [f64; 3] = [1000.0, 1001.0, 999.0];

fn findings(script: &Script, reference: &[Script], extra: Vec<Finding>) -> Vec<Finding> {
    let reference: Vec<_> = reference.iter().map(Script::summary).collect();
    conclude(&script.run, &script.summary(), &reference, "baseline", extra, &Known::default()).findings
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
    assert!(found[0].evidence[0].starts_with("a: plan new, in the reference old"), "{:?}", found[0].evidence);
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
        command: String::new(),
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
        let mut found = findings(&script, &[], vec![]);
        found.retain(|finding| finding.kind != Kind::Fastest);
        found
    };
    assert!(told(1000, 10.05, 8.1).is_empty(), "rounding explains that much");
    for (found, evidence) in [
        (told(1001, 10.0, 8.0), "parameters 1,000 against 1,001"),
        (told(1000, 10.2, 8.0), "loss of the first step 10 against 10.2"),
        (told(1000, 10.0, 9.0), "loss after 20 updates 8 against 9"),
    ] {
        assert_eq!((found.len(), found[0].kind, found[0].severity), (1, Kind::UnequalComparison, Severity::High));
        assert!(found[0].evidence[0].ends_with(evidence), "{:?}", found[0].evidence);
        assert_eq!(found[0].cells.len(), 2);
    }
}

/// A run of one cell with as many rounds as rates, whose canaries read these product rates, one round after the other.
fn with_canaries(rates: &[f64]) -> Script {
    let mut script = Script::new("run").cell("a", &vec![1000.0; rates.len()]);
    for (round, rate) in script.run.rounds.iter_mut().zip(rates) {
        round.record.started = format!("2026-11-23T17:{:02}:00Z", round.record.round.unwrap_or(0));
        let reading =
            |factor: f64| Canary { flops_per_second: rate * factor, bytes_per_second: 3e12, ..Canary::default() };
        // The second reading of a round is always 3 % slower: a warm chip is no drift.
        round.record.canaries = vec![reading(1.0), reading(0.97)];
    }
    script
}

#[test]
fn the_machine_drifts_where_the_canary_does_beyond_its_noise() {
    let cases: [(&[f64], Option<&str>, &str); 6] = [
        (&[700.0, 701.0, 699.0, 700.0, 700.5, 699.5], None, "steady"),
        (
            &[700.0, 701.0, 699.0, 665.0, 666.0, 664.0],
            Some("the machine became 5.0 % slower while it was measured"),
            "a step down",
        ),
        (
            &[665.0, 666.0, 664.0, 700.0, 701.0, 699.0],
            Some("the machine became 5.3 % faster while it was measured"),
            "a step up",
        ),
        (&[700.0, 701.0, 699.0, 698.0, 697.0, 699.0], None, "within the margin"),
        (&[700.0, 600.0, 800.0, 620.0, 560.0, 780.0], None, "lost in its own noise"),
        (&[700.0, 701.0, 650.0, 651.0], None, "too few rounds to know its noise"),
    ];
    for (rates, expected, what) in cases {
        let found = findings(&with_canaries(rates), &[], vec![]);
        let drift = found.iter().find(|finding| finding.kind == Kind::MachineDrift);
        assert_eq!(drift.is_some(), expected.is_some(), "{what}: {found:?}");
        if let (Some(drift), Some(expected)) = (drift, expected) {
            assert!(drift.sentence.starts_with(expected), "{what}: {}", drift.sentence);
            assert!(drift.evidence[0].starts_with("canary's product: 5."), "{:?}", drift.evidence);
        }
    }
}

/// A run of one cell whose first round saw this of its GPU.
fn with_watch(watch: GpuWatch) -> Script {
    let mut script = cell("a");
    script.run.rounds[0].record.gpu = Some(watch);
    script
}

#[test]
fn others_on_the_gpu_and_its_own_errors_are_found() {
    let processes = |before, meanwhile, after| GpuWatch {
        before: GpuState { other_processes: Some(before), memory_used_bytes: Some(3 << 30), ..GpuState::default() },
        after: GpuState { other_processes: Some(after), ..GpuState::default() },
        other_processes_meanwhile: meanwhile,
        ..GpuWatch::default()
    };
    let errors = |before, after, xid: &[u64]| GpuWatch {
        before: GpuState { ecc_uncorrected: Some(before), ..GpuState::default() },
        after: GpuState { ecc_uncorrected: Some(after), ..GpuState::default() },
        xid: Some(xid.to_vec()),
        ..GpuWatch::default()
    };
    let foreign = Some(Kind::ForeignProcess);
    let broken = Some(Kind::GpuErrors);
    let cases = [
        (processes(0, 0, 0), None, ""),
        (processes(1, 0, 0), foreign, "other processes: 1 before, 0 meanwhile, 0 after; 3 GiB in use before"),
        (processes(0, 2, 0), foreign, "other processes: 0 before, 2 meanwhile, 0 after"),
        (processes(0, 0, 1), foreign, "other processes: 0 before, 0 meanwhile, 1 after"),
        (errors(4, 4, &[]), None, ""),
        (errors(4, 5, &[]), broken, "1 uncorrected memory error"),
        (errors(0, 0, &[79]), broken, "Xid 79"),
        (errors(0, 2, &[48, 63]), broken, "Xid 48, 63 and 2 uncorrected memory errors"),
    ];
    for (watch, kind, text) in cases {
        let found = findings(&with_watch(watch), &[], vec![]);
        assert_eq!(found.first().map(|finding| finding.kind), kind, "{text}: {found:?}");
        if let Some(finding) = found.first() {
            assert_eq!(finding.evidence, [format!("a, round 1: {text}")]);
            assert_eq!(finding.severity, Severity::High);
        }
    }
}

#[test]
fn a_power_limit_that_changes_is_the_machines_drift() {
    let limits = |before, after| GpuWatch {
        before: GpuState { power_limit_w: Some(before), ..GpuState::default() },
        after: GpuState { power_limit_w: Some(after), ..GpuState::default() },
        ..GpuWatch::default()
    };
    let found = findings(&with_watch(limits(700.0, 500.0)), &[], vec![]);
    assert_eq!(found[0].sentence, "the GPU's power limit was changed while it was measured");
    assert_eq!(found[0].evidence, ["power limit: between 500 and 700 W"]);
    assert!(findings(&with_watch(limits(700.0, 700.2)), &[], vec![]).is_empty());
}

fn op(class: &str, count: u64, gpu_ns: f64) -> OpClass {
    let (label, phase) = (class.to_owned(), "forward".to_owned());
    OpClass { class: class.to_owned(), label, phase, count, gpu_ns, flops: 0.0, bytes: 0.0 }
}

#[test]
fn a_gpu_that_waits_for_the_host_is_launch_bound() {
    let cases = [
        (vec![op("gemm", 100, 10e6), op("gap", 1, 0.1e6)], "cuda", "none", false, "long ops"),
        (vec![op("gemm", 100, 10e6), op("gap", 1, 3e6)], "cuda", "none", true, "long gaps"),
        (vec![op("gemm", 1000, 5e6), op("norm", 10, 1e6)], "cuda", "none", true, "ops shorter than a launch"),
        (vec![op("gemm", 1000, 5e6), op("norm", 10, 9e6)], "cuda", "none", false, "short ops that are the lesser part"),
        (vec![op("gemm", 1000, 5e6)], "cuda", "graph", false, "a graph is launched at once"),
        (vec![op("gemm", 1000, 5e6)], "cpu", "none", false, "a CPU launches nothing"),
        (vec![], "cuda", "none", false, "an empty profile"),
    ];
    for (ops, backend, pass, expected, what) in cases {
        let plan = Plan { passes: vec![pass.into()], ..Plan::default() };
        let script = cell("a").plan("a", plan).with(|run| {
            run.manifest.backend = backend.into();
            run.profiles.push(Profile { cell: id("a"), ops });
        });
        let found = findings(&script, &[], vec![]);
        assert_eq!(found.iter().any(|finding| finding.kind == Kind::LaunchBound), expected, "{what}: {found:?}");
    }
}

#[test]
fn slower_fp8_says_which_milliseconds_it_lost() {
    let script = Script::new("run").cell("m/bf16/none", &QUIET).cell("m/fp8-delayed/none", &[500.0, 501.0, 499.0]);
    let script = script.with(|run| {
        let profile = |cell: &str, ops| Profile { cell: id(cell), ops };
        run.profiles.push(profile("m/bf16/none", vec![op("gemm", 10, 900e6)]));
        run.profiles.push(profile("m/fp8-delayed/none", vec![op("gemm", 10, 600e6), op("quantise", 20, 1300e6)]));
    });
    let found = findings(&script, &[], vec![]);
    let slower = found.iter().find(|finding| finding.kind == Kind::Fp8SlowerThanBf16).unwrap();
    assert_eq!(slower.evidence.len(), 2, "{:?}", slower.evidence);
    assert!(
        slower.evidence[1].contains("quantise +1300.000 ms (1300.000 ms), gemm -300.000 ms (600.000 ms)"),
        "{:?}",
        slower.evidence
    );
}

#[test]
fn two_copies_of_a_library_in_one_worker_are_named_once() {
    let library = |path: &str| Library { name: "cublasLt".into(), version: "13".into(), path: path.into() };
    let mut script = cell("a");
    script.each_round("a", |round| {
        if let Some(ready) = &mut round.record.ready {
            ready.libraries = vec![library("/usr/a"), library("/venv/b")];
        }
    });
    let found = findings(&script, &[], vec![]);
    assert_eq!(found[0].kind, Kind::TwoLibraryVersions);
    assert_eq!(found[0].evidence, ["cublasLt mapped twice in one worker: /usr/a and /venv/b"]);
}
