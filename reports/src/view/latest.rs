//! What the runs before show to have changed for good: since which run a metric of a cell has its level, how much that is, and
//! whether this run stands alone.

use serde::Serialize;
use stepwatch_record::trend::{LatestChange, Shape};

use super::Links;
use super::change::Link;
use super::column::Column;
use super::mark::Tone;
use crate::{clean, format};

/// The newest change of a metric of a cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatestView {
    /// The cell.
    pub cell: Link,
    /// The metric's name.
    pub metric: String,
    /// One character: up or down, step or drift; `!` for a run alone.
    pub glyph: &'static str,
    /// `worse` or `better`.
    pub word: &'static str,
    /// How loud it is. It is no verdict, so nobody must act on it.
    pub tone: Tone,
    /// `step`, `drift` or `alone`.
    pub shape: &'static str,
    /// The change with its sign.
    pub effect: String,
    /// Since when, and for how long.
    pub since: String,
    /// The record, whose texts are as they were written.
    #[serde(skip)]
    pub raw: LatestChange,
}

/// Worse before better, lasting before alone, a cell's own before a shared one, then the larger.
pub(crate) fn latest(changes: &[LatestChange], columns: &[Column], links: &Links) -> Vec<LatestView> {
    let mut views: Vec<LatestView> = changes.iter().map(|change| view(change, columns, links)).collect();
    let rank = |view: &LatestView| (view.word != "worse", view.raw.shape.is_none(), view.raw.shared);
    views.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| b.raw.effect.abs().total_cmp(&a.raw.effect.abs())));
    views
}

fn view(change: &LatestChange, columns: &[Column], links: &Links) -> LatestView {
    let up = change.effect > 0.0;
    let column = columns.iter().find(|column| column.name == change.metric);
    let better = up == column.is_none_or(|column| column.better.starts_with("more"));
    let (glyph, shape) = match (change.shape, up) {
        (Some(Shape::Step), true) => ("▲", "step"),
        (Some(Shape::Step), false) => ("▼", "step"),
        (Some(Shape::Drift), true) => ("↗", "drift"),
        (Some(Shape::Drift), false) => ("↘", "drift"),
        (None, _) => ("!", "alone"),
    };
    LatestView {
        cell: links.link(&change.cell),
        metric: clean::line(&change.metric),
        glyph,
        word: if better { "better" } else { "worse" },
        tone: if better { Tone::Good } else { Tone::Warn },
        shape,
        effect: format::change(change.effect),
        since: since(change),
        raw: change.clone(),
    }
}

fn since(change: &LatestChange) -> String {
    let [first, last] = [&change.between[0], &change.between[1]].map(|run| clean::line(run));
    let (run, day) = (clean::line(&change.run), clean::line(change.started.get(..10).unwrap_or(&change.started)));
    let shared = if change.shared { "; most cells have it" } else { "" };
    let runs = format::count(change.runs, "run", "runs");
    match change.shape {
        None => "in this run alone: later runs tell whether it lasts".to_owned(),
        Some(Shape::Drift) => format!("little by little, {first} to {last}{shared}"),
        Some(Shape::Step) if first == last => format!("since {run} ({day}), {runs}{shared}"),
        Some(Shape::Step) => format!("since {run} ({day}; it began between {first} and {last}), {runs}{shared}"),
    }
}
