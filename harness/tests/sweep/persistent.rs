//! Workers that stay between their rounds: one process for all rounds of a cell, and what happens when it does not last.

use std::fs;

use crate::stage::{Stage, Told, lives, round};

const SCENARIO: &str = r#"
[scenario]
name = "persistent"
backend = "cpu"

[[matrix]]
workload = "script"
kind = ["a", "b"]

[workloads.script]
command = ["sh", "./worker.sh", "{kind}"]
axes = { kind = ["a", "b"] }
protocol = true
persistent = true

[measure]
rounds = { min = 3, max = 3 }
warmup = 2
samples = 5
timeout = "20s"
"#;

/// Serves rounds until its input ends or the parent says that there are no more; `$1` is the cell. Each process notes its id
/// once, each round the line that asked for it. A child of its own must rest as well.
const SERVER: &str = r#"echo $$ >> $1.pids
sleep 1000 &
echo $! > $1.child
served=0
while read asked; do
    echo "$asked" >> $1.asked
    case $asked in *'"type":"cell"'*) ;; *) continue ;; esac
    served=$((served + 1))
    HOOK
    if [ $served = 1 ]; then setup='"setup_seconds":9.5,'; else setup=; fi
    echo "{\"type\":\"ready\",\"protocol\":1,$setup\"device\":\"shell\"}"
    i=0
    while [ $i -lt 40 ]; do
        echo "{\"type\":\"samples\",\"from\":$i,\"t_ns\":[$((i * 1000 + 1000))],\"gpu_ns\":[1000],\"tokens\":8}"
        i=$((i + 1))
    done
    while read line; do case $line in *stop*) break ;; esac; done
    echo '{"type":"finished","steps":41,"loss":1.5}'
    case $asked in *'"persistent":true'*) ;; *) exit 0 ;; esac
done
"#;

fn stage(hook: &str) -> Stage {
    Stage::new(&[("s.toml", SCENARIO), ("worker.sh", &SERVER.replace("HOOK", hook))])
}

fn pids(stage: &Stage, kind: &str) -> Vec<u32> {
    let text = fs::read_to_string(stage.path(&format!("{kind}.pids"))).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// How the rounds of a cell ended, and with which set-up times.
fn ends(stage: &Stage, kind: &str) -> Vec<(&'static str, Option<f64>)> {
    let run = stage.stored();
    (0..3)
        .map(|number| {
            let record = &round(&run, kind, number).record;
            (record.end.word(), record.setup_seconds)
        })
        .collect()
}

fn nothing_is_left(stage: &Stage) {
    for kind in ["a", "b"] {
        for pid in pids(stage, kind) {
            assert!(!lives(pid), "worker {pid} of {kind} still lives");
        }
        assert!(!lives(stage.wait_for_pid(&format!("{kind}.child"))), "the child of {kind} still lives");
    }
}

#[test]
fn one_process_runs_all_rounds_of_its_cell_while_others_come_and_go() {
    let stage = stage(":");
    stage.run(&["run", "s.toml"]).exits(0);
    for kind in ["a", "b"] {
        assert_eq!(pids(&stage, kind).len(), 1, "{kind}");
        // A round that starts no process has no set-up time.
        assert_eq!(ends(&stage, kind), [("completed", Some(9.5)), ("completed", None), ("completed", None)]);
        let asked = fs::read_to_string(stage.path(&format!("{kind}.asked"))).unwrap();
        let stays: Vec<bool> = asked.lines().map(|line| line.contains(r#""persistent":true"#)).collect();
        assert_eq!(stays, [true, true, false], "the last round lets it go: {asked}");
        let run = stage.stored();
        assert!((0..3).all(|number| round(&run, kind, number).record.samples == 5));
    }
    nothing_is_left(&stage);
}

#[test]
fn a_crash_ends_its_round_only() {
    let stage = stage(r#"if [ $1$served = a2 ]; then kill -SEGV $$; fi"#);
    let told = stage.run(&["run", "s.toml"]).exits(3);
    assert_eq!(
        ends(&stage, "a"),
        [("completed", Some(9.5)), ("crashed", None), ("completed", Some(9.5))],
        "{}",
        told.stderr
    );
    assert_eq!(ends(&stage, "b"), [("completed", Some(9.5)), ("completed", None), ("completed", None)]);
    assert_eq!((pids(&stage, "a").len(), pids(&stage, "b").len()), (2, 1));
    nothing_is_left(&stage);
}

#[test]
fn a_worker_that_leaves_between_rounds_is_started_again() {
    // It exits by itself once it has closed a round, though it was asked to stay.
    let script = SERVER.replace("HOOK", ":").replace("*'\"persistent\":true'*) ;;", "never) ;;");
    let stage =
        Stage::new(&[("s.toml", &SCENARIO.replace(r#"kind = ["a", "b"]"#, "kind = \"a\"")), ("worker.sh", &script)]);
    stage.run(&["run", "s.toml"]).exits(0);
    assert_eq!(ends(&stage, "a"), [("completed", Some(9.5)); 3]);
    assert_eq!(pids(&stage, "a").len(), 3);
}

#[test]
fn an_interruption_ends_the_workers_that_rest() {
    // The first worker's second round hangs while the other one rests.
    let stage = stage("if [ $served = 2 ]; then touch hangs; sleep 1000; fi");
    let child = stage.start(&["run", "s.toml"]);
    crate::stage::wait_for("the second round", || stage.path("hangs").is_file().then_some(()));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    Told::of(child.wait_with_output().unwrap()).exits(143);
    nothing_is_left(&stage);
}
