//! Kills and signals at any instant: what was measured stays, a resume completes it, nothing is there twice.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use stepwatch::runner::order::SplitMix64;
use stepwatch_record::line;
use stepwatch_record::run::{End, RoundRecord};

use crate::stage::{SPEAKER, Stage, Told, bytes, lives, wait_for};

const SCENARIO: &str = r#"
[scenario]
name = "killed"
backend = "cpu"

[[matrix]]
workload = "script"
kind = ["a", "b", "c"]

[workloads.script]
command = ["sh", "./worker.sh", "{kind}"]
axes = { kind = ["a", "b", "c"] }
protocol = true

[measure]
rounds = { min = 6, max = 6 }
warmup = 2
samples = 5
timeout = "60s"
"#;

/// How many instants the sweep is killed at.
const KILLS: u32 = 20;

#[test]
fn killed_at_any_instant_it_resumes_with_nothing_lost_or_twice() {
    let stage = Stage::new(&[("s.toml", SCENARIO), ("worker.sh", SPEAKER)]);
    let mut chance = SplitMix64::new(20_261_123);
    let mut kept: Vec<u8> = Vec::new();
    for kill in 0..KILLS {
        // Until the ledger is there, a kill leaves nothing to resume and the run starts anew.
        let folder = stage.run_folder();
        let arguments: Vec<String> = match &folder {
            Some(folder) => vec!["run".into(), "--resume".into(), folder.display().to_string()],
            None => vec!["run".into(), "s.toml".into()],
        };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut child = stage
            .command(&arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        if let Some(folder) = &folder {
            // Some kills hit the start, most a worker somewhere in its round.
            let before = bytes(&folder.join("rounds.jsonl")).len();
            if kill % 4 != 0 {
                wait_for("a record or the end", || {
                    let grown = bytes(&folder.join("rounds.jsonl")).len() > before;
                    (grown || child.try_wait().unwrap().is_some()).then_some(())
                });
            }
        } else {
            wait_for("a ledger", || stage.run_folder());
        }
        std::thread::sleep(Duration::from_micros(chance.below(25_000)));
        child.kill().unwrap();
        child.wait().unwrap();

        let now = bytes(&stage.run_folder().unwrap().join("rounds.jsonl"));
        let intact = line::decode::<RoundRecord>(&now).intact_bytes;
        assert!(now[..intact].starts_with(&kept), "kill {kill} lost a record");
        kept = now[..intact].to_vec();
    }
    let folder = stage.run_folder().unwrap();
    stage.run(&["run", "--resume", &folder.display().to_string()]).exits(0);

    let decoded = line::decode::<RoundRecord>(&bytes(&folder.join("rounds.jsonl")));
    assert!(decoded.torn.is_none());
    let mut times: BTreeMap<(String, Option<u32>), u32> = BTreeMap::new();
    for record in &decoded.records {
        assert_eq!(record.end, End::Completed);
        *times.entry((record.cell.0.clone(), record.round)).or_default() += 1;
    }
    assert_eq!(times.len(), 18);
    assert!(times.values().all(|count| *count == 1), "{times:?}");

    let run = stage.stored();
    assert_eq!((run.rounds.len(), run.damage.len()), (18, 0));
    assert!(run.rounds.iter().all(|round| round.samples.len() == 7 && round.record.samples == 5));
    let rows = fs::read_to_string(folder.join("samples.csv")).unwrap().lines().count();
    assert_eq!(rows, 1 + 18 * 7, "samples of killed workers must be gone");
}

/// A script whose first worker in the sweep goes through and whose second hangs until a file lets it.
const HANGS: &str = r#"
if [ -e once ] && [ ! -e free ]; then echo $$ > worker.pid; sleep 1000 & echo $! > child.pid; wait; fi
touch once
"#;

fn interrupted_by(signal: Signal, code: i32) {
    let script = format!("{HANGS}{SPEAKER}");
    let stage = Stage::new(&[("s.toml", SCENARIO), ("worker.sh", &script)]);
    let child = stage.start(&["run", "s.toml"]);
    let [worker, grandchild] = ["worker.pid", "child.pid"].map(|name| stage.wait_for_pid(name));
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
    let told = Told::of(child.wait_with_output().unwrap()).exits(code);
    assert!(!lives(worker) && !lives(grandchild));

    let run = stage.stored();
    assert_eq!(run.rounds.len(), 1, "what was measured is kept, and nothing of the worker that was ended");
    let resume = told.stderr.lines().find_map(|line| line.split_once("go on with: stepwatch ")).unwrap().1.to_owned();
    fs::write(stage.path("free"), "").unwrap();
    let arguments: Vec<&str> = resume.split(' ').collect();
    stage.run(&arguments).exits(0);
    assert_eq!(stage.stored().rounds.len(), 18);
}

#[test]
fn ctrl_c_ends_the_worker_keeps_what_was_measured_and_says_how_to_resume() {
    interrupted_by(Signal::INT, 130);
}

#[test]
fn sigterm_as_schedulers_send_it_does_the_same() {
    interrupted_by(Signal::TERM, 143);
}

#[test]
fn a_killed_sweep_leaves_no_command_running() {
    let script = format!("touch once\n{HANGS}{SPEAKER}");
    let stage = Stage::new(&[("s.toml", SCENARIO), ("worker.sh", &script)]);
    let mut child = stage.start(&["run", "s.toml"]);
    let worker = stage.wait_for_pid("worker.pid");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the worker's end", || (!lives(worker)).then_some(()));
}

#[test]
fn two_sweeps_cannot_write_one_run() {
    let script = format!("touch once\n{HANGS}{SPEAKER}");
    let stage = Stage::new(&[("s.toml", SCENARIO), ("worker.sh", &script)]);
    let mut child = stage.start(&["run", "s.toml"]);
    stage.wait_for_pid("worker.pid");
    let folder = stage.run_folder().unwrap().display().to_string();
    let told = stage.run(&["run", "--resume", &folder]).exits(2);
    assert!(told.stderr.contains("is being written by another stepwatch: wait until it ends"), "{}", told.stderr);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_resume_refuses_another_scenario_and_another_machine() {
    let stage = Stage::new(&[("s.toml", SCENARIO), ("worker.sh", SPEAKER)]);
    stage.run(&["run", "s.toml"]).exits(0);
    let folder = stage.run_folder().unwrap();
    let shown = folder.display().to_string();

    fs::write(stage.path("s.toml"), SCENARIO.replace("samples = 5", "samples = 6")).unwrap();
    let told = stage.run(&["run", "--resume", &shown]).exits(2);
    assert!(told.stderr.contains("s.toml has changed since"), "{}", told.stderr);

    fs::write(stage.path("s.toml"), SCENARIO).unwrap();
    let manifest = fs::read_to_string(folder.join("run.json")).unwrap();
    let mut other: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    other["machines"][0]["cpu"] = "abacus".into();
    other["build"]["binary"] = "0123456789abcdef".into();
    fs::write(folder.join("run.json"), other.to_string()).unwrap();
    let told = stage.run(&["run", "--resume", &shown]).exits(2);
    for expected in ["the stepwatch binary: ", "0123456789abcdef", "the processor: abacus then, "] {
        assert!(told.stderr.contains(expected), "{}", told.stderr);
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_measured_is_lost() {
    let stage = Stage::new(&[("s.toml", SCENARIO), ("worker.sh", SPEAKER)]);
    stage.run(&["run", "s.toml"]).exits(0);
    let folder = stage.run_folder().unwrap();
    let kept = bytes(&folder.join("rounds.jsonl"));
    fs::rename(folder.join("samples.csv"), folder.join("kept.csv")).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.join("samples.csv")).unwrap();
    let told = stage.run(&["run", "--resume", &folder.display().to_string()]).exits(3);
    assert!(told.stderr.contains("no space left on the device; what was measured before is kept"), "{}", told.stderr);
    fs::rename(folder.join("kept.csv"), folder.join("samples.csv")).unwrap();
    assert_eq!(bytes(&folder.join("rounds.jsonl")), kept);
    assert_eq!(stage.stored().rounds.len(), 18);
}
