//! Every form of the report says the same: one view, five exports and the page, fact by fact.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it cannot go on")]

use serde_json::Value;
use stepwatch_reports::view::View;
use stepwatch_reports::{csv, example, html, json, junit, markdown, text};

struct Forms {
    view: View,
    html: String,
    text: String,
    markdown: String,
    junit: String,
    json: Value,
    csv: Vec<Vec<String>>,
}

impl Forms {
    fn of((run, summary, conclusion): &example::Inputs) -> Self {
        let view = View::new(run, summary, conclusion);
        let rows = csv::render(&view).unwrap();
        Self {
            html: html::render(&view).unwrap(),
            text: text::render(&view, false),
            markdown: markdown::render(&view),
            junit: junit::render(&view).unwrap(),
            json: serde_json::from_str(&json::render(&view).unwrap()).unwrap(),
            csv: rows.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect(),
            view,
        }
    }

    /// Asserts that the forms for people hold a text; markdown writes some characters behind a backslash.
    fn people_read(&self, what: &str, text: &str) {
        let plain = self.markdown.replace('\\', "");
        for (form, page) in [("the page", &self.html), ("text", &self.text), ("markdown", &plain)] {
            assert!(page.contains(text), "{what}: {text} is not in {form}");
        }
    }

    fn csv_value(&self, cell: &str, column: &str) -> &str {
        let at = self.csv[0].iter().position(|name| name == column).unwrap_or_else(|| panic!("no column {column}"));
        &self.csv.iter().find(|row| row[0] == cell).unwrap_or_else(|| panic!("no row {cell}"))[at]
    }

    fn json_cell(&self, cell: &str) -> &Value {
        self.json["cells"].as_array().unwrap().iter().find(|value| value["id"] == cell).unwrap()
    }
}

#[test]
fn headline_counts_and_exit_are_the_same_everywhere() {
    let forms = Forms::of(&example::study());
    forms.people_read("headline", &forms.view.outcome.headline);
    assert_eq!(forms.json["outcome"]["headline"], forms.view.outcome.headline.as_str());
    assert_eq!(forms.json["outcome"]["exit_code"], forms.view.outcome.exit_code);
    for (count, told) in forms.view.counts.iter().zip(forms.json["counts"].as_array().unwrap()) {
        assert_eq!(
            (told["verdict"].as_str(), told["cells"].as_u64()),
            (Some(count.mark.word), Some(count.cells as u64))
        );
        let line = format!("{} {} {}", count.mark.glyph, count.cells, count.mark.word);
        assert!(forms.text.contains(&line) && forms.markdown.contains(&line), "{line}");
    }
}

#[test]
fn every_cell_ends_and_is_judged_the_same_everywhere() {
    let forms = Forms::of(&example::study());
    for cell in &forms.view.cells {
        assert_eq!(forms.csv_value(&cell.id, "end"), cell.end.mark.word);
        assert_eq!(forms.csv_value(&cell.id, "verdict"), cell.mark.word);
        assert_eq!(forms.csv_value(&cell.id, "blind"), cell.blind.to_string());
        let told = forms.json_cell(&cell.id);
        assert_eq!((&told["end"], &told["verdict"]), (&cell.end.mark.word.into(), &cell.mark.word.into()));
        let start = forms.junit.find(&format!("classname=\"{}\"", cell.id)).unwrap_or_else(|| panic!("{}", cell.id));
        let case = forms.junit[start..].split("<testcase").next().unwrap();
        let expected = match (cell.mark.word, cell.blind) {
            ("unchanged" | "improved", false) => "/>",
            ("regressed" | "numbers-wrong", _) => "<failure",
            ("out-of-memory" | "failed" | "missing" | "crashed" | "timed-out", _) => "<error",
            _ => "<skipped",
        };
        assert!(case.contains(expected) || expected == "/>" && !case.contains("<skipped"), "{}: {case}", cell.id);
        if !cell.end.reason.is_empty() {
            forms.people_read(&cell.id, &cell.end.reason);
        }
    }
}

#[test]
fn every_change_has_one_effect_interval_and_reason() {
    let forms = Forms::of(&example::study());
    for change in forms.view.changes.iter().filter(|change| change.raw.effect.is_some()) {
        // Calm comparisons are folded in markdown and cut in text; what is loud stands in all.
        if change.mark.word != "unchanged" || change.blind {
            forms.people_read(&change.cell, &change.effect);
            forms.people_read(&change.cell, &change.interval);
        }
        for (column, value) in
            [("change", change.raw.effect), ("change_low", change.raw.low), ("change_high", change.raw.high)]
        {
            let told = forms.csv_value(&change.cell, &format!("{}.{column}", change.metric));
            assert_eq!(told.parse::<f64>().ok(), value, "{} {column}", change.cell);
        }
        let told = forms.json["changes"].as_array().unwrap().iter();
        let told = told
            .into_iter()
            .find(|c| c["cell"] == change.cell.as_str() && c["metric"] == change.metric.as_str())
            .unwrap();
        assert_eq!(told["effect"].as_f64(), change.raw.effect);
        assert_eq!(told["verdict"], change.mark.word);
        assert_eq!(told["reason"], change.reason.as_str());
    }
}

#[test]
fn claims_findings_and_waivers_stand_in_every_form() {
    let forms = Forms::of(&example::study());
    for claim in &forms.view.claims {
        forms.people_read("claim", &claim.text);
        assert!(forms.junit.contains(&claim.text.replace('"', "&quot;")), "{} is no test case", claim.text);
        for pair in &claim.pairs {
            forms.people_read("ratio", &pair.ratio);
        }
    }
    let told: Vec<&str> =
        forms.json["findings"].as_array().unwrap().iter().filter_map(|f| f["sentence"].as_str()).collect();
    for finding in &forms.view.findings {
        forms.people_read("finding", &finding.sentence);
        assert!(told.contains(&finding.sentence.as_str()));
        for line in
            finding.evidence.iter().chain([&finding.next_step, &finding.command]).filter(|line| !line.is_empty())
        {
            forms.people_read("evidence", line);
        }
    }
    for waiver in &forms.view.waivers {
        forms.people_read("waiver", &waiver.sentence);
        assert!(forms.junit.contains(&waiver.sentence), "{} is no test case", waiver.sentence);
    }
}

#[test]
fn every_figure_is_one_number() {
    let forms = Forms::of(&example::study());
    for cell in &forms.view.cells {
        for figure in &cell.figures {
            let column = &forms.view.columns[figure.column];
            assert_eq!(forms.csv_value(&cell.id, &column.name).parse::<f64>().ok(), Some(figure.point));
            let told = forms.json_cell(&cell.id)["figures"].as_array().unwrap();
            let told = told.iter().find(|f| f["metric"] == column.name.as_str()).unwrap();
            // The reader of JSON may be off by the last bit.
            for (key, value) in [("point", figure.point), ("low", figure.low), ("high", figure.high)] {
                let told = told[key].as_f64().unwrap();
                assert!((told - value).abs() <= value.abs() * 1e-15, "{} {key}: {told} and {value}", column.name);
            }
            assert!(
                forms.html.contains(&format!("<td>{} {}", figure.text, column.scale.unit)),
                "{} {}",
                cell.id,
                column.name
            );
        }
    }
}

#[test]
fn what_the_runs_before_show_stands_in_every_form() {
    let mut inputs = example::study();
    let calm = Forms::of(&inputs);
    inputs.2.latest_changes = Some(Vec::new());
    assert_eq!(Forms::of(&inputs).html, calm.html, "nothing found is nothing to say");
    inputs.2.latest_changes = Some(example::latest_changes(&inputs));
    let forms = Forms::of(&inputs);
    forms.people_read("heading", "What the runs before show");
    assert_eq!(forms.view.latest.len(), 3);
    for (change, told) in forms.view.latest.iter().zip(forms.json["latest_changes"].as_array().unwrap()) {
        forms.people_read(&change.cell.cell, &change.effect);
        forms.people_read(&change.cell.cell, &change.since);
        assert_eq!((&told["effect"], &told["shape"]), (&change.raw.effect.into(), &change.shape.into()));
        let case = forms.junit.split("<testcase").find(|case| case.contains(&format!("\"{}\"", change.cell.cell)));
        let output = format!("{} {}: {} {} {}", change.glyph, change.word, change.metric, change.effect, change.since);
        assert!(case.unwrap().contains(&format!("<system-out>what the runs before show: {output}")), "{case:?}");
        let value =
            |column: &str| forms.csv_value(&change.cell.cell, &format!("{}.{column}", change.metric)).to_owned();
        let (effect, run) = (change.raw.effect.to_string(), change.raw.run.clone());
        let expected = match change.raw.shape {
            Some(_) => [effect, run, String::new()],
            None => [String::new(), String::new(), effect],
        };
        assert_eq!([value("lasting_change"), value("lasting_since"), value("alone")], expected);
    }
    for outcome in ["<failure", "<error", "<skipped"] {
        assert_eq!(forms.junit.matches(outcome).count(), calm.junit.matches(outcome).count(), "{outcome} moved");
    }
}
