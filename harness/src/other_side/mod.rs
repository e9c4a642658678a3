//! `--against`: the other side of a run, which cell of it stands beside which of this side, and what runs it.
//!
//! The other side of a build is another stepwatch binary that runs the built-in cells again; that of a workload are the cells
//! which another workload of the scenario has. May not know how pairs are judged.

use std::path::Path;

use sha2::{Digest, Sha256};
use stepwatch_record::against::{Against, AgainstPair, BUILD, OTHER_BUILD, THIS_BUILD};
use stepwatch_record::cell::BUILTIN;
use stepwatch_record::{Cell, CellId};

use crate::scenario::{self, PlannedCell, Scenario, Work};

mod binary;

/// The cells of both sides, as the ledger has them.
#[derive(Debug)]
pub struct Sides {
    /// This side's cells in the order of the scenario, then the other's in the same order.
    pub cells: Vec<PlannedCell>,
    /// The other side with its pairs.
    pub against: Against,
    /// What is left out and why, one line each.
    pub notes: Vec<String>,
}

/// Finds what `--against` names and pairs its cells with the scenario's.
///
/// `shown` is how a path may be kept.
///
/// # Errors
/// When it is neither a workload of the scenario nor a binary that can run cells here, or no cell has another side.
pub fn find(named: &str, scenario: &Scenario, shown: impl Fn(&Path) -> String) -> Result<Sides, String> {
    if scenario::is_workload(named, scenario) {
        return of_workload(named, &scenario.cells);
    }
    let path = binary::path(named, &workloads(scenario))?;
    let against = Against { name: shown(&path), binary: Some(binary::ask(&path)?), pairs: Vec::new() };
    of_binary(&path, against, &scenario.cells)
}

/// Pairs the cells of a stored run's scenario as they were; `named` says where the binary lies now, if not where it lay.
///
/// # Errors
/// When the binary is not there or is another one than that of the rounds so far.
pub fn again(named: Option<&str>, then: &Against, scenario: &Scenario) -> Result<Sides, String> {
    let Some(known) = &then.binary else { return of_workload(&then.name, &scenario.cells) };
    let path = binary::path(named.unwrap_or(&then.name), &workloads(scenario))
        .map_err(|why| format!("{why}; say where the other binary lies now with --against"))?;
    let hash = binary::hash(&path)?;
    if hash != known.hash {
        return Err(format!(
            "{} is not the binary that the other side's rounds so far were made with: its hash is {hash}, theirs {}; start a \
             new run, or name the same file with --against",
            path.display(),
            known.hash
        ));
    }
    of_binary(&path, Against { pairs: Vec::new(), ..then.clone() }, &scenario.cells)
}

fn workloads(scenario: &Scenario) -> Vec<&str> {
    std::iter::once(BUILTIN).chain(scenario.workloads.keys().map(String::as_str)).collect()
}

/// Every built-in cell, once more by the other binary.
fn of_binary(path: &Path, against: Against, cells: &[PlannedCell]) -> Result<Sides, String> {
    let (builtin, commands): (Vec<&PlannedCell>, Vec<&PlannedCell>) =
        cells.iter().partition(|planned| matches!(planned.work, Work::Builtin(_)));
    if builtin.is_empty() {
        return Err(
            "no cell of the scenario runs the built-in step, and another stepwatch runs no other: name a workload of \
                    the scenario instead"
                .to_owned(),
        );
    }
    let mut notes = Vec::new();
    if !commands.is_empty() {
        notes.push(format!("{} cells of commands have no other side by a binary and are left out", commands.len()));
    }
    let hash = against.binary.as_ref().map(|binary| binary.hash.clone()).unwrap_or_default();
    let sides: Vec<(PlannedCell, PlannedCell)> =
        builtin.into_iter().map(|planned| (this_build(planned), other_build(planned, &hash, path))).collect();
    let pairs = sides.iter().map(|(own, other)| pair(own, other)).collect();
    let (own, other): (Vec<PlannedCell>, Vec<PlannedCell>) = sides.into_iter().unzip();
    Ok(Sides { cells: own.into_iter().chain(other).collect(), against: Against { pairs, ..against }, notes })
}

fn this_build(planned: &PlannedCell) -> PlannedCell {
    let mut planned = planned.clone();
    name_build(&mut planned.cell, THIS_BUILD);
    planned
}

/// The same cell by the other binary. Its id tells binaries apart: two builds are no series of one cell.
fn other_build(planned: &PlannedCell, hash: &str, path: &Path) -> PlannedCell {
    let mut planned = planned.clone();
    let digest = Sha256::digest(format!("{} {hash}", planned.cell.id).as_bytes());
    let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    planned.cell.id = CellId(format!("{}/{OTHER_BUILD}~{short}", planned.cell.id.readable()));
    name_build(&mut planned.cell, OTHER_BUILD);
    planned.program = Some(path.to_owned());
    planned
}

fn name_build(cell: &mut Cell, build: &str) {
    cell.parameters.insert(BUILD.to_owned(), build.into());
    cell.axes.push(BUILD.to_owned());
}

/// The cells of other workloads beside those of this one, equal in every parameter that both have.
fn of_workload(name: &str, cells: &[PlannedCell]) -> Result<Sides, String> {
    let (other, own): (Vec<&PlannedCell>, Vec<&PlannedCell>) =
        cells.iter().partition(|planned| planned.cell.workload == name);
    if other.is_empty() {
        return Err(format!(
            "no cell of the scenario runs the workload `{name}`: name it in a [[matrix]] beside the one to compare it with"
        ));
    }
    let mut sides: Vec<(&PlannedCell, &PlannedCell)> = Vec::new();
    let mut notes = Vec::new();
    for planned in own {
        let fits: Vec<&PlannedCell> =
            other.iter().copied().filter(|that| scenario::agree(&planned.cell, &that.cell)).collect();
        match fits.as_slice() {
            [] => notes.push(format!("{} has no counterpart in `{name}` and is left out", planned.cell.id)),
            [that] => match sides.iter().find(|(_, taken)| taken.cell.id == that.cell.id) {
                Some((first, _)) => {
                    return Err(format!(
                        "{} and {} have the same counterpart in `{name}`, {}: leave one of them out with --filter",
                        first.cell.id, planned.cell.id, that.cell.id
                    ));
                }
                None => sides.push((planned, that)),
            },
            [one, two, ..] => {
                return Err(format!(
                    "{} has more than one counterpart in `{name}`, such as {} and {}: leave all but one out with --filter",
                    planned.cell.id, one.cell.id, two.cell.id
                ));
            }
        }
    }
    if sides.is_empty() {
        return Err(format!(
            "no cell has a counterpart in the workload `{name}`: two cells are one pair if they agree in every parameter that \
             both have"
        ));
    }
    let alone = other.iter().filter(|that| sides.iter().all(|(_, taken)| taken.cell.id != that.cell.id));
    notes.extend(alone.map(|that| format!("{} stands beside no cell and is left out", that.cell.id)));
    let pairs = sides.iter().map(|(own, other)| pair(own, other)).collect();
    let cells = sides.iter().map(|(own, _)| *own).chain(sides.iter().map(|(_, other)| *other)).cloned().collect();
    Ok(Sides { cells, against: Against { name: name.to_owned(), binary: None, pairs }, notes })
}

fn pair(own: &PlannedCell, other: &PlannedCell) -> AgainstPair {
    AgainstPair { cell: own.cell.id.clone(), against: other.cell.id.clone() }
}
