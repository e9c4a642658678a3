//! One metric as a column: its scale, unit and direction, shared by every table and chart that shows it.

use serde::Serialize;
use stepwatch_record::figure::Summary;
use stepwatch_record::run::{Better, RunManifest};

use crate::clean;
use crate::format::{Hint, Scale};

/// A metric as tables show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column {
    /// The metric's name, as in the scenario.
    pub name: String,
    /// The name as people read it: without underscores.
    pub label: String,
    /// What kind of quantity it is.
    pub hint: Hint,
    /// The metric's own unit: what raw numbers are in.
    pub unit: String,
    /// The scale that texts are in.
    pub scale: Scale,
    /// The good direction in words: `more is better` or `less is better`.
    pub better: &'static str,
    /// Whether it can fail the run.
    pub gated: bool,
    /// The largest figure, in the metric's own unit: the full length of a bar.
    pub largest: f64,
}

/// One column per metric that was measured, in the order of the manifest.
pub(crate) fn columns(manifest: &RunManifest, summary: &Summary) -> Vec<Column> {
    let mut metrics: Vec<_> = manifest.metrics.iter().collect();
    for figure in summary.cells.iter().flat_map(|cell| &cell.figures) {
        if !metrics.iter().any(|metric| metric.name == figure.metric.name) {
            metrics.push(&figure.metric);
        }
    }
    let largest = |name: &str| {
        let figures = summary.cells.iter().filter_map(|cell| cell.figure(name));
        figures.map(|figure| figure.estimate.point.abs()).filter(|v| v.is_finite()).fold(0.0, f64::max)
    };
    let measured = |name: &str| summary.cells.iter().any(|cell| cell.figure(name).is_some());
    metrics
        .into_iter()
        .filter(|metric| measured(&metric.name))
        .map(|metric| {
            let (name, unit) = (clean::line(&metric.name), clean::line(&metric.unit));
            let (hint, largest) = (Hint::of(&name, &unit), largest(&metric.name));
            Column {
                label: name.replace('_', " "),
                scale: Scale::new(hint, &unit, largest),
                better: match metric.better {
                    Better::Higher => "more is better",
                    Better::Lower => "less is better",
                },
                gated: manifest.policy.gate.contains(&metric.name),
                name,
                hint,
                unit,
                largest,
            }
        })
        .collect()
}
