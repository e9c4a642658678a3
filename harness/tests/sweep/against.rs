//! `run --against`: two builds, or two workloads, alternated round by round and judged by their pairs, through the built binary.
//! The other build is this one behind a script of shell that gives it other scripted times.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Pid, Signal, kill_process};
use stepwatch_record::End;

use crate::stage::{SPEAKER, Stage, Told, wait_for};

const SCENARIO: &str = r#"
[scenario]
name = "sides"
backend = "null"

[[matrix]]
model = "tiny"
precision = ["fp32", "bf16"]
batch_size = 4
seq_len = 64

[measure]
rounds = { min = 6, max = 6 }
samples = 10
timeout = "20s"
"#;

/// Rules of scripted times: 1 ms a step, or by so much longer, with noise of 0.2 % between processes.
fn rules(slower: f64) -> String {
    format!(r#"{{"rules": [{{"step_ns": {}, "noise": 0.002, "process_noise": 0.002}}]}}"#, 1e6 * (1.0 + slower))
}

/// A stage with this build's times, and the other build's behind `other.sh`.
fn stage(own: &str, other: &str) -> Stage {
    let stage = Stage::new(&[("s.toml", SCENARIO), ("own.json", own), ("other.json", other)]);
    program(&stage, "other.sh", &format!("STEPWATCH_NULL_SCRIPT=other.json exec {} \"$@\"", binary()));
    stage
}

fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_stepwatch")
}

fn program(stage: &Stage, name: &str, text: &str) {
    fs::write(stage.path(name), format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(stage.path(name), fs::Permissions::from_mode(0o755)).unwrap();
}

fn run(stage: &Stage, arguments: &[&str]) -> Told {
    let mut command = stage.command(arguments);
    command.env("STEPWATCH_NULL", "1").env("STEPWATCH_NULL_SCRIPT", stage.path("own.json"));
    Told::of(command.output().unwrap())
}

fn conclusion(stage: &Stage) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(stage.run_folder().unwrap().join("conclusion.json")).unwrap()).unwrap()
}

#[test]
fn a_slower_build_is_found_by_its_pairs() {
    let stage = stage(&rules(0.03), &rules(0.0));
    let told = run(&stage, &["run", "s.toml", "--against", "./other.sh"]).exits(5);
    assert!(told.stderr.contains("against other.sh (stepwatch 0.1.0, "), "{}", told.stderr);
    assert!(told.stdout.contains("against other.sh (stepwatch 0.1.0, "), "{}", told.stdout);
    assert!(told.stdout.contains("2 of 2 cells regressed"), "{}", told.stdout);

    let stored = stage.stored();
    let against = stored.manifest.asked.against.clone().unwrap();
    assert_eq!((against.name.as_str(), against.pairs.len()), ("other.sh", 2));
    assert!(!against.binary.unwrap().same);
    assert_eq!((stored.manifest.cells.len(), stored.plans.len(), stored.rounds.len()), (4, 4, 24));
    let concluded = conclusion(&stage);
    for change in concluded["changes"].as_array().unwrap().iter().filter(|c| c["metric"]["name"] == "tokens_per_second")
    {
        let effect = change["effect"].as_f64().unwrap();
        assert!((effect + 0.029).abs() < 0.005, "{effect}");
    }
    assert!(concluded["reference"]["origin"].as_str().unwrap().contains("alternated round by round"));

    // Recomputed from what is stored, and explained.
    run(&stage, &["compare", "latest"]).exits(5);
    let explained = run(&stage, &["explain", "latest", "tiny/fp32/flash/none~"]).exits(0);
    for words in ["the other side", "noise of the difference of two rounds of a pair", "used: other.sh"] {
        assert!(explained.stdout.contains(words), "{}", explained.stdout);
    }
    let html = fs::read_to_string(stage.run_folder().unwrap().join("report.html")).unwrap();
    assert!(html.contains("other.sh (stepwatch"));
}

#[test]
fn a_faster_build_is_no_regression() {
    let stage = stage(&rules(0.0), &rules(0.03));
    let told = run(&stage, &["run", "s.toml", "--against", "./other.sh"]).exits(0);
    assert!(told.stdout.contains("2 of 2 cells improved"), "{}", told.stdout);
}

#[test]
fn the_very_same_file_is_an_a_a_test_and_stays_quiet() {
    let stage = stage(&rules(0.0), &rules(0.0));
    let told = run(&stage, &["run", "s.toml", "--against", binary()]).exits(0);
    assert!(told.stderr.contains("the very same file as this stepwatch: an A/A test"), "{}", told.stderr);
    assert!(told.stdout.contains("all 2 cells unchanged"), "{}", told.stdout);
    let stored = stage.stored();
    let against = stored.manifest.asked.against.unwrap();
    assert!(against.binary.as_ref().unwrap().same);
    assert_eq!(against.name, "stepwatch", "an absolute path is kept by its name only");
    // Both sides of a pair follow one another in each round, either one first.
    let mut order: Vec<(&str, &str, u32)> = stored
        .rounds
        .iter()
        .map(|round| (round.record.started.as_str(), round.record.cell.0.as_str(), round.record.round.unwrap()))
        .collect();
    order.sort_unstable();
    let is_other = |cell: &str| cell.contains("/against~");
    let mut other_first = 0;
    for two in order.chunks(2) {
        assert_eq!(two[0].2, two[1].2, "{order:?}");
        assert_ne!(is_other(two[0].1), is_other(two[1].1), "{order:?}");
        other_first += usize::from(is_other(two[0].1));
    }
    assert!((1..12).contains(&other_first), "{other_first} of 12");
}

#[test]
fn another_plan_is_a_finding_and_each_side_prepares_its_own() {
    let with_plan = |hash: &str| rules(0.0).replace(r#""noise""#, &format!(r#""plan_hash": "{hash}", "noise""#));
    let stage = stage(&with_plan("aaaa"), &with_plan("bbbb"));
    let told = run(&stage, &["run", "s.toml", "--against", "./other.sh"]).exits(0);
    assert!(told.stdout.contains("the two sides run 2 of 2 cells by different plans"), "{}", told.stdout);
    let findings = conclusion(&stage)["findings"].clone();
    let finding = findings.as_array().unwrap().iter().find(|finding| finding["kind"] == "algorithm-changed").unwrap();
    assert!(finding["evidence"][0].as_str().unwrap().contains("plan aaaa, on the other side bbbb"), "{finding}");
}

#[test]
fn an_end_of_the_other_side_is_an_end_of_the_pair() {
    let ending = |end: &str| rules(0.0).replace(r#""noise""#, &format!(r#""end": "{end}", "end_at_step": 3, "noise""#));
    for (end, code, words) in [
        ("crash", 3, "the other side ended crashed"),
        ("out-of-memory", 3, "the other side ended out-of-memory"),
        ("unsupported", 6, "the other side ended skipped"),
    ] {
        let stage = stage(&rules(0.0), &ending(end));
        let told = run(&stage, &["run", "s.toml", "--against", "./other.sh"]).exits(code);
        assert!(told.stdout.contains(words), "{end}: {}", told.stdout);
        assert_eq!(stage.stored().rounds.len(), 24, "no hole");
    }
}

#[test]
fn too_much_noise_is_blind_and_not_green() {
    let noisy = |slower: f64| rules(slower).replace(r#""process_noise": 0.002"#, r#""process_noise": 0.05"#);
    let stage = stage(&noisy(0.0), &noisy(0.0));
    let told = run(&stage, &["run", "s.toml", "--against", "./other.sh"]).exits(6);
    assert!(told.stdout.contains("measure more pairs of rounds"), "{}", told.stdout);
}

#[test]
fn what_is_no_other_side_is_told_before_anything_runs() {
    let stage = stage(&rules(0.0), &rules(0.0));
    fs::write(stage.path("plain.txt"), "no program").unwrap();
    fs::create_dir(stage.path("folder")).unwrap();
    program(&stage, "quiet.sh", "exit 0");
    program(&stage, "stranger.sh", "echo stranger 1.0");
    program(
        &stage,
        "newer.sh",
        r#"case $1 in --version) echo stepwatch 9.0 ;; *) echo '{"type":"ready","protocol":2}' ;; esac"#,
    );
    program(
        &stage,
        "refusing.sh",
        r#"case $1 in --version) echo stepwatch 9.0 ;; *) echo 'the parent speaks version 1, and this worker 2' >&2; exit 2 ;; esac"#,
    );
    let cases = [
        ("missing", "--against missing is neither a file nor a workload of the scenario: its workloads are builtin"),
        ("folder", "--against folder is a folder: name the binary in it"),
        ("./plain.txt", "plain.txt cannot be started: "),
        ("./quiet.sh", "does not say its version with --version"),
        ("./stranger.sh", "does not answer as a stepwatch worker that speaks version 1 of the protocol"),
        ("./newer.sh", "speaks version 2 of the worker protocol, and this stepwatch speaks 1"),
        ("./refusing.sh", "its last line was `the parent speaks version 1, and this worker 2`"),
        ("builtin", "no cell has a counterpart in the workload `builtin`"),
    ];
    for (named, words) in cases {
        let told = run(&stage, &["run", "s.toml", "--against", named]).exits(2);
        assert!(told.stderr.contains(words), "{named}: {}", told.stderr);
        assert!(stage.run_folder().is_none(), "{named}");
    }
    for other in [["--no-compare", ""], ["--baseline", "latest"], ["--shard", "1/2"]] {
        let mut arguments = vec!["run", "s.toml", "--against", "./other.sh"];
        arguments.extend(other.into_iter().filter(|word| !word.is_empty()));
        run(&stage, &arguments).exits(2);
    }
}

const WORKLOADS: &str = r#"
[scenario]
name = "workloads"

[[matrix]]
workload = ["old", "new"]
kind = ["a", "b"]

[workloads.old]
command = ["sh", "./old.sh", "{kind}"]
axes = { kind = ["a", "b"] }
protocol = true

[workloads.new]
command = ["sh", "./new.sh", "{kind}"]
axes = { kind = ["a", "b"] }
protocol = true

[measure]
rounds = { min = 4, max = 4 }
warmup = 2
samples = 5
timeout = "60s"
"#;

#[test]
fn two_workloads_are_alternated_and_judged_by_name() {
    let slower = SPEAKER.replace("[1000]", "[1100]");
    let stage = Stage::new(&[("s.toml", WORKLOADS), ("old.sh", SPEAKER), ("new.sh", &slower)]);
    let told = stage.run(&["run", "s.toml", "--against", "old"]).exits(5);
    assert!(told.stdout.contains("against workload old: 2 of 2 cells regressed"), "{}", told.stdout);
    let stored = stage.stored();
    let against = stored.manifest.asked.against.clone().unwrap();
    assert_eq!((against.name.as_str(), against.binary), ("old", None));
    assert_eq!((stored.manifest.cells.len(), stored.rounds.len()), (4, 16));
    for pair in &against.pairs {
        assert!(pair.cell.0.starts_with("new/") && pair.against.0.starts_with("old/"), "{pair:?}");
    }
}

#[test]
fn a_workload_without_cells_or_with_two_partners_is_told() {
    let stage = Stage::new(&[("s.toml", WORKLOADS), ("old.sh", SPEAKER), ("new.sh", SPEAKER)]);
    let told = stage.run(&["run", "s.toml", "--against", "builtin"]).exits(2);
    assert!(told.stderr.contains("no cell of the scenario runs the workload `builtin`"), "{}", told.stderr);
    let told = stage.run(&["run", "s.toml", "--against", binary()]).exits(2);
    assert!(told.stderr.contains("no cell of the scenario runs the built-in step"), "{}", told.stderr);
    let third = WORKLOADS.replace(r#"["old", "new"]"#, r#"["old", "new", "third"]"#)
        + "[workloads.third]\ncommand = [\"sh\", \"./new.sh\", \"{kind}\"]\naxes = { kind = [\"a\", \"b\"] }\nprotocol = true\n";
    fs::write(stage.path("s.toml"), third).unwrap();
    let told = stage.run(&["run", "s.toml", "--against", "old"]).exits(2);
    assert!(told.stderr.contains("have the same counterpart in `old`"), "{}", told.stderr);
}

#[test]
fn an_interrupted_run_goes_on_with_the_same_other_side_only() {
    let stage = stage(&rules(0.0).replace(r#""noise""#, r#""sleep": true, "noise""#), &rules(0.0));
    let mut command = stage.command(&["run", "s.toml", "--against", "./other.sh"]);
    command.env("STEPWATCH_NULL", "1").env("STEPWATCH_NULL_SCRIPT", stage.path("own.json"));
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for("a round", || {
        let folder = stage.run_folder()?;
        (fs::read_to_string(folder.join("rounds.jsonl")).ok()?.lines().count() > 5).then_some(())
    });
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    Told::of(child.wait_with_output().unwrap()).exits(130);
    let kept = stage.stored().rounds.len();

    let text = fs::read_to_string(stage.path("other.sh")).unwrap();
    program(&stage, "changed.sh", "exit 0");
    fs::rename(stage.path("other.sh"), stage.path("moved.sh")).unwrap();
    let told = run(&stage, &["run", "--resume", "latest"]).exits(2);
    assert!(told.stderr.contains("say where the other binary lies now with --against"), "{}", told.stderr);
    let told = run(&stage, &["run", "--resume", "latest", "--against", "./changed.sh"]).exits(2);
    assert!(
        told.stderr.contains("is not the binary that the other side's rounds so far were made with"),
        "{}",
        told.stderr
    );
    run(&stage, &["run", "--resume", "latest", "--against", "./moved.sh"]).exits(0);
    let stored = stage.stored();
    assert!(kept < 24, "{kept}");
    assert_eq!(stored.rounds.len(), 24);
    assert!(stored.rounds.iter().all(|round| round.record.end == End::Completed));
    assert_eq!(fs::read_to_string(stage.path("moved.sh")).unwrap(), text);
}

#[test]
fn its_own_side_may_become_a_reference() {
    let stage = stage(&rules(0.0), &rules(0.5));
    run(&stage, &["run", "s.toml", "--against", "./other.sh"]).exits(0);
    run(&stage, &["baseline", "accept", "latest", "--reason", "own side"]).exits(0);
    run(&stage, &["run", "s.toml"]).exits(0);
    let told = run(&stage, &["compare", "latest"]).exits(0);
    assert!(told.stdout.contains("all 2 cells unchanged"), "{}", told.stdout);
}

#[test]
fn work_done_twice_is_the_same_plan_with_the_same_losses_and_more_of_it() {
    let scenario = SCENARIO.replace("\"null\"", "\"cpu\"").replace("min = 6, max = 6", "min = 2, max = 2");
    let stage = Stage::new(&[("s.toml", &scenario.replace("[\"fp32\", \"bf16\"]", "\"fp8-delayed\""))]);
    program(&stage, "unchanged.sh", &format!("unset STEPWATCH_REPEAT\nexec {} \"$@\"", binary()));
    let mut command = stage.command(&["run", "s.toml", "--against", "./unchanged.sh", "--profile"]);
    let told = Told::of(command.env("STEPWATCH_REPEAT", "0.3").output().unwrap());
    assert!(!told.stdout.contains("algorithm-changed") && told.code != Some(4), "{}", told.stdout);
    let run = stage.stored();
    let [own, other] = [0, 1].map(|side| run.manifest.cells[side].id.clone());
    let plan = |cell| run.plans.iter().find(|plan| &plan.cell == cell).unwrap().plan.clone().unwrap().hash;
    assert_eq!(plan(&own), plan(&other));
    let losses = |cell| -> Vec<f64> {
        let round = run.rounds.iter().find(|round| &round.record.cell == cell).unwrap();
        round.samples.iter().take(10).map(|sample| sample.loss).collect()
    };
    assert_eq!(losses(&own), losses(&other));
    let products = |cell| -> u64 {
        let ops = &run.profiles.iter().find(|profile| &profile.cell == cell).unwrap().ops;
        ops.iter().filter(|op| op.class.starts_with("gemm")).map(|op| op.count).sum()
    };
    assert!(products(&own) > products(&other), "{} and {}", products(&own), products(&other));

    let told = Told::of(stage.command(&["run", "s.toml"]).env("STEPWATCH_REPEAT", "much").output().unwrap()).exits(3);
    assert!(told.stdout.contains("expected the share of a step's FLOPs to do twice, from 0 to 1"), "{}", told.stdout);
}
