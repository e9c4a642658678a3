//! How long a process takes from its start to the end of its first step: with nothing cached, with the algorithms of its products
//! known and no kernel compiled, with both. Each start is a process of its own, this program again. Run by `ci/gpu`; prints, and
//! asserts that the starts happened.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stepwatch_kernels::Precision;
use stepwatch_model::config::{Attention, Compile, OptimizerState, StepConfig, preset};
use stepwatch_model::plan::Plan;
use stepwatch_model::session::{Backend, Session};

/// What a process of its own is asked to start, and where its plan lies or is to lie.
const CELL: &str = "STEPWATCH_START_CELL";
const PLAN: &str = "STEPWATCH_START_PLAN";
/// What it says when its first step has ended.
const DONE: &str = "the first step has ended";

/// 454m ×16 by name: precision and what is compiled.
fn cell(name: &str) -> StepConfig {
    let (precision, compile) = match name {
        "bf16 none" => (Precision::Bf16, Compile::None),
        "bf16 full" => (Precision::Bf16, Compile::Full),
        "fp8-delayed full" => (Precision::Fp8Delayed, Compile::Full),
        other => panic!("no cell {other}"),
    };
    StepConfig {
        precision,
        compile,
        attention: Attention::Cudnn,
        optimizer_state: OptimizerState::Bf16,
        clip: 0.0,
        ..StepConfig::example(preset("454m").unwrap(), 16, 2048)
    }
}

/// One start, in the process that was asked for it.
fn start(name: &str, path: &Path) {
    let plan: Option<Plan> = std::fs::read(path).ok().map(|bytes| serde_json::from_slice(&bytes).unwrap());
    let mut session = Session::open(&cell(name), Backend::Cuda, plan.as_ref(), 1).unwrap();
    let mut steps = session.advance(1).unwrap();
    steps.extend(session.drain().unwrap());
    assert_eq!(steps.len(), 1);
    println!("\n{DONE}");
    std::fs::write(path, serde_json::to_vec(session.plan()).unwrap()).unwrap();
}

/// From the start of a process to the end of its first step.
fn time(name: &str, cache: &Path, plan: &Path) -> Duration {
    let begun = Instant::now();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "from_the_start_of_a_process_to_its_first_step", "--nocapture"])
        .env(CELL, name)
        .env(PLAN, plan)
        .env("STEPWATCH_CACHE", cache)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut took = None;
    // To the end, so that it never waits for its reader.
    for line in lines.map_while(Result::ok) {
        if line == DONE {
            took = Some(begun.elapsed());
        }
    }
    assert!(child.wait().unwrap().success(), "{name} did not start");
    took.unwrap()
}

#[test]
#[ignore = "needs a GPU"]
fn from_the_start_of_a_process_to_its_first_step() {
    if let (Ok(name), Some(path)) = (std::env::var(CELL), std::env::var_os(PLAN)) {
        start(&name, Path::new(&path));
        return;
    }
    let folder = std::env::temp_dir().join(format!("stepwatch-start-{}", std::process::id()));
    let cache = |of: &str| -> PathBuf {
        let cache = folder.join(of);
        std::fs::create_dir_all(&cache).unwrap();
        cache
    };
    // What the driver and the libraries load for the first time on this machine is no part of it.
    time("bf16 none", &cache("before"), &folder.join("before.json"));
    println!("{:<18} {:>10} {:>22} {:>12}", "s", "no caches", "algorithms known only", "all cached");
    for name in ["bf16 none", "bf16 full", "fp8-delayed full"] {
        let (plan, first, second) = (folder.join(format!("{name}.json")), cache(name), cache(&format!("{name} again")));
        let took = [&first, &second, &second].map(|cache| time(name, cache, &plan).as_secs_f64());
        println!("{name:<18} {:>10.1} {:>22.1} {:>12.1}", took[0], took[1], took[2]);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
