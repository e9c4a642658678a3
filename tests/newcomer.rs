//! The newcomer's command from the README, in small: the quick scenario's own file is checked, listed and run on whatever
//! machine this is, and leaves a run folder and a report behind.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it cannot go on")]

use stepwatch_record::RunManifest;
use stepwatch_tests::{only_run, root, said, stepwatch};

#[test]
fn the_quick_scenario_is_checked_and_listed() {
    let scratch = tempfile::tempdir().unwrap();
    let scenario = root().join("scenarios/quick.toml");
    let scenario = scenario.to_str().unwrap();
    for command in ["check", "list"] {
        let output = stepwatch(scratch.path(), &[command, scenario]);
        assert_eq!(output.status.code(), Some(0), "{command}: {}", said(&output));
    }
    assert!(!scratch.path().join("runs").exists(), "checking and listing run nothing");
}

#[test]
fn one_cell_of_the_quick_scenario_runs_to_a_report() {
    let scratch = tempfile::tempdir().unwrap();
    let scenario = root().join("scenarios/quick.toml");
    let arguments = [
        "run",
        scenario.to_str().unwrap(),
        "--backend",
        "cpu",
        "--rounds",
        "2",
        "--filter",
        "precision=bf16,compile=full",
    ];
    let output = stepwatch(scratch.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    let run = only_run(scratch.path(), "quick");
    let manifest: RunManifest = serde_json::from_slice(&std::fs::read(run.join("run.json")).unwrap()).unwrap();
    assert_eq!((manifest.cells.len(), manifest.rounds, manifest.backend.as_str()), (1, 2, "cpu"));
    for file in ["rounds.jsonl", "samples.csv", "summary.json", "conclusion.json", "report.html"] {
        assert!(run.join(file).is_file(), "{file} is not there");
    }
    let talk = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(talk.contains("report.html"), "the end of a run names its report: {talk}");
}
