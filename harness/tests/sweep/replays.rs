//! Many nights of one scenario through the binary: replayed policies, nights that become a reference by themselves, and input
//! that is few, odd or wrong. Each case has its words and its exit code.

use std::fs;

use stepwatch_record::figure::Summary;
use stepwatch_record::run::RunManifest;

use crate::stage::{Stage, Told};

const SCENARIO: &str = r#"
[scenario]
name = "nights"
backend = "cpu"

[[matrix]]
workload = "script"
kind = ["a", "b"]

[workloads.script]
command = ["sh", "./worker.sh", "{kind}"]
axes = { kind = ["a", "b"] }
metrics.tokens_per_second = { regex = 'tokens/sec: (\S+)', unit = "1/s", better = "higher" }

[measure]
rounds = { min = 3, max = 3 }
timeout = "60s"

[policy]
gate = ["tokens_per_second"]
"#;

/// A worker that says `value`, an expression of awk in which `r` is the round.
fn worker(value: &str) -> String {
    format!("awk -v r=$STEPWATCH_ROUND 'BEGIN {{ print \"tokens/sec:\", {value} }}'")
}

const STEADY: &str = "1000 * (1 + r / 1000)";

#[track_caller]
fn says(told: &Told, text: &str) {
    let all = format!("{}{}", told.stdout, told.stderr);
    assert!(all.contains(text), "{text} is not in:\n{all}");
}

#[test]
fn odd_input_has_its_words_and_its_exit_code_and_is_never_green_by_accident() {
    // (case, rounds, the reference's worker, this run's worker, what changes in the scenario, exit code, words)
    let same = |text: &str| text.to_owned();
    type Change = Box<dyn Fn(&str) -> String>;
    let cases: Vec<(&str, &str, &str, &str, Change, i32, &str)> = vec![
        ("one round", "1", STEADY, STEADY, Box::new(same), 6, "measure at least 2 rounds"),
        (
            "two noisy rounds",
            "2",
            "1000 + 100 * r",
            "1000 - 100 * r",
            Box::new(same),
            6,
            "no regression was seen, but 2 of 2 cells could not have shown one",
        ),
        ("zero variance", "3", "1000", "1000", Box::new(same), 0, "all 2 cells unchanged"),
        ("zero variance, slower", "3", "1000", "970", Box::new(same), 5, "3.0 % slower"),
        ("NaN", "3", STEADY, "r == 1 ? \"nan\" : 1000", Box::new(same), 3, "nan"),
        ("words for numbers", "3", STEADY, "\"fast\"", Box::new(same), 3, "fast"),
        ("negative", "3", STEADY, "-1000 * (1 + r / 1000)", Box::new(same), 3, "is no finite number above 0"),
        ("one sample of 10⁹", "3", STEADY, "r == 1 ? 1000000000 : 1000", Box::new(same), 6, "could not have shown one"),
        (
            "renamed cells",
            "3",
            STEADY,
            STEADY,
            Box::new(|text: &str| text.replace("\"b\"", "\"c\"")),
            3,
            "the reference has this cell and the run did not plan it",
        ),
        ("a cell more", "3", STEADY, STEADY, Box::new(|text: &str| text.replace("\"b\"", "\"b\", \"c\"")), 0, "1 new"),
        (
            "another metric gated",
            "3",
            STEADY,
            STEADY,
            Box::new(|text: &str| text.replace("gate = [\"tokens_per_second\"]", "gate = [\"setup_seconds\"]")),
            6,
            "setup_seconds",
        ),
    ];
    for (name, rounds, before, now, change, exit, words) in cases {
        let stage = Stage::new(&[("s.toml", SCENARIO), ("worker.sh", &worker(before))]);
        stage.run(&["run", "s.toml", "--rounds", rounds]).exits(0);
        stage.run(&["baseline", "accept", "latest", "--reason", name]).exits(0);
        fs::write(stage.path("worker.sh"), worker(now)).unwrap();
        fs::write(stage.path("s.toml"), change(SCENARIO)).unwrap();
        let told = stage.run(&["run", "s.toml", "--rounds", rounds]);
        assert_eq!(told.code, Some(exit), "{name}:\n{}\n{}", told.stdout, told.stderr);
        says(&told, words);
        assert_eq!(stage.run(&["compare", "latest"]).code, Some(exit), "{name}: compare says otherwise");
    }
}

#[test]
fn without_a_baseline_nothing_is_compared_and_a_waiver_of_nothing_is_told() {
    let stage = Stage::new(&[("s.toml", SCENARIO), ("worker.sh", &worker(STEADY))]);
    says(&stage.run(&["run", "s.toml"]).exits(0), "no reference yet");
    says(&stage.run(&["compare", "latest"]).exits(0), "has no accepted baseline: nothing is compared");
    stage.run(&["baseline", "accept", "latest", "--reason", "first"]).exits(0);
    let waiver = "[[waiver]]\ncell = 'nobody'\nmetric = 'tokens_per_second'\nlimit = 0.1\nowner = 'kim'\n\
                  expires = 9999-12-31\nreason = 'x'\n";
    fs::write(stage.path("baselines/waivers.toml"), waiver).unwrap();
    says(&stage.run(&["run", "s.toml"]).exits(0), "this run has no such cell, so nothing is waived");
}

#[test]
fn nights_that_agree_become_a_reference_by_themselves_and_a_slower_one_never_does() {
    let scenario = SCENARIO.to_owned() + "reference = { promote = 3 }\n";
    let stage = Stage::new(&[("s.toml", &scenario), ("worker.sh", &worker(STEADY))]);
    let accepted = || stage.run(&["baseline", "list"]).exits(0).stdout;
    says(&stage.run(&["run", "s.toml"]).exits(0), "not a reference by itself: night 1 of 3 that must agree");
    says(&stage.run(&["run", "s.toml"]).exits(0), "not a reference by itself: night 2 of 3 that must agree");
    assert_eq!(accepted(), "");
    says(&stage.run(&["run", "s.toml"]).exits(0), "promoted: 3 nights agree, this one and ");
    assert_eq!(accepted().matches("promoted: 3 nights agree").count(), 1, "{}", accepted());

    // Faster: one lucky night moves nothing, nor does a night that agrees with one of two.
    fs::write(stage.path("worker.sh"), worker("1100 * (1 + r / 1000)")).unwrap();
    says(&stage.run(&["run", "s.toml"]).exits(0), "is improved against 2");
    says(&stage.run(&["run", "s.toml"]).exits(0), "is improved against 2");
    says(&stage.run(&["run", "s.toml"]).exits(0), "promoted: 3 nights agree");
    assert_eq!(accepted().matches("nights agree on a better level").count(), 1, "{}", accepted());
    fs::write(stage.path("worker.sh"), worker("1000 * (1 + r / 1000)")).unwrap();
    for _ in 0..4 {
        says(&stage.run(&["run", "s.toml"]).exits(5), "not a reference by itself: it ended with exit code 5");
    }
    assert_eq!(accepted().lines().count(), 2, "{}", accepted());
    // A part of the matrix is no night.
    fs::write(stage.path("worker.sh"), worker(STEADY)).unwrap();
    let part = stage.run(&["run", "s.toml", "--filter", "kind=a"]);
    assert!(!part.stderr.contains("reference by itself") && !part.stderr.contains("promoted"), "{}", part.stderr);
    fs::write(stage.path("s.toml"), scenario.replace("promote = 3", "promote = 1")).unwrap();
    says(&stage.run(&["check", "s.toml"]).exits(2), "`promote` in `reference` must be 0 or at least 2");
}

/// Copies the newest run as so many nights, with `rate(night)` times its speed and `days(night)` as its day in January.
fn history(stage: &Stage, nights: u32, rate: impl Fn(u32) -> f64, day: impl Fn(u32) -> u32) {
    let folder = stepwatch::store::newest_first(&stage.path("runs"), None)[0].folder.clone();
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let summary: Summary = serde_json::from_str(&read("summary.json")).unwrap();
    let manifest: RunManifest = serde_json::from_str(&read("run.json")).unwrap();
    for night in 0..nights {
        let (mut summary, mut manifest) = (summary.clone(), manifest.clone());
        summary.run = format!("202601{:02}T0{}0000Z-x{night:03}", night / 8 + 1, night % 8);
        manifest.id = summary.run.clone();
        summary.started =
            format!("2026-{:02}-{:02}T02:00:{:02}Z", 1 + day(night) / 28, 1 + day(night) % 28, night % 60);
        for cell in &mut summary.cells {
            for figure in &mut cell.figures {
                // A little noise of the night, the same on every machine.
                let noise = 1.0 + f64::from(night * 7919 % 13) * 1e-4;
                figure.estimate.point *= rate(night) * noise;
                figure.estimate.rounds.iter_mut().for_each(|value| *value *= rate(night) * noise);
            }
        }
        let run = stage.path("stored").join(&summary.run);
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join("summary.json"), serde_json::to_string(&summary).unwrap()).unwrap();
        fs::write(run.join("run.json"), serde_json::to_string(&manifest).unwrap()).unwrap();
    }
}

fn stored() -> Stage {
    let stage = Stage::new(&[("s.toml", SCENARIO), ("worker.sh", &worker(STEADY))]);
    stage.run(&["run", "s.toml"]).exits(0);
    stage
}

#[test]
fn a_policy_is_replayed_over_stored_nights_with_slowdowns_put_in() {
    let stage = stored();
    history(&stage, 30, |night| if night == 20 { 0.95 } else { 1.0 }, |night| night);
    let told = stage.run(&["backtest", "stored", "--inject", "3%", "--trials", "20", "--format", "json"]).exits(0);
    let json: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!((&json["runs"], &json["nights"], &json["red_nights"]), (&30.into(), &28.into(), &1.into()), "{json}");
    assert_eq!(json["alarms"].as_array().unwrap().len(), 2, "{json}");
    assert!(json["alarms"][0]["lasting"] == false && json["false_red_nights"] == 1, "{json}");
    let found = &json["injected"];
    assert_eq!((&found["trials"], &found["found_night_1"]), (&20.into(), &20.into()), "{json}");
    assert_eq!(
        told.stdout,
        stage.run(&["backtest", "stored", "--inject", "0.03", "--trials", "20", "--format", "json"]).stdout
    );

    let told = stage.run(&["backtest", "stored", "--inject", "3 %", "--trials", "5"]).exits(0);
    says(&told, "nights: 30 runs, of which 28 were judged against up to 10 before them");
    says(&told, "red nights: 1 (3.6 %), of which 1 by alarms that did not last");
    says(&told, "5 slowdowns of 3.0 % put in (seed 1): found on night 1 100 %");
    // Another policy over the same nights: a margin of 10 % is silent.
    fs::write(stage.path("wide.toml"), SCENARIO.to_owned() + "margin = 0.1\n").unwrap();
    says(&stage.run(&["backtest", "stored", "--scenario", "wide.toml"]).exits(0), "red nights: 0 (0 %)");
}

#[test]
fn histories_with_holes_twins_and_clocks_that_were_set_are_told() {
    let stage = stored();
    history(&stage, 20, |_| 1.0, |night| if night < 10 { night } else { night + 4 });
    let told = stage.run(&["backtest", "stored"]).exits(0);
    says(&told, "warning: no run on 4 days, in 1 gaps: 2026-01-10 to 2026-01-15");
    says(&stage.run(&["history", "stored"]).exits(0), "no run on 4 days");

    history(&stage, 20, |_| 1.0, |night| night / 2);
    says(&stage.run(&["backtest", "stored"]).exits(0), "several runs on 10 of 10 days, such as 2026-01-01");
    history(&stage, 20, |_| 1.0, |night| 20 - night);
    says(&stage.run(&["backtest", "stored"]).exits(0), "a clock was set, and the order is that of the dates");

    let edit = |run: &str, from: &str, to: &str| {
        let path = stage.path("stored").join(run).join("summary.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    let (one, two) = ("20260101T000000Z-x000", "20260101T010000Z-x001");
    edit(one, "2026-01-21T", "sometime T");
    says(&stage.run(&["backtest", "stored"]).exits(0), "which is no time: left out");
    edit(two, one.replace("x000", "x001").replace("T00", "T01").as_str(), "20260101T020000Z-x002");
    says(&stage.run(&["backtest", "stored"]).exits(0), "run 20260101T020000Z-x002 is there already: left out");
    edit(two, "{", "");
    says(&stage.run(&["backtest", "stored"]).exits(0), "is damaged");
    says(&stage.run(&["backtest", "stored", "--scenario", "none.toml"]).exits(2), "none.toml");
    edit(one, "\"format\":1", "\"format\":99");
    says(&stage.run(&["backtest", "stored"]).exits(2), "has format version 99, and this stepwatch reads up to 1");

    says(&stage.run(&["backtest", "nowhere"]).exits(2), "nowhere cannot be read");
    fs::create_dir(stage.path("empty")).unwrap();
    says(&stage.run(&["backtest", "empty"]).exits(2), "holds no run with a summary.json that can be read");
    says(&stage.run(&["backtest", "runs/nights"]).exits(2), "holds 1 run: at least 3 are needed");
    says(&stage.run(&["backtest", "stored", "--inject", "200%"]).exits(2), "a share above 0 and below 1");
}
