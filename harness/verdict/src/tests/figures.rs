//! Figures of scripted runs: what each metric is made of, and what is left out.

use stepwatch_record::run::{Better, CellPeak};

use super::scripted::{Script, id};
use crate::figures::omissions;

#[test]
fn each_metric_comes_from_where_it_says() {
    let mut script = Script::new("run").cell("a", &[1000.0, 1000.0]).verification("a", true, &[]);
    let peak = CellPeak { cell: id("a"), flops_per_second: 1e10, source: String::new() };
    script.run.manifest.peaks.push(peak);
    script.each_round("a", |round| {
        // Two measured steps of 1 s and 3 s; the warm-up step of 9 s must not count.
        round.samples[1].gpu_ns = 1_000_000_000;
        round.samples[2].gpu_ns = 3_000_000_000;
        for sample in &mut round.samples {
            sample.power_w = 500.0;
            sample.cycles = sample.gpu_ns * 3 / 2;
        }
        round.samples[2].loss = 4.5;
    });
    let summary = script.summary();
    let cell = summary.cell(&id("a")).unwrap();
    for (metric, expected) in [
        ("tokens_per_second", 500.0),
        ("tokens_per_second_per_device", 500.0),
        ("step_seconds", 2.0),
        ("step_seconds_low", 1.1),
        ("step_seconds_tail", 2.9),
        ("setup_seconds", 0.5),
        ("first_step_seconds", 0.25),
        ("peak_memory_bytes", 1_073_741_824.0),
        ("joules_per_token", 1.0),
        ("model_flops_per_second", 3e9),
        ("mfu", 0.3),
        ("sm_clock_hz", 1.5e9),
        ("cycles_per_step", 3e9),
        ("worst_sqnr_db", 40.0),
        ("loss", 4.5),
    ] {
        let found = cell.figure(metric).unwrap_or_else(|| panic!("no {metric}")).estimate.point;
        assert!((found / expected - 1.0).abs() < 1e-9, "{metric}: {found}");
    }
    let names: Vec<&str> = cell.figures.iter().map(|figure| figure.metric.name.as_str()).collect();
    let wanted: Vec<&str> = script.run.manifest.metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(names, wanted);
    assert_eq!((cell.rounds, cell.figure("step_seconds").unwrap().estimate.samples), (2, 4));
}

#[test]
fn an_estimate_is_a_geometric_mean_with_an_interval_of_its_rounds() {
    let summary = Script::new("run").cell("a", &[100.0, 400.0]).cell("b", &[100.0]).summary();
    let estimate = &summary.cell(&id("a")).unwrap().figure("tokens_per_second").unwrap().estimate;
    assert!((estimate.point - 200.0).abs() < 1e-6 && estimate.low < 100.0 && estimate.high > 400.0);
    assert!((estimate.round_sd_log - 4_f64.ln() / 2_f64.sqrt()).abs() < 1e-6);
    let single = &summary.cell(&id("b")).unwrap().figure("tokens_per_second").unwrap().estimate;
    assert_eq!((single.low, single.high), (single.point, single.point));
}

#[test]
fn rounds_that_did_not_complete_do_not_count() {
    let mut script = Script::new("run").cell("a", &[100.0, 200.0]);
    script.run.rounds[1].record.end = stepwatch_record::End::Crashed { signal: 6 };
    let summary = script.summary();
    let cell = summary.cell(&id("a")).unwrap();
    let rounds = &cell.figure("tokens_per_second").unwrap().estimate.rounds;
    assert!(rounds.len() == 1 && (rounds[0] / 100.0 - 1.0).abs() < 1e-9);
    assert_eq!((cell.rounds, cell.end.as_ref().unwrap().word()), (1, "crashed"));
}

#[test]
fn values_that_are_no_numbers_are_left_out_and_said() {
    let script = Script::new("run").cell("a", &[1.0, 1.0]).metric("a", "m", Better::Higher, &[1.0, f64::INFINITY]);
    assert!(script.summary().cell(&id("a")).unwrap().figure("m").is_none());
    let left_out = omissions(&script.run);
    assert_eq!(left_out.len(), 1);
    assert_eq!(left_out[0].why, "m of round 1 is inf, which is no finite number");
}

#[test]
fn zero_and_negative_values_have_an_arithmetic_mean() {
    let script = Script::new("run").cell("a", &[1.0; 3]).metric("a", "m", Better::Higher, &[-1.0, 0.0, 4.0]);
    let summary = script.summary();
    let estimate = &summary.cell(&id("a")).unwrap().figure("m").unwrap().estimate;
    assert!((estimate.point - 1.0).abs() < 1e-12 && estimate.low < -1.0 && estimate.high > 4.0);
}

#[test]
fn utilisation_is_a_share_of_the_cells_own_peak() {
    let script = Script::new("run").cell("a", &[1000.0, 1000.0]).cell("b", &[1000.0, 1000.0]).with(|run| {
        let cell = id("a");
        // 6e6 FLOPs a token at 1000 tokens a second.
        run.manifest.peaks.push(CellPeak { cell, flops_per_second: 1.5e10, source: "a page".into() });
    });
    let summary = script.summary();
    let mfu = summary.cells[0].figure("mfu").unwrap();
    assert!((mfu.estimate.point - 0.4).abs() < 1e-9, "{mfu:?}");
    assert!(summary.cells[1].figure("mfu").is_none(), "no peak, no share of it");
}

#[test]
fn the_worst_sqnr_is_one_observation() {
    let script = Script::new("run").cell("a", &[1000.0, 1001.0, 999.0]).verification("a", true, &[]);
    let summary = script.summary();
    let estimate = &summary.cells[0].figure("worst_sqnr_db").unwrap().estimate;
    assert_eq!((estimate.rounds.as_slice(), estimate.samples), (&[40.0][..], 1));
    assert!((estimate.point - 40.0).abs() < 1e-9 && estimate.low == estimate.high, "{estimate:?}");
}
