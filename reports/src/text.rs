//! The report for a terminal: headline, matrix, changes, claims, findings, what to do. Colour only repeats what a word and
//! a glyph already say.

use stepwatch_record::comparison::Verdict;

use crate::view::View;
use crate::view::change::loud;
use crate::view::mark::{Mark, Tone};
use crate::view::matrix::{Panel, Placed};

/// The most lines of calm comparisons and the like are left to the other exports.
const MOST_CHANGES: usize = 30;

/// The report as plain text; with `color`, ANSI colours are added around the same words.
#[must_use]
pub fn render(view: &View, color: bool) -> String {
    let mut page = Page { text: String::new(), color };
    head(view, &mut page);
    matrix(view, &mut page);
    ends(view, &mut page);
    changes(view, &mut page);
    latest(view, &mut page);
    claims(view, &mut page);
    waivers(view, &mut page);
    findings(view, &mut page);
    next_steps(view, &mut page);
    page.text
}

struct Page {
    text: String,
    color: bool,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn heading(&mut self, text: &str) {
        let text = self.paint(text, "1");
        self.line("");
        self.line(&text);
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.color && !code.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn tone(&self, text: &str, tone: Tone) -> String {
        self.paint(
            text,
            match tone {
                Tone::Bad => "31",
                Tone::Warn => "33",
                Tone::Good => "32",
                Tone::Calm => "",
                Tone::Mute => "2",
            },
        )
    }

    /// The cells that the line before speaks of, where there are several.
    fn names(&mut self, names: &str) {
        if !names.is_empty() {
            self.line(&format!("      {names}"));
        }
    }

    fn mark(&self, mark: Mark) -> String {
        self.tone(&format!("{} {}", mark.glyph, mark.word), mark.tone)
    }
}

fn head(view: &View, page: &mut Page) {
    let outcome = &view.outcome;
    let headline = page.tone(&format!("{} {}", outcome.glyph, outcome.headline), outcome.tone);
    page.line(&page.paint(&headline, "1"));
    let counts: Vec<String> = view
        .counts
        .iter()
        .map(|c| page.tone(&format!("{} {} {}", c.mark.glyph, c.cells, c.mark.word), c.mark.tone))
        .collect();
    page.line(&format!("  {}", counts.join(" · ")));
    page.line(&format!("  {} · {} · {} · {}", view.scenario, view.device, view.started, view.size));
    page.line(&format!("  {}", view.reference.sentence));
    for difference in &view.reference.differences {
        page.line(&format!("    changed since: {difference}"));
    }
    for note in &view.annotations {
        let cells = match note.cells.len() {
            0 => String::new(),
            cells => format!(" ({})", crate::format::count(cells, "cell", "cells")),
        };
        page.line(&format!("    noted: {} {}{cells}", note.date, note.text));
    }
    if let Some(emulated) = &view.emulated {
        page.line(&page.tone(&format!("  ! {emulated}"), Tone::Warn));
    }
}

fn matrix(view: &View, page: &mut Page) {
    let column = view.matrix.metric.map(|index| &view.columns[index]);
    let name = column.map_or_else(
        || "how cells ended".to_owned(),
        |column| match column.scale.unit.as_str() {
            "" => column.label.clone(),
            unit => format!("{} ({unit})", column.label),
        },
    );
    let axis = |index: Option<usize>| index.map_or("", |i| view.axes[i].name.as_str());
    page.heading(&format!(
        "Matrix: {name}, {} down, {} across",
        or_none(axis(view.matrix.rows)),
        or_none(axis(view.matrix.columns))
    ));
    for panel in &view.matrix.panels {
        if !panel.title.is_empty() {
            page.line(&format!("  {}", panel.title));
        }
        panel_rows(panel, page);
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "nothing" } else { text }
}

/// How many columns a terminal gives to a text: wide characters take two, marks on the one before none.
fn width(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

fn pad(text: &str, to: usize, right: bool) -> String {
    let space = " ".repeat(to.saturating_sub(width(text)));
    if right { format!("{space}{text}") } else { format!("{text}{space}") }
}

fn panel_rows(panel: &Panel, page: &mut Page) {
    let place = |placed: &Placed| {
        let slot = &placed.slot;
        let mark = slot.mark.map_or("·", |mark| mark.glyph);
        let blind = if slot.blind { " blind" } else { "" };
        format!("{} {mark}{}{}{blind}", slot.text, if slot.change.is_empty() { "" } else { " " }, slot.change)
    };
    let tone = |cells: &[Placed]| cells.iter().filter_map(|p| p.slot.mark).map(|m| m.tone).min().unwrap_or(Tone::Calm);
    let texts: Vec<Vec<String>> = panel
        .rows
        .iter()
        .map(|row| row.places.iter().map(|cells| cells.iter().map(place).collect::<Vec<_>>().join(", ")).collect())
        .collect();
    let labels = panel.rows.iter().map(|row| width(&row.label)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..panel.columns.len())
        .map(|i| texts.iter().map(|row| width(&row[i])).max().unwrap_or(0).max(width(&panel.columns[i])))
        .collect();
    let header: Vec<String> = panel.columns.iter().zip(&widths).map(|(name, to)| pad(name, *to, false)).collect();
    page.line(&format!("    {}  {}", " ".repeat(labels), header.join("  ")));
    for (row, texts) in panel.rows.iter().zip(&texts) {
        let cells: Vec<String> = row
            .places
            .iter()
            .zip(texts.iter().zip(&widths))
            .map(|(cells, (text, to))| page.tone(&pad(text, *to, false), tone(cells)))
            .collect();
        page.line(&format!("    {}  {}", pad(&row.label, labels, false), cells.join("  ")));
    }
}

fn ends(view: &View, page: &mut Page) {
    if view.ended.is_empty() {
        return;
    }
    page.heading("Cells that did not complete");
    for ended in &view.ended {
        page.line(&format!("  {}  {}: {}", page.mark(ended.mark), ended.cells(), ended.reason));
        page.names(&ended.named());
    }
}

fn changes(view: &View, page: &mut Page) {
    let (loud, doubts) = loud(&view.changes);
    if loud.is_empty() && doubts.is_none() {
        return;
    }
    page.heading("Changes");
    for change in loud.iter().take(MOST_CHANGES) {
        let blind = if change.blind { ", blind" } else { "" };
        let seen = match change.detectable.as_str() {
            "" => String::new(),
            detectable => format!(", could have seen {detectable}"),
        };
        let effect = change.in_short();
        let why = if effect == change.why { String::new() } else { format!(" — {}", change.why) };
        page.line(&format!(
            "  {}{blind}  {}  {} {effect}{seen}{why}",
            page.mark(change.mark),
            change.cells(),
            change.metrics()
        ));
        page.names(&change.named());
    }
    if loud.len() > MOST_CHANGES {
        page.line(&format!("  … and {} more", loud.len() - MOST_CHANGES));
    }
    if let Some(doubts) = doubts {
        page.line(&format!("  {}  {doubts}", page.mark(Mark::of_verdict(Verdict::Undecided))));
    }
}

fn latest(view: &View, page: &mut Page) {
    if view.latest.is_empty() {
        return;
    }
    page.heading("What the runs before show");
    for change in view.latest.iter().take(MOST_CHANGES) {
        let mark = page.tone(&format!("{} {}", change.glyph, change.word), change.tone);
        page.line(&format!("  {mark}  {}  {} {} {}", change.cell.name, change.metric, change.effect, change.since));
    }
    if view.latest.len() > MOST_CHANGES {
        page.line(&format!("  … and {} more", view.latest.len() - MOST_CHANGES));
    }
}

fn claims(view: &View, page: &mut Page) {
    if view.claims.is_empty() {
        return;
    }
    page.heading("Claims");
    for claim in &view.claims {
        let gate = if claim.gate { ", gates" } else { "" };
        page.line(&format!("  {}  “{}” ({} {}{gate})", page.mark(claim.mark), claim.text, claim.metric, claim.asserts));
        for pair in &claim.pairs {
            let interval = if pair.interval.is_empty() { String::new() } else { format!(" ({})", pair.interval) };
            page.line(&format!(
                "      {} over {}: {}{interval} — {}",
                pair.of.name, pair.over.name, pair.ratio, pair.why
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
        page.line(&format!("  {}  {}", page.mark(waiver.mark), waiver.sentence));
    }
}

fn findings(view: &View, page: &mut Page) {
    if view.findings.is_empty() {
        return;
    }
    page.heading("Findings");
    for finding in &view.findings {
        page.line(&format!("  {}  {} [{}]", page.mark(finding.severity), finding.sentence, finding.kind));
        for line in &finding.evidence {
            page.line(&format!("      {line}"));
        }
        if !finding.next_step.is_empty() {
            page.line(&format!("      → {}", finding.next_step));
        }
        if !finding.command.is_empty() {
            page.line(&format!("        {}", finding.command));
        }
    }
}

fn next_steps(view: &View, page: &mut Page) {
    if view.next_steps.is_empty() {
        return;
    }
    page.heading("What now");
    for (number, step) in view.next_steps.iter().enumerate() {
        page.line(&format!("  {}. {}", number + 1, step.text));
        if !step.command.is_empty() {
            page.line(&format!("     {}", step.command));
        }
    }
}
