//! Ways in which a GPU, its driver or its libraries fail, injected into real workers: each ends its own round with its reason,
//! the sweep goes on, and nothing is left without an end.

use stepwatch_record::End;

use crate::stage::{Stage, Told, round};

const SCENARIO: &str = r#"
[scenario]
name = "faults"
backend = "cpu"

[[matrix]]
model = "tiny"
precision = ["fp32", "bf16"]
batch_size = 1
seq_len = 32

[measure]
rounds = { min = 2, max = 2 }
samples = 5
warmup = 1
timeout = "10s"
"#;

fn run(stage: &Stage, arguments: &[&str], faults: &str) -> Told {
    Told::of(stage.command(arguments).env("STEPWATCH_INJECT", faults).output().unwrap())
}

#[test]
fn each_fault_ends_its_cell_with_its_reason_and_the_sweep_goes_on() {
    let cases = [
        ("illegal-address", "failed", "a kernel reached outside its memory: this is a bug"),
        ("gpu-lost", "failed", "the GPU does not answer or fell off the bus"),
        ("out-of-memory@open", "out-of-memory", "137438953472 bytes asked for, 1073741824 free"),
        ("no-driver@prepare", "skipped", "no NVIDIA driver: libcuda.so.1 is not on the loader's path"),
        ("old-driver@prepare", "skipped", "install a newer one"),
        ("no-nvrtc@prepare", "skipped", "libnvrtc.so is not found: install the CUDA toolkit"),
        ("wrong-architecture@prepare", "skipped", "what was compiled does not fit this GPU and driver"),
        ("crash", "crashed", "killed by signal 6"),
    ];
    for (fault, word, reason) in cases {
        let stage = Stage::new(&[("s.toml", SCENARIO)]);
        let (name, at) = fault.split_once('@').unwrap_or((fault, "step"));
        let exit = if word == "skipped" { 0 } else { 3 };
        run(&stage, &["run", "s.toml"], &format!("{name}@{at}:tiny/bf16")).exits(exit);
        let run = stage.stored();
        let ends: Vec<End> = run.manifest.cells.iter().map(|cell| run.cell_end(&cell.id).unwrap()).collect();
        assert_eq!(ends[0], End::Completed, "{fault}");
        assert_eq!(ends[1].word(), word, "{fault}: {}", ends[1].reason());
        assert!(ends[1].reason().contains(reason), "{fault}: {}", ends[1].reason());
        assert_eq!(run.rounds.len(), 4, "{fault} leaves no hole");
    }
}

#[test]
fn a_hung_worker_is_ended_after_its_time() {
    let stage = Stage::new(&[("s.toml", &SCENARIO.replace("10s", "2s"))]);
    run(&stage, &["run", "s.toml"], "hang:tiny/bf16").exits(3);
    let run = stage.stored();
    let end = run.cell_end(&run.manifest.cells[1].id).unwrap();
    assert_eq!((end.word(), end.reason().as_str()), ("timed-out", "ran past its limit of 2 s"));
    // Its partner was measured all the same.
    assert_eq!(run.cell_end(&run.manifest.cells[0].id), Some(End::Completed));
}

#[test]
fn a_driver_that_crashes_or_fails_is_an_answer() {
    let stage = Stage::new(&[("s.toml", &SCENARIO.replace("\"cpu\"", "\"cuda\""))]);
    for (fault, reason) in [
        ("crash@probe", "the probe that opens the driver and its libraries crashed with signal 6"),
        ("no-gpu@probe", "the driver shows 0; check CUDA_VISIBLE_DEVICES"),
        ("old-driver@probe", "the driver is too old or half updated"),
        ("no-nvrtc@probe", "libnvrtc.so is not found"),
    ] {
        let told = run(&stage, &["run", "s.toml"], fault).exits(7);
        assert!(told.stderr.starts_with("error: the cuda backend cannot run here: "), "{}", told.stderr);
        assert!(told.stderr.contains(reason), "{fault}: {}", told.stderr);
        let told = run(&stage, &["doctor", "--require", "cuda"], fault).exits(7);
        assert!(told.stdout.contains(reason), "{fault}: {}", told.stdout);
    }
    assert!(stage.run_folder().is_none(), "nothing was begun");
}

#[test]
fn a_gpu_that_is_not_there_is_a_usage_error() {
    let stage = Stage::new(&[("s.toml", SCENARIO)]);
    for arguments in [["run", "s.toml", "--device", "97"], ["doctor", "--device", "97", "--identify"]] {
        let told = stage.run(&arguments).exits(2);
        assert!(told.stderr.starts_with("error: --device 97: "), "{}", told.stderr);
    }
}

#[test]
fn the_canary_stands_before_and_after_every_round() {
    let stage = Stage::new(&[("s.toml", SCENARIO)]);
    stage.run(&["run", "s.toml"]).exits(0);
    let run = stage.stored();
    let canaries = &round(&run, "tiny/bf16/flash/none", 1).record.canaries;
    assert_eq!(canaries.len(), 2, "{canaries:?}");
    assert!(canaries.iter().all(|canary| canary.flops_per_second > 0.0 && canary.bytes_per_second > 0.0));
    assert!(run.rounds.iter().all(|round| round.record.canaries.len() == 2 && round.record.gpu.is_none()));
}
