//! `stepwatch doctor`: what this machine has to measure with, what is missing, what that costs and how to get it.

use std::fmt::Write;

use stepwatch_model::probe::Found;
use stepwatch_record::machine::{Gpu, GpuState, Machine};

use super::{CommandError, emit};
use crate::device::{self, Answer};
use crate::exit::Exit;
use crate::machine;

/// Shows what this machine can measure with, and what is missing.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Exit 7 unless this backend can run here.
    #[arg(long, value_enum)]
    require: Option<Backend>,
    /// The GPU to ask, by index or UUID.
    #[arg(long, value_name = "GPU")]
    device: Option<String>,
    /// Show the host's name instead of its hash.
    #[arg(long)]
    identify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    Cpu,
    Cuda,
}

/// Looks and tells.
///
/// # Errors
/// [`Exit::NoDevice`] when the required backend cannot run, [`Exit::Usage`] for a GPU that is not there.
pub fn run(args: &Doctor) -> Result<Exit, CommandError> {
    let device = args.device.as_deref().map(device::select).transpose().map_err(CommandError::usage)?;
    let asked = device::ask(device.as_deref());
    let usable = asked.clone().and_then(|answer| answer.usable());
    emit(&text(&machine::host(args.identify), &asked.unwrap_or_default(), &usable))?;
    match (args.require, usable) {
        (Some(Backend::Cuda), Err(why)) => Err(no_cuda(&why)),
        _ => Ok(Exit::Good),
    }
}

/// The error of whoever needs CUDA and does not have it.
#[must_use]
pub fn no_cuda(why: &str) -> CommandError {
    CommandError::new(Exit::NoDevice, format!("the cuda backend cannot run here: {why}"))
}

/// What the absence of a library costs.
fn costs(library: &str) -> &'static str {
    match library {
        "driver" => "no CUDA backend: built-in cells run on the CPU, where FP8 is emulated",
        "nvrtc" => "no kernels can be compiled for the GPU",
        "cublasLt" => "no matrix products on the GPU",
        "cudnn" => "cells with `attention = \"cudnn\"` are skipped",
        _ => "no clocks, power, temperature, throttle reasons or errors of the GPU beside the samples",
    }
}

fn text(machine: &Machine, answer: &Answer, usable: &Result<(), String>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "host     {}", machine.host);
    let _ = writeln!(text, "system   {}", machine.os);
    let _ = writeln!(text, "cpu      {} ({} cores usable)", machine.cpu, machine.cpu_cores);
    let _ = writeln!(text, "memory   {}", gib(machine.memory_bytes));
    let _ = writeln!(text, "driver   {}", answer.driver.as_deref().unwrap_or("none that NVML knows"));
    let _ =
        writeln!(text, "cuda     {}", usable.as_ref().map_or_else(|why| format!("no: {why}"), |()| "yes".to_owned()));
    for (index, (gpu, state)) in answer.gpus.iter().enumerate() {
        let used = if answer.gpu() == Some(gpu.uuid.as_str()) { ", the one that runs cells" } else { "" };
        let _ = writeln!(text, "\nGPU {index}    {}{used}", gpu.name);
        for line in gpu_lines(gpu, state) {
            let _ = writeln!(text, "  {line}");
        }
    }
    let _ = writeln!(text, "\nlibraries");
    for library in answer.cuda.libraries.iter().chain(&answer.nvml) {
        describe(&mut text, library);
    }
    if answer.cuda.libraries.is_empty() {
        let _ = writeln!(text, "  unknown: the probe gave no answer");
    }
    text
}

/// Its name as its maker writes it.
fn label(library: &str) -> &str {
    match library {
        "driver" => "GPU driver",
        "nvrtc" => "NVRTC",
        "cublasLt" => "cuBLASLt",
        "cudnn" => "cuDNN",
        "nvml" => "NVML",
        other => other,
    }
}

fn describe(text: &mut String, library: &Found) {
    let name = label(&library.name);
    match &library.problem {
        None => {
            let version = library.version.as_deref().unwrap_or("version unknown");
            let path = library.path.as_deref().unwrap_or("path unknown");
            let _ = writeln!(text, "  {name:<11}{version:<16}{path}");
        }
        Some(problem) => {
            let _ = writeln!(text, "  {name:<11}missing: {problem}");
            let _ = writeln!(text, "  {:<11}costs: {}", "", costs(&library.name));
        }
    }
}

/// What NVML says of one GPU, and what of it disturbs a measurement.
fn gpu_lines(gpu: &Gpu, state: &GpuState) -> Vec<String> {
    let on = |value: Option<bool>| value.map_or("unknown", |on| if on { "on" } else { "off" });
    let mut lines = vec![format!("uuid         {}, PCI {}", gpu.uuid, gpu.pci_id.as_deref().unwrap_or("unknown"))];
    let used = state.memory_used_bytes.map_or_else(|| "unknown".to_owned(), gib);
    lines.push(format!("memory       {}, {used} in use", gib(gpu.memory_bytes)));
    if let Some(hertz) = gpu.max_sm_clock_hz {
        lines.push(format!("SM clock     up to {:.0} MHz", hertz / 1e6));
    }
    if let Some(limit) = state.power_limit_w {
        let default =
            gpu.power_limit_default_w.map(|watts| format!(", the board's own is {watts:.0} W")).unwrap_or_default();
        lines.push(format!("power limit  {limit:.0} W{default}"));
    }
    lines.push(format!(
        "settings     ECC {}, MIG {}, persistence {}",
        on(state.ecc),
        on(state.mig),
        on(state.persistence)
    ));
    if let Some(errors) = state.ecc_uncorrected {
        lines.push(format!("errors       {errors} uncorrected, {} corrected", state.ecc_corrected.unwrap_or(0)));
    }
    if let Some(others @ 1..) = state.other_processes {
        lines.push(format!("processes    {others} on it now: they take part in whatever is measured; end them first"));
    }
    if gpu.persistence == Some(false) {
        lines.push("advice       without persistence every worker starts the GPU anew: `nvidia-smi -pm 1`".to_owned());
    }
    if state.mig == Some(true) {
        lines.push("advice       MIG shares memory bandwidth and power: measure on a whole GPU".to_owned());
    }
    if let (Some(limit), Some(default)) = (state.power_limit_w, gpu.power_limit_default_w)
        && limit < 0.99 * default
    {
        lines.push(
            "advice       the power limit is below the board's own: compare only runs with the same limit".to_owned(),
        );
    }
    lines
}

#[allow(clippy::cast_precision_loss)]
fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_disturbs_a_measurement_is_said_with_advice() {
        let gpu = Gpu { power_limit_default_w: Some(700.0), persistence: Some(false), ..Gpu::default() };
        let state = GpuState {
            power_limit_w: Some(500.0),
            mig: Some(true),
            other_processes: Some(2),
            ecc_uncorrected: Some(3),
            ..GpuState::default()
        };
        let lines = gpu_lines(&gpu, &state).join("\n");
        for words in
            ["500 W, the board's own is 700 W", "2 on it now", "3 uncorrected", "nvidia-smi -pm 1", "MIG shares"]
        {
            assert!(lines.contains(words), "{words}: {lines}");
        }
        let quiet = GpuState { power_limit_w: Some(700.0), other_processes: Some(0), ..GpuState::default() };
        let lines = gpu_lines(&Gpu { persistence: Some(true), ..gpu }, &quiet).join("\n");
        assert!(!lines.contains("advice") && !lines.contains("processes"), "{lines}");
    }

    #[test]
    fn a_missing_library_says_what_it_costs() {
        let found = |name: &str, problem: Option<&str>| Found {
            name: name.to_owned(),
            version: Some("9.19.0".to_owned()),
            path: Some("/x".to_owned()),
            problem: problem.map(str::to_owned),
        };
        let mut text = String::new();
        describe(&mut text, &found("cudnn", Some("install it")));
        describe(&mut text, &found("nvrtc", None));
        assert_eq!(
            text,
            "  cuDNN      missing: install it\n             costs: cells with `attention = \"cudnn\"` are skipped\n  NVRTC      9.19.0          /x\n"
        );
    }
}
