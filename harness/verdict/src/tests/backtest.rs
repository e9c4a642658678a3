//! Histories whose truth is known, replayed.

use stepwatch_record::figure::Summary;
use stepwatch_record::run::Policy;

use super::random::Random;
use super::scripted::{Script, id};
use crate::backtest::{Injection, LASTING, backtest};
use crate::figures::standard_metrics;

const CELLS: [&str; 4] = ["a", "b", "c", "d"];

/// Nights of four cells at a spread of 0.5 %; from `change` on, `a` is so much slower.
fn nights(count: usize, change: usize, slower: f64, seed: u64) -> Vec<Summary> {
    let mut random = Random::seeded(seed);
    (0..count)
        .map(|night| {
            let mut script = Script::new(&format!("night-{night:03}"));
            for cell in CELLS {
                let level = if cell == "a" && night >= change { 1.0 - slower } else { 1.0 };
                let rates: Vec<f64> = (0..5).map(|_| 1000.0 * level * (0.005 * random.normal()).exp()).collect();
                script = script.cell(cell, &rates);
            }
            script.summary()
        })
        .collect()
}

#[test]
fn a_flat_history_cries_no_wolf_and_what_is_put_in_is_found() {
    let history = nights(60, usize::MAX, 0.0, 1);
    let injection = Injection { share: 0.03, trials: 40, seed: 7 };
    let found = backtest(&history, &Policy::default(), &standard_metrics(), Some(injection));
    assert_eq!((found.nights, found.red_nights, found.alarms.len()), (58, 0, 0), "{found:?}");
    assert_eq!(found.judged, 58 * 8, "speed and memory of four cells");
    let detection = found.detection.unwrap();
    assert_eq!(detection.trials, 40);
    assert!(detection.found_by(1) >= 36 && detection.found_by(3) == 40, "{detection:?}");
    assert_eq!(detection.median_delay(), Some(1.0));
    // The same seed, the same places; nothing too small is found.
    let little = Injection { share: 0.001, ..injection };
    let little = backtest(&history, &Policy::default(), &standard_metrics(), Some(little)).detection.unwrap();
    assert_eq!((little.found_by(7), little.median_delay()), (0, None));
}

#[test]
fn a_lasting_slowdown_is_alarmed_until_it_is_taken_for_answered_and_is_no_false_alarm() {
    let found = backtest(&nights(60, 30, 0.05, 2), &Policy::default(), &standard_metrics(), None);
    let alarmed: Vec<usize> = found.alarms.iter().map(|alarm| alarm.night).collect();
    assert_eq!(alarmed[..LASTING], [30, 31, 32], "{found:?}");
    assert!(found.alarms.iter().all(|alarm| alarm.cell == id("a") && alarm.lasting), "{found:?}");
    assert!(alarmed.len() < 20, "a window that holds the new level is quiet: {alarmed:?}");
}

#[test]
fn nights_of_another_class_are_no_reference_for_one_another() {
    let mut history = nights(12, usize::MAX, 0.0, 3);
    let mut other = nights(12, 0, 0.3, 4);
    other.iter_mut().for_each(|night| night.machines[0].gpus[0].name = "A100".into());
    // The two machines take turns, and one is 30 % slower.
    let mixed: Vec<Summary> = history.drain(..).zip(other).flat_map(|(one, two)| [one, two]).collect();
    let found = backtest(&mixed, &Policy::default(), &standard_metrics(), None);
    assert_eq!((found.nights, found.alarms.len()), (20, 0), "{found:?}");
}

#[test]
fn nothing_to_replay_is_nothing_judged() {
    let injection = Some(Injection { share: 0.02, trials: 5, seed: 1 });
    for history in [vec![], nights(1, 9, 0.0, 5), nights(2, 9, 0.0, 5)] {
        let found = backtest(&history, &Policy::default(), &standard_metrics(), injection);
        assert_eq!((found.nights, found.detection.unwrap().trials), (0, 0));
    }
}
