//! Data out as CSV: one line per cell, its parameters first, then every figure with its interval, rounds and samples. Raw
//! numbers in the metrics' own units, full precision; empty where there is none.

use std::collections::BTreeSet;

use crate::view::View;
use crate::view::cell::CellView;
use crate::view::column::Column;
use crate::{ReportError, clean};

/// The cells as CSV with a header line.
///
/// Columns: `id`, `end`, `verdict`, `blind`, then one per parameter by name, then per metric `NAME` (estimate),
/// `NAME.low`, `NAME.high`, `NAME.rounds`, `NAME.samples`, and where the metric was compared `NAME.change`,
/// `NAME.change_low`, `NAME.change_high` (relative); and where the runs before show something of the metric
/// `NAME.lasting_change` (relative), `NAME.lasting_since` (the first run after it; of a drift the one at which it is half done) and `NAME.alone` (a run that stands alone,
/// relative to its level).
///
/// # Errors
/// [`ReportError::Csv`] if the writer fails, which no input makes it do.
pub fn render(view: &View) -> Result<String, ReportError> {
    let names: BTreeSet<&str> =
        view.cells.iter().flat_map(|cell| cell.parameters.iter().map(|fact| fact.name.as_str())).collect();
    let compared: Vec<bool> =
        view.columns.iter().map(|column| view.changes.iter().any(|change| change.metric == column.name)).collect();
    let told: Vec<bool> =
        view.columns.iter().map(|column| view.latest.iter().any(|change| change.metric == column.name)).collect();
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let failed = |error: ::csv::Error| ReportError::Csv(error.to_string());
    writer.write_record(header(view, &names, &compared, &told)).map_err(failed)?;
    for cell in &view.cells {
        let mut record =
            vec![cell.id.clone(), cell.end.mark.word.into(), cell.mark.word.into(), cell.blind.to_string()];
        record.extend(names.iter().map(|name| parameter(cell, name)));
        for (index, column) in view.columns.iter().enumerate() {
            figure(cell, index, &mut record);
            if compared[index] {
                change(cell, column, &mut record);
            }
            if told[index] {
                latest(view, cell, column, &mut record);
            }
        }
        writer.write_record(&record).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| ReportError::Csv(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| ReportError::Csv(error.to_string()))
}

fn header(view: &View, names: &BTreeSet<&str>, compared: &[bool], told: &[bool]) -> Vec<String> {
    let mut header: Vec<String> = ["id", "end", "verdict", "blind"].map(String::from).into();
    header.extend(names.iter().map(|name| (*name).to_owned()));
    for (index, column) in view.columns.iter().enumerate() {
        let mut parts = vec!["", ".low", ".high", ".rounds", ".samples"];
        if compared[index] {
            parts.extend([".change", ".change_low", ".change_high"]);
        }
        if told[index] {
            parts.extend([".lasting_change", ".lasting_since", ".alone"]);
        }
        header.extend(parts.iter().map(|part| format!("{}{part}", column.name)));
    }
    header
}

fn parameter(cell: &CellView, name: &str) -> String {
    cell.parameters.iter().find(|fact| fact.name == name).map_or_else(String::new, |fact| fact.value.clone())
}

fn figure(cell: &CellView, column: usize, record: &mut Vec<String>) {
    match cell.figures.iter().find(|figure| figure.column == column) {
        None => record.extend(std::iter::repeat_n(String::new(), 5)),
        Some(figure) => {
            record.extend([figure.point, figure.low, figure.high].map(finite));
            record.extend([figure.rounds.len().to_string(), figure.samples.to_string()]);
        }
    }
}

fn change(cell: &CellView, column: &Column, record: &mut Vec<String>) {
    let change = cell.changes.iter().find(|change| change.metric == column.name).map(|change| &change.raw);
    let ends = change.map_or([None; 3], |change| [change.effect, change.low, change.high]);
    record.extend(ends.map(|value| value.map_or_else(String::new, finite)));
}

fn latest(view: &View, cell: &CellView, column: &Column, record: &mut Vec<String>) {
    let of_cell = || view.latest.iter().filter(|change| change.cell.cell == cell.id && change.metric == column.name);
    let lasting = of_cell().find(|change| change.raw.shape.is_some()).map(|change| &change.raw);
    let alone = of_cell().find(|change| change.raw.shape.is_none()).map(|change| &change.raw);
    record.extend([
        lasting.map_or_else(String::new, |change| finite(change.effect)),
        lasting.map_or_else(String::new, |change| clean::line(&change.run)),
        alone.map_or_else(String::new, |change| finite(change.effect)),
    ]);
}

fn finite(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { String::new() }
}
