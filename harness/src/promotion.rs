//! A run that becomes a reference by itself, where the policy asks for it: it and the nights before it ended good and agree
//! with one another. One lucky night moves no reference, and a regression never does.

use std::fs;
use std::path::{Path, PathBuf};

use stepwatch_record::comparison::{Conclusion, Verdict};
use stepwatch_record::figure::Summary;
use stepwatch_verdict::promotion::agree;

use crate::judgement::Judgement;
use crate::store::{self, CONCLUSION, SUMMARY, StoreError, newest_first};
use crate::{baseline, machine};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promotion {
    /// The policy leaves it to people, or this run is none of its nights.
    NotAsked,
    /// Not now, and why.
    Not(String),
    /// Accepted, into this file, for this reason.
    Accepted(PathBuf, String),
}

/// Accepts a judged run of `out` into `baselines` if `policy.reference.promote` nights agree.
///
/// # Errors
/// When the baseline cannot be written.
pub fn promote(judgement: &Judgement, out: &Path, baselines: &Path) -> Result<Promotion, StoreError> {
    let (manifest, conclusion) = (&judgement.run.manifest, &judgement.conclusion);
    let (nights, asked) = (manifest.policy.reference_promote as usize, &manifest.asked);
    // A part of the matrix, or one side of two, is no night of the scenario.
    if nights < 2 || asked.filter.is_some() || asked.shard.is_some() || asked.against.is_some() {
        return Ok(Promotion::NotAsked);
    }
    if conclusion.exit_code != 0 {
        return Ok(Promotion::Not(format!("it ended with exit code {}", conclusion.exit_code)));
    }
    let earlier = match earlier(out, &manifest.scenario, &manifest.id, nights - 1) {
        Ok(earlier) => earlier,
        Err(why) => return Ok(Promotion::Not(why)),
    };
    if earlier.len() + 1 < nights {
        return Ok(Promotion::Not(format!("night {} of {nights} that must agree", earlier.len() + 1)));
    }
    if let Err(why) = agree(&judgement.run, &judgement.summary, &conclusion.changes, &earlier) {
        return Ok(Promotion::Not(why));
    }
    let others: Vec<&str> = earlier.iter().map(|summary| summary.run.as_str()).collect();
    let reason = format!("promoted: {nights} nights agree, this one and {}", others.join(", "));
    let (summary, plans) = (judgement.summary.clone(), judgement.run.plans.clone());
    let path = baseline::accept(baselines, summary, plans, &reason, machine::now())?;
    // A window of both levels would take a regression back to the old one for the nights' own noise.
    if conclusion.changes.iter().any(|change| change.gated && change.verdict == Verdict::Improved) {
        let why = format!("superseded by {}: {nights} nights agree on a better level", manifest.id);
        for run in &conclusion.reference.runs {
            baseline::revoke(baselines, &manifest.scenario, run, &why, machine::now())?;
        }
    }
    Ok(Promotion::Accepted(path, reason))
}

/// The `count` whole runs before this one, newest first, or fewer; in words, which of them did not end good.
fn earlier(out: &Path, scenario: &str, id: &str, count: usize) -> Result<Vec<Summary>, String> {
    let before = newest_first(out, Some(scenario)).into_iter().filter(|run| run.id.as_str() < id);
    let mut found = Vec::new();
    for run in before {
        if found.len() == count {
            break;
        }
        let manifest = store::load_manifest(&run.folder).map_err(|error| error.to_string())?;
        if manifest.asked.filter.is_some() || manifest.asked.shard.is_some() || manifest.asked.against.is_some() {
            continue;
        }
        let conclusion: Conclusion = fs::read_to_string(run.folder.join(CONCLUSION))
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .ok_or_else(|| format!("{} before it was not judged", run.id))?;
        if conclusion.exit_code != 0 {
            return Err(format!("{} before it ended with exit code {}", run.id, conclusion.exit_code));
        }
        let path = run.folder.join(SUMMARY);
        let text = fs::read_to_string(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        found.push(store::parse_versioned(&text, &path).map_err(|error| error.to_string())?);
    }
    Ok(found)
}
