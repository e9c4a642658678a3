//! A table of cases for every verdict, with its exact reason and exit code.

use stepwatch_record::comparison::{Change, Conclusion, Verdict};
use stepwatch_record::run::Better;
use stepwatch_record::waiver::Known;
use stepwatch_record::{CellId, End, Run};

use super::scripted::{Script, id};
use crate::conclude;

/// Name, run, reference runs, verdict, reason and exit code.
type Case = (&'static str, Script, Vec<Script>, Verdict, &'static str, i32);

const QUIET: [f64; 5] = [1000.0, 1001.0, 999.0, 1000.5, 999.5];

fn scaled(factor: f64) -> Vec<f64> {
    QUIET.iter().map(|rate| rate * factor).collect()
}

fn judge(run: &Script, reference: &[Script]) -> Conclusion {
    let reference: Vec<_> = reference.iter().map(Script::summary).collect();
    conclude(&run.run, &run.summary(), &reference, "accepted baseline", vec![], &Known::default())
}

fn one(name: &str, rates: &[f64]) -> Script {
    Script::new("run").cell(name, rates)
}

fn find<'a>(conclusion: &'a Conclusion, cell: &str, metric: &str) -> &'a Change {
    let found = conclusion.changes.iter().find(|c| c.cell == id(cell) && c.metric.name == metric);
    found.unwrap_or_else(|| panic!("no change of {metric} of {cell}: {:#?}", conclusion.changes))
}

#[test]
fn every_verdict_has_its_reason_and_exit_code() {
    let reference = || vec![one("a", &QUIET)];
    let ends = |end: End| one("a", &QUIET).ends("a", &end);
    let skipped = End::Skipped { reason: "no FP8 here".into() };
    let cases: Vec<Case> = vec![
        ("3 % slower", one("a", &scaled(0.97)), reference(), Verdict::Regressed, "interval-beyond-margin", 5),
        ("3 % faster", one("a", &scaled(1.03)), reference(), Verdict::Improved, "interval-beyond-margin", 0),
        ("equal", one("a", &QUIET), reference(), Verdict::Unchanged, "interval-within-equal", 0),
        ("0.6 % slower", one("a", &scaled(0.994)), reference(), Verdict::Unchanged, "interval-within-equal", 0),
        ("one round each", one("a", &[1000.0]), vec![one("a", &[1000.0])], Verdict::Undecided, "too-few-rounds", 6),
        (
            "two noisy rounds",
            one("a", &[900.0, 1100.0]),
            vec![one("a", &[1100.0, 900.0])],
            Verdict::Undecided,
            "interval-too-wide",
            6,
        ),
        (
            "equal values",
            one("a", &[1000.0; 5]),
            vec![one("a", &[1000.0; 5])],
            Verdict::Unchanged,
            "interval-within-equal",
            0,
        ),
        (
            "equal, then 2 % less",
            one("a", &[980.0; 5]),
            vec![one("a", &[1000.0; 5])],
            Verdict::Regressed,
            "interval-beyond-margin",
            5,
        ),
        ("failed", ends(End::Failed { message: "boom".into() }), reference(), Verdict::Failed, "failed", 3),
        ("crashed", ends(End::Crashed { signal: 11 }), reference(), Verdict::Failed, "crashed", 3),
        ("timed out", ends(End::TimedOut { seconds: 3.0 }), reference(), Verdict::Failed, "timed-out", 3),
        (
            "out of memory",
            ends(End::OutOfMemory { message: "x".into() }),
            reference(),
            Verdict::Failed,
            "out-of-memory",
            3,
        ),
        (
            "wrong",
            ends(End::NumbersWrong { message: "NaN".into() }),
            reference(),
            Verdict::NumbersWrong,
            "numbers-wrong",
            4,
        ),
        (
            "unverified",
            one("a", &QUIET).verification("a", false, &["gradient of wq: 3 dB"]),
            reference(),
            Verdict::NumbersWrong,
            "numbers-wrong",
            4,
        ),
        (
            "skipped, reference has it",
            ends(skipped.clone()),
            reference(),
            Verdict::Failed,
            "skipped-reference-has-it",
            3,
        ),
        (
            "skipped in both",
            ends(skipped.clone()),
            vec![one("a", &QUIET).ends("a", &skipped)],
            Verdict::Skipped,
            "skipped",
            0,
        ),
        ("new cell", one("a", &QUIET), vec![one("b", &QUIET).cell("a", &[])], Verdict::New, "not-in-reference", 0),
        (
            "failed before",
            one("a", &QUIET),
            vec![ends(End::Crashed { signal: 9 })],
            Verdict::New,
            "reference-not-completed",
            0,
        ),
        (
            "rounds missing",
            one("a", &QUIET).with(|run| run.manifest.rounds = 7),
            reference(),
            Verdict::Missing,
            "rounds-missing",
            3,
        ),
        (
            "other GPU",
            one("a", &QUIET).with(|run| gpu(run, "H200")),
            reference(),
            Verdict::Incomparable,
            "machine-differs",
            6,
        ),
        (
            "other backend",
            one("a", &QUIET).with(|run| run.manifest.backend = "cpu".into()),
            reference(),
            Verdict::Incomparable,
            "machine-differs",
            6,
        ),
    ];
    for (name, run, reference, verdict, reason, exit) in cases {
        // A reference cell without rounds stands for one that is not there.
        let reference: Vec<Script> = reference.into_iter().map(drop_empty).collect();
        let conclusion = judge(&run, &reference);
        let change = find(&conclusion, "a", "tokens_per_second");
        assert_eq!((change.verdict, change.reason.as_str()), (verdict, reason), "{name}: {}", change.why);
        let exit = if name == "new cell" { 3 } else { exit };
        assert_eq!(conclusion.exit_code, exit, "{name}: {}", conclusion.headline);
        assert!(!change.why.is_empty() && !conclusion.headline.is_empty() && change.gated, "{name}");
    }
}

fn gpu(run: &mut Run, name: &str) {
    run.manifest.machines[0].gpus[0].name = name.into();
}

fn drop_empty(mut script: Script) -> Script {
    let rounds = &script.run.rounds;
    let measured: Vec<CellId> = rounds.iter().map(|round| round.record.cell.clone()).collect();
    script.run.manifest.cells.retain(|cell| measured.contains(&cell.id));
    script
}

#[test]
fn without_a_reference_only_what_is_wrong_is_said() {
    let good = judge(&one("a", &QUIET), &[]);
    assert_eq!((good.changes.len(), good.exit_code), (0, 0));
    assert_eq!(good.headline, "1 cell measured; no reference yet");
    let bad = judge(&one("a", &QUIET).ends("a", &End::Crashed { signal: 11 }), &[]);
    assert_eq!((bad.changes.len(), bad.exit_code), (1, 3));
    assert_eq!(bad.headline, "1 of 1 cell failed: a: crashed: killed by signal 11");
    let skipped = judge(&one("a", &[1.0]).ends("a", &End::Skipped { reason: "no GPU".into() }), &[]);
    assert_eq!((skipped.changes.len(), skipped.exit_code), (0, 0));
}

#[test]
fn a_vanished_cell_is_missing_unless_a_part_was_asked_for() {
    let reference = [one("a", &QUIET).cell("b", &QUIET)];
    let whole = judge(&one("a", &QUIET), &reference);
    assert_eq!(find(&whole, "b", "tokens_per_second").reason, "not-planned");
    assert_eq!(whole.exit_code, 3);
    let part = judge(&one("a", &QUIET).with(|run| run.manifest.asked.filter = Some("model=a".into())), &reference);
    assert_eq!(part.exit_code, 0, "{}", part.headline);
}

#[test]
fn a_gated_figure_that_vanished_is_never_green() {
    let mut run = one("a", &QUIET);
    run.each_round("a", |round| round.record.finished = None);
    let conclusion = judge(&run, &[one("a", &QUIET)]);
    assert_eq!(find(&conclusion, "a", "peak_memory_bytes").reason, "metric-missing");
    assert_eq!(conclusion.exit_code, 3);

    let nan = one("a", &QUIET).metric("a", "tokens_per_second", Better::Higher, &[1.0, f64::NAN]);
    let conclusion = judge(&nan, &[one("a", &QUIET)]);
    let change = find(&conclusion, "a", "tokens_per_second");
    assert_eq!(change.why, "tokens_per_second of round 1 is NaN, which is no finite number");
    assert_eq!(conclusion.exit_code, 3);

    let ungated = |script: Script| script.policy(|policy| policy.gate = vec!["nothing".into()]);
    let conclusion = judge(&ungated(one("a", &QUIET)), &[one("a", &QUIET)]);
    assert_eq!(conclusion.exit_code, 6);
    assert!(conclusion.changes.iter().any(|change| change.reason == "nothing-gated" && change.blind));
}

#[test]
fn lower_is_better_turns_the_verdict_round() {
    let user = |values: &[f64]| {
        one("a", &QUIET)
            .metric("a", "latency", Better::Lower, values)
            .metric("a", "score", Better::Higher, values)
            .policy(|policy| policy.gate = vec!["latency".into()])
    };
    let conclusion = judge(&user(&scaled(1.05)), &[user(&QUIET)]);
    let latency = find(&conclusion, "a", "latency");
    assert_eq!(latency.verdict, Verdict::Regressed);
    assert!((latency.effect.unwrap() - 0.05).abs() < 1e-9);
    let score = find(&conclusion, "a", "score");
    assert_eq!((score.verdict, score.gated), (Verdict::Improved, false));
    assert_eq!(conclusion.exit_code, 5);
    assert_eq!(find(&judge(&user(&scaled(0.95)), &[user(&QUIET)]), "a", "latency").verdict, Verdict::Improved);
}

#[test]
fn zero_and_negative_values_are_judged_without_logs() {
    let user = |values: &[f64]| {
        one("a", &QUIET).metric("a", "m", Better::Higher, values).policy(|policy| policy.gate = vec!["m".into()])
    };
    let zeros = [0.0; 5];
    assert_eq!(find(&judge(&user(&zeros), &[user(&zeros)]), "a", "m").verdict, Verdict::Unchanged);
    let from_zero = judge(&user(&[1.0; 5]), &[user(&zeros)]);
    assert_eq!(find(&from_zero, "a", "m").reason, "reference-is-zero");
    assert_eq!(from_zero.exit_code, 6);
    // Zero to rounding is zero: a unit of 1e-308 would lift the values out of the range of the numbers.
    let from_almost_zero = judge(&user(&[735_071.6, -2.13]), &[user(&[f64::MIN_POSITIVE, 0.0])]);
    let change = find(&from_almost_zero, "a", "m");
    assert_eq!((change.reason.as_str(), change.effect), ("reference-is-zero", None));
    let cancelled = judge(&user(&[1e300, -1e300]), &[user(&[-1e300, 1e300])]);
    assert_eq!(find(&cancelled, "a", "m").verdict, Verdict::Undecided);
    let largest = judge(&user(&[-f64::MAX; 5]), &[user(&[-f64::MAX; 5])]);
    assert_eq!(find(&largest, "a", "m").verdict, Verdict::Unchanged);
    let negative = judge(&user(&[-1.1; 5]), &[user(&[-1.0; 5])]);
    assert_eq!(find(&negative, "a", "m").verdict, Verdict::Regressed);
}

#[test]
fn a_check_that_gives_the_very_same_number_is_unchanged_and_one_round_of_speed_is_not() {
    let checked = |name: &str| Script::new(name).cell("a", &[1000.0]).verification("a", true, &[]);
    let conclusion = judge(&checked("run"), &[checked("reference")]);
    let sqnr = find(&conclusion, "a", "worst_sqnr_db");
    assert_eq!(
        (sqnr.verdict, sqnr.reason.as_str(), sqnr.blind),
        (Verdict::Unchanged, "same-number", false),
        "{sqnr:?}"
    );
    let speed = find(&conclusion, "a", "tokens_per_second");
    assert_eq!((speed.verdict, speed.reason.as_str()), (Verdict::Undecided, "too-few-rounds"), "equal by accident");
}

#[test]
fn several_reference_runs_widen_the_interval_by_how_they_differ() {
    let width = |reference: &[Script]| {
        let conclusion = judge(&one("a", &QUIET), reference);
        let change = find(&conclusion, "a", "tokens_per_second").clone();
        change.high.unwrap() - change.low.unwrap()
    };
    let equal = [one("a", &QUIET), one("a", &QUIET), one("a", &QUIET)];
    let apart = [one("a", &QUIET), one("a", &scaled(1.02)), one("a", &scaled(0.98))];
    assert!(width(&apart) > 5.0 * width(&equal));
    let one_only = judge(&one("a", &QUIET), &equal[..1]);
    assert!(one_only.method.iter().any(|line| line.starts_with("One reference run:")), "{:?}", one_only.method);
}

#[test]
fn the_headline_names_the_worst_with_its_numbers() {
    let run = one("a", &scaled(0.977)).cell("b", &QUIET);
    let conclusion = judge(&run, &[one("a", &QUIET).cell("b", &QUIET)]);
    assert!(conclusion.headline.starts_with("1 of 2 cells regressed: a is 2.3 % slower ("), "{}", conclusion.headline);
    let all = judge(&one("a", &QUIET).cell("b", &QUIET), &[one("a", &QUIET).cell("b", &QUIET)]);
    assert_eq!(all.headline, "all 2 cells unchanged");
}

#[test]
fn an_undecided_change_says_how_many_rounds_would_decide() {
    let noisy = [1000.0, 1020.0, 980.0, 1010.0, 990.0];
    let conclusion = judge(&one("a", &noisy), &[one("a", &noisy), one("a", &noisy), one("a", &noisy)]);
    let change = find(&conclusion, "a", "tokens_per_second");
    assert_eq!((change.verdict, change.blind), (Verdict::Undecided, true));
    let slower: Vec<f64> = noisy.iter().map(|rate| rate * 0.95).collect();
    let undecided = judge(&one("a", &slower[..2]), &[one("a", &noisy), one("a", &noisy)]);
    let change = find(&undecided, "a", "tokens_per_second");
    if change.verdict == Verdict::Undecided {
        assert!(change.rounds_to_decide.unwrap() > 2, "{}", change.why);
    }
    assert_eq!(conclusion.exit_code, 6);
}

#[test]
fn a_run_that_was_not_finished_says_so_and_what_it_measured() {
    let cut = |reference: &[Script]| {
        let script = one("a", &QUIET).cell("b", &QUIET[..1]).with(|run| run.manifest.rounds = 5);
        judge(&script, reference)
    };
    let first = cut(&[]);
    assert_eq!(
        first.headline,
        "the run was not finished: 6 of 10 planned rounds are recorded (1 of 2 cells is missing rounds)"
    );
    assert_eq!(first.exit_code, 3);
    let missing = find(&first, "b", "tokens_per_second");
    assert!((missing.value.unwrap() - 1000.0).abs() < 0.01 && missing.effect.is_none(), "{missing:?}");
    let compared = cut(&[one("a", &QUIET).cell("b", &QUIET)]);
    assert!(compared.headline.ends_with("; no regression in the others"), "{}", compared.headline);
    // Nothing is said of others where there are none, and a cell that failed is more than a hole.
    let all = judge(&one("a", &QUIET).with(|run| run.manifest.rounds = 7), &[one("a", &QUIET)]);
    assert!(all.headline.ends_with("(1 of 1 cell is missing rounds)"), "{}", all.headline);
    let failed = one("a", &QUIET).cell("b", &QUIET[..1]).ends("a", &End::Crashed { signal: 9 });
    let failed = judge(&failed, &[]);
    assert!(failed.headline.starts_with("2 of 2 cells are failed or missing: a: crashed"), "{}", failed.headline);
}

#[test]
fn what_two_nights_cannot_tell_is_said() {
    let all = |factor: f64| {
        ["a", "b", "c", "d"].iter().fold(Script::new("run"), |script, name| script.cell(name, &scaled(factor)))
    };
    let two = judge(&all(1.0), &[all(0.99), all(1.01)]);
    let change = find(&two, "a", "tokens_per_second");
    assert_eq!((change.verdict, change.blind), (Verdict::Undecided, true), "{change:?}");
    assert!(change.why.contains("2 reference runs tell little of what a night does to all cells: accept more"));
    // Six such nights tell it.
    let six = judge(&all(1.0), &[0.99, 1.01, 0.99, 1.01, 0.99, 1.01].map(all));
    assert!(!find(&six, "a", "tokens_per_second").why.contains("tell little"), "{six:?}");
}
