//! Bounds on a scripted chip with round ceilings: 100 FLOP/s in bf16, 200 in FP8, 10 bytes a second.

use stepwatch_record::ceiling::{Ceiling, Ceilings, CellBound, Limit, Work};
use stepwatch_record::finding::Kind;
use stepwatch_record::plan::{OpWork, Plan};
use stepwatch_record::profile::{OpClass, Profile};
use stepwatch_record::waiver::Known;

use super::scripted::{Script, TOKENS, id};
use crate::conclude;

const FP8: &str = "m/fp8-delayed/full";
const BF16: &str = "m/bf16/full";

fn work(class: &str, arithmetic: &str, flops: f64, bytes: f64) -> OpWork {
    OpWork { class: class.into(), label: class.into(), arithmetic: arithmetic.into(), count: 1, flops, bytes }
}

fn ceilings(power: bool) -> Ceilings {
    let ceiling = |work, per_second, watts| Ceiling {
        work,
        per_second,
        seconds: 2.0,
        from_ns: 0,
        to_ns: 1,
        sm_clock_hz: None,
        power_w: Some(watts),
    };
    let all = vec![
        ceiling(Work::Bf16Product, 100.0, 600.0),
        ceiling(Work::Fp8Product, 200.0, 700.0),
        ceiling(Work::Copy, 10.0, 400.0),
    ];
    let known = |watts| Some(watts).filter(|_| power);
    Ceilings { gpu: "GPU-1".into(), power_limit_w: known(700.0), idle_w: known(100.0), all }
}

/// A step of 8 s: products of 2 s in bf16 and 3 s in FP8, 4 s of bytes.
fn script(step_seconds: f64, power: bool) -> Script {
    let rate = TOKENS as f64 / step_seconds;
    let work = vec![
        work("gemm forward", "fp8", 600.0, 10.0),
        work("gemm head", "bf16", 200.0, 5.0),
        work("norm", "bf16", 0.0, 25.0),
    ];
    let op = |class: &str, seconds: f64| OpClass {
        class: class.into(),
        label: class.into(),
        phase: "forward".into(),
        count: 1,
        gpu_ns: seconds * 1e9,
        flops: 0.0,
        bytes: 0.0,
    };
    let ops = vec![op("gemm forward", 3.5), op("gemm head", 2.5), op("gap", 0.5)];
    Script::new("r").cell(FP8, &[rate, rate * 1.001, rate * 0.999]).plan(FP8, Plan { work, ..Plan::default() }).with(
        |run| {
            run.ceilings = vec![ceilings(power)];
            run.profiles = vec![Profile { cell: id(FP8), ops }];
        },
    )
}

fn bounds(script: &Script) -> Vec<CellBound> {
    conclude(&script.run, &script.summary(), &[], "", vec![], &Known::default()).bounds
}

fn near(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} for {expected}");
}

#[test]
fn the_largest_of_compute_bytes_and_joules_is_the_bound() {
    let [bound] = &bounds(&script(8.0, true))[..] else { panic!("one cell") };
    near(bound.compute_seconds, 5.0);
    near(bound.bytes_seconds, 4.0);
    // Above idle, of 600 W: 2 s at 500 W, 3 s at 600 W, 4 s at 300 W.
    near(bound.energy_seconds.unwrap(), (2.0 * 500.0 + 3.0 * 600.0 + 4.0 * 300.0) / 600.0);
    assert_eq!((bound.limit, bound.seconds), (Limit::Energy, bound.energy_seconds.unwrap()));
    // 3 s of the forward products hide their byte, as the head's 2 s do; the norm takes its 2.5 s.
    near(bound.serial_seconds, 3.0 + 2.0 + 2.5);
    assert!((bound.step_seconds.unwrap() - 8.0).abs() < 0.01);
    let classes: Vec<(&str, Option<f64>)> =
        bound.classes.iter().map(|class| (class.class.as_str(), class.profiled_seconds)).collect();
    assert_eq!(classes, [("gemm forward", Some(3.5)), ("norm", None), ("gemm head", Some(2.5))]);
}

#[test]
fn without_power_the_rest_bounds_and_without_ceilings_nothing_does() {
    let [bound] = &bounds(&script(8.0, false))[..] else { panic!("one cell") };
    assert_eq!((bound.limit, bound.energy_seconds), (Limit::Compute, None));
    near(bound.seconds, 5.0);
    assert!(bounds(&script(8.0, true).with(|run| run.ceilings.clear())).is_empty());
    // Another GPU's ceilings are none of this cell's.
    let other = script(8.0, true).with(|run| {
        for round in &mut run.rounds {
            round.record.ready.as_mut().unwrap().device_uuid = Some("GPU-2".into());
        }
    });
    assert!(bounds(&other).is_empty());
    // fp32 has no ceiling, and a plan that lists no work has no bound.
    let fp32 = script(8.0, true).with(|run| run.plans[0].plan.as_mut().unwrap().work[0].arithmetic = "fp32".into());
    assert!(bounds(&fp32).is_empty());
    assert!(bounds(&script(8.0, true).with(|run| run.plans[0].plan.as_mut().unwrap().work.clear())).is_empty());
    let no_fp8 = script(8.0, true).with(|run| run.ceilings[0].all.retain(|ceiling| ceiling.work != Work::Fp8Product));
    assert!(bounds(&no_fp8).is_empty());
}

#[test]
fn a_refuted_claim_says_what_it_would_need_at_this_size() {
    // BF16 takes 9.6 s and FP8 8 s: 1.2 times; the bound is 6.67 s, the parts come to 7.5 s.
    let rate = TOKENS as f64 / 9.6;
    for (claimed, needs, means) in [
        (
            2.0,
            "steps of 4,800 ms of m/fp8-delayed/full",
            "no program that does this op list can be so fast on this chip",
        ),
        (1.4, "steps of 6,857 ms of", "would have to overlap them or do less"),
        (1.25, "steps of 7,680 ms of", "would leave room for it"),
    ] {
        let script = script(8.0, true).cell(BF16, &[rate, rate * 1.001, rate * 0.999]).claim(FP8, BF16, claimed, false);
        let conclusion = conclude(&script.run, &script.summary(), &[], "", vec![], &Known::default());
        let finding = conclusion.findings.iter().find(|finding| finding.kind == Kind::ClaimRefuted).unwrap();
        let said = finding.evidence.iter().find(|line| line.starts_with("it would need")).unwrap();
        assert!(said.contains(needs) && said.contains(means), "{said}");
        assert!(said.contains("bound here 6,667 ms (energy), serial estimate 7,500 ms"), "{said}");
    }
}
