//! The report as one self-contained HTML file: no request leaves it, it reads with scripts off, and whatever a user wrote
//! is escaped by the template engine. Styles, script and templates are compiled in.

use serde::Serialize;
use tera::{Context, Tera};

use crate::view::View;
use crate::{ReportError, json};

/// Every template by name. All end in `.html`, which turns escaping on.
const TEMPLATES: [(&str, &str); 9] = [
    ("page.html", include_str!("../templates/page.html")),
    ("verdict.html", include_str!("../templates/verdict.html")),
    ("matrix.html", include_str!("../templates/matrix.html")),
    ("changes.html", include_str!("../templates/changes.html")),
    ("why.html", include_str!("../templates/why.html")),
    ("charts.html", include_str!("../templates/charts.html")),
    ("cells.html", include_str!("../templates/cells.html")),
    ("cell.html", include_str!("../templates/cell.html")),
    ("provenance.html", include_str!("../templates/provenance.html")),
];

/// The report as HTML.
///
/// # Errors
/// [`ReportError::Template`] if a template does not fit the view, which no input makes it do.
pub fn render(view: &View) -> Result<String, ReportError> {
    let mut tera = Tera::new();
    tera.add_raw_templates(TEMPLATES)?;
    let mut context = Context::from_serialize(view)?;
    context.insert("style", include_str!("../templates/style.css"));
    context.insert("script", include_str!("../templates/script.js"));
    context.insert("pivot_data", &embedded(&Pivot::new(view))?);
    context.insert("report_data", &embedded(&json::value(view))?);
    Ok(tera.render("page.html", &context)?)
}

/// JSON that may stand inside `<script>`: no `<`, so nothing in it can end the element or open a comment.
fn embedded(value: &impl Serialize) -> Result<String, ReportError> {
    Ok(serde_json::to_string(value)?.replace('<', "\\u003c"))
}

/// What the page's script lays the matrix out from: texts that were made here, in short keys.
#[derive(Serialize)]
struct Pivot<'a> {
    axes: Vec<(&'a str, &'a [String])>,
    metrics: Vec<PivotMetric<'a>>,
    /// Index of the row axis, the column axis and the metric first shown.
    shown: [Option<usize>; 3],
    cells: Vec<PivotCell<'a>>,
}

#[derive(Serialize)]
struct PivotMetric<'a> {
    label: &'a str,
    unit: &'a str,
    better: &'a str,
}

#[derive(Serialize)]
struct PivotCell<'a> {
    /// Anchor.
    a: &'a str,
    /// Id.
    n: &'a str,
    /// Index of its value on each axis.
    v: Vec<usize>,
    /// Per metric: text, bar, glyph, word, tone, change, blind (0 or 1), detail.
    s: Vec<(&'a str, u8, &'a str, &'a str, Option<crate::view::mark::Tone>, &'a str, u8, &'a str)>,
}

impl<'a> Pivot<'a> {
    fn new(view: &'a View) -> Self {
        let cell = |(cell, slots): (&'a crate::view::cell::CellView, &'a Vec<crate::view::matrix::Slot>)| PivotCell {
            a: &cell.anchor,
            n: &cell.id,
            v: view
                .axes
                .iter()
                .map(|axis| axis.values.iter().position(|value| value == cell.value(&axis.name)).unwrap_or(0))
                .collect(),
            s: slots
                .iter()
                .map(|slot| {
                    let (glyph, word, tone) = slot.mark.map_or(("", "", None), |m| (m.glyph, m.word, Some(m.tone)));
                    (&*slot.text, slot.bar, glyph, word, tone, &*slot.change, u8::from(slot.blind), &*slot.detail)
                })
                .collect(),
        };
        let metric = |column: &'a crate::view::column::Column| PivotMetric {
            label: &column.label,
            unit: &column.scale.unit,
            better: column.better,
        };
        Self {
            axes: view.axes.iter().map(|axis| (axis.name.as_str(), axis.values.as_slice())).collect(),
            metrics: view.columns.iter().map(metric).collect(),
            shown: [view.matrix.rows, view.matrix.columns, view.matrix.metric],
            cells: view.cells.iter().zip(&view.slots).map(cell).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    fn page((run, summary, conclusion): &example::Inputs) -> String {
        render(&View::new(run, summary, conclusion)).unwrap()
    }

    #[test]
    fn the_study_shows_every_section() {
        let page = page(&example::study());
        if let Ok(folder) = std::env::var("STEPWATCH_REPORT_PICTURES") {
            let write = |name: &str, text: &str| std::fs::write(format!("{folder}/{name}.html"), text).unwrap();
            write("study", &page);
            write("cpu", &self::page(&example::first_on_cpu()));
            write("hostile", &self::page(&example::hostile()));
            write("sized", &self::page(&example::sized(300, 5, 30)));
        }
        for text in
            ["1 of 14 cells regressed, by code", "▼ −2.30 %", "id=\"waterfalls\"", "id=\"trends\"", "out-of-memory"]
        {
            assert!(page.contains(text), "{text} is not in the page");
        }
    }
}
