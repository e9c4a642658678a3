//! Findings on the machine: clocks held down by power or heat, and libraries loaded in two versions.

use stepwatch_record::CellId;
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::run::{RoundRecord, Run, Sample};

use crate::stats;
use crate::wording::{count, number, percent};

/// NVML `nvmlClocksEventReasonSwPowerCap`.
const POWER_CAP: u64 = 0x4;
/// NVML hardware slowdown (0x8), software (0x20) and hardware (0x40) thermal slowdown.
const THERMAL: u64 = 0x8 | 0x20 | 0x40;
/// Below this share of a cell's samples the power cap is no finding: a short touch is normal.
const CAPPED_SHARE: f64 = 0.1;
/// Heat is no normal state: a smaller share is worth saying.
const HOT_SHARE: f64 = 0.01;

/// Whether the clock was held down by power or by heat when a sample ended.
pub(crate) fn is_held_down(sample: &Sample) -> bool {
    sample.throttle & (POWER_CAP | THERMAL) != 0
}

/// Cells measured at the power cap, and cells measured too hot.
pub(super) fn throttled(run: &Run) -> Vec<Finding> {
    let capped = held_down(run, POWER_CAP, CAPPED_SHARE).map(|(cells, evidence)| Finding {
        kind: Kind::PowerCapped,
        severity: Severity::Medium,
        sentence: format!(
            "the GPU ran at its power cap in {}: watts, not kernels, set the clock there",
            count(cells.len(), "cell")
        ),
        evidence,
        next_step: "read joules per token beside the speed, and compare only runs with the same power limit".to_owned(),
        command: String::new(),
        cells,
    });
    let hot = held_down(run, THERMAL, HOT_SHARE).map(|(cells, evidence)| Finding {
        kind: Kind::ThermalThrottle,
        severity: Severity::High,
        sentence: format!(
            "heat slowed the GPU down in {}: their speed is that of the cooling",
            count(cells.len(), "cell")
        ),
        evidence,
        next_step: "see to the cooling (`stepwatch doctor`) and measure these cells again".to_owned(),
        command: String::new(),
        cells,
    });
    capped.into_iter().chain(hot).collect()
}

/// Cells in which at least `share` of the measured samples carry one of the bits, with one line each.
fn held_down(run: &Run, bits: u64, share: f64) -> Option<(Vec<CellId>, Vec<String>)> {
    let (mut cells, mut evidence) = (Vec::new(), Vec::new());
    for cell in &run.manifest.cells {
        let rounds = run.rounds.iter().filter(|round| round.record.cell == cell.id);
        let samples: Vec<&Sample> = rounds.flat_map(|round| &round.samples).filter(|sample| sample.measured).collect();
        let (held, free): (Vec<&Sample>, Vec<&Sample>) = samples.iter().partition(|s| s.throttle & bits != 0);
        let found = held.len() as f64 / samples.len().max(1) as f64;
        if !held.is_empty() && found >= share {
            let clocks = match (clock(&held), clock(&free)) {
                (Some(held), Some(free)) => format!("; {held} MHz there, {free} MHz else"),
                (Some(held), None) => format!("; {held} MHz"),
                _ => String::new(),
            };
            evidence.push(format!("{}: {} of {}{clocks}", cell.id, percent(found), count(samples.len(), "sample")));
            cells.push(cell.id.clone());
        }
    }
    (!cells.is_empty()).then_some((cells, evidence))
}

/// Median SM clock in MHz, as text.
fn clock(samples: &[&Sample]) -> Option<String> {
    let clocks: Vec<f64> = samples.iter().map(|sample| sample.sm_clock_hz).filter(|hz| hz.is_finite()).collect();
    Some(number((stats::median(&clocks)? / 1e6).round()))
}

/// A library that one machine had loaded in two versions.
pub(super) fn two_library_versions(run: &Run) -> Option<Finding> {
    let mut evidence = Vec::new();
    for machine in &run.manifest.machines {
        for (i, library) in machine.libraries.iter().enumerate() {
            let twin = machine.libraries[..i].iter().find(|l| l.name == library.name && l.version != library.version);
            if let Some(twin) = twin {
                evidence.push(format!(
                    "{} {} from {} and {} from {}",
                    library.name, twin.version, twin.path, library.version, library.path
                ));
            }
        }
    }
    let mut copies: Vec<String> = run.rounds.iter().filter_map(|round| copies_in(&round.record)).collect();
    copies.sort();
    copies.dedup();
    evidence.extend(copies);
    (!evidence.is_empty()).then(|| Finding {
        kind: Kind::TwoLibraryVersions,
        severity: Severity::Medium,
        sentence: format!(
            "{} loaded in two versions: which one ran is not certain",
            count(evidence.len(), "library").replace("librarys", "libraries")
        ),
        evidence,
        next_step: "leave one on the library path; `stepwatch doctor` lists them with their paths".to_owned(),
        command: String::new(),
        cells: Vec::new(),
    })
}

/// Two files of one library that one worker mapped.
fn copies_in(record: &RoundRecord) -> Option<String> {
    let libraries = &record.ready.as_ref()?.libraries;
    libraries.iter().enumerate().find_map(|(i, library)| {
        let twin = libraries[..i].iter().find(|other| other.name == library.name && other.path != library.path)?;
        Some(format!("{} mapped twice in one worker: {} and {}", library.name, twin.path, library.path))
    })
}
