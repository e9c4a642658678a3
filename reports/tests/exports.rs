//! Every export of the small study, as a reader sees it, and what each must keep of hostile names.

use stepwatch_reports::{View, csv, example, html, json, junit, markdown, text};

fn view((run, summary, conclusion): &example::Inputs) -> View {
    View::new(run, summary, conclusion)
}

#[test]
fn text_of_the_study() {
    insta::assert_snapshot!(text::render(&view(&example::study()), false));
}

#[test]
fn markdown_of_the_study() {
    insta::assert_snapshot!(markdown::render(&view(&example::study())));
}

#[test]
fn csv_of_the_study() {
    insta::assert_snapshot!(csv::render(&view(&example::study())).unwrap());
}

#[test]
fn junit_of_the_study() {
    insta::assert_snapshot!(junit::render(&view(&example::study())).unwrap());
}

#[test]
fn json_of_two_cells() {
    insta::assert_snapshot!(json::render(&view(&example::sized(2, 2, 3))).unwrap());
}

#[test]
fn text_of_a_first_run_on_a_cpu() {
    insta::assert_snapshot!(text::render(&view(&example::first_on_cpu()), false));
}

#[test]
fn colour_only_repeats_what_words_say() {
    let view = view(&example::study());
    let colored = text::render(&view, true);
    let mut plain = String::new();
    let mut rest = colored.as_str();
    while let Some(start) = rest.find('\u{1b}') {
        plain.push_str(&rest[..start]);
        rest = &rest[start + rest[start..].find('m').unwrap() + 1..];
    }
    plain.push_str(rest);
    let trimmed: Vec<&str> = plain.lines().map(str::trim_end).collect();
    assert_eq!(trimmed.join("\n") + "\n", text::render(&view, false));
}

#[test]
fn changes_over_the_runs_before_are_told_in_every_word_and_only_where_there_are_any() {
    let mut inputs = example::study();
    assert!(!text::render(&view(&inputs), false).contains("What the runs before show"));
    let mut found = example::latest_changes(&inputs);
    found[0].run = "night|<b>".into();
    inputs.2.latest_changes = Some(found);
    let text = text::render(&view(&inputs), false);
    let lines: Vec<&str> =
        text.lines().skip_while(|line| *line != "What the runs before show").skip(1).take(3).collect();
    for (line, parts) in lines.iter().zip([
        ["▼ worse", "−3.80 % since night|<b> (2026-11-03; it began between 20261102T030000Z-0f0f and 20261104T030000Z-3c4d), 21 runs"],
        ["! worse", "−11.0 % in this run alone: later runs tell whether it lasts"],
        ["↗ better", "+2.10 % little by little, 20261102T030000Z-0f0f to 20261104T030000Z-3c4d; most cells have it"],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    assert_eq!(lines.len(), 3, "{text}");
    let markdown = markdown::render(&view(&inputs));
    assert!(markdown.contains("| since night\\|&lt;b&gt; (2026-11-03;"), "{markdown}");
    let json: serde_json::Value = serde_json::from_str(&json::render(&view(&inputs)).unwrap()).unwrap();
    let shapes: Vec<&str> = (0..3).map(|i| json["latest_changes"][i]["shape"].as_str().unwrap()).collect();
    assert_eq!(shapes, ["step", "alone", "drift"]);
    let junit = junit::render(&view(&inputs)).unwrap();
    assert!(junit.contains("since night|&lt;b&gt; (2026-11-03;"), "{junit}");
}

#[test]
fn hostile_names_break_no_export() {
    let view = view(&example::hostile());
    let markdown = markdown::render(&view);
    // Outside code spans nothing is a tag or a mention.
    let unescaped = markdown.replace("\\`", "");
    for text in unescaped.split('`').step_by(2) {
        assert!(!text.contains("<script") && !text.contains("<img") && !text.contains('@'), "{text}");
    }
    let csv = csv::render(&view).unwrap();
    let mut reader = ::csv::Reader::from_reader(csv.as_bytes());
    let lines: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(lines.len(), view.cells.len());
    let value: serde_json::Value = serde_json::from_str(&json::render(&view).unwrap()).unwrap();
    assert_eq!(value["cells"].as_array().unwrap().len(), view.cells.len());
    for export in [markdown, csv, text::render(&view, false), junit::render(&view).unwrap()] {
        assert!(!export.contains(['\0', '\u{1b}', '\u{202e}']), "{export:?}");
    }
}

#[test]
fn a_large_comment_stays_postable_and_says_what_it_left_out() {
    let comment = markdown::render(&view(&example::sized(1000, 2, 3)));
    assert!(comment.len() <= markdown::LIMIT, "{}", comment.len());
    assert!(comment.contains("lines did not fit: see the HTML report"));
    assert!(comment.starts_with("## "));
}

#[test]
fn a_case_that_could_not_fail_does_not_pass() {
    let xml = junit::render(&view(&example::study())).unwrap();
    let of = |cell: &str| {
        let start = xml.find(&format!("classname=\"{cell}")).unwrap();
        xml[start..].split("<testcase").next().unwrap().to_owned()
    };
    assert!(of("454m/bf16/cudnn/layout+fusion~").contains("<skipped message=\"blind"), "blind");
    assert!(of("454m/fp8-delayed/cudnn/layout~").contains("<skipped message=\"undecided"), "undecided");
    assert!(of("454m/bf16/naive/none~").contains("<error message="), "failed");
    assert!(of("454m/bf16/cudnn/layout~").contains("<error message="), "missing");
    assert!(of("454m/fp8-delayed/cudnn/full~").contains("<failure message="), "regressed");
}

#[test]
fn cells_that_lack_the_same_rounds_share_a_line_for_people_and_none_for_machines() {
    let (run, summary, conclusion) = example::unfinished();
    let view = View::new(&run, &summary, &conclusion);
    let text = text::render(&view, false);
    let names: Vec<&str> = view.cells[2..10].iter().map(|cell| cell.name.as_str()).collect();
    let named = format!("\n      {} and 2 more\n", names.join(", "));
    let why = "4 of 5 planned rounds have a record";
    assert!(text.contains(&format!("○ missing  10 cells: {why}{named}")), "{text}");
    assert!(text.contains(&format!("○ missing  10 cells  tokens_per_second {why}{named}")), "{text}");
    let comment = markdown::render(&view);
    assert_eq!(comment.matches(why).count(), 2, "{comment}");
    assert!(comment.contains("| 10 cells: 454m/bf16/layout+fusion, "), "{comment}");
    let page = html::render(&view).unwrap();
    assert!(page.contains("Cells that are missing rounds have no part in findings that compare cells"));
    let (_, table) = page.split_once("id=\"changes\"").unwrap();
    let (table, _) = table.split_once("</section>").unwrap();
    assert_eq!(table.matches("○ missing").count(), 1);
    for cell in &view.cells[2..] {
        let value = &cell.changes[0].value;
        let item = format!("<li><a href=\"#{}\">{}</a> <span class=\"soft\">{value}</span>", cell.anchor, cell.name);
        assert!(value != "–" && table.contains(&item), "{item} in {table}");
    }
    assert_eq!(json::render(&view).unwrap().matches("\"verdict\": \"missing\",").count(), 2 * 10 + 1);
    assert!(junit::render(&view).unwrap().matches(why).count() >= 10);
    assert_eq!(csv::render(&view).unwrap().matches(",missing,missing,").count(), 10);
}
