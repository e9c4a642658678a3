//! A run folder read back, tolerant of what a kill leaves behind and of nothing else: torn tails are left out and named.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use stepwatch_record::ceiling::Ceilings;
use stepwatch_record::plan::PlanFile;
use stepwatch_record::profile::Profile;
use stepwatch_record::run::{End, Round, RoundRecord, Run, RunManifest};
use stepwatch_record::version::FormatVersion;
use stepwatch_record::{CellId, line};

use super::{CEILINGS, MANIFEST, PLANS, PROFILES, ROUNDS, SAMPLES, StoreError, samples};

/// Reads a whole run: the last attempt at every round, in the order of cells and rounds.
///
/// # Errors
/// When it is no run, a newer stepwatch wrote it, or the ledger cannot be read.
pub fn load(folder: &Path) -> Result<Run, StoreError> {
    let manifest = load_manifest(folder)?;
    let mut damage = Vec::new();
    let records = read_lines::<RoundRecord>(&folder.join(ROUNDS), &mut damage)?;
    let samples = read_or_empty(&folder.join(SAMPLES))?;
    let place: HashMap<&CellId, usize> = manifest.cells.iter().map(|cell| &cell.id).zip(0..).collect();
    // Ordered by cell and round; a later attempt takes the place of an earlier one.
    let mut prepared: BTreeMap<usize, RoundRecord> = BTreeMap::new();
    let mut rounds: BTreeMap<(usize, u32), Round> = BTreeMap::new();
    for record in records {
        let Some(&cell) = place.get(&record.cell) else {
            damage.push(format!("{ROUNDS} has a record of {}, which was not planned: left out", record.cell));
            continue;
        };
        let Some(number) = record.round else {
            prepared.insert(cell, record);
            continue;
        };
        // A record whose samples are gone is not evidence: its round counts as missing.
        match samples_of(&samples, &record, number) {
            Ok(samples) => {
                rounds.insert((cell, number), Round { record, samples });
            }
            Err(why) => damage.push(format!("{SAMPLES}: {why}: round {number} of {} counts as missing", record.cell)),
        }
    }
    let prepared = prepared.into_values().collect();
    let rounds = rounds.into_values().collect();
    let plans = read_plans(folder, &manifest, &mut damage);
    let profiles = read_lines::<Profile>(&folder.join(PROFILES), &mut damage)?;
    let ceilings = read_lines::<Ceilings>(&folder.join(CEILINGS), &mut damage)?;
    Ok(Run { manifest, plans, prepared, rounds, profiles, ceilings, damage })
}

/// Reads the ledger alone.
///
/// # Errors
/// As [`load`].
pub fn load_manifest(folder: &Path) -> Result<RunManifest, StoreError> {
    let path = folder.join(MANIFEST);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Err(StoreError::NoRun { path: folder.to_owned() });
        }
        Err(error) => return Err(StoreError::io(&path, "read", error)),
    };
    parse_versioned(&text, &path)
}

/// Reads a JSON file that names its format version, and asks for that before anything else: a newer file may hold what this
/// version cannot read.
pub(crate) fn parse_versioned<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, StoreError> {
    let damaged = |why: String| StoreError::Damaged { path: path.to_owned(), why };
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64).and_then(|v| u32::try_from(v).ok());
    let format = FormatVersion(format.ok_or_else(|| damaged("it names no format version".to_owned()))?);
    format.readable(&path.display().to_string())?;
    serde_json::from_value(value).map_err(|error| damaged(error.to_string()))
}

fn samples_of(bytes: &[u8], record: &RoundRecord, round: u32) -> Result<Vec<stepwatch_record::run::Sample>, String> {
    let (from, to) = record.samples_bytes;
    let range = usize::try_from(from).ok().zip(usize::try_from(to).ok()).and_then(|(from, to)| bytes.get(from..to));
    let text = range
        .ok_or_else(|| format!("it ends at byte {}, before the samples at {from} to {to}", bytes.len()))
        .and_then(|bytes| std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned()))?;
    let samples = samples::read(text, &record.cell, round)?;
    let measured = samples.iter().filter(|sample| sample.measured).count();
    if record.end == End::Completed && !samples.is_empty() && measured != record.samples as usize {
        return Err(format!("it holds {measured} samples where {} were recorded", record.samples));
    }
    Ok(samples)
}

fn read_plans(folder: &Path, manifest: &RunManifest, damage: &mut Vec<String>) -> Vec<PlanFile> {
    let mut plans = Vec::new();
    for cell in &manifest.cells {
        let name = format!("{}.json", cell.id.file_stem());
        let Ok(text) = fs::read_to_string(folder.join(PLANS).join(&name)) else { continue };
        match serde_json::from_str(&text) {
            Ok(plan) => plans.push(plan),
            Err(error) => damage.push(format!("{PLANS}/{name} is damaged: {error}")),
        }
    }
    plans
}

fn read_lines<T: DeserializeOwned>(path: &Path, damage: &mut Vec<String>) -> Result<Vec<T>, StoreError> {
    let decoded = line::decode(&read_or_empty(path)?);
    if let Some(why) = decoded.torn {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        damage.push(format!("{name}: {why}; it and all after it were left out"));
    }
    Ok(decoded.records)
}

/// A file that is appended to may not be there yet.
fn read_or_empty(path: &Path) -> Result<Vec<u8>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(StoreError::io(path, "read", error)),
    }
}
