//! A cell being run: opened on a backend, advanced step by step, described. The only door through which the harness runs steps.
//! Long because three backends meet behind that one door.

mod profile;

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::build::build;
use crate::config::{Attention, Pass, StepConfig};
use crate::count::{count, fp8_linears, model_flops_per_token};
use crate::data::Source;
use crate::exec::cpu::Cpu;
use crate::exec::cuda::{Choices, Cuda, Ended};
use crate::exec::null::{End, Null, rule};
use crate::exec::search;
use crate::ir::Step;
use crate::passes::{Compiled, asked_for, pipeline};
use crate::plan::{Plan, SkippedPass, Verification};
use crate::probe::{Canary, cpu_canary, gpu_canary};
use crate::{repeat, verify};
use stepwatch_kernels::gpu::GpuError;

pub use crate::exec::Backend;
pub use profile::{OpTime, profile};

/// Why a session cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Too little memory.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// This cell cannot run here, and why: no failure.
    #[error("{0}")]
    Unsupported(String),
    /// The numbers are wrong.
    #[error("numbers wrong: {0}")]
    NumbersWrong(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A finished step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepTime {
    /// Counted from 0, the first (slow) step included.
    pub step: u64,
    /// When it was seen to end, ns since the session was opened.
    pub t_ns: u64,
    /// Its duration as the device saw it, ns.
    pub gpu_ns: u64,
    /// The same by phase: forward, backward, optimiser; zeros where it is not known.
    pub phases_ns: [u64; 3],
    /// Its SM cycles; 0 where there is no such counter.
    pub cycles: u64,
    /// Its mean loss, nats.
    pub loss: f64,
    /// Norm of its gradients before clipping.
    pub grad_norm: f64,
}

/// What really runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The device in words.
    pub device: String,
    /// The GPU's UUID, by which NVML knows it.
    pub device_uuid: Option<String>,
    /// Parameters, vocabulary unpadded.
    pub parameters_count: u64,
    /// Linear layers in FP8.
    pub fp8_linears: u64,
    /// The attention kernel.
    pub attention: String,
    /// The passes applied, in order.
    pub passes: Vec<String>,
    /// Passes that the plan has and that did not come about here, each with its reason.
    pub skipped_passes: Vec<SkippedPass>,
    /// Kernel sources that had to be compiled, where there are kernels.
    pub kernels_compiled: Option<u64>,
    /// Model FLOPs a token by the reporting convention 6·N + 6·L·d·S.
    pub flops_per_token: f64,
}

/// What `prepare` settled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// The plan, for every later session of this cell.
    pub plan: Plan,
    /// Whether its numbers are right.
    pub verification: Verification,
}

/// A cell being run.
#[derive(Debug)]
pub struct Session {
    runner: Runner,
    plan: Plan,
    description: Description,
    opened: Instant,
    steps: u64,
}

#[derive(Debug)]
enum Runner {
    Cpu {
        cpu: Box<Cpu<f32>>,
        source: Source,
    },
    /// `seen` steps have ended and were handed over.
    Cuda {
        cuda: Box<Cuda>,
        source: Source,
        seen: u64,
    },
    Null {
        null: Null,
        now_ns: u64,
    },
}

impl Session {
    /// Builds, places and initialises a cell; runs no step. A plan pins what `prepare` settled: a session that would run
    /// anything else is refused.
    ///
    /// # Errors
    /// What this backend lacks, data that cannot be read, too little memory, a plan of another step.
    pub fn open(config: &StepConfig, backend: Backend, plan: Option<&Plan>, seed: u64) -> Result<Self, SessionError> {
        Self::open_repeating(config, backend, plan, seed, repeat::asked().map_err(SessionError::Failed)?)
    }

    /// [`Self::open`] of a step that does a share of its FLOPs twice ([`crate::repeat`]); its plan is that of the step without.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_repeating(
        config: &StepConfig,
        backend: Backend,
        plan: Option<&Plan>,
        seed: u64,
        share: f64,
    ) -> Result<Self, SessionError> {
        let opened = Instant::now();
        let (runner, found) = match backend {
            Backend::Null => {
                let rule = rule(config).map_err(|error| SessionError::Failed(error.to_string()))?;
                let found = null_plan(config, rule.plan_hash.as_deref(), rule.peak_memory_bytes);
                (Runner::Null { null: Null::new(rule, config, seed, process()), now_ns: 0 }, found)
            }
            Backend::Cuda => open_on_gpu(config, plan, seed, opened, share)?,
            Backend::Cpu => {
                let compiled = compile(config, backend)?;
                let found = Plan::of(&compiled, opened.elapsed().as_secs_f64());
                check_memory(found.memory_bytes)?;
                let source = Source::open(config, seed).map_err(|error| SessionError::Failed(error.to_string()))?;
                let mut cpu = Box::new(Cpu::new(repeat::repeated(compiled.step, share), seed));
                feed(&mut cpu, &source, 0);
                cpu.init().map_err(|gone| SessionError::Failed(gone.to_string()))?;
                (Runner::Cpu { cpu, source }, found)
            }
        };
        same_step(plan, &found)?;
        let device = match &runner {
            Runner::Cpu { .. } => format!("CPU, {} threads", rayon::current_num_threads()),
            Runner::Cuda { cuda, .. } => cuda.facts().name.clone(),
            Runner::Null { .. } => "null".to_owned(),
        };
        let device_uuid = match &runner {
            Runner::Cuda { cuda, .. } => Some(cuda.facts().uuid.clone()),
            _ => None,
        };
        let mut description = Description { device_uuid, ..describe(config, device, &found) };
        if let Runner::Cuda { cuda, .. } = &runner {
            description.kernels_compiled = Some(cuda.kernels_compiled());
            if let Some(why) = cuda.refused() {
                let (name, reason) = (Pass::Graph.name().to_owned(), why.to_owned());
                description.passes.retain(|pass| *pass != name);
                description.skipped_passes.push(SkippedPass { name, reason });
            }
        }
        let plan = plan.cloned().unwrap_or(found);
        Ok(Self { runner, plan, description, opened, steps: 0 })
    }

    /// Runs steps; the times of those that finished since the last call, in order. On a GPU they may lag behind what was
    /// submitted.
    ///
    /// # Errors
    /// A loss that is no number, or whatever ended the device.
    pub fn advance(&mut self, steps: usize) -> Result<Vec<StepTime>, SessionError> {
        match &self.runner {
            Runner::Cuda { .. } => self.submit(steps),
            _ => (0..steps).map(|_| self.step()).collect(),
        }
    }

    /// Waits for all submitted steps; the times of those that finished since the last call.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub fn drain(&mut self) -> Result<Vec<StepTime>, SessionError> {
        let mut times = Vec::new();
        // The CPU and the null executor finish each step before they return.
        if let Runner::Cuda { cuda, seen, .. } = &mut self.runner {
            while let Some(ended) = cuda.oldest()? {
                times.push(healthy(time_of(ended, seen))?);
            }
        }
        Ok(times)
    }

    /// What really runs.
    #[must_use]
    pub fn describe(&self) -> Description {
        self.description.clone()
    }

    /// Peak memory, bytes: on a GPU what was allocated there, workspaces included (the driver's own and loaded kernels are
    /// not, as in PyTorch's figure); elsewhere what the plan places, each tensor at its own dtype's size.
    #[must_use]
    pub fn peak_memory_bytes(&self) -> u64 {
        match &self.runner {
            Runner::Cuda { cuda, .. } => cuda.memory_bytes(),
            _ => self.plan.memory_bytes,
        }
    }

    /// The plan it runs by.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs the canary on the device of this session; no step may be under way. `None` where times are scripted.
    ///
    /// # Errors
    /// Too little memory beside the step, or whatever ended the device.
    pub fn canary(&self) -> Result<Option<Canary>, SessionError> {
        match &self.runner {
            Runner::Cpu { .. } => Ok(Some(cpu_canary())),
            Runner::Cuda { cuda, .. } => gpu_canary(cuda.gpu()).map(Some),
            Runner::Null { .. } => Ok(None),
        }
    }

    /// Takes the clocks and events out of the steps to come, or puts them back: what measuring costs is the difference.
    /// Steps without them end without times. Waits for all submitted steps; does nothing where no GPU is used.
    ///
    /// # Errors
    /// Whatever ended the device.
    pub fn measure_steps(&mut self, on: bool) -> Result<(), SessionError> {
        self.drain()?;
        match &mut self.runner {
            Runner::Cuda { cuda, .. } => Ok(cuda.measure(on)?),
            _ => Ok(()),
        }
    }

    /// Hands steps to the GPU; the times of those that ended meanwhile.
    fn submit(&mut self, steps: usize) -> Result<Vec<StepTime>, SessionError> {
        let mut times = Vec::new();
        if let Runner::Cuda { cuda, source, seen } = &mut self.runner {
            for _ in 0..steps {
                if let Some(ended) = cuda.submit(&source.batch(self.steps))? {
                    times.push(healthy(time_of(ended, seen))?);
                }
                self.steps += 1;
            }
        }
        Ok(times)
    }

    /// Runs one step and waits for it.
    fn step(&mut self) -> Result<StepTime, SessionError> {
        let step = self.steps;
        let time = match &mut self.runner {
            Runner::Cpu { cpu, source } => {
                feed(cpu, source, step);
                let start = Instant::now();
                cpu.run().map_err(|gone| SessionError::Failed(gone.to_string()))?;
                let gpu_ns = nanoseconds(start);
                let ports = cpu.step().ports;
                let (loss, grad_norm) = (cpu.scalar(ports.loss), cpu.scalar(ports.grad_norm));
                let t_ns = nanoseconds(self.opened);
                StepTime { step, t_ns, gpu_ns, phases_ns: [0; 3], cycles: 0, loss, grad_norm }
            }
            Runner::Cuda { .. } => {
                self.submit(1)?;
                let last = self.drain()?.pop();
                return last.ok_or_else(|| SessionError::Failed(format!("step {step} did not end")));
            }
            Runner::Null { null, now_ns } => {
                let gpu_ns = null.step().map_err(scripted_end)?;
                *now_ns += gpu_ns;
                let loss = null.rule().loss;
                StepTime { step, t_ns: *now_ns, gpu_ns, phases_ns: [0; 3], cycles: 0, loss, grad_norm: 1.0 }
            }
        };
        self.steps += 1;
        healthy(time)
    }
}

/// Opens a cell on the GPU, with the algorithms of its plan. Without a plan it searches itself, if it is to search.
fn open_on_gpu(
    config: &StepConfig,
    plan: Option<&Plan>,
    seed: u64,
    opened: Instant,
    share: f64,
) -> Result<(Runner, Plan), SessionError> {
    let compiled = compile(config, Backend::Cuda)?;
    let applied = |pass| compiled.applied.contains(&pass);
    let mut found = Plan::of(&compiled, opened.elapsed().as_secs_f64());
    found.pin(match plan {
        Some(plan) => plan.algorithms.clone(),
        None if applied(Pass::Search) => searched(&compiled.step)?,
        None => BTreeMap::new(),
    });
    same_step(plan, &found)?;
    let algorithms = search::algorithms(&found.algorithms).map_err(SessionError::Failed)?;
    let choices = Choices { algorithms, graph: applied(Pass::Graph) };
    let source = Source::open(config, seed).map_err(|error| SessionError::Failed(error.to_string()))?;
    let step = repeat::repeated(compiled.step, share);
    let cuda = Box::new(Cuda::open_with(step, seed, &source.batch(0), opened, &choices)?);
    Ok((Runner::Cuda { cuda, source, seen: 0 }, found))
}

/// Searches for algorithms, as a plan keeps them.
fn searched(step: &Step) -> Result<BTreeMap<String, serde_json::Value>, SessionError> {
    let pinned = search::search_all(step)?.into_iter();
    let written = pinned.map(|(product, pinned)| Ok((product, serde_json::to_value(pinned)?)));
    written.collect::<Result<_, serde_json::Error>>().map_err(|error| SessionError::Failed(error.to_string()))
}

/// Refuses a plan of anything else than what is run.
fn same_step(plan: Option<&Plan>, found: &Plan) -> Result<(), SessionError> {
    match plan {
        Some(plan) if plan.hash != found.hash => Err(SessionError::Failed(format!(
            "the plan is of another step ({} where this build makes {}): prepare the cell again",
            plan.hash, found.hash
        ))),
        _ => Ok(()),
    }
}

/// The time of a step that the GPU ended, numbered by those seen before it.
const fn time_of(ended: Ended, seen: &mut u64) -> StepTime {
    let Ended { t_ns, gpu_ns, phases_ns, cycles, loss, grad_norm } = ended;
    *seen += 1;
    StepTime { step: *seen - 1, t_ns, gpu_ns, phases_ns, cycles, loss, grad_norm }
}

/// A step whose loss or norm is no number ends the session.
fn healthy(time: StepTime) -> Result<StepTime, SessionError> {
    let StepTime { step, loss, grad_norm, .. } = time;
    if loss.is_finite() && grad_norm.is_finite() {
        return Ok(time);
    }
    Err(SessionError::NumbersWrong(format!("step {step} has loss {loss} and gradient norm {grad_norm}")))
}

impl From<GpuError> for SessionError {
    fn from(error: GpuError) -> Self {
        let text = error.to_string();
        match error {
            // The variant says it already.
            GpuError::OutOfMemory { .. } => {
                Self::OutOfMemory(text.strip_prefix("out of GPU memory: ").unwrap_or(&text).to_owned())
            }
            GpuError::NoMemoryFor { .. } => {
                Self::OutOfMemory(text.strip_prefix("out of GPU memory ").unwrap_or(&text).to_owned())
            }
            GpuError::NoDriver
            | GpuError::NoDevice { .. }
            | GpuError::Library { .. }
            | GpuError::Unsupported { .. } => Self::Unsupported(text),
            _ => Self::Failed(text),
        }
    }
}

/// Settles the plan of a cell and checks its numbers.
///
/// # Errors
/// As [`Session::open`].
pub fn prepare(config: &StepConfig, backend: Backend, seed: u64) -> Result<Prepared, SessionError> {
    let start = Instant::now();
    if backend == Backend::Null {
        let rule = rule(config).map_err(|error| SessionError::Failed(error.to_string()))?;
        let plan = null_plan(config, rule.plan_hash.as_deref(), rule.peak_memory_bytes);
        return match rule.end {
            End::NumbersWrong => Ok(Prepared { plan, verification: verify::scripted(false) }),
            _ => Ok(Prepared { plan, verification: verify::scripted(true) }),
        };
    }
    if backend == Backend::Cuda {
        // Asked first: the emulation that numbers are held against takes seconds.
        stepwatch_kernels::gpu::devices()?;
    }
    let compiled = compile(config, backend)?;
    let mut plan = Plan::of(&compiled, 0.0);
    plan.compile_seconds = start.elapsed().as_secs_f64();
    if backend == Backend::Cuda && compiled.applied.contains(&Pass::Search) {
        let start = Instant::now();
        plan.pin(searched(&compiled.step)?);
        plan.search_seconds = start.elapsed().as_secs_f64();
    }
    drop(compiled);
    if backend == Backend::Cpu {
        check_memory(plan.memory_bytes)?;
    }
    Source::open(config, seed).map_err(|error| SessionError::Failed(error.to_string()))?;
    let verification = verify::verify(config, backend, &plan, seed)?;
    Ok(Prepared { plan, verification })
}

/// The compiled list of a cell on a backend.
pub(crate) fn compile(config: &StepConfig, backend: Backend) -> Result<Compiled, SessionError> {
    if config.attention == Attention::Cudnn && backend != Backend::Cuda {
        return Err(SessionError::Unsupported("attention `cudnn` needs a GPU: use `flash` on the CPU".to_owned()));
    }
    crate::check_config(config).map_err(|error| SessionError::Unsupported(error.to_string()))?;
    // An illegal list is a bug here, never the user's fault.
    pipeline(build(config), &config.compile, backend).map_err(|error| SessionError::Failed(error.to_string()))
}

/// Puts the tokens of a step into its inputs.
pub(crate) fn feed(cpu: &mut Cpu<f32>, source: &Source, step: u64) {
    let batch = source.batch(step);
    let ports = cpu.step().ports;
    cpu.write(ports.ids, &batch.ids);
    cpu.write(ports.targets, &batch.targets);
}

fn describe(config: &StepConfig, device: String, plan: &Plan) -> Description {
    let attention = match config.attention {
        Attention::Naive => "naive",
        Attention::Flash => "flash",
        Attention::Cudnn => "cudnn",
    };
    Description {
        device,
        device_uuid: None,
        parameters_count: count(&config.dims).total,
        fp8_linears: fp8_linears(config).count() as u64,
        attention: attention.to_owned(),
        passes: plan.passes.clone(),
        skipped_passes: Vec::new(),
        kernels_compiled: None,
        flops_per_token: model_flops_per_token(&config.dims, config.seq_len),
    }
}

/// The plan of a scripted cell: nothing is built.
fn null_plan(config: &StepConfig, hash: Option<&str>, memory_bytes: Option<u64>) -> Plan {
    use sha2::{Digest, Sha256};
    let passes = asked_for(&config.compile).into_iter().map(|pass| pass.name().to_owned()).collect();
    let digest = Sha256::digest(format!("{config:?}").as_bytes());
    let hash = hash.map_or_else(|| digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect(), str::to_owned);
    let count = crate::count::step(config);
    let memory_bytes = memory_bytes.unwrap_or(count.memory.total);
    Plan { hash, passes, flops: count.flops_per_token * count.tokens as f64, memory_bytes, ..Plan::default() }
}

fn scripted_end(end: End) -> SessionError {
    let text = "the script says so".to_owned();
    match end {
        End::OutOfMemory => SessionError::OutOfMemory(text),
        End::Unsupported => SessionError::Unsupported(text),
        End::NumbersWrong => SessionError::NumbersWrong(text),
        End::Well | End::Crash | End::Hang | End::Failed => SessionError::Failed(text),
    }
}

/// Tells this process from others and from its earlier runs.
fn process() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64) ^ (u64::from(std::process::id()) << 32)
}

/// Refuses what cannot fit, before the system ends the process for it.
pub(crate) fn check_memory(needed: u64) -> Result<(), SessionError> {
    let Some(available) = available_bytes() else { return Ok(()) };
    if needed <= available {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Err(SessionError::OutOfMemory(format!(
        "the step needs {:.1} GiB and {:.1} GiB are available: make batch_size, seq_len or the model smaller",
        gib(needed),
        gib(available)
    )))
}

/// Memory that can still be had, bytes; `None` where the system does not say. Sources: proc_meminfo(5), and the limit of the
/// control group (cgroup v2, `memory.max`).
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    kib.checked_mul(1024).map(|bytes| bytes.min(limit.unwrap_or(u64::MAX)))
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
