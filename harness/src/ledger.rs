//! The ledger of a run: written from a resolved scenario before the first worker starts, and held against what a resume
//! finds.

use stepwatch_record::machine::Machine;
use stepwatch_record::run::{Asked, RunManifest, Shard};
use stepwatch_record::version::CURRENT;

use crate::scenario::{PlannedCell, Scenario};
use crate::{machine, peaks};

/// How a new run was asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// `cpu`, `cuda`, `null` or `command`.
    pub backend: String,
    /// Seeds weights, tokens and the order of rounds.
    pub seed: u64,
    /// Where it runs.
    pub machine: Machine,
    /// Whether the host's name is kept in the clear.
    pub identify: bool,
    /// What was asked for beyond the scenario.
    pub asked: Asked,
}

/// The ledger of a new run; `cells` is the part of the scenario's cells that it runs.
#[must_use]
pub fn new(scenario: &Scenario, cells: &[PlannedCell], request: &Request) -> RunManifest {
    RunManifest {
        format: CURRENT,
        id: machine::run_id(),
        scenario: scenario.name.clone(),
        title: scenario.title.clone(),
        scenario_hash: scenario.hash.clone(),
        scenario_file: shown(&scenario.file, request.identify),
        scenario_text: scenario.text.clone(),
        started: machine::now(),
        backend: request.backend.clone(),
        seed: request.seed,
        cells: cells.iter().map(|planned| planned.cell.clone()).collect(),
        rounds: scenario.measure.rounds_min,
        samples: scenario.measure.samples,
        metrics: scenario.metrics.clone(),
        claims: scenario.claims.clone(),
        policy: scenario.policy.clone(),
        machines: vec![request.machine.clone()],
        build: machine::build(),
        peaks: peaks::of_cells(cells, &request.machine, &request.backend),
        notes: scenario.notes.clone(),
        command: std::env::args().skip(1).collect(),
        asked: Asked { findings: scenario.findings.clone(), ..request.asked.clone() },
    }
}

/// The file as it may be kept: relative paths as given, of an absolute one what follows the current folder or its name.
#[must_use]
pub fn shown(file: &std::path::Path, identify: bool) -> String {
    let relative = std::env::current_dir().ok().and_then(|here| file.strip_prefix(here).ok().map(ToOwned::to_owned));
    match relative {
        Some(relative) => relative.display().to_string(),
        None if file.is_absolute() && !identify => file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        None => file.display().to_string(),
    }
}

/// The cells of one part of a sweep: every `of`-th, so that each part has some of every axis.
#[must_use]
pub fn part(cells: Vec<PlannedCell>, shard: Option<Shard>) -> Vec<PlannedCell> {
    let Some(shard) = shard else { return cells };
    let mine = |index: usize| index as u64 % u64::from(shard.of) == u64::from(shard.index - 1);
    cells.into_iter().enumerate().filter(|(index, _)| mine(*index)).map(|(_, cell)| cell).collect()
}

/// What keeps a run from being gone on with here, one line each: rounds of one run must be comparable.
#[must_use]
pub fn obstacles(manifest: &RunManifest, now: &Machine) -> Vec<String> {
    let build = machine::build();
    let mut found = Vec::new();
    let mut compare = |what: &str, then: &str, now: &str| {
        if then != now {
            found.push(format!("{what}: {then} then, {now} now"));
        }
    };
    if manifest.build.binary != build.binary {
        let named = |build: &stepwatch_record::machine::Build| format!("{} ({})", build.version, build.binary);
        compare("the stepwatch binary", &named(&manifest.build), &named(&build));
    }
    let Some(then) = manifest.machines.first() else { return found };
    compare("the processor", &then.cpu, &now.cpu);
    compare("the usable cores", &then.cpu_cores.to_string(), &now.cpu_cores.to_string());
    let gpus = |machine: &Machine| -> String {
        let names: Vec<&str> = machine.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    compare("the GPU", &gpus(then), &gpus(now));
    let driver = |machine: &Machine| machine.driver.clone().unwrap_or("none".to_owned());
    compare("the driver", &driver(then), &driver(now));
    found
}

/// Reads `I/N`.
///
/// # Errors
/// What is right, in words.
pub fn parse_shard(text: &str) -> Result<Shard, String> {
    let parsed = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
    match parsed {
        Some((index, of)) if (1..=of).contains(&index) => Ok(Shard { index, of }),
        _ => Err(format!("`{text}` is no part of a sweep: write I/N with I from 1 to N, such as 2/4")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read_strictly() {
        assert_eq!(parse_shard("2/4"), Ok(Shard { index: 2, of: 4 }));
        for wrong in ["0/4", "5/4", "2", "a/b", "1/0", "-1/2"] {
            let message = parse_shard(wrong).unwrap_err();
            assert!(message.starts_with(&format!("`{wrong}` is no part of a sweep")), "{message}");
        }
    }
}
