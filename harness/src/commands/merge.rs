//! `stepwatch merge`: the parts of one sweep brought together into one run, which is judged then.

use std::path::PathBuf;

use stepwatch_record::Cell;
use stepwatch_record::run::{Run as StoredRun, RunManifest};

use super::{CommandError, Places, emit, say};
use crate::exit::Exit;
use crate::judgement::{Against, Judgement, unwritable};
use crate::store::{self, RunWriter};

/// Brings the parts of a sharded sweep together into one run.
#[derive(Debug, clap::Args)]
pub struct Merge {
    /// All parts: folders or ids.
    #[arg(value_name = "RUN", required = true, num_args = 1..)]
    runs: Vec<String>,
    /// The folder of the merged run; must not hold a run.
    #[arg(short, long, value_name = "RUN")]
    output: PathBuf,
    #[command(flatten)]
    places: Places,
}

/// Merges, judges and shows.
///
/// # Errors
/// When a part is missing, there twice, or of another sweep.
pub fn run(args: &Merge) -> Result<Exit, CommandError> {
    let mut parts = Vec::new();
    for name in &args.runs {
        parts.push(super::load(&store::find(name, &args.places.out).map_err(CommandError::usage)?)?);
    }
    let manifest = merged(&mut parts)?;
    let mut writer = RunWriter::create(&args.output, &manifest).map_err(CommandError::usage)?;
    for part in &parts {
        copy(part, &mut writer).map_err(unwritable)?;
    }
    drop(writer);
    let judgement = Judgement::new(
        super::load(&args.output)?,
        &Against::Accepted(args.places.baselines.clone()),
        &args.places.known()?,
    )?
    .searched(&args.output);
    let report = judgement.store(&args.output, None)?;
    emit(&stepwatch_reports::text::render(&judgement.view(), super::colored_stdout()))?;
    say(format_args!("report: {}", report.display()));
    Ok(judgement.exit())
}

/// The ledger of the whole sweep; sorts the parts.
fn merged(parts: &mut [StoredRun]) -> Result<RunManifest, CommandError> {
    let shard = |part: &StoredRun| {
        part.manifest.asked.shard.ok_or_else(|| {
            CommandError::usage(format!("{} is a whole run, no part of one (`--shard`)", part.manifest.id))
        })
    };
    for part in parts.iter() {
        shard(part)?;
    }
    parts.sort_by_key(|part| part.manifest.asked.shard.map(|shard| shard.index));
    let Some(first) = parts.first() else { return Err(CommandError::usage("name the parts to merge")) };
    let of = shard(first)?.of;
    for (index, part) in parts.iter().enumerate() {
        same_sweep(&first.manifest, &part.manifest)?;
        let expected = u32::try_from(index).unwrap_or(u32::MAX) + 1;
        let found = shard(part)?.index;
        if found != expected {
            let what = if found < expected { "is there twice" } else { "is missing" };
            let which = found.min(expected);
            return Err(CommandError::usage(format!("part {which} of {of} {what}: name each part once")));
        }
    }
    if parts.len() < of as usize {
        let which = parts.len() + 1;
        return Err(CommandError::usage(format!("part {which} of {of} is missing: name each part once")));
    }
    let mut manifest = first.manifest.clone();
    manifest.cells = interleaved(parts);
    manifest.machines = Vec::new();
    manifest.notes = Vec::new();
    manifest.peaks = parts.iter().flat_map(|part| part.manifest.peaks.iter().cloned()).collect();
    for part in parts.iter() {
        for machine in &part.manifest.machines {
            if !manifest.machines.contains(machine) {
                manifest.machines.push(machine.clone());
            }
        }
        for note in &part.manifest.notes {
            if !manifest.notes.contains(note) {
                manifest.notes.push(note.clone());
            }
        }
    }
    manifest.id = crate::machine::run_id();
    manifest.asked.shard = None;
    manifest.command = std::env::args().skip(1).collect();
    Ok(manifest)
}

fn same_sweep(one: &RunManifest, other: &RunManifest) -> Result<(), CommandError> {
    let differences = [
        ("scenario", one.scenario.clone(), other.scenario.clone()),
        ("scenario hash", one.scenario_hash.clone(), other.scenario_hash.clone()),
        ("backend", one.backend.clone(), other.backend.clone()),
        ("seed", one.seed.to_string(), other.seed.to_string()),
        ("rounds", one.rounds.to_string(), other.rounds.to_string()),
        ("stepwatch binary", one.build.binary.clone(), other.build.binary.clone()),
        (
            "number of parts",
            one.asked.shard.map_or(0, |shard| shard.of).to_string(),
            other.asked.shard.map_or(0, |shard| shard.of).to_string(),
        ),
    ];
    match differences.into_iter().find(|(_, one, other)| one != other) {
        None => Ok(()),
        Some((what, a, b)) => Err(CommandError::usage(format!(
            "{} and {} are not parts of one sweep: {what} {a}, and {b}",
            one.id, other.id
        ))),
    }
}

/// The cells in the order of the scenario: the parts took them in turns.
fn interleaved(parts: &[StoredRun]) -> Vec<Cell> {
    let longest = parts.iter().map(|part| part.manifest.cells.len()).max().unwrap_or(0);
    (0..longest)
        .flat_map(|index| parts.iter().filter_map(move |part| part.manifest.cells.get(index).cloned()))
        .collect()
}

fn copy(part: &StoredRun, writer: &mut RunWriter) -> Result<(), store::StoreError> {
    for plan in &part.plans {
        writer.store_plan(plan)?;
    }
    for record in &part.prepared {
        writer.append(record.clone(), &[])?;
    }
    for round in &part.rounds {
        writer.append(round.record.clone(), &round.samples)?;
    }
    for profile in &part.profiles {
        writer.store_profile(profile)?;
    }
    for ceilings in &part.ceilings {
        writer.store_ceilings(ceilings)?;
    }
    Ok(())
}
