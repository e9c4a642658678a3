//! The runs before a run, searched: what `report --history` draws, and what every report says of lasting changes. That is
//! found once, when the run ends, kept in its conclusion and read back from there. May not judge: the verdict crate finds
//! the changes.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use stepwatch_record::figure::Summary;
use stepwatch_record::run::RunManifest;
use stepwatch_record::trend::{History, LatestChange};
use stepwatch_verdict::history::{latest, trends};
use stepwatch_verdict::policy::waive::{annotations_between, day};

use crate::commands::{CommandError, say};
use crate::nights::{self, StoredNight};
use crate::scenario::known::KnownFiles;
use crate::store::CONCLUSION;

/// Of the runs beside a run so many bytes of summaries are read, the newest first: two months of 300 cells, years of a small
/// scenario. More would be felt at the end of every run.
const MOST_BYTES: u64 = 100_000_000;

/// The nights of a run's scenario in and below a folder.
///
/// # Errors
/// When the folder cannot be read.
pub fn in_folder(
    manifest: &RunManifest,
    summary: &Summary,
    folder: &Path,
    known: &KnownFiles,
) -> Result<History, CommandError> {
    let nights = nights::read(folder, &metrics(manifest))?;
    let (history, earlier) = up_to(manifest, summary, nights);
    if earlier == 0 {
        say(format_args!("note: {} holds no earlier run of {}", folder.display(), manifest.scenario));
    }
    let ends =
        [history.nights.first(), history.nights.last()].map(|night| night.map_or("", |night| day(&night.started)));
    let annotations = annotations_between(&known.of_run(manifest).annotations, ends[0], ends[1]);
    Ok(History { annotations, ..history })
}

/// What has lastingly changed by the newest runs beside the folder of a run. What cannot be read is passed over: nobody asked
/// for it.
#[must_use]
pub fn beside(manifest: &RunManifest, summary: &Summary, folder: &Path) -> Vec<LatestChange> {
    latest(&up_to(manifest, summary, nights::beside(folder, &metrics(manifest), MOST_BYTES)).0)
}

/// What was told of the cells of a run when it ended; `None` if nothing was stored of it that can be read.
#[must_use]
pub fn told(manifest: &RunManifest, folder: &Path) -> Option<Vec<LatestChange>> {
    #[derive(Deserialize)]
    struct Told {
        run: String,
        latest_changes: Option<Vec<LatestChange>>,
    }
    let text = fs::read_to_string(folder.join(CONCLUSION)).ok()?;
    let told: Told = serde_json::from_str(&text).ok()?;
    let mut changes = told.latest_changes.filter(|_| told.run == manifest.id)?;
    // Of a run of two sides only one may be shown.
    changes.retain(|change| manifest.cells.iter().any(|cell| cell.id == change.cell));
    Some(changes)
}

/// The nights up to the run itself, which ends them whether its own folder is among them or not, and how many came before it.
/// Later runs are left out, so that what is made again says what it said.
fn up_to(manifest: &RunManifest, summary: &Summary, mut nights: Vec<StoredNight>) -> (History, usize) {
    nights.retain(|night| {
        night.scenario == manifest.scenario && night.night.run != manifest.id && night.night.started <= manifest.started
    });
    let earlier = nights.len();
    let metrics = metrics(manifest);
    nights.push(StoredNight::new(summary, &metrics));
    let cells: Vec<_> = manifest.cells.iter().map(|cell| cell.id.clone()).collect();
    let series = nights::series(&nights, &cells, &metrics);
    (trends(nights.into_iter().map(|night| night.night).collect(), series), earlier)
}

/// The metrics that have trends: those that gate; the first of a run of which none does.
fn metrics(manifest: &RunManifest) -> Vec<String> {
    let gated: Vec<String> = manifest
        .metrics
        .iter()
        .map(|metric| metric.name.clone())
        .filter(|name| manifest.policy.gate.contains(name))
        .collect();
    if gated.is_empty() { manifest.metrics.iter().take(1).map(|metric| metric.name.clone()).collect() } else { gated }
}
