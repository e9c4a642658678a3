//! Waterfalls: which pairs get one, and that every one adds up to the two measured steps.

use stepwatch_record::against::{Against, AgainstPair};
use stepwatch_record::profile::{OpClass, Profile};
use stepwatch_record::waiver::Known;

use super::scripted::{Script, TOKENS, id};
use crate::conclude;
use crate::waterfall::UNATTRIBUTED;

fn op(class: &str, label: &str, ms: f64) -> OpClass {
    OpClass {
        class: class.into(),
        label: label.into(),
        phase: "forward".into(),
        count: 1,
        gpu_ns: ms * 1e6,
        flops: 0.0,
        bytes: 0.0,
    }
}

/// A cell whose step takes so many ms, with a profile.
fn cell(script: Script, name: &str, step_ms: f64, ops: &[(&str, &str, f64)]) -> Script {
    let rate = TOKENS as f64 / step_ms * 1e3;
    let ops = ops.iter().map(|(class, label, ms)| op(class, label, *ms)).collect();
    script.cell(name, &[rate, rate, rate]).with(|run| run.profiles.push(Profile { cell: id(name), ops }))
}

/// From, to, and (class, ms in the first cell, ms in the second).
type Fall = (String, String, Vec<(String, f64, f64)>);

fn concluded(script: &Script) -> Vec<Fall> {
    let summary = script.summary();
    let conclusion = conclude(&script.run, &summary, &[], "", vec![], &Known::default());
    let ms = |seconds: f64| (seconds * 1e6).round() / 1e3;
    let rows = |steps: &[stepwatch_record::waterfall::WaterfallStep]| {
        steps.iter().map(|s| (s.class.clone(), ms(s.from_seconds), ms(s.to_seconds))).collect()
    };
    conclusion.waterfalls.iter().map(|w| (w.from.0.clone(), w.to.0.clone(), rows(&w.steps))).collect()
}

#[test]
fn classes_and_what_they_leave_add_up_to_both_steps() {
    let script =
        cell(Script::new("r"), "m/bf16/none", 100.0, &[("gemm", "a", 50.0), ("gemm", "b", 10.0), ("loss", "l", 38.0)]);
    let script = cell(script, "m/fp8/none", 90.0, &[("gemm", "a", 30.0), ("quantise", "q", 25.0), ("loss", "l", 37.0)]);
    let found = concluded(&script);
    let [(from, to, rows)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((from.as_str(), to.as_str()), ("m/bf16/none~00000000", "m/fp8/none~00000000"));
    let expected = [("gemm", 60.0, 30.0), ("quantise", 0.0, 25.0), (UNATTRIBUTED, 2.0, -2.0), ("loss", 38.0, 37.0)];
    let expected: Vec<_> = expected.map(|(class, from, to)| (class.to_owned(), from, to)).into();
    assert_eq!(rows, &expected, "the largest difference first");
    assert!((rows.iter().map(|row| row.1).sum::<f64>() - 100.0).abs() < 0.01);
    assert!((rows.iter().map(|row| row.2).sum::<f64>() - 90.0).abs() < 0.01);
}

#[test]
fn each_rung_of_the_ladder_goes_to_the_next_that_holds_it() {
    let ops: &[(&str, &str, f64)] = &[("gemm", "a", 5.0)];
    let mut script = Script::new("r");
    for name in ["m/bf16/full", "m/bf16/none", "m/bf16/graph", "m/bf16/layout+fusion", "m/bf16/layout", "n/bf16/full"] {
        script = cell(script, name, 10.0, ops);
    }
    let pairs: Vec<(String, String)> = concluded(&script).into_iter().map(|(from, to, _)| (from, to)).collect();
    let expected = [
        ("none", "graph"),
        ("none", "layout"),
        ("graph", "full"),
        ("layout", "layout+fusion"),
        ("layout+fusion", "full"),
    ];
    let expected = expected.map(|(a, b)| (format!("m/bf16/{a}~00000000"), format!("m/bf16/{b}~00000000")));
    for pair in &expected {
        assert!(pairs.contains(pair), "{pair:?} not in {pairs:?}");
    }
    assert_eq!(pairs.len(), expected.len(), "{pairs:?}");
}

#[test]
fn both_sides_of_a_claim_have_one_and_cells_without_a_profile_none() {
    let ops: &[(&str, &str, f64)] = &[("gemm", "a", 5.0)];
    let script = cell(Script::new("r"), "m/bf16/none", 10.0, ops);
    let script = cell(script, "n/fp32/full", 8.0, ops).cell("o/bf16/none", &[100.0, 100.0]);
    let script = script.claim("n/fp32/full", "m/bf16/none", 1.2, false).claim("o/bf16/none", "m/bf16/none", 1.2, false);
    let pairs: Vec<(String, String)> = concluded(&script).into_iter().map(|(from, to, _)| (from, to)).collect();
    assert_eq!(pairs, [("m/bf16/none~00000000".to_owned(), "n/fp32/full~00000000".to_owned())]);
}

/// What the other side's step spends and this side's does not is what two builds are compared for: it comes first.
#[test]
fn a_run_of_two_sides_goes_from_the_other_to_this_one() {
    let ops: &[(&str, &str, f64)] = &[("gemm", "a", 5.0)];
    let script = ["m/bf16/full", "m/bf16/full@", "n/bf16/full", "n/bf16/full@"]
        .into_iter()
        .fold(Script::new("r"), |script, name| cell(script, name, 10.0, ops));
    let pair = |name: &str| AgainstPair { cell: id(name), against: id(&format!("{name}@")) };
    let script = script.claim("n/bf16/full", "m/bf16/full", 1.2, false).with(|run| {
        let pairs = vec![pair("m/bf16/full"), pair("n/bf16/full")];
        run.manifest.asked.against = Some(Against { name: "old/stepwatch".into(), binary: None, pairs });
    });
    let pairs: Vec<(String, String)> = concluded(&script).into_iter().map(|(from, to, _)| (from, to)).collect();
    let expected = [("m/bf16/full@", "m/bf16/full"), ("n/bf16/full@", "n/bf16/full"), ("m/bf16/full", "n/bf16/full")];
    let expected = expected.map(|(from, to)| (id(from).0, id(to).0));
    assert_eq!(pairs, expected);
}
