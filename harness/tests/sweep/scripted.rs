//! The built-in worker with scripted times: the whole pipeline from `prepare` to the verdict, exact and without a model.

use std::fs;

use crate::stage::{Stage, Told, round};

const SCENARIO: &str = r#"
[scenario]
name = "scripted"
backend = "null"

[[matrix]]
model = "tiny"
precision = ["fp32", "bf16", "fp8-tensorwise", "fp8-delayed", "fp8-rowwise"]
batch_size = 4
seq_len = 64

[measure]
rounds = { min = 3, max = 3 }
samples = 10
timeout = "3s"
"#;

fn run(stage: &Stage, arguments: &[&str], rules: &str) -> Told {
    fs::write(stage.path("script.json"), format!("{{\"rules\": [{rules}]}}")).unwrap();
    let mut command = stage.command(arguments);
    command.env("STEPWATCH_NULL", "1").env("STEPWATCH_NULL_SCRIPT", stage.path("script.json"));
    Told::of(command.output().unwrap())
}

const STEADY: &str = r#"{"step_ns": 1000000.0, "noise": 0.0, "process_noise": 0.0}"#;

#[test]
fn scripted_times_come_out_exactly() {
    let stage = Stage::new(&[("s.toml", SCENARIO)]);
    run(&stage, &["run", "s.toml"], STEADY).exits(0);
    let stored = stage.stored();
    assert_eq!((stored.plans.len(), stored.prepared.len(), stored.rounds.len()), (5, 5, 15));
    for round in &stored.rounds {
        assert_eq!((round.record.samples, round.record.tokens, round.record.steady), (10, 256, true));
        assert!(round.samples.iter().all(|sample| sample.gpu_ns == 1_000_000));
    }
    let told = run(&stage, &["export", "latest", "--format", "csv"], STEADY).exits(0);
    // 256 tokens in 1 ms.
    assert_eq!(told.stdout.matches("256000").count() % 5, 0, "{}", told.stdout);
    assert!(told.stdout.contains("256000"), "{}", told.stdout);
}

#[test]
fn no_step_is_run_that_nobody_waits_for() {
    let scenario = SCENARIO.replace("samples = 10", "samples = 10\nwarmup = 6");
    let stage = Stage::new(&[("s.toml", &scenario)]);
    run(&stage, &["run", "s.toml"], STEADY).exits(0);
    for round in &stage.stored().rounds {
        assert_eq!((round.record.samples, round.record.warmup_steps), (10, 6));
        // The first, those of warm-up, those that count, and one more for programs that count their first.
        let finished = round.record.finished.as_ref().unwrap();
        assert!((17..=18).contains(&finished.steps), "{} steps", finished.steps);
    }
}

#[test]
fn every_end_of_a_builtin_worker_is_recorded_and_the_sweep_goes_on() {
    let stage = Stage::new(&[("s.toml", SCENARIO)]);
    let rules = r#"
        {"match": {"precision": "bf16"}, "end": "out-of-memory", "end_at_step": 3},
        {"match": {"precision": "fp8-tensorwise"}, "end": "crash", "end_at_step": 3},
        {"match": {"precision": "fp8-delayed"}, "end": "hang", "end_at_step": 3},
        {"match": {"precision": "fp8-rowwise"}, "end": "unsupported", "end_at_step": 3},
        {"step_ns": 1000000.0}"#;
    run(&stage, &["run", "s.toml"], rules).exits(3);
    let stored = stage.stored();
    let words: Vec<&str> = stored.manifest.cells.iter().map(|cell| stored.cell_end(&cell.id).unwrap().word()).collect();
    assert_eq!(words, ["completed", "out-of-memory", "crashed", "timed-out", "skipped"]);
    assert_eq!(stored.rounds.len(), 15, "no hole");
}

#[test]
fn wrong_numbers_end_a_cell_before_its_rounds() {
    let stage = Stage::new(&[("s.toml", SCENARIO)]);
    let rules = format!(r#"{{"match": {{"precision": "bf16"}}, "end": "numbers-wrong"}}, {STEADY}"#);
    run(&stage, &["run", "s.toml"], &rules).exits(4);
    let stored = stage.stored();
    let wrong = stored.rounds.iter().filter(|round| round.record.end.word() == "numbers-wrong").count();
    assert_eq!(wrong, 3);
    assert!(
        stored
            .rounds
            .iter()
            .filter(|round| round.record.end.word() != "completed")
            .all(|round| round.samples.is_empty())
    );
}

#[test]
fn a_lost_plan_is_settled_again_by_a_resume() {
    let stage = Stage::new(&[("s.toml", SCENARIO)]);
    run(&stage, &["run", "s.toml"], STEADY).exits(0);
    let folder = stage.run_folder().unwrap();
    let plan = fs::read_dir(folder.join("plans")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&plan).unwrap();
    run(&stage, &["run", "--resume", "latest"], STEADY).exits(0);
    assert!(plan.is_file());
    assert_eq!(stage.stored().prepared.iter().map(|record| record.attempt).sum::<u32>(), 1);
}

#[test]
fn the_null_backend_is_not_for_users() {
    let stage = Stage::new(&[("s.toml", SCENARIO)]);
    let told = stage.run(&["run", "s.toml"]).exits(2);
    assert!(told.stderr.contains("null"), "{}", told.stderr);
    assert!(stage.run_folder().is_none());
}

#[test]
fn cuda_without_a_device_exits_7_and_says_what_is_missing() {
    if stepwatch::device::cuda(None).is_ok() {
        return;
    }
    let stage = Stage::new(&[("s.toml", &SCENARIO.replace("\"null\"", "\"auto\""))]);
    let told = stage.run(&["run", "s.toml", "--backend", "cuda"]).exits(7);
    assert!(told.stderr.starts_with("error: the cuda backend cannot run here: "), "{}", told.stderr);
    assert!(stage.run_folder().is_none());
    stage.run(&["doctor", "--require", "cuda"]).exits(7);
}

#[test]
#[ignore = "a measurement: run it alone, in release, with --nocapture"]
fn five_hundred_cells_one_process_a_round() {
    let sizes: Vec<String> = (1..=100).map(|size| size.to_string()).collect();
    let scenario = SCENARIO
        .replace("batch_size = 4", &format!("batch_size = [{}]", sizes.join(", ")))
        .replace("min = 3, max = 3", "min = 1, max = 1");
    let stage = Stage::new(&[("s.toml", &scenario)]);
    let began = std::time::Instant::now();
    run(&stage, &["run", "s.toml", "--quiet"], STEADY).exits(0);
    println!("500 cells, {} processes: {:.1} s", 1000, began.elapsed().as_secs_f64());
    let stored = stage.stored();
    assert_eq!(stored.rounds.len(), 500);
    assert_eq!(round(&stored, stored.manifest.cells[0].id.readable(), 0).record.samples, 10);
}
