//! What an explanation says, on scripted runs whose numbers are known.

use stepwatch_record::message::Canary;

use super::scripted::{Script, id};
use crate::compare::Comparison;
use crate::explain::{Part, explain};

const RATES: [f64; 4] = [990.0, 1010.0, 1000.0, 1000.0];

fn told(run: &Script, reference: &[Script]) -> Vec<Part> {
    let (summary, reference): (_, Vec<_>) = (run.summary(), reference.iter().map(Script::summary).collect());
    let comparison = Comparison::new(&run.run, &summary, &reference);
    explain(&comparison, &comparison.changes(), &id("a"))
}

#[track_caller]
fn has(parts: &[Part], title: &str, line: &str) {
    let part = parts.iter().find(|part| part.title.starts_with(title));
    let part = part.unwrap_or_else(|| panic!("no part {title} in {parts:#?}"));
    assert!(part.lines.iter().any(|found| found.contains(line)), "{line} is not in {part:#?}");
}

#[test]
fn reference_runs_are_told_as_used_or_refused_with_the_reason() {
    let run = |name: &str| Script::new(name).cell("a", &RATES);
    let other_gpu = run("old").with(|run| run.manifest.machines[0].gpus[0].name = "A100".into());
    let lacking = Script::new("lacking").cell("b", &RATES);
    let this = run("this").policy(|policy| policy.reference_runs = 2);
    let parts = told(&this, &[run("new"), other_gpu, lacking, run("third")]);
    let lines = &parts[0].lines;
    assert!(lines[0].starts_with("used: new"), "{lines:?}");
    assert!(lines[1].starts_with("refused: old") && lines[1].ends_with("the GPU differs: H100, in the reference A100"));
    assert!(lines[2].starts_with("used: lacking") && lines[2].ends_with("it does not have this cell"), "{lines:?}");
    assert!(lines[3].ends_with("the policy compares with 2 runs at most"), "{lines:?}");
}

#[test]
fn the_noise_of_every_level_is_the_one_that_went_into_the_interval() {
    let night = |name: &str, factor: f64| Script::new(name).cell("a", &RATES.map(|rate| rate * factor));
    let parts = told(&night("this", 1.0), &[night("x", 1.1), night("y", 0.9)]);
    // One cell, so its own: logs of 0.99, 1.01, 1, 1 have an sd of 0.82 %; logs of 1.1 and 0.9 one of 14.19 %, of which their
    // rounds explain 0.41 %: √(14.19² − 0.41²) = 14.18.
    has(&parts, "tokens_per_second", "noise of rounds within a run: 0.82 % (sd");
    has(&parts, "tokens_per_second", "noise between runs of the same code: 14 % (sd)");
    has(
        &parts,
        "tokens_per_second",
        "reference: 995 tokens/s over 2 runs: x 1,100 tokens/s (4 rounds), y 900 tokens/s",
    );
    has(&parts, "tokens_per_second", "more rounds of this run alone would not see it");
    let equal = told(&night("this", 1.0), &[night("x", 1.0), night("y", 1.0)]);
    has(&equal, "tokens_per_second", "no more than their rounds explain");
}

#[test]
fn rounds_that_would_see_are_enough_and_no_fewer() {
    let noisy = [970.0, 1030.0, 1000.0, 1000.0];
    let rates = |rounds: usize| -> Vec<f64> { noisy.iter().copied().cycle().take(rounds).collect() };
    let this = |rounds| Script::new("this").cell("a", &rates(rounds));
    let reference = [Script::new("x").cell("a", &rates(200))];
    let parts = told(&this(4), &reference);
    let line = parts.iter().flat_map(|part| &part.lines).find(|line| line.contains("in all would see 2.0 %"));
    let rounds: usize = line.unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    let detectable = |rounds: usize| {
        let (run, reference) = (this(rounds), [reference[0].summary()]);
        Comparison::new(&run.run, &run.summary(), &reference).changes()[0].detectable.unwrap()
    };
    // The spread is estimated anew with other rounds, so the answer holds to a round.
    assert!(detectable(rounds + 1) <= 0.02, "{rounds}: {}", detectable(rounds + 1));
    assert!(detectable(rounds - 2) > 0.02, "{rounds}: {}", detectable(rounds - 2));
}

#[test]
fn the_machine_is_told_from_samples_and_canary() {
    let canary = |flops: f64| vec![Canary { flops_per_second: flops, bytes_per_second: 2e9, ..Canary::default() }];
    let mut run = Script::new("this").cell("a", &RATES).cell("b", &RATES);
    has(&told(&run, &[]), "machine", "neither clocks nor power nor a canary were recorded");
    run.each_round("a", |round| {
        round.record.canaries = canary(9e9);
        round.samples.iter_mut().for_each(|sample| {
            (sample.power_w, sample.temperature_c, sample.throttle) = (690.0, 61.0, 0x4);
        });
    });
    run.each_round("b", |round| round.record.canaries = canary(1e10));
    let parts = told(&run, &[]);
    assert_eq!(parts.len(), 1, "nothing is compared: {parts:#?}");
    has(&parts, "machine", "power: 690 W");
    has(&parts, "machine", "temperature: 61 °C");
    has(&parts, "machine", "clock held down by power or heat: 100 % of 8 samples");
    has(&parts, "machine", "canary's product: 9 GFLOP/s, 10 % slower than in the run's other cells");
}
