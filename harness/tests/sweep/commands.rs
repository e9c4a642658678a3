//! The commands over stored runs: names of runs, comparison, baselines, export, shards, and folders that are damaged.

use std::fs;

use crate::stage::{Stage, Told};

const SCENARIO: &str = r#"
[scenario]
name = "stored"
backend = "cpu"

[[matrix]]
workload = "script"
kind = ["a", "b", "c", "d", "e"]

[workloads.script]
command = ["sh", "./worker.sh", "{kind}"]
axes = { kind = ["a", "b", "c", "d", "e"] }
metrics.tokens_per_second = { regex = 'tokens/sec: (\S+)', unit = "1/s", better = "higher" }

[measure]
rounds = { min = 5, max = 5 }
timeout = "60s"

[policy]
gate = ["tokens_per_second"]
"#;

/// Prints 1000 tokens a second, scaled by `factor`, with a little noise from the round.
fn script(factor: &str) -> String {
    format!("awk -v r=$STEPWATCH_ROUND 'BEGIN {{ print \"tokens/sec:\", 1000 * {factor} * (1 + r / 10000) }}'")
}

fn stage() -> Stage {
    Stage::new(&[("s.toml", SCENARIO), ("worker.sh", &script("1"))])
}

fn newest(stage: &Stage) -> String {
    stepwatch::store::newest_first(&stage.path("runs"), None)[0].folder.display().to_string()
}

#[track_caller]
fn says(told: &Told, text: &str) {
    assert!(told.stderr.contains(text), "{text} is not in:\n{}", told.stderr);
}

#[test]
fn from_baseline_to_regression_and_back() {
    let stage = stage();
    let told = stage.run(&["run", "s.toml"]).exits(0);
    assert!(told.stdout.contains("report: runs/stored/"), "{}", told.stdout);
    stage.run(&["baseline", "accept", "latest", "--reason", "first"]).exits(0);
    stage.run(&["run", "s.toml"]).exits(0);
    stage.run(&["compare", "prev", "latest"]).exits(0);

    fs::write(stage.path("worker.sh"), script("0.9")).unwrap();
    let told = stage.run(&["run", "s.toml"]).exits(5);
    assert!(told.stdout.contains("regressed"), "{}", told.stdout);
    stage.run(&["run", "s.toml", "--no-compare"]).exits(0);
    for format in ["text", "json", "markdown", "junit"] {
        let told = stage.run(&["compare", "stored/latest", "--format", format]).exits(5);
        assert!(told.stdout.contains("regressed"), "{format}: {}", told.stdout);
    }
    let told = stage.run(&["explain", "latest", "script/kind=a"]).exits(0);
    for text in [
        " 900.2 tokens/s  900 tokens/s to 900.3 tokens/s at 95 %",
        "5 rounds, 5 samples; rounds differ by 0.02 %\n",
        "tokens_per_second (gated): regressed [",
        "this run: 900.2 tokens/s over 5 rounds: 900 tokens/s, 900.1 tokens/s",
        "over 1 run: ",
        "shared equally by 5 gated comparisons, 0.20 % each",
        "noise of rounds within a run: 0.01",
        "noise between runs of the same code: unknown with one reference run",
        "a change matters from 1.0 % on",
    ] {
        assert!(told.stdout.contains(text), "{text} is not in:\n{}", told.stdout);
    }
    assert_eq!(told.stdout.matches("\n  used: ").count(), 1, "{}", told.stdout);
    let told = stage.run(&["explain", "latest", "script/kind=a", "script/kind=b"]).exits(0);
    assert!(told.stdout.contains("kind: a → b"), "{}", told.stdout);
    for text in ["  900.2 tokens/s → 900.2 tokens/s  ", " +0.00 %  equal\n"] {
        assert!(told.stdout.contains(text), "{text} is not in:\n{}", told.stdout);
    }

    let accepted = stage.run(&["baseline", "list"]).exits(0).stdout;
    assert!(accepted.contains(": first\tstands"), "{accepted}");
    let id = accepted.split('\t').nth(1).unwrap().to_owned();
    stage.run(&["baseline", "revoke", &id, "--reason", "wrong day"]).exits(0);
    says(&stage.run(&["compare", "latest"]).exits(0), "note: stored has no accepted baseline");
    assert!(stage.run(&["baseline", "list"]).stdout.contains("wrong day"));
}

#[test]
fn what_an_accepted_run_measured_stands_in_the_list_in_place_of_a_guess() {
    let scenario = "[scenario]\nname = \"known\"\nbackend = \"cpu\"\n[[matrix]]\nmodel = \"tiny\"\nprecision = [\"fp32\", \
                    \"bf16\"]\nbatch_size = 1\nseq_len = 16\n[measure]\nrounds = 2\nwarmup = 1\nsamples = 2\n";
    let stage = Stage::new(&[("s.toml", scenario), ("commands.toml", SCENARIO)]);
    let list = || stage.run(&["list", "s.toml"]).exits(0);
    let guesses = || list().stdout.matches("≈ ").count();
    assert_eq!(guesses(), 5, "two a cell, and what they are");
    stage.run(&["run", "s.toml", "--no-compare"]).exits(0);
    assert_eq!(guesses(), 5, "not accepted");
    stage.run(&["baseline", "accept", "latest", "--reason", "first"]).exits(0);
    let told = list().stdout;
    let id = stage.run(&["baseline", "list"]).stdout.split('\t').nth(1).unwrap().to_owned();
    assert!(
        told.contains(&format!("Times of 2 cells are those of the accepted run {id}.")) && !told.contains('≈'),
        "{told}"
    );
    fs::write(stage.path("s.toml"), scenario.replace("\"bf16\"", "\"bf16\", \"fp8-tensorwise\"")).unwrap();
    let told = list().stdout;
    assert!(told.contains("Times of 2 cells") && told.matches("≈ ").count() == 3, "{told}");

    stage.run(&["baseline", "revoke", &id, "--reason", "wrong day"]).exits(0);
    assert_eq!(guesses(), 7);
    fs::write(stage.path(&format!("baselines/known/{id}.json")), "{").unwrap();
    says(&list(), "warning: ");
    assert_eq!(guesses(), 7);
    let told = stage.run(&["list", "commands.toml"]).exits(0).stdout;
    assert!(told.contains("; how long the commands take is not known\n"), "{told}");
}

#[test]
fn a_waived_regression_fails_no_run_and_stands_in_every_report() {
    let waivers = |expires: &str| {
        format!(
            "[[waiver]]\ncell = 'script/kind=[ab]'\nmetric = 'tokens_per_second'\nlimit = 0.15\nowner = 'kim'\n\
             expires = {expires}\nreason = 'a slower awk'\n\n[[waiver]]\nscenario = 'other'\ncell = 'x'\nmetric = 'y'\n\
             limit = 0.1\nowner = 'kim'\nexpires = 2000-01-01\nreason = 'z'\n"
        )
    };
    let stage = Stage::new(&[("s.toml", &SCENARIO.replace(", \"c\", \"d\", \"e\"", "")), ("worker.sh", &script("1"))]);
    stage.run(&["run", "s.toml"]).exits(0);
    stage.run(&["baseline", "accept", "latest", "--reason", "first"]).exits(0);
    fs::write(stage.path("worker.sh"), script("0.9")).unwrap();
    fs::write(stage.path("baselines/waivers.toml"), waivers("9999-12-31")).unwrap();
    let today = stepwatch::store::newest_first(&stage.path("runs"), None)[0].id[..8].to_owned();
    let today = format!("{}-{}-{}", &today[..4], &today[4..6], &today[6..]);
    // The run may begin after midnight, and the note is of the night's earlier day.
    let note = format!("[[annotation]]\ndate = {today}\ntext = 'a new awk'\n");
    fs::write(stage.path("baselines/annotations.toml"), note).unwrap();

    let told = stage.run(&["run", "s.toml"]).exits(0);
    assert!(told.stdout.contains("no new regression: 2 known-regressed"), "{}", told.stdout);
    for format in ["text", "json", "markdown", "junit"] {
        let told = stage.run(&["compare", "latest", "--format", format]).exits(0);
        for text in ["known-regressed", "waived up to 15 % until 9999-12-31 by kim: a slower awk"] {
            assert!(told.stdout.contains(text), "{format}: {text} is not in:\n{}", told.stdout);
        }
        assert!(format == "junit" || told.stdout.contains("a new awk"), "{format}: {}", told.stdout);
    }
    let html = fs::read_to_string(std::path::Path::new(&newest(&stage)).join("report.html")).unwrap();
    for text in ["<h3>Waivers</h3>", "known-regressed", "a slower awk", "a new awk"] {
        assert!(html.contains(text), "{text}");
    }
    let told = stage.run(&["explain", "latest", "script/kind=a"]).exits(0);
    assert!(told.stdout.contains("tokens_per_second (gated): known-regressed [waived]"), "{}", told.stdout);

    fs::write(stage.path("baselines/waivers.toml"), waivers("2000-01-01")).unwrap();
    let told = stage.run(&["compare", "latest"]).exits(5);
    assert!(told.stdout.contains("expired on 2000-01-01, so 2 regressions counted"), "{}", told.stdout);
    stage.run(&["check", "baselines/waivers.toml", "baselines/annotations.toml"]).exits(0);
    fs::write(stage.path("baselines/waivers.toml"), waivers("'soon'")).unwrap();
    for command in [&["compare", "latest"][..], &["run", "s.toml"], &["check", "baselines/waivers.toml"]] {
        let told = stage.run(command).exits(2);
        says(&told, "`expires` in [[waiver]] must be a day that exists, as year-month-day");
        says(&told, "waivers.toml:6:");
    }
    for of in ["waivers", "annotations"] {
        let schema = stage.run(&["schema", of]).exits(0).stdout;
        let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
        assert_eq!(schema["properties"][of.trim_end_matches('s')]["type"], "array", "{schema}");
    }
}

#[test]
fn runs_are_named_by_path_id_latest_and_prev() {
    let stage = stage();
    says(
        &stage.run(&["compare", "latest"]).exits(2),
        "error: there is no run `latest` in runs: nothing was run there yet",
    );
    stage.run(&["run", "s.toml", "--rounds", "2"]).exits(0);
    says(&stage.run(&["compare", "prev"]).exits(2), "stored has only one run");
    says(&stage.run(&["compare", "nowhere"]).exits(2), "a RUN is the path of a run folder, an id, `latest` or `prev`");
    says(&stage.run(&["compare", "."]).exits(2), "error: . is no run folder: it has no run.json");
    let folder = newest(&stage);
    let id = folder.rsplit('/').next().unwrap();
    for name in [folder.as_str(), id, "latest", "stored/latest"] {
        let told = stage.run(&["export", name, "--format", "csv"]).exits(0);
        assert_eq!(told.stdout.lines().count(), 6, "{}", told.stdout);
    }
    says(&stage.run(&["run", "s.toml", "--baseline", "nowhere"]).exits(2), "there is no run `nowhere`");
    says(&stage.run(&["explain", "latest", "script"]).exits(2), "`script` fits 5 cells");
    says(&stage.run(&["explain", "latest", "zzz"]).exits(2), "has no cell `zzz`; it has script/kind=a~");
    says(
        &stage.run(&["explain", "latest", "scrip/kind=c"]).exits(2),
        "no cell `scrip/kind=c`; near it are script/kind=c~",
    );
}

#[test]
fn shards_are_judged_only_together() {
    let stage = stage();
    let mut parts = Vec::new();
    for shard in ["1/2", "2/2"] {
        let told = stage.run(&["run", "s.toml", "--shard", shard]).exits(0);
        parts.push(told.stdout.trim().to_owned());
    }
    says(&stage.run(&["compare", &parts[0]]).exits(2), "is part 1 of 2 of a sweep and is not judged alone");
    says(&stage.run(&["merge", &parts[0], "-o", "half"]).exits(2), "part 2 of 2 is missing");
    says(&stage.run(&["merge", &parts[1], &parts[1], "-o", "half"]).exits(2), "part 1 of 2 is missing");
    says(&stage.run(&["merge", &parts[0], &parts[0], "-o", "half"]).exits(2), "part 1 of 2 is there twice");
    stage.run(&["merge", &parts[1], &parts[0], "-o", "whole"]).exits(0);
    says(&stage.run(&["merge", &parts[1], &parts[0], "-o", "whole"]).exits(2), "it holds a run already");
    let run = stepwatch::store::load(&stage.path("whole")).unwrap();
    let cells: Vec<&str> = run.manifest.cells.iter().map(|cell| cell.id.readable()).collect();
    assert_eq!(cells, ["script/kind=a", "script/kind=b", "script/kind=c", "script/kind=d", "script/kind=e"]);
    assert_eq!((run.rounds.len(), run.damage.len()), (25, 0));
}

#[test]
fn damaged_and_newer_folders_are_told_apart() {
    let stage = stage();
    stage.run(&["run", "s.toml", "--rounds", "2"]).exits(0);
    let folder = std::path::PathBuf::from(newest(&stage));
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    let manifest = fs::read_to_string(folder.join("run.json")).unwrap();

    write("run.json", &manifest.replacen("\"format\": 1", "\"format\": 2", 1));
    says(&stage.run(&["compare", "latest"]).exits(2), "has format version 2, and this stepwatch reads up to 1");
    says(&stage.run(&["run", "--resume", "latest"]).exits(2), "has format version 2, and this stepwatch reads up to 1");
    write("run.json", &manifest[..manifest.len() / 2]);
    says(&stage.run(&["compare", "latest"]).exits(2), "run.json is damaged: EOF while parsing");
    write("run.json", "{}");
    says(&stage.run(&["compare", "latest"]).exits(2), "run.json is damaged: it names no format version");
    write("run.json", &manifest);

    let rounds = fs::read_to_string(folder.join("rounds.jsonl")).unwrap();
    write("rounds.jsonl", &rounds[..rounds.len() - 10]);
    let told = stage.run(&["compare", "latest"]).exits(3);
    says(
        &told,
        "rounds.jsonl: line 10 has no end: the writer was killed while writing it; it and all after it were left out",
    );
    let told = stage.run(&["run", "--resume", "latest"]).exits(0);
    says(&told, "rounds.jsonl: line 10 has no end: the writer was killed while writing it: its last ");
    assert_eq!(stepwatch::store::load(&folder).unwrap().rounds.len(), 10);

    fs::remove_file(folder.join("run.json")).unwrap();
    says(&stage.run(&["compare", &folder.display().to_string()]).exits(2), "is no run folder: it has no run.json");
}

#[test]
fn a_reader_that_closed_the_pipe_is_no_error() {
    let stage = stage();
    stage.run(&["run", "s.toml", "--rounds", "2"]).exits(0);
    let mut child = stage.start(&["compare", "latest", "--format", "json"]);
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_doctor_needs_nothing_and_says_what_is_missing() {
    let stage = Stage::new(&[]);
    let told = stage.run(&["doctor"]).exits(0);
    for word in ["host", "cpu", "memory", "cuda", "GPU driver", "cuBLASLt"] {
        assert!(told.stdout.contains(word), "{word}: {}", told.stdout);
    }
}
