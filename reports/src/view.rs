//! The one view that every export is made from: what was recorded and concluded, as rows and cells of text beside the raw
//! numbers. Everything that somebody else wrote passes through [`crate::clean`] here; nothing is computed but scales,
//! positions, orders and counts.

mod bound;
pub(crate) mod ceilings;
pub mod cell;
pub mod change;
pub mod column;
pub mod history;
pub mod known;
pub mod latest;
pub mod mark;
pub mod matrix;
mod provenance;
mod summary;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use stepwatch_record::comparison::Conclusion;
use stepwatch_record::figure::Summary;
use stepwatch_record::name::Names;
use stepwatch_record::trend::History;
use stepwatch_record::{CellId, Run};

use crate::chart::energy::{Energy, energy};
use crate::chart::gain::{GainChart, gain};
use crate::chart::ladder::{Ladder, ladders};
use crate::chart::roofline::{CeilingView, Roofline, roofline};
use crate::chart::waterfall::{WaterfallView, waterfall};
use crate::{clean, format};
use ceilings::Ceiling;
use cell::{CellView, Ended, Parts, cell_view};
use change::{ChangeView, ClaimView, FindingView, Link};
use column::Column;
use history::HistoryView;
use known::{AnnotationView, WaiverView};
use latest::LatestView;
use matrix::{Axis, Matrix, Slot};
pub use provenance::{Ledger, MachineView, Provenance};
pub use summary::{Count, NextStep, Outcome, ReferenceView};

/// Everything a report shows. See the modules for its parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// The scenario's title, or its name.
    pub title: String,
    /// The scenario's name.
    pub scenario: String,
    /// The run's id.
    pub run: String,
    /// When it began, to the minute.
    pub started: String,
    /// `cpu`, `cuda` or `null`.
    pub backend: String,
    /// The GPU, or the CPU, in words.
    pub device: String,
    /// `24 cells × 5 rounds × 30 samples`.
    pub size: String,
    /// The verdict in one sentence, what it asks for and how loud it is.
    pub outcome: Outcome,
    /// Cells by verdict; `missing` and `blind` always among them.
    pub counts: Vec<Count>,
    /// Why no speed conclusion is drawn; `None` where speed means something.
    pub emulated: Option<String>,
    /// What the run was compared with and what differs.
    pub reference: ReferenceView,
    /// What to do now, most important first.
    pub next_steps: Vec<NextStep>,
    /// The metrics that were measured.
    pub columns: Vec<Column>,
    /// The parameters in which the cells differ.
    pub axes: Vec<Axis>,
    /// The matrix as first shown.
    pub matrix: Matrix,
    /// What each cell shows for each column, by cell and column: what the matrix is laid out from.
    pub slots: Vec<Vec<Slot>>,
    /// Cells that did not complete.
    pub ended: Vec<Ended>,
    /// Changes, most important first.
    pub changes: Vec<ChangeView>,
    /// Claims.
    pub claims: Vec<ClaimView>,
    /// Findings, most important first.
    pub findings: Vec<FindingView>,
    /// Waivers with what each did.
    pub waivers: Vec<WaiverView>,
    /// What the runs before show to have changed for good, where they were searched.
    pub latest: Vec<LatestView>,
    /// What happened since the oldest run compared with.
    pub annotations: Vec<AnnotationView>,
    /// Waterfalls between pairs of cells.
    pub waterfalls: Vec<WaterfallView>,
    /// What each pass brings, where cells differ in `compile` alone.
    pub ladders: Vec<Ladder>,
    /// What the machine was measured to do at the most.
    pub ceilings: Vec<CeilingView>,
    /// The op classes of profiled cells under the measured ceilings, those of the first waterfall before others.
    pub rooflines: Vec<Roofline>,
    /// What FP8 gains over BF16 by width.
    pub gain: Option<GainChart>,
    /// Joules a token against tokens a second.
    pub energy: Option<Energy>,
    /// The nights before, where they were asked for.
    pub history: Option<HistoryView>,
    /// The cells, in the order of the scenario.
    pub cells: Vec<CellView>,
    /// Machine, build, libraries, settings, ledger, notes and method.
    pub provenance: Provenance,
}

impl View {
    /// Makes the view of one run.
    #[must_use]
    pub fn new(run: &Run, summary: &Summary, conclusion: &Conclusion) -> Self {
        let manifest = &run.manifest;
        let links = Links::new(run);
        let columns = column::columns(manifest, summary);
        let changes = change::changes(&conclusion.changes, &columns, &links);
        let mut cells = cells(run, summary, conclusion, &changes, &columns, &links);
        let axes = matrix::axes(&cells);
        for cell in &mut cells {
            cell.command = provenance::rerun(manifest, cell, &axes);
        }
        let slots: Vec<Vec<Slot>> = cells
            .iter()
            .map(|cell| columns.iter().enumerate().map(|(i, column)| matrix::slot(cell, i, column)).collect())
            .collect();
        let findings = change::findings(&conclusion.findings, &links);
        let ceilings = ceilings::ceilings(run);
        let title = if manifest.title.is_empty() { &manifest.scenario } else { &manifest.title };
        Self {
            title: clean::line(title),
            scenario: clean::line(&manifest.scenario),
            run: clean::line(&manifest.id),
            started: format::minute(&clean::line(&manifest.started)),
            backend: clean::line(&manifest.backend),
            device: provenance::device(manifest),
            size: format!(
                "{} × {} × {}",
                format::count(manifest.cells.len(), "cell", "cells"),
                format::count(manifest.rounds as usize, "round", "rounds"),
                format::count(manifest.samples as usize, "sample", "samples"),
            ),
            outcome: summary::outcome(conclusion),
            counts: summary::counts(&cells, &changes),
            emulated: summary::emulated(conclusion),
            reference: summary::reference(manifest, conclusion),
            next_steps: summary::next_steps(manifest, conclusion, &cells, &changes, &findings),
            matrix: matrix::matrix(&axes, &cells, &columns, &slots),
            claims: change::claims(&conclusion.claims, &links),
            waivers: known::waivers(&conclusion.waivers),
            latest: latest::latest(conclusion.latest_changes.as_deref().unwrap_or_default(), &columns, &links),
            annotations: known::annotations(&conclusion.annotations, &links),
            waterfalls: conclusion.waterfalls.iter().map(|w| waterfall(w, &links)).collect(),
            ladders: ladders(&cells, &columns),
            rooflines: rooflines(run, conclusion, &ceilings, &links),
            ceilings: ceilings.iter().map(CeilingView::new).collect(),
            gain: gain(run, &conclusion.gains, &cells, &links),
            energy: energy(run, &cells, &columns),
            history: None,
            provenance: provenance::provenance(run, conclusion, &cells),
            ended: cell::ended(&cells),
            columns,
            axes,
            slots,
            changes,
            findings,
            cells,
        }
    }

    /// The same with the nights before it; `run` and `conclusion` are those that the view was made from.
    #[must_use]
    pub fn with_history(mut self, history: &History, run: &Run, conclusion: &Conclusion) -> Self {
        self.history = Some(history::history(history, conclusion, &self.columns, &Links::new(run)));
        self
    }
}

/// What the page calls each cell, and where it shows it: a fragment made of the id's hash, so that a link survives the next run.
pub struct Links {
    anchors: BTreeMap<CellId, String>,
    names: Names,
}

impl Links {
    fn new(run: &Run) -> Self {
        let mut taken = BTreeSet::new();
        let mut anchors = BTreeMap::new();
        for cell in &run.manifest.cells {
            let hash = cell.id.0.rsplit('~').next().unwrap_or_default();
            let hash: String = hash.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
            let mut anchor = format!("c-{hash}");
            let mut again = 1;
            while !taken.insert(anchor.clone()) {
                again += 1;
                anchor = format!("c-{hash}-{again}");
            }
            anchors.insert(cell.id.clone(), anchor);
        }
        Self { anchors, names: Names::of(&run.manifest.cells) }
    }

    /// The fragment of a cell; empty if this run does not have it.
    pub(crate) fn anchor(&self, cell: &CellId) -> String {
        self.anchors.get(cell).cloned().unwrap_or_default()
    }

    /// What people call a cell.
    pub(crate) fn name(&self, cell: &CellId) -> String {
        clean::line(self.names.get(cell))
    }

    pub(crate) fn link(&self, cell: &CellId) -> Link {
        Link { cell: clean::line(&cell.0), name: self.name(cell), anchor: self.anchor(cell) }
    }
}

/// A page shows so many rooflines; every cell has the numbers behind its own in a table.
const MOST_ROOFLINES: usize = 8;

/// Rooflines of the cells that waterfalls lead from and to, then of the others.
fn rooflines(run: &Run, conclusion: &Conclusion, ceilings: &[Ceiling], links: &Links) -> Vec<Roofline> {
    let mut order: Vec<&CellId> = conclusion.waterfalls.iter().flat_map(|w| [&w.from, &w.to]).collect();
    order.extend(run.profiles.iter().map(|profile| &profile.cell));
    let mut seen = BTreeSet::new();
    order.retain(|cell| seen.insert(*cell));
    let of_cell = |cell: &CellId| {
        let profile = run.profiles.iter().rfind(|profile| profile.cell == *cell)?;
        roofline(cell, profile, ceilings, links)
    };
    order.into_iter().filter_map(of_cell).take(MOST_ROOFLINES).collect()
}

fn cells(
    run: &Run,
    summary: &Summary,
    conclusion: &Conclusion,
    changes: &[ChangeView],
    columns: &[Column],
    links: &Links,
) -> Vec<CellView> {
    let mut changes_of: BTreeMap<&CellId, Vec<ChangeView>> = BTreeMap::new();
    for change in changes {
        changes_of.entry(&change.raw.cell).or_default().push(change.clone());
    }
    let mut rounds: BTreeMap<&CellId, Vec<_>> = BTreeMap::new();
    for round in &run.rounds {
        rounds.entry(&round.record.cell).or_default().push(round);
    }
    let view = |cell: &stepwatch_record::Cell| {
        let mut rounds = rounds.remove(&cell.id).unwrap_or_default();
        rounds.sort_by_key(|round| round.record.round);
        let parts = Parts {
            run,
            cell,
            figures: summary.cell(&cell.id),
            plan: run.plans.iter().find(|plan| plan.cell == cell.id),
            profile: run.profiles.iter().rfind(|profile| profile.cell == cell.id),
            prepared: run.prepared.iter().rfind(|record| record.cell == cell.id),
            rounds,
            changes: changes_of.remove(&cell.id).unwrap_or_default(),
            bound: conclusion.bounds.iter().find(|bound| bound.cell == cell.id),
            anchor: links.anchor(&cell.id),
            name: links.name(&cell.id),
        };
        cell_view(parts, columns)
    };
    run.manifest.cells.iter().map(view).collect()
}
