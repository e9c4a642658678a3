//! Data out as CSV: one line per cell, its parameters first, then every figure with its interval, rounds and samples. Raw
//! numbers in the metrics' own units, full precision; empty where there is none.

use std::collections::BTreeSet;

use crate::ReportError;
use crate::view::View;
use crate::view::cell::CellView;
use crate::view::column::Column;

/// The cells as CSV with a header line.
///
/// Columns: `id`, `end`, `verdict`, `blind`, then one per parameter by name, then per metric `NAME` (estimate),
/// `NAME.low`, `NAME.high`, `NAME.rounds`, `NAME.samples`, and where the metric was compared `NAME.change`,
/// `NAME.change_low`, `NAME.change_high` (relative).
///
/// # Errors
/// [`ReportError::Csv`] if the writer fails, which no input makes it do.
pub fn render(view: &View) -> Result<String, ReportError> {
    let names: BTreeSet<&str> =
        view.cells.iter().flat_map(|cell| cell.parameters.iter().map(|fact| fact.name.as_str())).collect();
    let compared: Vec<bool> =
        view.columns.iter().map(|column| view.changes.iter().any(|change| change.metric == column.name)).collect();
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let failed = |error: ::csv::Error| ReportError::Csv(error.to_string());
    writer.write_record(header(view, &names, &compared)).map_err(failed)?;
    for cell in &view.cells {
        let mut record =
            vec![cell.id.clone(), cell.end.mark.word.into(), cell.mark.word.into(), cell.blind.to_string()];
        record.extend(names.iter().map(|name| parameter(cell, name)));
        for (index, column) in view.columns.iter().enumerate() {
            figure(cell, index, &mut record);
            if compared[index] {
                change(cell, column, &mut record);
            }
        }
        writer.write_record(&record).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| ReportError::Csv(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| ReportError::Csv(error.to_string()))
}

fn header(view: &View, names: &BTreeSet<&str>, compared: &[bool]) -> Vec<String> {
    let mut header: Vec<String> = ["id", "end", "verdict", "blind"].map(String::from).into();
    header.extend(names.iter().map(|name| (*name).to_owned()));
    for (column, compared) in view.columns.iter().zip(compared) {
        let parts: &[&str] = if *compared {
            &["", ".low", ".high", ".rounds", ".samples", ".change", ".change_low", ".change_high"]
        } else {
            &["", ".low", ".high", ".rounds", ".samples"]
        };
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

fn finite(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { String::new() }
}
