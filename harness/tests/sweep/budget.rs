//! `run --budget`: extra rounds of cells in doubt and of no others, through the built binary. The workers are scripts whose speed
//! is known by cell and round.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{Stage, Told};

const SCENARIO: &str = r#"
[scenario]
name = "doubt"

[[matrix]]
workload = "script"
kind = ["a", "b", "c", "d", "e", "f", "noisy"]

[workloads.script]
command = ["sh", "./worker.sh", "{kind}"]
axes = { kind = ["a", "b", "c", "d", "e", "f", "noisy"] }
protocol = true

[measure]
rounds = { min = 5, max = 15 }
warmup = 2
samples = 5
timeout = "60s"

[policy]
gate = ["tokens_per_second"]
margin = 0.055
equal_within = 0.055
detect = 0.3
"#;

/// Steps of 100 µs that differ by some ppm from round to round; `noisy` ones by per cents.
const WORKER: &str = r#"
case $((STEPWATCH_ROUND % 5)) in
    0) off=0 ;; 1) off=24 ;; 2) off=-24 ;; 3) off=12 ;; *) off=-12 ;;
esac
[ "$1" = noisy ] && off=$((off * 100))
ns=$((100000 + off))
read first
echo '{"type":"ready","protocol":1,"setup_seconds":0.5,"device":"shell"}'
i=0
while [ $i -lt 20 ]; do
    echo "{\"type\":\"samples\",\"from\":$i,\"t_ns\":[$((i * 1000000 + 1000000))],\"gpu_ns\":[$ns],\"tokens\":8}"
    i=$((i + 1))
done
while read line; do case $line in *stop*) break ;; esac; done
echo '{"type":"finished","steps":21,"loss":1.5}'
"#;

fn stage(scenario: &str, before: &str) -> Stage {
    Stage::new(&[("s.toml", scenario), ("worker.sh", &format!("{before}{WORKER}"))])
}

/// A stage with an accepted run, whose folder is away.
fn with_reference(before: &str) -> Stage {
    let stage = stage(SCENARIO, before);
    stage.run(&["run", "s.toml", "--out", "first"]).exits(0);
    stage.run(&["baseline", "accept", "latest", "--out", "first", "--reason", "first"]).exits(0);
    stage
}

/// Rounds by the kind of their cell.
fn rounds(stage: &Stage) -> BTreeMap<String, usize> {
    let mut rounds = BTreeMap::new();
    for round in stage.stored().rounds {
        let kind = round.record.cell.readable().rsplit('=').next().unwrap().to_owned();
        *rounds.entry(kind).or_default() += 1;
    }
    rounds
}

#[test]
fn rounds_are_spent_on_the_doubtful_cell_only_until_it_is_decided() {
    let stage = with_reference("");
    let told = stage.run(&["run", "s.toml", "--budget", "10min"]).exits(0);
    let rounds = rounds(&stage);
    let extra = rounds["noisy"];
    assert!((9..=15).contains(&extra), "{rounds:?}");
    assert!(rounds.iter().all(|(kind, count)| kind == "noisy" || *count == 5), "{rounds:?}");
    assert!(
        told.stderr.contains("budget: 1 in doubt, first script/kind=noisy: tokens_per_second is undecided"),
        "{}",
        told.stderr
    );
    assert!(told.stderr.contains("No more rounds would settle anything."), "{}", told.stderr);
    assert!(told.stdout.contains("all 7 cells unchanged"), "{}", told.stdout);
    let folder = stage.run_folder().unwrap();
    let conclusion = fs::read_to_string(folder.join("conclusion.json")).unwrap();
    let sentence = format!("on 1 of 7 cells, which had 5 and have now: script/kind=noisy {extra}.");
    assert!(conclusion.contains(&sentence), "{conclusion}");
    assert!(conclusion.contains("up to 4 looks, at 5, 9, 13, 15 rounds"), "{conclusion}");
    let html = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(html.contains("35 of 35 planned rounds have a record, and ") && html.contains(&sentence));
    let explained = stage.run(&["explain", "latest", "noisy"]).exits(0);
    assert!(explained.stdout.contains(" of 4 has 17 % of that"), "{}", explained.stdout);
    // What was stored is judged the same again.
    stage.run(&["compare", "latest"]).exits(0);
    let text = fs::read_to_string(folder.join("run.json")).unwrap();
    assert!(text.contains("\"rounds_max\": 15"), "{text}");
}

#[test]
fn no_round_is_begun_that_would_not_end_in_time() {
    let stage = with_reference("[ \"$1\" = noisy ] && sleep 0.6\n");
    let told = stage.run(&["run", "s.toml", "--budget", "1s"]).exits(0);
    assert!(rounds(&stage)["noisy"] <= 6, "{:?}", rounds(&stage));
    assert!(told.stderr.contains("The time is used up; 1 cell is still in doubt."), "{}", told.stderr);
    assert!(told.stdout.contains("1 undecided"), "{}", told.stdout);
}

#[test]
fn without_a_reference_rounds_go_to_an_undecided_claim() {
    let claim = "\n[[claim]]\ntext = \"noisy is as fast\"\nmetric = \"tokens_per_second\"\nof = { kind = \"noisy\" }\nover = { kind = \"a\" }\nat_least = 1.0\n";
    let stage = stage(&format!("{SCENARIO}{claim}"), "");
    let told = stage.run(&["run", "s.toml", "--budget", "10min"]).exits(0);
    let rounds = rounds(&stage);
    let spent: Vec<&str> = rounds.iter().filter(|(_, count)| **count > 5).map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(spent, ["a", "noisy"], "{rounds:?}");
    assert_eq!((rounds["a"], rounds["noisy"]), (15, 15));
    assert!(told.stderr.contains("noisy is as fast"), "{}", told.stderr);
}

#[test]
fn both_sides_of_a_doubtful_pair_get_rounds() {
    let scenario = SCENARIO
        .replace("workload = \"script\"", "workload = [\"script\", \"old\"]")
        .replace("[measure]", "[workloads.old]\ncommand = [\"sh\", \"./old.sh\", \"{kind}\"]\naxes = { kind = [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"noisy\"] }\nprotocol = true\n\n[measure]");
    let stage = stage(&scenario, "");
    fs::write(stage.path("old.sh"), format!("set -- steady\n{WORKER}")).unwrap();
    stage.run(&["run", "s.toml", "--against", "old", "--budget", "10min"]).exits(0);
    let of = |workload: &str, kind: &str| {
        let run = stage.stored();
        let cell = format!("{workload}/kind={kind}");
        run.rounds.iter().filter(|round| round.record.cell.readable() == cell).count()
    };
    assert!(of("script", "noisy") > 5);
    assert_eq!(of("script", "noisy"), of("old", "noisy"));
    assert_eq!((of("script", "a"), of("old", "a")), (5, 5));
}

#[test]
fn what_was_spent_is_kept_by_an_interrupt_and_the_rest_is_spent_by_a_resume() {
    let stage =
        with_reference("if [ $STEPWATCH_ROUND = 7 ] && [ ! -e free ]; then echo $$ > worker.pid; sleep 1000; fi\n");
    let child = stage.start(&["run", "s.toml", "--budget", "10min"]);
    stage.wait_for_pid("worker.pid");
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let told = Told::of(child.wait_with_output().unwrap()).exits(130);
    assert!(told.stderr.contains("what was measured is kept"), "{}", told.stderr);
    assert_eq!(rounds(&stage)["noisy"], 7);
    fs::write(stage.path("free"), "").unwrap();
    stage.run(&["run", "--resume", "latest"]).exits(0);
    let rounds = rounds(&stage);
    assert!(rounds["noisy"] >= 9, "{rounds:?}");
    let numbers: Vec<u32> = stage
        .stored()
        .rounds
        .iter()
        .filter(|round| round.record.cell.readable().ends_with("noisy"))
        .filter_map(|round| round.record.round)
        .collect();
    assert_eq!(numbers, (0..u32::try_from(numbers.len()).unwrap()).collect::<Vec<u32>>(), "no round is there twice");
}

#[test]
fn a_budget_that_cannot_be_spent_is_told() {
    let stage = stage(SCENARIO, "");
    let told = stage.run(&["run", "s.toml", "--budget", "30"]).exits(2);
    assert!(told.stderr.contains("`30` is no time: write at least 1s with its unit"), "{}", told.stderr);
    for other in [["--rounds", "5"], ["--shard", "1/2"]] {
        stage.run(&["run", "s.toml", "--budget", "1min", other[0], other[1]]).exits(2);
    }
    fs::write(stage.path("s.toml"), SCENARIO.replace("{ min = 5, max = 15 }", "5")).unwrap();
    let told = stage.run(&["run", "s.toml", "--budget", "1min"]).exits(2);
    assert!(told.stderr.contains("s.toml: --budget has no room: `rounds` has min 5 and max 5"), "{}", told.stderr);
    assert!(stage.run_folder().is_none());
}
