//! JUnit XML for CI: a test case per cell and gated metric. A case passes only if the comparison was made and could have
//! failed: undecided, blind and uncompared cases are skipped with the reason, cells without figures are errors. What the runs
//! before show is said in a case's output and decides nothing.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use stepwatch_record::comparison::Verdict;

use crate::ReportError;
use crate::clean;
use crate::view::View;
use crate::view::cell::CellView;
use crate::view::change::{ChangeView, ClaimView};
use crate::view::mark::Tone;

/// The report as JUnit XML: one suite of cells, one of claims and one of waivers if there are any.
///
/// # Errors
/// [`ReportError::Junit`] if the XML writer fails, which no input makes it do.
pub fn render(view: &View) -> Result<String, ReportError> {
    let mut cells = TestSuite::new(format!("stepwatch {}", view.scenario));
    for cell in &view.cells {
        for case in cell_cases(view, cell) {
            cells.add_test_case(case);
        }
    }
    // What only the reference has: an error each, or it would vanish unseen.
    for change in view.changes.iter().filter(|change| change.anchor.is_empty()) {
        cells.add_test_case(case(&change.cell, &change.metric, of_change(change)));
    }
    let mut report = Report::new(format!("stepwatch {}", view.scenario));
    report.add_test_suite(cells);
    if !view.claims.is_empty() {
        let mut claims = TestSuite::new("claims");
        for claim in &view.claims {
            claims.add_test_case(case("claim", &claim.text, of_claim(claim)));
        }
        report.add_test_suite(claims);
    }
    // Skipped, whatever it did: a waiver is never a test that passed.
    if !view.waivers.is_empty() {
        let mut waivers = TestSuite::new("waivers");
        for waiver in &view.waivers {
            let name =
                format!("{} of {}", clean::line(&waiver.raw.waiver.metric), clean::line(&waiver.raw.waiver.cell));
            waivers.add_test_case(case(
                "waiver",
                &name,
                skipped(&format!("{}: {}", waiver.mark.word, waiver.sentence)),
            ));
        }
        report.add_test_suite(waivers);
    }
    Ok(report.to_string()?)
}

fn case(class: &str, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(class);
    case
}

fn cell_cases(view: &View, cell: &CellView) -> Vec<TestCase> {
    let gated: Vec<&str> =
        view.columns.iter().filter(|column| column.gated).map(|column| column.name.as_str()).collect();
    // A run in which nothing was measured still has its cells.
    let names = if gated.is_empty() { vec![ANY] } else { gated };
    let of = |metric: &str| {
        let mut case = case(&cell.id, metric, of_metric(cell, metric));
        if let Some(output) = output(view, cell, metric) {
            case.set_system_out(output);
        }
        case
    };
    names.into_iter().map(of).collect()
}

/// The metric's name of a cell's only case in a run of which no metric gates.
const ANY: &str = "measured";

/// What the runs before show of a case, a line each.
fn output(view: &View, cell: &CellView, metric: &str) -> Option<String> {
    let of_case = view.latest.iter().filter(|c| c.cell.cell == cell.id && (c.metric == metric || metric == ANY));
    let lines: Vec<String> = of_case
        .map(|c| format!("what the runs before show: {} {}: {} {} {}", c.glyph, c.word, c.metric, c.effect, c.since))
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn of_metric(cell: &CellView, metric: &str) -> TestCaseStatus {
    let ended = &cell.end;
    if ended.mark.tone == Tone::Bad {
        let mut status = error(ended.mark.word, &ended.reason);
        if !ended.output_tail.is_empty() {
            status.set_description(ended.output_tail.join("\n"));
        }
        return status;
    }
    match cell.changes.iter().find(|change| change.metric == metric) {
        Some(change) => of_change(change),
        None if ended.mark.word == "skipped" => skipped(&format!("skipped: {}", ended.reason)),
        None => skipped("nothing to compare with"),
    }
}

fn of_change(change: &ChangeView) -> TestCaseStatus {
    let text = match (change.raw.effect.is_some(), change.why.is_empty()) {
        (false, _) => change.why.clone(),
        (true, true) => change.in_short(),
        (true, false) => format!("{}: {}", change.in_short(), change.why),
    };
    match change.verdict {
        Verdict::Regressed | Verdict::NumbersWrong => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_type(change.mark.word).set_message(text);
            status
        }
        Verdict::Failed | Verdict::Missing => error(change.mark.word, &text),
        Verdict::Unchanged | Verdict::Improved if !change.blind => TestCaseStatus::success(),
        Verdict::Unchanged | Verdict::Improved => {
            skipped(&format!("blind: could have seen {} at best; {text}", or_nothing(&change.detectable)))
        }
        _ => skipped(&format!("{}: {text}", change.mark.word)),
    }
}

fn of_claim(claim: &ClaimView) -> TestCaseStatus {
    let pairs: Vec<String> = claim
        .pairs
        .iter()
        .map(|pair| format!("{} over {}: {} ({})", pair.of.cell, pair.over.cell, pair.ratio, pair.why))
        .collect();
    let text = format!("{} {}: {}", claim.metric, claim.asserts, pairs.join("; "));
    match (claim.mark.word, claim.gate) {
        ("confirmed", _) => TestCaseStatus::success(),
        ("refuted", true) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_type("claim-refuted").set_message(text);
            status
        }
        (word, _) => skipped(&format!("{word}: {text}")),
    }
}

fn or_nothing(text: &str) -> &str {
    if text.is_empty() { "nothing" } else { text }
}

fn error(kind: &str, message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_type(kind).set_message(message);
    status
}

fn skipped(message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(message);
    status
}
