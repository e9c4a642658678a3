//! Where figures come from: machine, build, libraries, settings, the ledger of planned rounds, notes, method, and the
//! commands that measure again. A figure without it is a bug.

use serde::Serialize;
use stepwatch_record::against::BUILD;
use stepwatch_record::comparison::Conclusion;
use stepwatch_record::machine::{Gpu, Library, Machine};
use stepwatch_record::message::Canary;
use stepwatch_record::{Run, RunManifest};

use super::ceilings;
use super::cell::{CellView, Fact, fact};
use super::mark::Mark;
use super::matrix::Axis;
use crate::clean;
use crate::format::{self, Hint};

/// Everything below the figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Provenance {
    /// The machines, several in a merged run.
    pub machines: Vec<MachineView>,
    /// The build that measured.
    pub build: Vec<Fact>,
    /// Scenario, seed, policy.
    pub settings: Vec<Fact>,
    /// The scenario file's text, as it was.
    pub scenario_text: String,
    /// Planned cells and how they ended.
    pub ledger: Vec<Ledger>,
    /// Rounds with a record, of those planned.
    pub rounds: String,
    /// What was noticed while planning and measuring.
    pub notes: Vec<String>,
    /// What was wrong with the folder.
    pub damage: Vec<String>,
    /// The method, in a few lines.
    pub method: Vec<String>,
    /// The command that measures all of it again.
    pub command: String,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MachineView {
    /// Host, system, CPU, memory, GPUs, driver.
    pub facts: Vec<Fact>,
    /// Libraries: name, version, path.
    pub libraries: Vec<Library>,
}

/// How many planned cells ended in one way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ledger {
    /// The end.
    pub mark: Mark,
    /// How many cells.
    pub cells: usize,
}

pub(crate) fn provenance(run: &Run, conclusion: &Conclusion, cells: &[CellView]) -> Provenance {
    let manifest = &run.manifest;
    let mut ledger: Vec<Ledger> = Vec::new();
    for cell in cells {
        match ledger.iter_mut().find(|line| line.mark == cell.end.mark) {
            Some(line) => line.cells += 1,
            None => ledger.push(Ledger { mark: cell.end.mark, cells: 1 }),
        }
    }
    ledger.sort_by_key(|line| (line.mark.tone, line.mark.word));
    let planned = manifest.cells.len() * manifest.rounds as usize;
    let mut machines: Vec<MachineView> = manifest.machines.iter().map(machine).collect();
    if let Some(view) = machines.first_mut() {
        view.facts.extend(canary(run));
        view.facts.extend(ceilings::facts(run));
    }
    let command: Vec<String> = manifest.command.iter().map(|word| clean::shell_word(&clean::line(word))).collect();
    Provenance {
        machines,
        build: build(manifest),
        settings: settings(manifest),
        scenario_text: scenario_text(&manifest.scenario_text),
        ledger,
        rounds: rounds(run, planned),
        notes: manifest.notes.iter().map(|line| clean::line(line)).collect(),
        damage: run.damage.iter().map(|line| clean::line(line)).collect(),
        method: conclusion.method.iter().map(|line| clean::line(line)).collect(),
        command: command.join(" "),
    }
}

/// How many planned rounds have a record, and how many were run beyond the plan.
fn rounds(run: &Run, planned: usize) -> String {
    let extra = run.rounds.iter().filter(|round| round.record.round.is_some_and(|n| n >= run.manifest.rounds)).count();
    let text = format!("{} of {planned} planned rounds have a record", run.rounds.len() - extra);
    if extra == 0 { text } else { format!("{text}, and {}", format::count(extra, "extra round", "extra rounds")) }
}

/// The text line by line, so that the bound on a single text does not cut a long file.
fn scenario_text(text: &str) -> String {
    text.lines().map(clean::lines).collect::<Vec<_>>().join("\n")
}

fn machine(machine: &Machine) -> MachineView {
    let bytes = |n: u64| format::quantity(Hint::Bytes, "bytes", n as f64);
    let mut facts = vec![
        fact("host", &machine.host),
        fact("system", &machine.os),
        fact("CPU", format!("{}, {} cores used", machine.cpu, machine.cpu_cores)),
        fact("memory", bytes(machine.memory_bytes)),
    ];
    for gpu in &machine.gpus {
        facts.push(fact("GPU", gpu_line(gpu)));
    }
    if let Some(driver) = &machine.driver {
        facts.push(fact("driver", driver));
    }
    let library = |library: &Library| Library {
        name: clean::line(&library.name),
        version: clean::line(&library.version),
        path: clean::line(&library.path),
    };
    MachineView { facts, libraries: machine.libraries.iter().map(library).collect() }
}

/// What the canary reached over the run: the lowest and the highest reading of each rate.
fn canary(run: &Run) -> Option<Fact> {
    let readings = || run.rounds.iter().flat_map(|round| &round.record.canaries);
    let ends = |rate: fn(&Canary) -> f64| {
        let low = readings().map(rate).reduce(f64::min)?;
        Some((low, readings().map(rate).reduce(f64::max)?))
    };
    let (flops, bytes) = (ends(|canary| canary.flops_per_second)?, ends(|canary| canary.bytes_per_second)?);
    let shown = |(low, high): (f64, f64), unit: &str| {
        format!("{}…{}", format::quantity(Hint::Rate, unit, low), format::quantity(Hint::Rate, unit, high))
    };
    let count = readings().count();
    Some(fact("canary", format!("{} and {} in {count} readings", shown(flops, "FLOP/s"), shown(bytes, "B/s"))))
}

fn gpu_line(gpu: &Gpu) -> String {
    let mut parts = vec![gpu.name.clone(), format::quantity(Hint::Bytes, "bytes", gpu.memory_bytes as f64)];
    if let Some(watts) = gpu.power_limit_w {
        let default = gpu.power_limit_default_w.filter(|default| (default - watts).abs() >= 1.0);
        let default = default.map(|default| format!(" of the board's {} W", format::number(default)));
        parts.push(format!("power limit {} W{}", format::number(watts), default.unwrap_or_default()));
    }
    if let Some(clock) = gpu.max_sm_clock_hz {
        parts.push(format!("SM clock up to {}", format::quantity(Hint::Rate, "Hz", clock)));
    }
    let on = |name: &str, on: bool| format!("{name} {}", if on { "on" } else { "off" });
    let settings = [("ECC", gpu.ecc), ("MIG", gpu.mig), ("persistence", gpu.persistence)];
    parts.extend(settings.into_iter().filter_map(|(name, value)| Some(on(name, value?))));
    if let Some(pci) = &gpu.pci_id {
        parts.push(format!("PCI {pci}"));
    }
    parts.push(gpu.uuid.clone());
    parts.join(" · ")
}

fn build(manifest: &RunManifest) -> Vec<Fact> {
    let build = &manifest.build;
    let mut facts = vec![fact("stepwatch", &build.version), fact("binary", &build.binary)];
    if let Some(commit) = &build.commit {
        let dirty = if build.dirty { " with uncommitted changes" } else { "" };
        facts.push(fact("commit", format!("{commit}{dirty}")));
    }
    facts
}

fn settings(manifest: &RunManifest) -> Vec<Fact> {
    let policy = &manifest.policy;
    vec![
        fact("scenario", &manifest.scenario),
        fact("file", &manifest.scenario_file),
        fact("scenario hash", &manifest.scenario_hash),
        fact("backend", &manifest.backend),
        fact("seed", manifest.seed.to_string()),
        fact("rounds a cell", manifest.rounds.to_string()),
        fact("samples a round", manifest.samples.to_string()),
        fact("gate", policy.gate.join(", ")),
        fact("margin", format::share(policy.margin)),
        fact("equal within", format::share(policy.equal_within)),
        fact("detect", format::share(policy.detect)),
        fact("false alarms a run", format::share(policy.false_alarms)),
        fact("reference", format!("up to {} accepted runs", policy.reference_runs)),
        fact("same", policy.reference_same.join(", ")),
    ]
}

/// What was measured on, in a few words: the GPUs, else the CPUs.
pub(crate) fn device(manifest: &RunManifest) -> String {
    let of_machine = |machine: &Machine| match machine.gpus.first() {
        Some(gpu) if manifest.backend != "cpu" => gpu.name.clone(),
        _ => format!("{}, {} cores", machine.cpu, machine.cpu_cores),
    };
    let mut names: Vec<String> = manifest.machines.iter().map(of_machine).collect();
    names.dedup();
    clean::line(&names.join(" + "))
}

/// The command that runs one cell again: a filter on the axes in which cells differ.
pub(crate) fn rerun(manifest: &RunManifest, cell: &CellView, axes: &[Axis]) -> String {
    let file = match clean::line(&manifest.scenario_file) {
        file if file.is_empty() => "SCENARIO.toml".to_owned(),
        file => clean::shell_word(&file),
    };
    // A comma parts two conditions and cannot be written inside one.
    let against = manifest.asked.against.as_ref();
    // Which build a cell is of is no axis of the scenario's.
    let of_scenario = |axis: &&Axis| against.is_none() || axis.name != BUILD;
    let said = axes.iter().filter(of_scenario).map(|axis| (axis, cell.value(&axis.name)));
    let conditions: Vec<String> = said
        .filter(|(_, value)| *value != "–" && !value.contains(','))
        .map(|(axis, value)| format!("{}={}", axis.name, glob_literal(value)))
        .collect();
    let mut command = format!("stepwatch run {file}");
    if !conditions.is_empty() {
        command.push_str(" --filter ");
        command.push_str(&clean::shell_word(&conditions.join(",")));
    }
    if matches!(manifest.backend.as_str(), "cpu" | "cuda") {
        command.push_str(" --backend ");
        command.push_str(&manifest.backend);
    }
    if let Some(against) = against {
        command.push_str(" --against ");
        command.push_str(&clean::shell_word(&clean::line(&against.name)));
    }
    command
}

/// Filters take globs: what is special there is put in brackets.
fn glob_literal(value: &str) -> String {
    value.chars().map(|c| if "*?[]{}".contains(c) { format!("[{c}]") } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_values_literally() {
        assert_eq!(glob_literal("layout+fusion"), "layout+fusion");
        assert_eq!(glob_literal("a*b[1]"), "a[*]b[[]1[]]");
    }
}
