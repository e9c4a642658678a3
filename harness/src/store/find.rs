//! Which folder a user means by a path, `latest` or `prev`: by listing the runs that are there, never by links that a copy
//! would lose.

use std::fs;
use std::path::{Path, PathBuf};

use super::{MANIFEST, StoreError};

/// A run that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its id, which begins with when it began.
    pub id: String,
    /// Its scenario.
    pub scenario: String,
    /// Its folder.
    pub folder: PathBuf,
}

/// The folder of a RUN: a path, `latest`, `prev`, either of them after a scenario's name (`quick/latest`), or an id.
///
/// # Errors
/// When there is none, with what is there.
pub fn find(reference: &str, out: &Path) -> Result<PathBuf, StoreError> {
    let (scenario, word) = match reference.rsplit_once('/') {
        Some((scenario, word @ ("latest" | "prev"))) => (Some(scenario), word),
        _ => (None, reference),
    };
    let not_found = |hint: String| StoreError::NotFound { name: reference.to_owned(), out: out.to_owned(), hint };
    let runs = || newest_first(out, scenario);
    match word {
        "latest" => {
            let found = runs().into_iter().next();
            found.map(|run| run.folder).ok_or_else(|| not_found("nothing was run there yet".to_owned()))
        }
        "prev" => {
            let runs = runs();
            let latest = runs.first().ok_or_else(|| not_found("nothing was run there yet".to_owned()))?;
            let found = runs.iter().skip(1).find(|run| run.scenario == latest.scenario);
            found
                .map(|run| run.folder.clone())
                .ok_or_else(|| not_found(format!("{} has only one run", latest.scenario)))
        }
        _ => {
            let path = PathBuf::from(reference);
            if path.join(MANIFEST).is_file() {
                return Ok(path);
            }
            // A path to a file in the folder, as a shell completes it, means the folder.
            if let Some(parent) = path.parent()
                && path.is_file()
                && parent.join(MANIFEST).is_file()
            {
                return Ok(parent.to_owned());
            }
            if path.exists() {
                return Err(StoreError::NoRun { path });
            }
            let found = newest_first(out, None).into_iter().find(|run| run.id == reference);
            let hint = "a RUN is the path of a run folder, an id, `latest` or `prev`".to_owned();
            found.map(|run| run.folder).ok_or_else(|| not_found(hint))
        }
    }
}

/// The runs under an output folder, newest first; of one scenario, if named.
#[must_use]
pub fn newest_first(out: &Path, scenario: Option<&str>) -> Vec<Found> {
    let mut found: Vec<Found> = folders(out)
        .filter(|(name, _)| scenario.is_none_or(|scenario| scenario == name))
        .flat_map(|(scenario, path)| {
            folders(&path)
                .filter(|(_, folder)| folder.join(MANIFEST).is_file())
                .map(|(id, folder)| Found { id, scenario: scenario.clone(), folder })
                .collect::<Vec<_>>()
        })
        .collect();
    // Ids begin with the instant a run began, to 15 µs.
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found.reverse();
    found
}

fn folders(path: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    fs::read_dir(path).into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        let path = entry.path();
        path.is_dir().then(|| (entry.file_name().to_string_lossy().into_owned(), path))
    })
}
