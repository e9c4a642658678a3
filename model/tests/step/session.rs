//! Sessions: what they say, what they refuse, and that a plan pins what runs.

use stepwatch_model::Precision;
use stepwatch_model::config::{Attention, Compile, Data, StepConfig, preset};
use stepwatch_model::plan::Plan;
use stepwatch_model::session::{Backend, Session, SessionError, prepare, profile};

fn tiny(precision: Precision) -> StepConfig {
    StepConfig { precision, compile: Compile::Full, ..StepConfig::example(preset("tiny").unwrap(), 2, 32) }
}

#[test]
fn a_prepared_plan_runs_and_survives_json() {
    let config = tiny(Precision::Fp8Delayed);
    let prepared = prepare(&config, Backend::Cpu, 1).unwrap();
    assert!(prepared.verification.ok, "{:?}", prepared.verification);
    let json = serde_json::to_string(&prepared.plan).unwrap();
    let plan: Plan = serde_json::from_str(&json).unwrap();
    assert_eq!(plan, prepared.plan);
    assert_eq!(plan.passes, ["layout", "fusion", "place"]);
    assert_eq!(plan.skipped_passes.len(), 2);
    assert!(plan.flops > 0.0 && plan.bytes > 0.0 && plan.memory_bytes > 0 && plan.ops > 0);

    let mut session = Session::open(&config, Backend::Cpu, Some(&plan), 1).unwrap();
    let description = session.describe();
    assert_eq!((description.parameters_count, description.fp8_linears), (147_776, 10));
    assert_eq!(description.attention, "naive");
    assert_eq!(description.passes, plan.passes);
    assert_eq!(session.peak_memory_bytes(), plan.memory_bytes);
    let steps = session.advance(3).unwrap();
    assert_eq!(steps.iter().map(|step| step.step).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(steps.windows(2).all(|pair| pair[0].t_ns < pair[1].t_ns));
    assert!(steps.iter().all(|step| step.gpu_ns > 0 && (step.loss - 5.5).abs() < 0.2 && step.grad_norm > 0.0));
    assert_eq!(session.drain(), Ok(Vec::new()));
    assert_eq!(session.plan(), &plan);
}

#[test]
fn a_plan_of_another_step_is_refused() {
    let plan = prepare(&tiny(Precision::Fp32), Backend::Cpu, 1).unwrap().plan;
    let error = Session::open(&tiny(Precision::Bf16), Backend::Cpu, Some(&plan), 1).unwrap_err();
    assert!(
        matches!(&error, SessionError::Failed(text) if text.starts_with("the plan is of another step (")),
        "{error}"
    );
}

#[test]
fn what_cannot_run_here_says_why() {
    let cudnn = StepConfig { attention: Attention::Cudnn, ..tiny(Precision::Bf16) };
    let missing = StepConfig { data: Data::File("/nonexistent".into()), ..tiny(Precision::Bf16) };
    let odd = StepConfig { batch_size: 1, seq_len: 17, ..tiny(Precision::Fp8Rowwise) };
    let huge = StepConfig { batch_size: 1 << 14, seq_len: 1 << 12, ..tiny(Precision::Bf16) };
    let cases: [(&StepConfig, Backend, &str); 4] = [
        (&cudnn, Backend::Cpu, "attention `cudnn` needs a GPU: use `flash` on the CPU"),
        (&missing, Backend::Cpu, "data file /nonexistent: "),
        (&odd, Backend::Cpu, "fp8-rowwise cannot run `qkv forward` (m=17, n=192, k=64): "),
        (&huge, Backend::Cpu, "out of memory: the step needs "),
    ];
    for (config, backend, start) in cases {
        let error = Session::open(config, backend, None, 1).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
        let error = prepare(config, backend, 1).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
}

#[test]
fn without_a_gpu_a_cuda_session_says_what_is_missing() {
    let Err(why) = stepwatch_kernels::gpu::devices() else {
        println!("NOT RUN: this machine has a GPU; its sessions are tested by `ci/gpu`");
        return;
    };
    let expected = SessionError::Unsupported(why.to_string());
    let config = tiny(Precision::Bf16);
    assert_eq!(Session::open(&config, Backend::Cuda, None, 1).unwrap_err(), expected);
    assert_eq!(prepare(&config, Backend::Cuda, 1).unwrap_err(), expected);
    assert_eq!(profile(&config, Backend::Cuda, None, 1).unwrap_err(), expected);
}

#[test]
fn a_learning_rate_that_breaks_the_model_is_wrong_numbers() {
    let config = StepConfig { learning_rate: 1e30, ..tiny(Precision::Fp32) };
    let error = Session::open(&config, Backend::Cpu, None, 1).unwrap().advance(10).unwrap_err();
    assert!(matches!(error, SessionError::NumbersWrong(_)), "{error}");
}

#[test]
fn a_profile_covers_every_op_class_of_the_step() {
    let ops = profile(&tiny(Precision::Fp8Tensorwise), Backend::Cpu, None, 1).unwrap();
    let products = ["gemm forward", "gemm input gradient", "gemm weight gradient", "gemm head"];
    let others = ["attention", "quantise", "scale", "norm", "elementwise", "loss", "optimiser", "gap"];
    for class in products.into_iter().chain(others) {
        assert!(ops.iter().any(|op| op.class == class), "{class} not in {ops:?}");
    }
    let qkv = ops.iter().find(|op| op.label == "qkv forward").unwrap();
    // 2 blocks of (64, 64) · (64, 192).
    assert_eq!((qkv.count, qkv.flops), (2, 2.0 * 2.0 * 64.0 * 64.0 * 192.0));
    assert!(ops.iter().all(|op| op.gpu_ns >= 0.0));
}

#[test]
fn the_null_backend_runs_without_building_anything() {
    let config = StepConfig { dims: preset("8b-slice").unwrap(), ..tiny(Precision::Fp8Tensorwise) };
    let prepared = prepare(&config, Backend::Null, 1).unwrap();
    let mut session = Session::open(&config, Backend::Null, Some(&prepared.plan), 1).unwrap();
    assert_eq!(session.advance(100).unwrap().len(), 100);
    assert_eq!(session.describe().device, "null");
}
