//! What waivers do to verdicts, exit codes and words: within and beyond their limit, on and after their last day, unused.

use stepwatch_record::comparison::{Conclusion, Verdict};
use stepwatch_record::waiver::{Annotation, Known, Waiver, WaiverState};

use super::scripted::{Script, id};
use crate::conclude;
use crate::policy::exit::{GOOD, NUMBERS_WRONG, REGRESSED};

const QUIET: [f64; 5] = [1000.0, 1001.0, 999.0, 1000.5, 999.5];

/// Two cells of which `a` is 3 % slower than its reference; the run began on 2026-11-23.
fn judged(waivers: &[Waiver]) -> Conclusion {
    let run = Script::new("run").cell("a", &QUIET.map(|rate| rate * 0.97)).cell("b", &QUIET);
    let reference = Script::new("before").cell("a", &QUIET).cell("b", &QUIET);
    let known = Known { waivers: waivers.to_vec(), annotations: Vec::new() };
    conclude(&run.run, &run.summary(), &[reference.summary()], "accepted baseline", vec![], &known)
}

fn waiver(cells: &[&str], limit: f64, expires: &str) -> Waiver {
    Waiver {
        cell: cells.join("|"),
        cells: cells.iter().map(|name| id(name)).collect(),
        metric: "tokens_per_second".into(),
        limit,
        owner: "kim".into(),
        expires: expires.into(),
        reason: "a slower kernel".into(),
    }
}

#[track_caller]
fn verdict_of_a(conclusion: &Conclusion) -> (Verdict, String) {
    let found = conclusion.changes.iter().find(|c| c.cell == id("a") && c.metric.name == "tokens_per_second");
    let change = found.unwrap();
    assert!(change.effect.is_some_and(|effect| (effect + 0.03).abs() < 1e-3), "its numbers stay: {change:?}");
    (change.verdict, change.why.clone())
}

#[test]
fn a_waiver_holds_to_its_limit_and_through_its_last_day() {
    let cases = [
        ("within", 0.04, "2026-12-31", Verdict::KnownRegressed, GOOD, WaiverState::Waives),
        ("its last day", 0.04, "2026-11-23", Verdict::KnownRegressed, GOOD, WaiverState::Waives),
        ("the day after", 0.04, "2026-11-22", Verdict::Regressed, REGRESSED, WaiverState::Expired),
        ("beyond", 0.02, "2026-12-31", Verdict::Regressed, REGRESSED, WaiverState::Exceeded),
        ("beyond and expired", 0.02, "2026-11-01", Verdict::Regressed, REGRESSED, WaiverState::Expired),
    ];
    for (name, limit, expires, verdict, exit, state) in cases {
        let conclusion = judged(&[waiver(&["a", "b"], limit, expires)]);
        let (found, why) = verdict_of_a(&conclusion);
        assert_eq!((found, conclusion.exit_code), (verdict, exit), "{name}: {why}");
        assert_eq!(conclusion.waivers[0].state, state, "{name}: {}", conclusion.waivers[0].sentence);
    }
}

#[test]
fn what_a_waiver_did_is_said_at_the_change_at_the_top_and_by_itself() {
    let conclusion = judged(&[waiver(&["a"], 0.04, "2026-12-31")]);
    assert!(
        conclusion.headline.starts_with("no new regression: 1 known-regressed, 1 unchanged"),
        "{}",
        conclusion.headline
    );
    let (_, why) = verdict_of_a(&conclusion);
    assert!(why.ends_with("; waived up to 4.0 % until 2026-12-31 by kim: a slower kernel"), "{why}");
    assert!(conclusion.waivers[0].sentence.starts_with("tokens_per_second of a: 1 regression; waived up to"));

    let conclusion = judged(&[waiver(&["a"], 0.02, "2026-12-31")]);
    assert!(verdict_of_a(&conclusion).1.ends_with("; more than the 2.0 % that kim waived"));
    let conclusion = judged(&[waiver(&["a"], 0.04, "2026-11-01")]);
    assert!(verdict_of_a(&conclusion).1.ends_with("; kim's waiver expired on 2026-11-01"));
    assert!(conclusion.waivers[0].sentence.contains("so 1 regression counted that it would have waived"));
}

#[test]
fn any_waiver_that_holds_and_reaches_is_enough() {
    let both = [waiver(&["a"], 0.02, "2026-12-31"), waiver(&["a"], 0.05, "2026-12-31")];
    for waivers in [both.clone(), [both[1].clone(), both[0].clone()]] {
        let conclusion = judged(&waivers);
        assert_eq!((verdict_of_a(&conclusion).0, conclusion.exit_code), (Verdict::KnownRegressed, GOOD));
    }
}

#[test]
fn a_waiver_that_waives_nothing_is_said_with_its_reason() {
    let elsewhere = Waiver { metric: "tokens_per_sec".into(), ..waiver(&["b"], 0.04, "2026-12-31") };
    let uncompared = Waiver { metric: "worst_sqnr_db".into(), ..waiver(&["b"], 0.04, "2026-12-31") };
    let waivers = [
        waiver(&[], 0.04, "2026-12-31"),
        waiver(&["b"], 0.04, "2026-12-31"),
        elsewhere,
        uncompared,
        waiver(&["b"], 0.04, "2026-11-01"),
    ];
    let conclusion = judged(&waivers);
    let told: Vec<&str> = conclusion.waivers.iter().map(|waiver| waiver.sentence.as_str()).collect();
    assert!(told[0].contains("this run has no such cell"), "{told:#?}");
    assert!(told[1].contains("no regression was shown") && told[1].ends_with("remove it if it is fixed"), "{told:#?}");
    assert!(told[2].contains("this run has no such metric") && told[2].contains("tokens_per_second,"), "{told:#?}");
    assert!(told[3].contains("nothing of it was compared"), "{told:#?}");
    assert!(told[4].contains("expired on 2026-11-01 and would waive nothing: remove it"), "{told:#?}");
    assert!(conclusion.waivers[..4].iter().all(|waiver| waiver.state == WaiverState::Unused));
    assert_eq!(conclusion.exit_code, REGRESSED, "none of them speaks of what regressed");
}

#[test]
fn wrong_numbers_are_never_waived() {
    let run = Script::new("run").cell("a", &QUIET).verification("a", false, &["loss is off"]);
    let reference = Script::new("before").cell("a", &QUIET);
    let known = Known { waivers: vec![waiver(&["a"], 0.99, "2026-12-31")], annotations: Vec::new() };
    let conclusion = conclude(&run.run, &run.summary(), &[reference.summary()], "baseline", vec![], &known);
    assert_eq!((conclusion.changes[0].verdict, conclusion.exit_code), (Verdict::NumbersWrong, NUMBERS_WRONG));
}

#[test]
fn annotations_between_the_oldest_run_compared_with_and_this_one_are_kept_in_order() {
    let on = |date: &str| Annotation { date: date.into(), text: date.into(), cells: Vec::new() };
    let dates = ["2026-11-23", "2026-11-20", "2026-11-19", "2026-11-24", "2026-11-21"];
    let known = Known { waivers: Vec::new(), annotations: dates.map(on).to_vec() };
    let begun = |name: &str, day: &str| {
        let started = format!("{day}T01:00:00Z");
        Script::new(name).cell("a", &QUIET).with(|run| run.manifest.started = started)
    };
    let run = begun("run", "2026-11-23");
    let reference = [begun("new", "2026-11-22").summary(), begun("old", "2026-11-20").summary()];
    let told = |reference: &[_]| -> Vec<String> {
        let conclusion = conclude(&run.run, &run.summary(), reference, "baseline", vec![], &known);
        conclusion.annotations.into_iter().map(|note| note.date).collect()
    };
    assert_eq!(told(&reference), ["2026-11-20", "2026-11-21", "2026-11-23"]);
    assert_eq!(told(&[]), ["2026-11-23"]);
}
