//! The nights before a run, searched: what `report --history` draws, and what `compare` says of lasting changes. May not
//! judge: the verdict crate finds the changes.

use std::path::Path;

use stepwatch_record::trend::{History, LatestChange};
use stepwatch_verdict::history::{latest, trends};
use stepwatch_verdict::policy::waive::{annotations_between, day};

use crate::commands::{CommandError, say};
use crate::judgement::Judgement;
use crate::nights::{self, StoredNight};
use crate::scenario::known::KnownFiles;

/// Of the runs beside a run so many bytes of summaries are read, the newest first: two months of 300 cells, years of a small
/// scenario. More would be felt at every comparison.
const MOST_BYTES: u64 = 100_000_000;

/// The nights of a run's scenario in and below a folder.
///
/// # Errors
/// When the folder cannot be read.
pub fn in_folder(judgement: &Judgement, folder: &Path, known: &KnownFiles) -> Result<History, CommandError> {
    let manifest = &judgement.run.manifest;
    let nights = nights::read(folder, &metrics(judgement))?;
    let (history, earlier) = up_to(judgement, nights);
    if earlier == 0 {
        say(format_args!("note: {} holds no earlier run of {}", folder.display(), manifest.scenario));
    }
    let ends =
        [history.nights.first(), history.nights.last()].map(|night| night.map_or("", |night| day(&night.started)));
    let annotations = annotations_between(&known.of_run(manifest).annotations, ends[0], ends[1]);
    Ok(History { annotations, ..history })
}

/// What has lastingly changed by the runs in and below a folder; without one, by those that lie beside the run's own `run`
/// folder, and then what cannot be read is passed over: nobody asked for it.
///
/// # Errors
/// When a folder that was named cannot be read.
pub fn latest_changes(
    judgement: &Judgement,
    named: Option<&Path>,
    run: &Path,
    known: &KnownFiles,
) -> Result<Vec<LatestChange>, CommandError> {
    let history = match named {
        Some(folder) => in_folder(judgement, folder, known)?,
        None => up_to(judgement, nights::beside(run, &metrics(judgement), MOST_BYTES)).0,
    };
    Ok(latest(&history))
}

/// The nights up to the run itself, which ends them whether its own folder is among them or not, and how many came before it.
/// Later runs are left out, so that what is made again says what it said.
fn up_to(judgement: &Judgement, mut nights: Vec<StoredNight>) -> (History, usize) {
    let manifest = &judgement.run.manifest;
    nights.retain(|night| {
        night.scenario == manifest.scenario && night.night.run != manifest.id && night.night.started <= manifest.started
    });
    let earlier = nights.len();
    let metrics = metrics(judgement);
    nights.push(StoredNight::new(&judgement.summary, &metrics));
    let cells: Vec<_> = manifest.cells.iter().map(|cell| cell.id.clone()).collect();
    let series = nights::series(&nights, &cells, &metrics);
    (trends(nights.into_iter().map(|night| night.night).collect(), series), earlier)
}

/// The metrics that have trends: those that gate; the first of a run of which none does.
fn metrics(judgement: &Judgement) -> Vec<String> {
    let manifest = &judgement.run.manifest;
    let gated: Vec<String> = manifest
        .metrics
        .iter()
        .map(|metric| metric.name.clone())
        .filter(|name| manifest.policy.gate.contains(name))
        .collect();
    if gated.is_empty() { manifest.metrics.iter().take(1).map(|metric| metric.name.clone()).collect() } else { gated }
}
