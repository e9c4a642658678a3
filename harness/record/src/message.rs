//! The worker protocol: JSON lines between the parent and a worker, version [`crate::version::PROTOCOL`].
//!
//! The parent decides warm-up and stop; the worker runs steps, never synchronises per step for the parent's sake and sends
//! samples in batches. Any program that speaks this is a workload. Unknown fields are ignored so that old workers live on.

use serde::{Deserialize, Serialize};

use crate::ceiling::Ceiling;
use crate::cell::Parameters;
use crate::machine::Library;
use crate::plan::Verification;
use crate::profile::OpClass;

/// What a worker is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Settle the plan and verify the numbers; nothing is timed for the record.
    Prepare,
    /// Run steps and send samples until told to stop.
    Measure,
    /// Run a few steps and report time per op class.
    Profile,
    /// Hold fixed work for seconds and report what the device sustains; the cell does not matter.
    Ceilings,
}

/// A line from the parent to the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToWorker {
    /// The first line: which cell, and what for.
    Cell {
        /// The protocol version the parent speaks.
        protocol: u32,
        /// What this worker is for.
        mode: Mode,
        /// The cell's parameters with defaults applied.
        parameters: Parameters,
        /// The plan that `prepare` settled, passed back unread; `null` in `prepare`.
        #[serde(default)]
        plan: serde_json::Value,
        /// Seeds weights and tokens.
        seed: u64,
        /// The worker may end by itself after so many steps behind its first; with a fixed warm-up they are all that count.
        max_steps: u64,
        /// Whether the worker stays after `finished`: another `cell` line then asks for one more round of the same cell, and
        /// the end of its input ends it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        persistent: bool,
    },
    /// Warm-up is over: samples from this step on count. The worker only notes it.
    Measure {
        /// The first step that counts.
        from_step: u64,
    },
    /// End after the step in flight, then say `finished`.
    Stop,
}

/// A line from the worker to the parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromWorker {
    /// Set up and able to run steps.
    Ready(Ready),
    /// The numbers were checked (`prepare`).
    Verified(Verification),
    /// The plan to hand to every later worker of this cell (`prepare`). Opaque to the parent but for its summary.
    Planned(crate::plan::Plan),
    /// Finished steps.
    Samples(Samples),
    /// The canary: the same fixed work in every cell, run before the first and after the last step of a round.
    Canary(Canary),
    /// Time per op class (`profile`).
    Ops {
        /// One entry per class, label and phase.
        ops: Vec<OpClass>,
    },
    /// What the device sustains (`ceilings`).
    Ceilings {
        /// The device's UUID as NVML prints it.
        gpu: String,
        /// One entry for each kind of work that it can do.
        all: Vec<Ceiling>,
    },
    /// Ended well.
    Finished(Finished),
    /// This worker cannot run this cell, and why: no failure (missing library, unsupported shape).
    Skipped {
        /// What is missing or does not fit, and what would help.
        reason: String,
    },
    /// Ended badly, by its own account.
    Failed {
        /// `out-of-memory`, `numbers-wrong`, `unsupported`, or a word of the worker's own.
        kind: String,
        /// One line for the user.
        message: String,
    },
}

/// What a worker says once it can run steps. All optional but the protocol version: a user's script may not know the rest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// The protocol version the worker speaks.
    #[serde(default)]
    pub protocol: Option<u32>,
    /// Process start to here, seconds.
    #[serde(default)]
    pub setup_seconds: Option<f64>,
    /// The first step alone, seconds.
    #[serde(default)]
    pub first_step_seconds: Option<f64>,
    /// The device in words.
    #[serde(default)]
    pub device: Option<String>,
    /// Its UUID as NVML prints it.
    #[serde(default)]
    pub device_uuid: Option<String>,
    /// All devices, when the worker owns several; rank 0 speaks.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Parameters of the model.
    #[serde(default)]
    pub parameters_count: Option<u64>,
    /// Linears that really run in FP8.
    #[serde(default)]
    pub fp8_linears: Option<u64>,
    /// The attention kernel that really runs.
    #[serde(default)]
    pub attention: Option<String>,
    /// The passes really applied, in order.
    #[serde(default)]
    pub passes: Vec<String>,
    /// Passes that the plan has and that did not come about in this process, each with its reason.
    #[serde(default)]
    pub skipped_passes: Vec<crate::plan::SkippedPass>,
    /// Kernel sources that were compiled in this process: 0 if all came from the disk, and then the setup was a cached one.
    #[serde(default)]
    pub kernels_compiled: Option<u64>,
    /// Model FLOPs of one token, forward and backward (6N + 6·L·d·S).
    #[serde(default)]
    pub flops_per_token: Option<f64>,
    /// CUDA libraries that it maps, with versions and paths.
    #[serde(default)]
    pub libraries: Vec<Library>,
    /// Loss of the first step, nats.
    #[serde(default)]
    pub loss: Option<f64>,
    /// Compilation alone, seconds: part of the setup and of no step.
    #[serde(default)]
    pub compile_seconds: Option<f64>,
    /// Places where a compiler gave up and went on uncompiled.
    #[serde(default)]
    pub graph_breaks: Option<u64>,
    /// Versions of what the worker runs on, by name.
    #[serde(default)]
    pub versions: std::collections::BTreeMap<String, String>,
}

/// What the canary reached: work that no cell and no build changes, so that its drift is the machine's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// Rate of its arithmetic, FLOP/s: a bf16 product on a GPU, a loop of multiply-adds on a CPU.
    pub flops_per_second: f64,
    /// Standard deviation of its blocks over their mean.
    pub flops_spread: f64,
    /// Rate of its copy, bytes read and written a second.
    pub bytes_per_second: f64,
    /// Standard deviation of its blocks over their mean.
    pub bytes_spread: f64,
    /// SM clock while it computed, Hz; absent on a CPU.
    #[serde(default)]
    pub sm_clock_hz: Option<f64>,
}

/// Samples of consecutive steps. Arrays are all of one length, or absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// The first step of this batch, counted from 0 after the first (compiling) step.
    pub from: u64,
    /// Host time at which each step was seen to end, ns since the worker's own start, monotonic.
    pub t_ns: Vec<u64>,
    /// Duration of each step as the device saw it, ns.
    pub gpu_ns: Vec<u64>,
    /// SM cycles of each step, measured on the chip.
    #[serde(default)]
    pub cycles: Vec<u64>,
    /// Tokens of one step of the whole job.
    pub tokens: u64,
    /// Loss of each step, nats.
    #[serde(default)]
    pub loss: Vec<f64>,
    /// Further figures of each step by name, each as long as `gpu_ns`.
    #[serde(default)]
    pub metrics: std::collections::BTreeMap<String, Vec<f64>>,
}

/// How a worker that ended well closes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Steps run, the first included.
    pub steps: u64,
    /// The last loss, nats.
    #[serde(default)]
    pub loss: Option<f64>,
    /// Peak memory of the device, bytes; of the built-in step on a CPU, what its plan places.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
    /// Overflow and underflow counts of the FP8 casts, if it has any.
    #[serde(default)]
    pub cast_overflows: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_contract_are_read() {
        let lines = [
            r#"{"type":"ready","setup_seconds":3.1,"first_step_seconds":0.2,"device":"NVIDIA H100 80GB HBM3","parameters_count":454166528,"fp8_linears":120}"#,
            r#"{"type":"verified","worst_sqnr_db":41.2,"against":"emulation","loss":10.98,"grad_norm":2.31,"ok":true}"#,
            r#"{"type":"samples","from":0,"t_ns":[1],"gpu_ns":[1],"cycles":[1],"tokens":32768,"loss":[10.9]}"#,
            r#"{"type":"ops","ops":[{"class":"gemm","label":"gate-up forward","phase":"forward","count":24,"gpu_ns":1,"flops":2,"bytes":3}]}"#,
            r#"{"type":"finished","steps":64,"loss":7.52,"peak_memory_bytes":33178419200}"#,
            r#"{"type":"failed","kind":"out-of-memory","message":"…"}"#,
        ];
        for line in lines {
            let message: FromWorker = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            let again: FromWorker = serde_json::from_str(&serde_json::to_string(&message).unwrap()).unwrap();
            assert_eq!(message, again);
        }
        let stop: ToWorker = serde_json::from_str(r#"{"type":"stop"}"#).unwrap();
        assert_eq!(stop, ToWorker::Stop);
    }
}
