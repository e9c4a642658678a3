//! Where the time goes between two cells, op class by op class. What the classes of a profile leave of the measured step is a
//! line of its own, so that every waterfall adds up to the two step times that the run measured.

use std::collections::BTreeMap;

use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::run::{End, Run};
use stepwatch_record::waterfall::{Waterfall, WaterfallStep};
use stepwatch_record::{Cell, CellId, Scalar};

use crate::twins::twins;

/// The line that holds what a step takes beyond its profiled classes; below zero where profiling itself costs time.
pub const UNATTRIBUTED: &str = "not attributed";

/// The waterfalls that a run's own questions ask for: from the other side's cell to this side's, where it has two; both sides of each
/// claim, each FP8 cell and its BF16 twin, each rung of the `compile` ladder and the next. Pairs without two profiles have none.
#[must_use]
pub fn all(run: &Run, summary: &Summary) -> Vec<Waterfall> {
    let mut pairs: Vec<(&CellId, &CellId)> = Vec::new();
    pairs.extend(
        run.manifest.asked.against.iter().flat_map(|other| &other.pairs).map(|pair| (&pair.against, &pair.cell)),
    );
    pairs.extend(run.manifest.claims.iter().flat_map(|claim| claim.pairs.iter().map(|pair| (&pair.over, &pair.of))));
    pairs.extend(twins(summary).into_iter().map(|(fp8, bf16)| (&bf16.cell.id, &fp8.cell.id)));
    pairs.extend(rungs(summary));
    let mut found: Vec<Waterfall> = Vec::new();
    for (from, to) in pairs {
        if !found.iter().any(|known| &known.from == from && &known.to == to) {
            found.extend(between(run, summary, from, to));
        }
    }
    found
}

/// The waterfall from one cell's step to another's; `None` if one has no profile or no step time.
#[must_use]
pub fn between(run: &Run, summary: &Summary, from: &CellId, to: &CellId) -> Option<Waterfall> {
    let (a, b) = (classes(run, summary, from)?, classes(run, summary, to)?);
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let seconds = |classes: &BTreeMap<String, f64>, name: &str| classes.get(name).copied().unwrap_or(0.0);
    let mut steps: Vec<WaterfallStep> = names
        .into_iter()
        .map(|name| WaterfallStep {
            class: name.clone(),
            from_seconds: seconds(&a, name),
            to_seconds: seconds(&b, name),
        })
        .collect();
    let size = |step: &WaterfallStep| (step.to_seconds - step.from_seconds).abs();
    steps.sort_by(|x, y| size(y).total_cmp(&size(x)).then_with(|| x.class.cmp(&y.class)));
    Some(Waterfall { from: from.clone(), to: to.clone(), steps })
}

/// Seconds a step by op class; they add up to the measured step.
fn classes(run: &Run, summary: &Summary, cell: &CellId) -> Option<BTreeMap<String, f64>> {
    let step = summary.cell(cell)?.figure("step_seconds")?.estimate.point;
    let profile = run.profiles.iter().rfind(|profile| &profile.cell == cell)?;
    let mut classes: BTreeMap<String, f64> = BTreeMap::new();
    for op in &profile.ops {
        *classes.entry(op.class.clone()).or_default() += op.gpu_ns * 1e-9;
    }
    let known: f64 = classes.values().sum();
    (known > 0.0 && step.is_finite()).then(|| {
        classes.insert(UNATTRIBUTED.to_owned(), step - known);
        classes
    })
}

/// Completed cells that differ in `compile` alone, each with every one whose passes hold its own and more, where no third
/// lies between.
pub(crate) fn rungs(summary: &Summary) -> Vec<(&CellId, &CellId)> {
    let mut ladders: Vec<(Key<'_>, Vec<(Passes<'_>, &CellFigures)>)> = Vec::new();
    for cell in summary.cells.iter().filter(|cell| cell.end == Some(End::Completed)) {
        let Some(passes) = Passes::of(&cell.cell) else { continue };
        let key = key(&cell.cell);
        match ladders.iter_mut().find(|(known, _)| *known == key) {
            Some((_, cells)) => cells.push((passes, cell)),
            None => ladders.push((key, vec![(passes, cell)])),
        }
    }
    let mut pairs = Vec::new();
    for (_, cells) in &ladders {
        for (few, from) in cells {
            for (many, to) in cells.iter().filter(|(many, _)| few.within(many)) {
                if !cells.iter().any(|(between, _)| few.within(between) && between.within(many)) {
                    pairs.push((&from.cell.id, &to.cell.id));
                }
            }
        }
    }
    pairs
}

/// All of a cell but its `compile`.
type Key<'a> = (&'a str, Vec<(&'a str, String)>);

fn key(cell: &Cell) -> Key<'_> {
    let rest = cell.parameters.iter().filter(|(name, _)| *name != "compile");
    (&cell.workload, rest.map(|(name, value)| (name.as_str(), value.to_string())).collect())
}

/// The passes of a `compile` value; `None` is `full`, which holds every pass.
struct Passes<'a>(Option<Vec<&'a str>>);

impl<'a> Passes<'a> {
    fn of(cell: &'a Cell) -> Option<Self> {
        let Scalar::Text(value) = cell.parameters.get("compile")? else { return None };
        Some(Self(match value.as_str() {
            "none" => Some(Vec::new()),
            "full" => None,
            names => Some(names.split('+').map(str::trim).collect()),
        }))
    }

    /// Whether another holds all of these and more.
    fn within(&self, more: &Self) -> bool {
        match (&self.0, &more.0) {
            (Some(few), Some(many)) => few.len() < many.len() && few.iter().all(|name| many.contains(name)),
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}
