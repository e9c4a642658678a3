//! Which runs are the reference of a scenario: `baselines/<scenario>/<run>.json`, one file per accepted run.
//!
//! A file carries all that comparing needs, so that the run's own folder may be deleted. Revoking keeps the file and its
//! reasons: who asks later why a baseline changed finds the answer here.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stepwatch_record::figure::Summary;
use stepwatch_record::plan::PlanFile;
use stepwatch_record::version::{CURRENT, FormatVersion};

use crate::store::{StoreError, parse_versioned, write_json};

/// One accepted run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The format.
    pub format: FormatVersion,
    /// When it was accepted, RFC 3339, UTC.
    pub accepted: String,
    /// Why, as the user gave it.
    pub reason: String,
    /// When and why it was revoked, if it was.
    #[serde(default)]
    pub revoked: Option<Revoked>,
    /// Its figures.
    pub summary: Summary,
    /// What was settled for its cells.
    #[serde(default)]
    pub plans: Vec<PlanFile>,
}

/// A baseline taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// When, RFC 3339, UTC.
    pub at: String,
    /// Why.
    pub reason: String,
}

/// All accepted runs of a scenario, revoked ones included, newest first.
///
/// # Errors
/// When a file is damaged or newer than this stepwatch: judging without it would judge against something else.
pub fn all(folder: &Path, scenario: &str) -> Result<Vec<Accepted>, StoreError> {
    let folder = folder.join(scenario);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StoreError::Io { path: folder, verb: "read", source }),
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    let mut accepted = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    accepted.sort_by(|a: &Accepted, b| (&b.summary.started, &b.summary.run).cmp(&(&a.summary.started, &a.summary.run)));
    Ok(accepted)
}

/// The runs to compare with: the newest that stand, `except` this one, back to where as many `fit` as the policy asks for. Those
/// that do not fit are among them, so that a reader sees what was refused.
///
/// # Errors
/// As [`all`].
pub fn reference(
    folder: &Path,
    scenario: &str,
    runs: u32,
    except: &str,
    fits: impl Fn(&Summary) -> bool,
) -> Result<Vec<Accepted>, StoreError> {
    let standing = all(folder, scenario)?.into_iter().filter(|a| a.revoked.is_none() && a.summary.run != except);
    let mut missing = runs;
    let enough = |accepted: &Accepted| {
        let wanted = missing > 0;
        missing -= u32::from(wanted && fits(&accepted.summary));
        wanted
    };
    let reference: Vec<Accepted> = standing.take_while(enough).collect();
    // Where none fits, a few say why as well as all.
    let any = reference.iter().any(|accepted| fits(&accepted.summary));
    let most = if any { reference.len() } else { runs as usize };
    Ok(reference.into_iter().take(most).collect())
}

/// Accepts a run; accepting it again gives it a new reason and lifts a revocation.
///
/// # Errors
/// When the file cannot be written.
pub fn accept(
    folder: &Path,
    summary: Summary,
    plans: Vec<PlanFile>,
    reason: &str,
    now: String,
) -> Result<PathBuf, StoreError> {
    let path = path_of(folder, &summary.scenario, &summary.run);
    let parent = folder.join(&summary.scenario);
    fs::create_dir_all(&parent).map_err(|source| StoreError::Io { path: parent, verb: "created", source })?;
    let reason = reason.to_owned();
    write_json(&path, &Accepted { format: CURRENT, accepted: now, reason, revoked: None, summary, plans })?;
    Ok(path)
}

/// Revokes an accepted run; `false` if it was not accepted or was revoked before.
///
/// # Errors
/// When its file cannot be read or written.
pub fn revoke(folder: &Path, scenario: &str, run: &str, reason: &str, now: String) -> Result<bool, StoreError> {
    let path = path_of(folder, scenario, run);
    if !path.is_file() {
        return Ok(false);
    }
    let mut accepted = read(&path)?;
    if accepted.revoked.is_some() {
        return Ok(false);
    }
    accepted.revoked = Some(Revoked { at: now, reason: reason.to_owned() });
    write_json(&path, &accepted)?;
    Ok(true)
}

/// The scenarios that have accepted runs.
#[must_use]
pub fn scenarios(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry.path().is_dir().then(|| entry.file_name().to_string_lossy().into_owned())
        })
        .collect();
    names.sort();
    names
}

fn path_of(folder: &Path, scenario: &str, run: &str) -> PathBuf {
    folder.join(scenario).join(format!("{run}.json"))
}

fn read(path: &Path) -> Result<Accepted, StoreError> {
    let text =
        fs::read_to_string(path).map_err(|source| StoreError::Io { path: path.to_owned(), verb: "read", source })?;
    parse_versioned(&text, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwatch_record::machine::Build;

    fn summary(run: &str) -> Summary {
        Summary {
            format: CURRENT,
            run: run.to_owned(),
            scenario: "quick".to_owned(),
            started: format!("2026-11-{}", &run[6..8]),
            backend: "cpu".to_owned(),
            machines: Vec::new(),
            build: Build::default(),
            cells: Vec::new(),
        }
    }

    fn runs(folder: &Path, count: u32, except: &str) -> Vec<String> {
        reference(folder, "quick", count, except, |_| true).unwrap().into_iter().map(|a| a.summary.run).collect()
    }

    #[test]
    fn the_newest_that_stand_are_the_reference() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(runs(folder, 10, ""), [""; 0]);
        for run in ["20261102-a", "20261101-b", "20261103-c"] {
            accept(folder, summary(run), Vec::new(), "looks right", "now".to_owned()).unwrap();
        }
        assert_eq!(runs(folder, 10, ""), ["20261103-c", "20261102-a", "20261101-b"]);
        assert_eq!(runs(folder, 2, "20261103-c"), ["20261102-a", "20261101-b"]);
        assert!(revoke(folder, "quick", "20261102-a", "throttled", "later".to_owned()).unwrap());
        assert!(!revoke(folder, "quick", "20261102-a", "again", "later".to_owned()).unwrap());
        assert!(!revoke(folder, "quick", "unknown", "x", "later".to_owned()).unwrap());
        assert_eq!(runs(folder, 10, ""), ["20261103-c", "20261101-b"]);
        let revoked = all(folder, "quick").unwrap().into_iter().find(|a| a.summary.run == "20261102-a").unwrap();
        assert_eq!(revoked.revoked.unwrap().reason, "throttled");
        assert_eq!(scenarios(folder), ["quick"]);
    }

    #[test]
    fn runs_of_another_class_do_not_take_the_places_of_those_that_fit() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for (run, backend) in
            [("20261101-a", "cpu"), ("20261102-b", "cuda"), ("20261103-c", "cpu"), ("20261104-d", "cuda")]
        {
            let summary = Summary { backend: backend.to_owned(), ..summary(run) };
            accept(folder, summary, Vec::new(), "x", "now".to_owned()).unwrap();
        }
        let of = |runs: u32, backend: &str| -> Vec<String> {
            let found = reference(folder, "quick", runs, "", |summary| summary.backend == backend).unwrap();
            found.into_iter().map(|accepted| accepted.summary.run[8..].to_owned()).collect()
        };
        assert_eq!(of(2, "cpu"), ["-d", "-c", "-b", "-a"]);
        assert_eq!(of(1, "cpu"), ["-d", "-c"]);
        assert_eq!(of(2, "null"), ["-d", "-c"], "what was refused is named, and not all of it");
    }

    #[test]
    fn a_damaged_baseline_is_named_and_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("quick")).unwrap();
        fs::write(folder.path().join("quick/a.json"), r#"{"format":99}"#).unwrap();
        let error = all(folder.path(), "quick").unwrap_err().to_string();
        assert!(error.contains("a.json has format version 99"), "{error}");
    }
}
