//! The report as one self-contained HTML file: no request leaves it, it reads with scripts off, and whatever a user wrote
//! is escaped by the template engine. Styles, script and templates are compiled in.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;
use tera::{Context, Kwargs, State, Tera};

use crate::view::View;
use crate::view::cell::CellView;
use crate::view::column::Column;
use crate::view::mark::Tone;
use crate::view::matrix::{MANY_PANELS, ROWS_OF_A_PANEL, Slot};
use crate::{ReportError, json};

/// Every template by name. All end in `.html`, which turns escaping on.
const TEMPLATES: [(&str, &str); 15] = [
    ("page.html", include_str!("../templates/page.html")),
    ("verdict.html", include_str!("../templates/verdict.html")),
    ("matrix.html", include_str!("../templates/matrix.html")),
    ("rows.html", include_str!("../templates/rows.html")),
    ("changes.html", include_str!("../templates/changes.html")),
    ("before.html", include_str!("../templates/before.html")),
    ("why.html", include_str!("../templates/why.html")),
    ("charts.html", include_str!("../templates/charts.html")),
    ("work.html", include_str!("../templates/work.html")),
    ("plot.html", include_str!("../templates/plot.html")),
    ("trends.html", include_str!("../templates/trends.html")),
    ("trend.html", include_str!("../templates/trend.html")),
    ("cells.html", include_str!("../templates/cells.html")),
    ("cell.html", include_str!("../templates/cell.html")),
    ("provenance.html", include_str!("../templates/provenance.html")),
];

/// The page draws so many waterfalls and makes any other of two cells' profiles; `export` writes all.
const MOST_WATERFALLS: usize = 16;

/// The report as HTML.
///
/// # Errors
/// [`ReportError::Template`] if a template does not fit the view, which no input makes it do.
pub fn render(view: &View) -> Result<String, ReportError> {
    let mut tera = Tera::new();
    tera.register_filter("breakable", breakable);
    tera.add_raw_templates(TEMPLATES)?;
    let mut context = Context::from_serialize(view)?;
    context.insert("most_waterfalls", &MOST_WATERFALLS);
    context.insert("style", include_str!("../templates/style.css"));
    context.insert("script", include_str!("../templates/script.js"));
    context.insert("pivot_data", &embedded(&Pivot::new(view))?);
    context.insert("report_data", &embedded(&packed(shortened(json::value(view))))?);
    Ok(tera.render("page.html", &context)?)
}

/// `{{ name | breakable }}`: a cell's name as text, which may turn into the next line behind its slashes and equal signs.
#[expect(clippy::needless_pass_by_value, reason = "the shape of a filter")]
fn breakable(name: Cow<'_, str>, _: Kwargs, _: &State<'_>) -> tera::Value {
    tera::Value::safe_string(&escaped(&name).replace('/', "/<wbr>").replace('=', "=<wbr>"))
}

/// Text with what HTML would read as more than text written otherwise: no `/` and no `=` in it.
fn escaped(text: &str) -> String {
    let mut escaped = Vec::new();
    // Memory takes whatever is written.
    let _ = tera::escape_html(text, &mut escaped);
    String::from_utf8_lossy(&escaped).into_owned()
}

/// JSON that may stand inside `<script>`: no `<`, so nothing in it can end the element or open a comment.
fn embedded(value: &impl Serialize) -> Result<String, ReportError> {
    Ok(serde_json::to_string(value)?.replace('<', "\\u003c"))
}

/// The same value with numbers to six significant digits, far below any noise: half the bytes of full precision, which
/// `export` writes.
fn shortened(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => number.as_f64().map_or(Value::Null, |value| rounded(value, 6)),
        Value::Array(items) => items.into_iter().map(shortened).collect(),
        Value::Object(map) => Value::Object(map.into_iter().map(|(key, value)| (key, shortened(value))).collect()),
        other => other,
    }
}

/// A number to so many significant digits, a whole one without the `.0` of a float.
fn rounded(number: f64, digits: usize) -> Value {
    let Ok(short) = format!("{number:.*e}", digits - 1).parse::<f64>() else { return Value::Null };
    // Below 2^53 a whole float is that integer exactly.
    if short.fract() == 0.0 && short.abs() < 9e15 { Value::from(short as i64) } else { Value::from(short) }
}

/// The same value without the keys that figures and op classes repeat: the page's script puts them back when the data is
/// saved. Of many waterfalls there are those that it draws, of the nights the estimates alone: the charts show their intervals, and a year of a large sweep must open at
/// once.
fn packed(mut value: Value) -> Value {
    const LISTS: [&str; 2] = ["figures", "ops"];
    for cell in value.get_mut("cells").and_then(Value::as_array_mut).into_iter().flatten() {
        for name in LISTS {
            let Value::Array(items) = cell[name].take() else { continue };
            let row = |item| match item {
                Value::Object(map) => Value::Array(map.into_iter().map(|(_, value)| value).collect()),
                other => other,
            };
            cell[name] = items.into_iter().map(row).collect();
        }
    }
    if let Some(waterfalls) = value.get_mut("waterfalls").and_then(Value::as_array_mut) {
        waterfalls.truncate(MOST_WATERFALLS);
    }
    let trends = value.pointer_mut("/history/trends").and_then(Value::as_array_mut);
    for trend in trends.into_iter().flatten() {
        let values = trend["values"].take();
        trend["values"] = differences(values.as_array().map_or(&[], Vec::as_slice));
    }
    value
}

/// The estimates of nights in five digits, as the power of ten that they are whole numbers of and each one's difference to the one
/// before: `[0, 50438, 12, null, -7]` is 50438, 50450, none, 50443.
fn differences(nights: &[Value]) -> Value {
    let points: Vec<Option<f64>> = nights.iter().map(|night| night.get(0).and_then(Value::as_f64)).collect();
    let largest = points.iter().flatten().fold(0.0_f64, |largest, point| largest.max(point.abs()));
    let power = if largest > 0.0 { largest.log10().floor() as i32 - 4 } else { 0 };
    let mut before = 0;
    let difference = |point: Option<f64>| {
        point.map_or(Value::Null, |point| {
            let whole = (point / 10_f64.powi(power)).round() as i64;
            let difference = whole - before;
            before = whole;
            Value::from(difference)
        })
    };
    let differences: Vec<Value> = points.into_iter().map(difference).collect();
    std::iter::once(Value::from(power)).chain(differences).collect()
}

/// What the page's script lays the matrix out from: texts that were made here, in short keys.
#[derive(Serialize)]
struct Pivot<'a> {
    axes: Vec<(&'a str, &'a [String])>,
    metrics: Vec<PivotMetric<'a>>,
    /// Index of the row axis, the column axis and the metric first shown.
    shown: [Option<usize>; 3],
    /// Panels beyond which slivers are put together, and the rows that make one none.
    slivers: [usize; 2],
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
    /// Name.
    n: &'a str,
    /// Index of its value on each axis.
    v: Vec<usize>,
    /// Per metric.
    s: Vec<PivotSlot<'a>>,
}

/// Text, bar and interval; where there is a verdict or a change also glyph, word, tone, change, blind (0 or 1) and
/// shade.
#[derive(Serialize)]
#[serde(untagged)]
enum PivotSlot<'a> {
    Plain(&'a str, u8, &'a str),
    Marked(&'a str, u8, &'a str, &'a str, &'a str, Option<Tone>, &'a str, u8, u8),
}

fn pivot_slot(slot: &Slot) -> PivotSlot<'_> {
    if slot.mark.is_none() && slot.change.is_empty() && !slot.blind {
        return PivotSlot::Plain(&slot.text, slot.bar, &slot.interval);
    }
    let (glyph, word, tone) = slot.mark.map_or(("", "", None), |mark| (mark.glyph, mark.word, Some(mark.tone)));
    PivotSlot::Marked(
        &slot.text,
        slot.bar,
        &slot.interval,
        glyph,
        word,
        tone,
        &slot.change,
        u8::from(slot.blind),
        slot.heat,
    )
}

impl<'a> Pivot<'a> {
    fn new(view: &'a View) -> Self {
        let cell = |(cell, slots): (&'a CellView, &'a Vec<Slot>)| PivotCell {
            a: &cell.anchor,
            n: &cell.name,
            v: view
                .axes
                .iter()
                .map(|axis| axis.values.iter().position(|value| value == cell.value(&axis.name)).unwrap_or(0))
                .collect(),
            s: slots.iter().map(pivot_slot).collect(),
        };
        let metric =
            |column: &'a Column| PivotMetric { label: &column.label, unit: &column.scale.unit, better: column.better };
        Self {
            axes: view.axes.iter().map(|axis| (axis.name.as_str(), axis.values.as_slice())).collect(),
            metrics: view.columns.iter().map(metric).collect(),
            shown: [view.matrix.rows, view.matrix.columns, view.matrix.metric],
            slivers: [MANY_PANELS, ROWS_OF_A_PANEL],
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

    fn with_nights(inputs: &example::Inputs, nights: usize) -> String {
        let (run, summary, conclusion) = inputs;
        let history = example::nights(inputs, nights);
        render(&View::new(run, summary, conclusion).with_history(&history, run, conclusion)).unwrap()
    }

    #[test]
    fn names_may_turn_behind_their_slashes_and_stay_text() {
        let mut tera = Tera::default();
        tera.register_filter("breakable", breakable);
        let mut context = Context::new();
        context.insert("name", "a/<b>/head=fp8");
        let shown = tera.render_str("{{ name | breakable }}", &context, true).unwrap();
        assert_eq!(shown, "a/<wbr>&lt;b&gt;/<wbr>head=<wbr>fp8");
    }

    #[test]
    fn what_could_be_gained_has_no_column_where_nobody_profiled() {
        let of = |bound| {
            let mut inputs = example::study();
            for gain in &mut inputs.2.gains {
                (gain.bound, gain.product_share) = (bound, bound);
            }
            page(&inputs)
        };
        assert!(of(Some(1.4)).contains("<th scope=\"col\" class=\"n\">at most</th>"));
        let bare = of(None);
        assert!(!bare.contains("at most</th>") && bare.contains("takes profiles: run with <code>--profile</code>"));
    }

    #[test]
    fn nights_show_their_changes_and_a_year_of_a_large_sweep_keeps_to_its_size() {
        let page = with_nights(&example::study(), 60);
        for text in [
            "60 nights, 12 trends: 3 with a lasting change for the worse, 0 for the better, 1 with bad nights only, 8 steady",
            "▼ −3.80 %",
            "driver: 575.57 → 580.95",
            "class=ol",
        ] {
            assert!(page.contains(text), "{text} is not in the page");
        }
        assert!(with_nights(&example::study(), 3).contains("too few to search"));
        let bytes = with_nights(&example::sized(300, 5, 30), 365).len();
        assert!(bytes < 5_000_000, "300 cells of 365 nights take {bytes} bytes");
    }

    #[test]
    fn the_study_shows_every_section() {
        let page = page(&example::study());
        if let Ok(folder) = std::env::var("STEPWATCH_REPORT_PICTURES") {
            let write = |name: &str, text: &str| std::fs::write(format!("{folder}/{name}.html"), text).unwrap();
            write("study", &page);
            write("cpu", &self::page(&example::first_on_cpu()));
            write("hostile", &self::page(&example::hostile()));
            let large = example::sized(300, 5, 30);
            write("sized", &self::page(&large));
            write("year", &with_nights(&large, 365));
            write("nights", &with_nights(&example::study(), 60));
        }
        for text in [
            "1 of 14 cells regressed, by code",
            "−2.30 % <i class=\"vh\">regressed</i>",
            "id=\"waterfalls\"",
            "out-of-memory",
        ] {
            assert!(page.contains(text), "{text} is not in the page");
        }
    }

    #[test]
    fn two_renders_are_the_same_bytes() {
        assert_eq!(page(&example::study()), page(&example::study()));
    }

    #[test]
    fn no_reference_leaves_the_file() {
        for inputs in [example::study(), example::first_on_cpu()] {
            let page = page(&inputs);
            for request in
                [" src=", "url(", "@import", "<link", "<img", "<iframe", "fetch(", "XMLHttpRequest", "http:", "https:"]
            {
                assert!(!page.contains(request), "the page holds {request}");
            }
            let outward = page.split("href=\"").skip(1).find(|rest| !rest.starts_with('#'));
            assert_eq!(outward.map(|rest| &rest[..20]), None);
        }
    }

    #[test]
    fn hostile_names_stay_text() {
        let page = page(&example::hostile());
        for markup in ["<script>alert", "<img", "<b>axis", "\0", "\u{1b}", "\u{202e}", "</script><!--"] {
            assert!(!page.contains(markup), "the page holds {markup:?}");
        }
        // Exactly the page's own scripts: two of data, one of code.
        assert_eq!(page.matches("<script").count(), 3);
        assert_eq!(page.matches("</script").count(), 3);
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "the name is not shown");
        assert!(page.contains("🚀"), "emoji are text");
        assert!(page.contains("{{ 7*7 }}"), "what looks like a template is text");
    }

    #[test]
    fn the_page_keeps_to_its_size() {
        let bytes = page(&example::sized(20, 5, 30)).len();
        assert!(bytes < 400_000, "20 cells take {bytes} bytes");
        let bytes = page(&example::sized(300, 5, 30)).len();
        assert!(bytes < 3_500_000, "300 cells take {bytes} bytes");
    }

    #[test]
    fn a_cpu_run_draws_no_speed_conclusion_and_says_how_to_get_a_reference() {
        let (run, summary, mut conclusion) = example::first_on_cpu();
        let accept = "stepwatch baseline accept runs/fp8-study/20261123T171503Z-7f3a";
        assert_eq!(conclusion.exit_code, 3, "a cell is missing");
        let holes = page(&(run.clone(), summary.clone(), conclusion.clone()));
        assert!(holes.contains("FP8 is emulated here: numbers are real, speed says nothing"));
        assert!(!holes.contains(accept), "a run with holes is no reference");
        conclusion.exit_code = 0;
        assert!(page(&(run, summary, conclusion)).contains(accept));
    }
}
