//! The report as a pull-request comment: most important first, under 60 kB, and safe to post: what users wrote cannot
//! open a tag, mention anybody or break a table.

use std::fmt::Write as _;

use stepwatch_record::comparison::Verdict;

use crate::view::View;
use crate::view::cell::Ended;
use crate::view::change::{ChangeView, ClaimView, FindingView, loud};
use crate::view::mark::{Mark, Tone};
use crate::view::matrix::{Panel, Placed};

/// The most that is written, bytes: what hosts accept in a comment, with room to spare.
pub const LIMIT: usize = 60_000;
/// Kept free for the line that says what was left out.
const RESERVE: usize = 200;

/// The report as GitHub-flavoured markdown, at most [`LIMIT`] bytes; what does not fit is left out from the end, and said.
#[must_use]
pub fn render(view: &View) -> String {
    let mut page = Page { text: String::new(), left_out: 0 };
    head(view, &mut page);
    problems(view, &mut page);
    latest(view, &mut page);
    matrix(view, &mut page);
    claims(&view.claims, &mut page);
    waivers(view, &mut page);
    findings(&view.findings, &mut page);
    next_steps(view, &mut page);
    changes(view, &mut page);
    foot(view, &mut page);
    if page.left_out > 0 {
        if page.text.matches("<details>").count() > page.text.matches("</details>").count() {
            page.text.push_str("\n</details>\n");
        }
        let _ = writeln!(page.text, "\n_{} lines did not fit: see the HTML report._", page.left_out);
    }
    page.text
}

/// Lines up to the limit; once one did not fit, none after it is added, so that no table loses a row in its middle.
struct Page {
    text: String,
    left_out: usize,
}

impl Page {
    fn line(&mut self, line: &str) {
        if self.left_out > 0 || self.text.len() + line.len() + 1 > LIMIT - RESERVE {
            self.left_out += usize::from(!line.is_empty());
        } else {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    fn heading(&mut self, text: &str) {
        self.line("");
        self.line(&format!("### {text}"));
        self.line("");
    }
}

/// Text as text: nothing in it is markup, a mention or a column.
fn plain(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '@' => result.push_str("&#64;"),
            '\\' | '`' | '*' | '[' | ']' | '|' | '#' | '~' => {
                result.push('\\');
                result.push(c);
            }
            c => result.push(c),
        }
    }
    result
}

/// Text in a code span; a pipe would still end a table's column there, so it is written as its look-alike.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('`', "'").replace('|', "¦"))
}

/// The name of a cell, or how many there are with their names.
fn cells(cells: &str, named: &str) -> String {
    if named.is_empty() { code(cells) } else { format!("{}: {}", plain(cells), plain(named)) }
}

fn head(view: &View, page: &mut Page) {
    page.line(&format!("## {} {}", view.outcome.glyph, plain(&view.outcome.headline)));
    page.line("");
    let counts: Vec<String> =
        view.counts.iter().map(|c| format!("{} {} {}", c.mark.glyph, c.cells, c.mark.word)).collect();
    page.line(&format!("{} — exit {}: {}", counts.join(" · "), view.outcome.exit_code, view.outcome.exit));
    if let Some(emulated) = &view.emulated {
        page.line("");
        page.line(&format!("> **CPU backend.** {}", plain(emulated)));
    }
    page.line("");
    page.line(&format!(
        "{} · {} · {} · {} · {}",
        plain(&view.title),
        plain(&view.device),
        plain(&view.started),
        view.size,
        code(&view.run)
    ));
    page.line("");
    page.line(&plain(&view.reference.sentence));
    if !view.reference.differences.is_empty() {
        page.line("");
        page.line("Changed since the reference:");
        page.line("");
        for difference in &view.reference.differences {
            page.line(&format!("- {}", plain(difference)));
        }
    }
    if !view.annotations.is_empty() {
        page.line("");
        page.line("Noted since then:");
        page.line("");
        for note in &view.annotations {
            page.line(&format!("- {} {}", plain(&note.date), plain(&note.text)));
        }
    }
}

/// What somebody must or should look at: cells that ended badly, then changes that are not calm.
fn problems(view: &View, page: &mut Page) {
    // What was skipped has a reason, too; it comes after what went wrong.
    let mut ended: Vec<&Ended> = view.ended.iter().collect();
    ended.sort_by_key(|ended| ended.mark.tone != Tone::Bad);
    if !ended.is_empty() {
        page.heading("Cells that did not complete");
        page.line("| cell | end | reason |");
        page.line("|---|---|---|");
        for ended in ended {
            page.line(&format!(
                "| {} | {} {} | {} |",
                cells(&ended.cells(), &ended.named()),
                ended.mark.glyph,
                ended.mark.word,
                plain(&ended.reason)
            ));
        }
    }
    let (loud, doubts) = loud(&view.changes);
    if !loud.is_empty() || doubts.is_some() {
        page.heading("Changes");
    }
    if !loud.is_empty() {
        change_rows(loud.into_iter(), page);
    }
    if let Some(doubts) = doubts {
        let mark = Mark::of_verdict(Verdict::Undecided);
        page.line("");
        page.line(&format!("{} {}: {}", mark.glyph, mark.word, plain(&doubts)));
    }
}

fn change_rows<'a>(changes: impl Iterator<Item = &'a ChangeView>, page: &mut Page) {
    page.line("| verdict | cell | metric | change | interval | could see | why |");
    page.line("|---|---|---|--:|--:|--:|---|");
    for change in changes {
        let blind = if change.blind { " ◌ blind" } else { "" };
        let gated = if change.gated { "" } else { " (informs)" };
        page.line(&format!(
            "| {} {}{blind} | {} | {}{gated} | {} | {} | {} | {} |",
            change.mark.glyph,
            change.mark.word,
            cells(&change.cells(), &change.named()),
            plain(&change.metrics()),
            change.effect,
            change.interval,
            change.detectable,
            plain(&change.why)
        ));
    }
}

/// More lines than this say no more in a comment.
const MOST_LATEST: usize = 30;

fn latest(view: &View, page: &mut Page) {
    if view.latest.is_empty() {
        return;
    }
    page.heading("What the runs before show");
    page.line("| | cell | metric | change | since |");
    page.line("|---|---|---|--:|---|");
    for change in view.latest.iter().take(MOST_LATEST) {
        page.line(&format!(
            "| {} {} | {} | {} | {} | {} |",
            change.glyph,
            change.word,
            code(&change.cell.name),
            plain(&change.metric),
            change.effect,
            plain(&change.since)
        ));
    }
    if view.latest.len() > MOST_LATEST {
        page.line("");
        page.line(&format!("… and {} more", view.latest.len() - MOST_LATEST));
    }
}

fn matrix(view: &View, page: &mut Page) {
    let Some(column) = view.matrix.metric.map(|index| &view.columns[index]) else { return };
    let unit = if column.scale.unit.is_empty() { String::new() } else { format!(" ({})", plain(&column.scale.unit)) };
    page.heading(&format!("Matrix: {}{unit}", plain(&column.label)));
    let axis = |index: Option<usize>| index.map_or("", |i| view.axes[i].name.as_str());
    for panel in &view.matrix.panels {
        if !panel.title.is_empty() {
            page.line(&format!("**{}**", plain(&panel.title)));
            page.line("");
        }
        panel_rows(panel, axis(view.matrix.rows), axis(view.matrix.columns), page);
    }
}

fn panel_rows(panel: &Panel, rows: &str, columns: &str, page: &mut Page) {
    let names: Vec<String> = panel.columns.iter().map(|name| plain(name)).collect();
    let corner = if columns.is_empty() { plain(rows) } else { format!("{} \\ {}", plain(rows), plain(columns)) };
    page.line(&format!("| {corner} | {} |", names.join(" | ")));
    page.line(&format!("|---|{}", "--:|".repeat(names.len())));
    let place = |placed: &Placed| {
        let slot = &placed.slot;
        let mark = slot.mark.map_or_else(String::new, |mark| format!(" {}", mark.glyph));
        let change = if slot.change.is_empty() { String::new() } else { format!(" {}", slot.change) };
        let blind = if slot.blind { " ◌" } else { "" };
        format!("{}{mark}{change}{blind}", plain(&slot.text))
    };
    for row in &panel.rows {
        let places: Vec<String> =
            row.places.iter().map(|cells| cells.iter().map(place).collect::<Vec<_>>().join(", ")).collect();
        page.line(&format!("| {} | {} |", plain(&row.label), places.join(" | ")));
    }
    page.line("");
}

fn claims(claims: &[ClaimView], page: &mut Page) {
    if claims.is_empty() {
        return;
    }
    page.heading("Claims");
    for claim in claims {
        let gate = if claim.gate { ", gates" } else { "" };
        page.line(&format!(
            "- {} **{}**: “{}” ({} {}{gate})",
            claim.mark.glyph,
            claim.mark.word,
            plain(&claim.text),
            plain(&claim.metric),
            plain(&claim.asserts)
        ));
        for pair in &claim.pairs {
            page.line(&format!(
                "  - {} over {}: {} ({}) {}",
                code(&pair.of.name),
                code(&pair.over.name),
                pair.ratio,
                if pair.interval.is_empty() { "no interval" } else { &pair.interval },
                plain(&pair.why)
            ));
        }
    }
}

fn waivers(view: &View, page: &mut Page) {
    if view.waivers.is_empty() {
        return;
    }
    page.heading("Waivers");
    for waiver in &view.waivers {
        page.line(&format!("- {} **{}**: {}", waiver.mark.glyph, waiver.mark.word, plain(&waiver.sentence)));
    }
}

fn findings(findings: &[FindingView], page: &mut Page) {
    if findings.is_empty() {
        return;
    }
    page.heading("Findings");
    for finding in findings {
        page.line(&format!("- **{}** ({}, {})", plain(&finding.sentence), finding.kind, finding.severity.word));
        for line in &finding.evidence {
            page.line(&format!("  - {}", plain(line)));
        }
        if !finding.next_step.is_empty() {
            page.line(&format!("  - → {}{}", plain(&finding.next_step), command(&finding.command)));
        }
    }
}

fn next_steps(view: &View, page: &mut Page) {
    if view.next_steps.is_empty() {
        return;
    }
    page.heading("What now");
    for (number, step) in view.next_steps.iter().enumerate() {
        page.line(&format!("{}. {}{}", number + 1, plain(&step.text), command(&step.command)));
    }
}

/// A command behind a sentence; nothing where there is none.
fn command(command: &str) -> String {
    if command.is_empty() { String::new() } else { format!(" {}", code(command)) }
}

fn changes(view: &View, page: &mut Page) {
    let calm: Vec<&ChangeView> = view
        .changes
        .iter()
        .filter(|change| change.mark.tone > Tone::Good && !change.blind && !change.repeats)
        .collect();
    if calm.is_empty() {
        return;
    }
    page.line("");
    page.line(&format!("<details><summary>{} calm comparisons</summary>", calm.len()));
    page.line("");
    change_rows(calm.into_iter(), page);
    page.line("");
    page.line("</details>");
}

fn foot(view: &View, page: &mut Page) {
    page.line("");
    for line in view.provenance.damage.iter().chain(&view.provenance.notes) {
        page.line(&format!("- {}", plain(line)));
    }
    let build: Vec<String> =
        view.provenance.build.iter().map(|fact| format!("{} {}", plain(&fact.name), code(&fact.value))).collect();
    page.line("");
    page.line(&format!("{} · {}", build.join(" · "), view.provenance.rounds));
}
