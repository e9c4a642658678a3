//! Which cells compete: those that train the same model on the same batch, by the same program. Drawn on a GPU only, where speed
//! is what people come for.

use stepwatch_record::Cell;
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::run::{End, Run};

use crate::ratio::{Ratio, Ratios};

/// The metric that decides.
pub(crate) const SPEED: &str = "tokens_per_second";
/// Parameters that are a choice: cells that differ in these alone do the same work.
pub(crate) const CHOICES: [&str; 6] = ["precision", "compile", "attention", "head", "fast_accumulation", "recompute"];

/// At least two completed cells that do the same work.
pub(crate) struct Contest<'a> {
    /// The fastest first.
    pub ranked: Vec<&'a CellFigures>,
}

/// What a cell computes, by parameter.
type Work<'a> = (&'a str, Vec<(&'a str, String)>);

/// All contests of a run, in the order of its cells; none on a CPU.
pub(crate) fn all<'a>(run: &Run, summary: &'a Summary) -> Vec<Contest<'a>> {
    if run.manifest.backend == "cpu" {
        return Vec::new();
    }
    let mut groups: Vec<(Work<'_>, Contest<'_>)> = Vec::new();
    let done = summary.cells.iter().filter(|cell| cell.end == Some(End::Completed) && cell.figure(SPEED).is_some());
    for cell in done.filter(|cell| cell.cell.parameters.contains_key("model")) {
        let work = work(&cell.cell);
        match groups.iter_mut().find(|(known, _)| *known == work) {
            Some((_, contest)) => contest.ranked.push(cell),
            None => groups.push((work, Contest { ranked: vec![cell] })),
        }
    }
    let speed = |cell: &CellFigures| cell.figure(SPEED).map_or(0.0, |figure| figure.estimate.point);
    let mut contests: Vec<Contest<'_>> = groups.into_iter().map(|(_, contest)| contest).collect();
    contests.retain(|contest| contest.ranked.len() > 1);
    contests.iter_mut().for_each(|contest| contest.ranked.sort_by(|a, b| speed(b).total_cmp(&speed(a))));
    contests
}

/// All that is no choice; dims stand behind the model's name and are left to it, since a command may not know them.
fn work(cell: &Cell) -> Work<'_> {
    const DIMS: [&str; 5] = ["dim", "layers", "heads", "ffn", "vocab"];
    let named = cell.parameters.iter().filter(|(name, _)| {
        !CHOICES.contains(&name.as_str()) && !DIMS.contains(&name.as_str()) && name.as_str() != "workload"
    });
    (&cell.workload, named.map(|(name, value)| (name.as_str(), value.to_string())).collect())
}

/// The precision of a cell, as the scenario says it.
pub(crate) fn precision(cell: &CellFigures) -> Option<String> {
    cell.cell.parameters.get("precision").map(ToString::to_string)
}

/// Whether a cell computes in some FP8 recipe.
pub(crate) fn is_fp8(cell: &CellFigures) -> bool {
    precision(cell).is_some_and(|precision| precision.starts_with("fp8"))
}

impl<'a> Contest<'a> {
    /// The program that all of them are steps of: `builtin`, or what the scenario calls it.
    pub(crate) fn workload(&self) -> &'a str {
        self.ranked.first().map_or("", |cell| &cell.cell.workload)
    }

    /// The fastest cell in BF16.
    pub(crate) fn bf16(&self) -> Option<&'a CellFigures> {
        self.ranked.iter().find(|cell| precision(cell).is_some_and(|name| name == "bf16")).copied()
    }

    /// The fastest cell in FP8, by any recipe.
    pub(crate) fn fp8(&self) -> Option<&'a CellFigures> {
        self.ranked.iter().find(|cell| is_fp8(cell)).copied()
    }

    /// How many times as fast as the fastest BF16 the fastest FP8 is, at 95 %; `None` where one is not there or has no interval.
    pub(crate) fn fp8_over_bf16(&self, ratios: &Ratios<'_>) -> Option<Ratio> {
        ratios.of(&self.fp8()?.cell.id, &self.bf16()?.cell.id, 0.95).ok()
    }
}
