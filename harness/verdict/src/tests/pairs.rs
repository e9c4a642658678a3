//! Runs of two sides: what their pairs say, what becomes of a side that ended badly, and simulations of their error rates with
//! fixed seeds.

use stepwatch_record::against::{Against, AgainstPair, OtherBinary};
use stepwatch_record::comparison::{Conclusion, Verdict};
use stepwatch_record::finding::Kind;
use stepwatch_record::plan::Plan;
use stepwatch_record::run::Better;
use stepwatch_record::waiver::Known;
use stepwatch_record::{End, Run};

use super::random::Random;
use super::scripted::{Script, id};
use crate::compare::Comparison;
use crate::{conclude_sides, pairs};

/// A run of two sides; the other side's cells are named with an `@`.
fn sides(script: Script, cells: &[&str]) -> Script {
    let pairs = cells.iter().map(|cell| AgainstPair { cell: id(cell), against: id(&format!("{cell}@")) }).collect();
    let binary = OtherBinary { version: "stepwatch 0.9".into(), hash: "abcd".into(), same: false };
    let against = Against { name: "old/stepwatch".into(), binary: Some(binary), pairs };
    script.with(|run| {
        run.manifest.asked.against = Some(against);
        run.manifest.metrics.retain(|metric| metric.name == "tokens_per_second");
    })
}

fn conclude(script: &Script) -> Conclusion {
    conclude_sides(&script.run, &script.summary(), vec![], &Known::default()).unwrap()
}

/// What the machine does to both rounds of each of 6 pairs: far more than the change that is to be seen.
const SHARED: [f64; 6] = [1.0, 0.9, 1.1, 0.8, 1.05, 0.95];

fn drifting(change: f64) -> Script {
    let rates = |scale: f64| SHARED.map(|shared| 1e5 * shared * scale);
    let own: Vec<f64> = rates(1.0 + change).iter().zip([1.001, 0.999].iter().cycle()).map(|(a, b)| a * b).collect();
    sides(Script::new("r").cell("a", &own).cell("a@", &rates(1.0)), &["a"])
}

#[test]
fn what_both_rounds_of_a_pair_share_is_in_no_difference() {
    let conclusion = conclude(&drifting(-0.02));
    let [change] = conclusion.changes.as_slice() else { panic!("{:?}", conclusion.changes) };
    assert_eq!((change.verdict, change.cell.clone()), (Verdict::Regressed, id("a")));
    assert!((change.effect.unwrap() + 0.02).abs() < 1e-3, "{change:?}");
    assert_eq!(conclusion.exit_code, 5);
    assert_eq!(conclusion.reference.runs, ["old/stepwatch (stepwatch 0.9, abcd)"]);
    assert!(conclusion.headline.starts_with("against old/stepwatch (stepwatch 0.9, abcd): 1 of 1 cell regressed"));
    assert!(conclusion.method.iter().any(|line| line.contains("the observation is the pair of rounds")));
    // The binaries differ; their versions are told where they do.
    let versions = |own: &str| {
        let own = own.to_owned();
        let conclusion = conclude(&drifting(0.0).with(|run| run.manifest.build.version = own));
        conclusion.reference.differences.into_iter().filter(|line| line.starts_with("stepwatch")).collect::<Vec<_>>()
    };
    assert_eq!(versions("0.9"), [""; 0]);
    assert_eq!(versions("1.0"), ["stepwatch: 1.0, in the reference 0.9"]);
    assert_eq!(conclude(&drifting(0.02)).changes[0].verdict, Verdict::Improved);
    assert_eq!(conclude(&drifting(0.0)).changes[0].verdict, Verdict::Unchanged);
}

#[test]
fn pairs_are_by_the_rounds_number_and_not_by_their_place() {
    let script = drifting(0.0).metric("a", "own", Better::Higher, &SHARED).metric("a@", "own", Better::Higher, &SHARED);
    let script = script.policy(|policy| policy.gate = vec!["own".into()]).with(|run| {
        // This side lacks the first value: what is left must still meet the same round of the other side.
        run.rounds[0].record.metrics.clear();
    });
    let conclusion = conclude(&script);
    let change = conclusion.changes.iter().find(|change| change.metric.name == "own").unwrap();
    assert_eq!((change.verdict, change.effect), (Verdict::Unchanged, Some(0.0)), "{change:?}");
}

#[test]
fn every_end_of_the_other_side_is_told() {
    for (end, verdict, code) in [
        (End::Crashed { signal: 11 }, Verdict::Failed, 3),
        (End::Skipped { reason: "no GPU".into() }, Verdict::Incomparable, 6),
        (End::NumbersWrong { message: "loss".into() }, Verdict::NumbersWrong, 4),
    ] {
        let conclusion = conclude(&drifting(0.0).ends("a@", &end));
        assert_eq!((conclusion.changes[0].verdict, conclusion.exit_code), (verdict, code), "{end:?}");
        assert!(conclusion.changes[0].why.starts_with("the other side ended "), "{:?}", conclusion.changes[0]);
    }
    let missing =
        drifting(0.0).with(|run| run.rounds.retain(|r| r.record.cell != id("a@") || r.record.round != Some(3)));
    let conclusion = conclude(&missing);
    assert_eq!((conclusion.changes[0].verdict, conclusion.exit_code), (Verdict::Missing, 3));
    assert_eq!(conclude(&drifting(0.0).ends("a", &End::Crashed { signal: 11 })).exit_code, 3);
}

#[test]
fn one_pair_is_blind_and_sides_with_other_plans_are_a_finding() {
    let one = sides(Script::new("r").cell("a", &[1e5]).cell("a@", &[1e5]), &["a"]);
    assert_eq!((conclude(&one).changes[0].verdict, conclude(&one).exit_code), (Verdict::Undecided, 6));
    let plan = |hash: &str| Plan { hash: hash.into(), ..Plan::default() };
    let conclusion = conclude(&drifting(0.0).plan("a", plan("1")).plan("a@", plan("2")));
    let changed = conclusion.findings.iter().find(|finding| finding.kind == Kind::AlgorithmChanged).unwrap();
    assert!(
        changed.sentence.starts_with("the two sides run 1 of ") && !changed.next_step.contains("accept"),
        "{changed:?}"
    );
}

#[test]
fn a_side_taken_alone_is_a_run_like_any_other() {
    let alone = pairs::own_side(drifting(0.1).run);
    assert_eq!((alone.manifest.cells.len(), alone.rounds.len()), (1, 6));
    assert!(conclude_sides(&alone, &crate::figures::summarise(&alone), vec![], &Known::default()).is_none());
}

const CELLS: usize = 20;

/// A run of 20 pairs of cells; the first of this side is `shift` slower.
fn simulated(random: &mut Random, rounds: usize, shift: f64, noise: &mut dyn FnMut(&mut Random, usize) -> f64) -> Run {
    let names: Vec<String> = (0..CELLS).map(|cell| format!("c{cell}")).collect();
    let mut script = Script::new("simulated");
    for (cell, name) in names.iter().enumerate() {
        let (mut own, mut other) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            // Both rounds of a pair have what the machine does to them in common.
            let shared = 0.03 * random.normal();
            let shift = if cell == 0 { shift } else { 0.0 };
            own.push(1e5 * (shared - shift + noise(random, cell)).exp());
            other.push(1e5 * (shared + noise(random, cell)).exp());
        }
        script = script.cell(name, &own).cell(&format!("{name}@"), &other);
    }
    sides(script, &names.iter().map(String::as_str).collect::<Vec<_>>()).run
}

/// What came of many runs.
#[derive(Default)]
struct Outcome {
    /// Runs with any false red.
    red: usize,
    /// Intervals that hold the truth, of all.
    held: (usize, usize),
    /// Runs in which the first cell was called regressed.
    found: usize,
}

fn simulate(trials: usize, rounds: usize, shift: f64, noise: fn(&mut Random, usize) -> f64) -> Outcome {
    let mut random = Random::seeded(17);
    let mut outcome = Outcome::default();
    for _ in 0..trials {
        let run = simulated(&mut random, rounds, shift, &mut { noise });
        let sides = pairs::sides(&run, &crate::figures::summarise(&run)).unwrap();
        let changes = Comparison::of_sides(&run, &sides).changes();
        assert_eq!(changes.len(), CELLS);
        let truth = |cell: usize| if cell == 0 { (-shift).exp_m1() } else { 0.0 };
        outcome.red += usize::from(changes[1..].iter().any(|change| change.verdict == Verdict::Regressed));
        outcome.found += usize::from(changes[0].verdict == Verdict::Regressed);
        for (cell, effect) in pairs::effects("tokens_per_second", &run, &sides.own).into_iter().enumerate() {
            let effect = effect.unwrap();
            let (below, above) = effect.reach(effect.rounds, 0.99).unwrap();
            let (low, high) = (effect.difference - below, effect.difference + above);
            let truth = truth(cell).ln_1p();
            outcome.held.0 += usize::from((low..=high).contains(&truth));
            outcome.held.1 += 1;
        }
    }
    outcome
}

/// Noise of one round by the number of its cell.
type Noise = fn(&mut Random, usize) -> f64;

#[test]
fn intervals_of_pairs_hold_and_unchanged_pairs_are_seldom_red() {
    let trials = 600;
    let families: [(&str, Noise, f64); 5] = [
        ("0.25 %", |random, _| 0.0025 * random.normal(), 0.986),
        ("1 %", |random, _| 0.01 * random.normal(), 0.986),
        ("0.25 to 2 %", |random, cell| [0.0025, 0.005, 0.01, 0.02][cell % 4] * random.normal(), 0.98),
        ("two clocks", |random, _| if random.uniform() < 0.2 { -0.03 } else { 0.0 } + 0.0025 * random.normal(), 0.98),
        ("Student's t, 3", |random, _| 0.005 * heavy(random), 0.98),
    ];
    for (name, noise, least) in families {
        for rounds in [5, 10] {
            let outcome = simulate(trials, rounds, 0.0, noise);
            let coverage = outcome.held.0 as f64 / outcome.held.1 as f64;
            let red = outcome.red as f64 / trials as f64;
            println!("seed 17, {name}, {rounds} pairs: coverage {coverage:.4} of 99 %, any false red {red:.4}");
            assert!(coverage >= least, "{name}, {rounds} pairs: {coverage}");
            // 1 % and four standard errors of so many runs.
            assert!(red <= 0.01 + 4.0 * (0.01 * 0.99 / trials as f64).sqrt(), "{name}, {rounds} pairs: {red}");
        }
    }
}

#[test]
fn a_slower_side_is_found_where_nights_of_the_machine_would_hide_it() {
    let trials = 200;
    let outcome = simulate(trials, 10, 0.015, |random, _| 0.0025 * random.normal());
    let found = outcome.found as f64 / trials as f64;
    println!("seed 17, 1.5 % slower, 0.25 % noise, 3 % shared by both rounds, 10 pairs: found {found}");
    assert!(found >= 0.95, "{found}");
}

/// Student's t with 3 degrees of freedom.
fn heavy(random: &mut Random) -> f64 {
    let squares: f64 = (0..3).map(|_| random.normal().powi(2)).sum();
    random.normal() / (squares / 3.0).sqrt()
}
