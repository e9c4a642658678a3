//! Extra rounds where the doubt is: which cells get them, and simulations with fixed seeds of a whole run with all its looks, which
//! must turn unchanged code red no more often than a run with one look.

use stepwatch_record::comparison::Verdict;
use stepwatch_record::figure::Summary;
use stepwatch_record::run::{Budget, Run};

use super::error_rates::{at_most, planned, summary};
use super::random::Random;
use super::scripted::{Script, id};
use crate::compare::Comparison;
use crate::looks::{Doubt, doubts, spent, told};

const BUDGET: Budget = Budget { seconds: 1800.0, rounds_max: 15 };

/// The doubts of a run against a reference, both scripted.
fn doubts_of(run: &Script, reference: &Script) -> Vec<Doubt> {
    let run = run.clone().with(|run| run.manifest.asked.budget = Some(BUDGET));
    let (summary, reference) = (run.summary(), [reference.summary()]);
    let comparison = Comparison::new(&run.run, &summary, &reference);
    doubts(&comparison, &comparison.changes(), &crate::claims::judge(&run.run, &summary))
}

/// Rounds around a rate, so wide in all.
fn around(rate: f64, width: f64) -> Vec<f64> {
    [-0.5, 0.25, 0.0, -0.25, 0.5].map(|place| rate * (1.0 + place * width)).to_vec()
}

/// Quiet cells that lend nothing to a noisy one.
fn quiet(script: Script) -> Script {
    (0..9).fold(script, |script, cell| script.cell(&format!("quiet{cell}"), &around(1e5, 0.001)))
}

#[test]
fn rounds_go_to_what_is_in_doubt_and_to_nothing_else() {
    let reference = quiet(Script::new("r")).cell("noisy", &around(1e5, 0.025)).cell("slower", &around(1e5, 0.001));
    let gated = |script: Script| script.policy(|policy| policy.gate = vec!["tokens_per_second".into()]);
    let run = gated(quiet(Script::new("n")).cell("noisy", &around(1e5, 0.025)).cell("slower", &around(0.9e5, 0.001)));
    let found = doubts_of(&run, &reference);
    // 10 % slower beyond any doubt, and nine that are unchanged: only the noisy one is worth more rounds.
    let cells: Vec<_> = found.iter().map(|doubt| doubt.cells.clone()).collect();
    assert_eq!(cells, [vec![id("noisy")]], "{found:?}");
    assert_eq!(found[0].target, 9);
    assert!(doubts_of(&run.clone().with(|run| run.manifest.rounds = 15), &reference).is_empty(), "no look is left");
}

#[test]
fn what_looks_like_a_regression_comes_first() {
    let names = ["a", "b", "c"];
    let reference = names.iter().fold(Script::new("r"), |script, name| script.cell(name, &around(1e5, 0.02)));
    let rates = [1.0, 0.985, 1.015];
    let run = names
        .iter()
        .zip(rates)
        .fold(Script::new("n"), |script, (name, rate)| script.cell(name, &around(1e5 * rate, 0.02)));
    let found = doubts_of(&run, &reference);
    assert_eq!(found.first().map(|doubt| doubt.cells.clone()), Some(vec![id("b")]), "{found:?}");
}

#[test]
fn without_a_reference_both_cells_of_an_undecided_claim_get_rounds() {
    let script = |ratio: f64| {
        let run = Script::new("n").cell("a", &around(1e5 * ratio, 0.05)).cell("b", &around(1e5, 0.05));
        let run = run.claim("a", "b", 1.7, false).with(|run| run.manifest.asked.budget = Some(BUDGET));
        let summary = run.summary();
        let comparison = Comparison::new(&run.run, &summary, &[]);
        doubts(&comparison, &comparison.changes(), &crate::claims::judge(&run.run, &summary))
    };
    let found = script(1.7);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].cells.clone(), found[0].target), (vec![id("a"), id("b")], 9));
    assert!(script(2.5).is_empty());
}

#[test]
fn a_later_look_asks_for_more_and_the_record_tells_what_was_spent() {
    let rates = around(1e5, 0.02);
    let reference = Script::new("r").cell("a", &rates).summary();
    let nine: Vec<f64> = rates.iter().chain(&rates).take(9).copied().collect();
    let run = |rates: &[f64]| {
        Script::new("n").cell("a", rates).with(|run| {
            run.manifest.rounds = 5;
            run.manifest.asked.budget = Some(BUDGET);
        })
    };
    let confidence = |script: &Script| {
        Comparison::new(&script.run, &script.summary(), std::slice::from_ref(&reference)).changes()[0]
            .confidence
            .unwrap()
    };
    let alone = run(&rates).with(|run| run.manifest.asked.budget = None);
    let whole = 1.0 - confidence(&alone);
    for (rates, share) in [(rates.as_slice(), 0.5), (&nine[..6], 1.0 / 6.0), (&nine[..], 1.0 / 6.0)] {
        let part = 1.0 - confidence(&run(rates));
        assert!((part / whole - share).abs() < 1e-9, "{} rounds: {part} of {whole}", rates.len());
    }
    let run = run(&nine).run;
    assert_eq!(spent(&run), (4, 4.0));
    assert_eq!(
        told(&run).unwrap(),
        "Budget: 4 extra rounds in 4 s of 30.0 min, on 1 of 1 cell, which had 5 and have now: a 9."
    );
}

const CELLS: usize = 20;

/// What a family is like.
struct Family {
    /// One round's noise by the number of its cell.
    noise: fn(&mut Random, usize) -> f64,
    /// Standard deviation between runs of each cell.
    run_sd: f64,
    /// Runs in the reference.
    runs: usize,
    /// The policy's margin: a small one leaves only the interval between noise and a false red.
    margin: f64,
}

/// What came of many runs.
#[derive(Default)]
struct Outcome {
    red: usize,
    found: usize,
    undecided_first: usize,
    undecided_last: usize,
    extra: usize,
}

/// Runs with extra rounds until nothing is in doubt or nothing is left; the first cell is `shift` slower.
fn simulate(family: &Family, shift: f64, trials: usize, seed: u64) -> Outcome {
    let mut random = Random::seeded(seed);
    let mut run: Run = planned();
    run.manifest.rounds = 5;
    run.manifest.asked.budget = Some(BUDGET);
    run.manifest.policy.margin = family.margin;
    let mut outcome = Outcome::default();
    for _ in 0..trials {
        let reference: Vec<Summary> = (0..family.runs).map(|_| summary(&night(family, 0.0, &mut random))).collect();
        let levels: Vec<f64> = (0..CELLS).map(|_| family.run_sd * random.normal()).collect();
        let round = |cell: usize, random: &mut Random| {
            levels[cell] - if cell == 0 { shift } else { 0.0 } + (family.noise)(random, cell)
        };
        let mut logs: Vec<Vec<f64>> =
            (0..CELLS).map(|cell| (0..5).map(|_| round(cell, &mut random)).collect()).collect();
        let mut first = true;
        let changes = loop {
            let tonight = summary(&logs);
            let comparison = Comparison::new(&run, &tonight, &reference);
            let changes = comparison.changes();
            let undecided = changes.iter().filter(|change| change.verdict == Verdict::Undecided).count();
            let found = doubts(&comparison, &changes, &[]);
            outcome.undecided_first += if first { undecided } else { 0 };
            first = false;
            if found.is_empty() {
                outcome.undecided_last += undecided;
                break changes;
            }
            for doubt in found {
                let cell: usize = doubt.cells[0].0[1..].parse().unwrap();
                for _ in logs[cell].len()..doubt.target as usize {
                    logs[cell].push(round(cell, &mut random));
                    outcome.extra += 1;
                }
            }
        };
        outcome.red += usize::from(changes[1..].iter().any(|change| change.verdict == Verdict::Regressed));
        outcome.found += usize::from(changes[0].verdict == Verdict::Regressed);
    }
    outcome
}

fn night(family: &Family, shift: f64, random: &mut Random) -> Vec<Vec<f64>> {
    let mut cell = |cell: usize| {
        let level = family.run_sd * random.normal() - if cell == 0 { shift } else { 0.0 };
        (0..5).map(|_| level + (family.noise)(random, cell)).collect()
    };
    (0..CELLS).map(&mut cell).collect()
}

#[test]
fn runs_with_looks_turn_unchanged_code_red_no_more_often_than_promised() {
    let trials = 400;
    let one_run = |noise: fn(&mut Random, usize) -> f64| Family { noise, run_sd: 0.0, runs: 1, margin: 0.01 };
    let of_ten = |noise: fn(&mut Random, usize) -> f64| Family { noise, run_sd: 0.0, runs: 10, margin: 0.01 };
    let families: [(&str, Family); 11] = [
        ("0.5 %", one_run(|random, _| 0.005 * random.normal())),
        ("1 %", one_run(|random, _| 0.01 * random.normal())),
        ("1 %, 10 runs", of_ten(|random, _| 0.01 * random.normal())),
        ("0.25 to 2 %, 10 runs", of_ten(|random, cell| [0.0025, 0.005, 0.01, 0.02][cell % 4] * random.normal())),
        ("1 %, 10 runs, margin 0.1 %", Family { margin: 0.001, ..of_ten(|random, _| 0.01 * random.normal()) }),
        ("1 %, one run, margin 0.1 %", Family { margin: 0.001, ..one_run(|random, _| 0.01 * random.normal()) }),
        ("2 %", one_run(|random, _| 0.02 * random.normal())),
        ("0.25 to 2 %", one_run(|random, cell| [0.0025, 0.005, 0.01, 0.02][cell % 4] * random.normal())),
        ("one at 2 %, others 0.25 %", one_run(|random, cell| if cell == 1 { 0.02 } else { 0.0025 } * random.normal())),
        (
            "1 %, nights differ by 0.5 %, 10 runs",
            Family { noise: |r, _| 0.01 * r.normal(), run_sd: 0.005, runs: 10, margin: 0.01 },
        ),
        (
            "two clocks, 10 runs",
            of_ten(|random, _| if random.uniform() < 0.2 { -0.03 } else { 0.0 } + 0.0025 * random.normal()),
        ),
    ];
    for (name, family) in &families {
        let outcome = simulate(family, 0.0, trials, 21);
        let red = outcome.red as f64 / trials as f64;
        println!(
            "seed 21, {name}: any false red {red:.4} of {trials} runs; undecided cells a run {:.2}, after extra rounds {:.2}; {:.1} \
             extra rounds a run",
            outcome.undecided_first as f64 / trials as f64,
            outcome.undecided_last as f64 / trials as f64,
            outcome.extra as f64 / trials as f64,
        );
        assert!(red <= at_most(0.01, trials), "{name}: {red}");
    }
}

#[test]
fn extra_rounds_find_what_the_first_look_could_not() {
    let trials = 200;
    let family = Family { noise: |random, _| 0.01 * random.normal(), run_sd: 0.0, runs: 10, margin: 0.01 };
    let with_looks = simulate(&family, 0.02, trials, 22);
    let mut random = Random::seeded(22);
    let run = planned();
    let mut found = 0;
    for _ in 0..trials {
        let reference: Vec<Summary> = (0..10).map(|_| summary(&night(&family, 0.0, &mut random))).collect();
        let changes = Comparison::new(&run, &summary(&night(&family, 0.02, &mut random)), &reference).changes();
        found += usize::from(changes[0].verdict == Verdict::Regressed);
    }
    let (with, without) = (with_looks.found as f64 / trials as f64, found as f64 / trials as f64);
    println!("seed 22, 2 % slower at 1 %: found {without} with one look, {with} with up to four");
    assert!(with > without + 0.1 && with > 0.8, "{without} and {with}");
}
