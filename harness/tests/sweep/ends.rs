//! Every end of a worker is a value with one clear message, and the sweep goes on.

use crate::stage::{SPEAKER, Stage, lives, round};

const READ: &str = r#"
[scenario]
name = "ends"
backend = "cpu"

[[matrix]]
workload = "script"
kind = [KINDS]

[workloads.script]
command = ["sh", "./worker.sh", "{kind}"]
axes = { kind = [KINDS] }
metrics.tokens_per_second = { regex = 'tokens/sec: (\S+)', unit = "1/s", better = "higher" }

[measure]
rounds = { min = 1, max = 1 }
timeout = "TIMEOUT"
"#;

const SPOKEN: &str = r#"
[scenario]
name = "ends"
backend = "cpu"

[[matrix]]
workload = "script"
kind = [KINDS]

[workloads.script]
command = ["sh", "./worker.sh", "{kind}"]
axes = { kind = [KINDS] }
protocol = true

[measure]
rounds = { min = 1, max = 1 }
warmup = 2
samples = 5
timeout = "TIMEOUT"
"#;

/// Runs one cell per case, each a branch of one script, and holds every end against what is expected.
fn check(scenario: &str, timeout: &str, code: i32, cases: &[(&str, &str, &str, &str)]) -> Stage {
    let kinds: Vec<String> = cases.iter().map(|(kind, ..)| format!("{kind:?}")).collect();
    let scenario = scenario.replace("KINDS", &kinds.join(", ")).replace("TIMEOUT", timeout);
    let mut script = "case $1 in\n".to_owned();
    for (kind, body, ..) in cases {
        script += &format!("{kind})\n{body}\n;;\n");
    }
    script += "esac\n";
    let stage = Stage::new(&[("s.toml", &scenario), ("worker.sh", &script)]);
    let told = stage.run(&["run", "s.toml"]).exits(code);
    let run = stage.stored();
    assert_eq!(run.damage, [""; 0]);
    for (kind, _, word, reason) in cases {
        let end = &round(&run, kind, 0).record.end;
        assert_eq!((end.word(), end.reason().as_str()), (*word, *reason), "{kind}\n{}", told.stderr);
    }
    stage
}

#[test]
fn commands_read_by_regex() {
    let stage = check(
        READ,
        "2s",
        3,
        &[
            ("good", "echo step 1 tokens/sec: 1,000; echo tokens/sec: 2e3", "completed", ""),
            ("stderr", "echo tokens/sec: 4 >&2", "completed", ""),
            (
                "nomatch",
                "echo tok/s 5",
                "failed",
                r"no line of its output matches `tokens_per_second` (tokens/sec: (\S+)): its last line was `tok/s 5`",
            ),
            (
                "silent",
                ":",
                "failed",
                r"no line of its output matches `tokens_per_second` (tokens/sec: (\S+)): it printed nothing",
            ),
            (
                "nan",
                "echo tokens/sec: nan",
                "failed",
                "`tokens_per_second` matched `nan`, which is no finite number above 0",
            ),
            (
                "negative",
                "echo tokens/sec: -1",
                "failed",
                "`tokens_per_second` matched `-1`, which is no finite number above 0",
            ),
            (
                "zero",
                "echo tokens/sec: 0",
                "failed",
                "`tokens_per_second` matched `0`, which is no finite number above 0",
            ),
            (
                "status",
                "echo tokens/sec: 5; echo out of paper >&2; exit 3",
                "failed",
                "it exited with status 3: its last line was `out of paper`",
            ),
            ("inner", "echo bye; exit 139", "failed", "it exited with status 139 (signal 11): its last line was `bye`"),
            ("signal", "kill -SEGV $$", "crashed", "killed by signal 11"),
            (
                "hangs",
                "echo $$ > hangs.pid; sleep 1000 & echo $! > child.pid; wait",
                "timed-out",
                "ran past its limit of 2 s",
            ),
            ("floods", "yes tokens: 5", "timed-out", "ran past its limit of 2 s"),
            ("closes", "exec >&- 2>&-; sleep 1000", "timed-out", "ran past its limit of 2 s"),
            ("garbage", "head -c 3000000 /dev/zero; echo; echo tokens/sec: 7", "completed", ""),
            ("leaves", "echo tokens/sec: 9; sleep 1000 >/dev/null 2>&1 & echo $! > left.pid", "completed", ""),
            ("holds", "echo tokens/sec: 9; sleep 1000 & echo $! > held.pid", "completed", ""),
            ("session", "echo tokens/sec: 9; setsid sleep 1000 & echo $! > session.pid; sleep 0.2", "completed", ""),
        ],
    );
    let run = stage.stored();
    assert_eq!(round(&run, "good", 0).record.metrics["tokens_per_second"], [1000.0, 2000.0]);
    let tail = &round(&run, "floods", 0).record.output_tail;
    assert!(tail.len() <= 41 && tail[0].ends_with("earlier lines left out"), "{tail:?}");
    assert_eq!(
        round(&run, "leaves", 0).record.output_tail.last().map(String::as_str),
        Some("stepwatch: 1 processes that it left behind were killed")
    );
    for name in ["hangs.pid", "child.pid", "left.pid", "held.pid", "session.pid"] {
        let pid = stage.wait_for_pid(name);
        assert!(!lives(pid), "the process of {name} still lives");
    }
}

#[test]
fn commands_that_speak_the_protocol() {
    let samples = r#"echo '{"type":"samples","from":0,"t_ns":[1,2],"gpu_ns":[5,5],"tokens":8}'"#;
    let early = format!("{samples}; echo '{{\"type\":\"finished\",\"steps\":2}}'");
    let closes = "exec >&-; echo $$ > closes.pid; sleep 1000";
    let lingers = format!("{SPEAKER}\nexec >&- 2>&-; echo bye; exit 4");
    let stage = check(
        SPOKEN,
        "20s",
        4,
        &[
            ("good", SPEAKER, "completed", ""),
            (
                "version",
                r#"echo '{"type":"ready","protocol":9}'; sleep 1000"#,
                "failed",
                "it speaks version 9 of the worker protocol, and this stepwatch speaks 1: use a worker and a stepwatch of one age",
            ),
            (
                "half",
                r#"printf '{"type":"sam'"#,
                "failed",
                r#"it exited without `finished`: its last line was `{"type":"sam`"#,
            ),
            ("garbage", "echo hello", "failed", "it exited without `finished`: its last line was `hello`"),
            ("silent", ":", "failed", "it exited without `finished`: it printed nothing"),
            (
                "unequal",
                r#"echo '{"type":"samples","from":0,"t_ns":[1],"gpu_ns":[5,5],"tokens":8}'; sleep 1000"#,
                "failed",
                "it sent 1 values of `t_ns` for 2 steps: every array of a `samples` message has one value a step",
            ),
            (
                "zero",
                r#"echo '{"type":"samples","from":0,"t_ns":[1],"gpu_ns":[0],"tokens":8}'; sleep 1000"#,
                "failed",
                "it said that step 0 took 0 ns",
            ),
            (
                "nan",
                r#"echo '{"type":"samples","from":0,"t_ns":[1],"gpu_ns":[NaN],"tokens":8}'; sleep 1000"#,
                "numbers-wrong",
                "it sent a figure that is not finite (NaN or Infinity)",
            ),
            (
                "early",
                &early,
                "failed",
                "it finished by itself after 0 of 5 samples (2 steps of warm-up): a worker runs until it is told to stop",
            ),
            ("closes", closes, "failed", "it closed its output without `finished` and stayed alive: it was killed"),
            (
                "memory",
                r#"echo '{"type":"failed","kind":"out-of-memory","message":"2 GB short"}'"#,
                "out-of-memory",
                "2 GB short",
            ),
            ("unfit", r#"echo '{"type":"skipped","reason":"no tensor cores"}'"#, "skipped", "no tensor cores"),
            ("signal", &format!("{samples}; kill -ABRT $$"), "crashed", "killed by signal 6"),
            ("status", &lingers, "failed", r#"it exited with status 4: it printed nothing"#),
        ],
    );
    let run = stage.stored();
    let good = round(&run, "good", 0);
    assert_eq!((good.record.samples, good.record.warmup_steps, good.record.tokens), (5, 2, 8));
    assert_eq!(good.samples.len(), 7);
    assert_eq!(good.record.setup_seconds, Some(0.5));
    assert_eq!(good.record.finished.as_ref().and_then(|finished| finished.loss), Some(1.5));
    assert!(!lives(stage.wait_for_pid("closes.pid")));
}

#[test]
fn a_command_that_does_not_exist_says_where_it_was_looked_for() {
    let scenario = READ.replace("KINDS", "\"x\"").replace("TIMEOUT", "2s").replace("\"sh\"", "\"no-such-program\"");
    let stage = Stage::new(&[("s.toml", &scenario)]);
    let told = stage.run(&["run", "s.toml"]).exits(3);
    let reason = "there is no command `no-such-program`: it is in no folder of PATH";
    assert_eq!(round(&stage.stored(), "x", 0).record.end.reason(), reason);
    assert!(told.stdout.contains(reason), "{}", told.stdout);
}

#[test]
fn a_cell_that_keeps_failing_is_given_up_and_leaves_no_hole() {
    let scenario =
        READ.replace("KINDS", "\"a\", \"b\"").replace("TIMEOUT", "20s").replace("min = 1, max = 1", "min = 5, max = 5");
    let script = "echo run >> $1.count; [ $1 = a ] && exit 1; echo tokens/sec: 5";
    let stage = Stage::new(&[("s.toml", &scenario), ("worker.sh", script)]);
    stage.run(&["run", "s.toml"]).exits(3);
    let run = stage.stored();
    assert_eq!(run.rounds.len(), 10);
    let runs = |name: &str| std::fs::read_to_string(stage.path(name)).unwrap().lines().count();
    assert_eq!((runs("a.count"), runs("b.count")), (2, 5));
    assert!(
        run.rounds
            .iter()
            .all(|round| (round.record.end.word() == "failed") == round.record.cell.readable().ends_with('a'))
    );
}

#[test]
fn a_workload_is_told_its_round_and_seed() {
    let scenario =
        READ.replace("KINDS", "\"x\"").replace("TIMEOUT", "20s").replace("min = 1, max = 1", "min = 2, max = 2");
    let script = "echo tokens/sec: 1; echo $STEPWATCH_ROUND $STEPWATCH_ATTEMPT $STEPWATCH_SEED >> told";
    let stage = Stage::new(&[("s.toml", &scenario), ("worker.sh", script)]);
    stage.run(&["run", "s.toml", "--seed", "7"]).exits(0);
    assert_eq!(std::fs::read_to_string(stage.path("told")).unwrap(), "0 0 7\n1 0 7\n");
}
