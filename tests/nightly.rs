//! `ci/nightly` as a runner calls it, with a small workload in place of a GPU: first night, accepted, a slower night, no scenario.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it cannot go on")]

use std::path::Path;
use std::process::{Command, Output};

use stepwatch_tests::{binary, root, said};

const SCENARIO: &str = r#"
[scenario]
name = "night"

[[matrix]]
workload = "script"

[workloads.script]
command = ["sh", "./worker.sh"]
metrics.tokens_per_second = { regex = 'tokens/sec: (\S+)', unit = "1/s", better = "higher" }

[measure]
rounds = 5
timeout = "60s"

[policy]
gate = ["tokens_per_second"]
"#;

/// Prints a rate with a little noise from the round.
fn speed(folder: &Path, factor: &str) {
    let script =
        format!("awk -v r=$STEPWATCH_ROUND 'BEGIN {{ print \"tokens/sec:\", 1000 * {factor} * (1 + r / 10000) }}'");
    std::fs::write(folder.join("worker.sh"), script).unwrap();
}

fn nightly(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(root().join("ci/nightly"))
        .args(arguments)
        .current_dir(folder)
        .env("STEPWATCH", binary())
        .env("NIGHTLY_OUT", folder.join("nights"))
        .env("NIGHTLY_BASELINES", folder.join("accepted"))
        .env("GITHUB_STEP_SUMMARY", folder.join("step-summary.md"))
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

/// The folder of a night, which it names last.
fn left(output: &Output) -> std::path::PathBuf {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap().into()
}

#[test]
fn a_night_is_compared_with_what_was_accepted_and_exits_by_the_contract() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    std::fs::write(folder.join("night.toml"), SCENARIO).unwrap();

    speed(folder, "1");
    let first = nightly(folder, &["night.toml"]);
    assert_eq!(first.status.code(), Some(0), "{}", said(&first));
    let out = left(&first);
    let summary = std::fs::read_to_string(out.join("summary.md")).unwrap();
    assert!(summary.contains("exit 0") && summary.contains("No baseline of night"), "{summary}");
    assert!(out.join("night.xml").is_file());
    let run = std::fs::read_dir(out.join("night")).unwrap().next().unwrap().unwrap().path();
    assert!(run.join("report.html").is_file());

    let accepted = folder.join("accepted");
    let arguments = ["baseline", "accept", run.to_str().unwrap(), "--reason", "first", "--baselines"];
    let output = Command::new(binary()).args(arguments).arg(&accepted).current_dir(folder).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    speed(folder, "0.9");
    let slower = nightly(folder, &["night.toml", "--seed", "2"]);
    assert_eq!(slower.status.code(), Some(5), "{}", said(&slower));
    let summary = std::fs::read_to_string(left(&slower).join("summary.md")).unwrap();
    assert!(summary.contains("exit 5") && summary.contains("regressed"), "{summary}");
    assert!(!summary.contains("No baseline"), "{summary}");
    let both = std::fs::read_to_string(folder.join("step-summary.md")).unwrap();
    assert!(both.contains("exit 0") && both.contains("exit 5"), "each night adds to the job's summary: {both}");
}

#[test]
fn a_night_that_measured_nothing_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let night = nightly(scratch.path(), &["missing.toml"]);
    assert_eq!(night.status.code(), Some(2), "{}", said(&night));
    let summary = std::fs::read_to_string(left(&night).join("summary.md")).unwrap();
    assert!(summary.contains("exit 2") && summary.contains("Nothing was measured"), "{summary}");
}
