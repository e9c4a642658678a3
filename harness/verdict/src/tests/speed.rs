//! How long a large judgement takes: a measurement, whose figure stands in `PERFORMANCE.md`.

use std::time::Instant;

use stepwatch_record::figure::Summary;
use stepwatch_record::waiver::Known;

use super::random::Random;
use super::scripted::Script;
use crate::conclude;

#[test]
#[ignore = "a measurement: run it alone, with --nocapture"]
fn three_hundred_cells_of_two_hundred_samples() {
    let mut random = Random::seeded(1);
    let mut night = || {
        let mut script = Script::new("run");
        for cell in 0..300 {
            let rates: Vec<f64> = (0..5).map(|_| 1000.0 * (0.005 * random.normal()).exp()).collect();
            script = script.cell(&format!("cell-{cell}"), &rates);
        }
        for round in &mut script.run.rounds {
            let sample = round.samples[1];
            let more = (2..201).map(|step| stepwatch_record::run::Sample { step, ..sample });
            round.samples.extend(more);
        }
        script
    };
    let reference: Vec<Summary> = (0..10).map(|_| night().summary()).collect();
    let run = night();
    let began = Instant::now();
    let summary = run.summary();
    let figures = began.elapsed();
    let conclusion = conclude(&run.run, &summary, &reference, "accepted", vec![], &Known::default());
    println!("figures {figures:?}, with all judged {:?}, {} changes", began.elapsed(), conclusion.changes.len());
    assert!(conclusion.changes.len() >= 600, "{}", conclusion.changes.len());
}
