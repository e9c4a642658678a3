//! Problems of a scenario, collected while it is read and shown together, each with file, line and caret.
//!
//! Text that a user wrote enters a message only through [`quoted`], so that no control character reaches a terminal.

use std::fmt;
use std::io::IsTerminal;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// A text that problems point into: the scenario file, or an argument of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    name: String,
    text: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

/// One problem: what is wrong, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    severity: Severity,
    title: String,
    source: usize,
    /// Byte range and what stands there; the first is the place itself, the others belong to it.
    places: Vec<(Range<usize>, String)>,
    helps: Vec<String>,
}

impl Problem {
    /// A problem at a byte range of the scenario file; `label` says what is there.
    pub(super) fn at(span: Range<usize>, title: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            title: title.into(),
            source: FILE,
            places: vec![(span, label.into())],
            helps: Vec::new(),
        }
    }

    /// A problem that has no place in a text.
    pub(super) fn of_whole(title: impl Into<String>) -> Self {
        Self { severity: Severity::Error, title: title.into(), source: FILE, places: Vec::new(), helps: Vec::new() }
    }

    /// Another place that belongs to it.
    pub(super) fn and(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.places.push((span, label.into()));
        self
    }

    /// What would be right.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.helps.push(help.into());
        self
    }

    /// Worth saying, but no reason to stop.
    pub(super) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Its places are in `--filter` instead of the file.
    pub(super) fn in_filter(mut self) -> Self {
        self.source = FILTER;
        self
    }

    /// Whether it stops a run.
    pub(super) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

const FILE: usize = 0;
const FILTER: usize = 1;

/// Everything that was noticed about one scenario, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    sources: Vec<Source>,
    problems: Vec<Problem>,
}

impl Diagnostics {
    /// Nothing noticed yet in a file of this text, or in the `--filter` that goes with it.
    pub(super) fn new(file: &Path, text: &str, filter: Option<&str>) -> Self {
        let file = Source { name: file.display().to_string(), text: text.to_owned() };
        let filter = Source { name: "--filter".to_owned(), text: filter.unwrap_or_default().to_owned() };
        Self { sources: vec![file, filter], problems: Vec::new() }
    }

    pub(super) fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Puts problems in the order of the file, as a person goes through it; what has no place comes first.
    pub(super) fn sort(&mut self) {
        self.problems.sort_by_key(|problem| {
            let place = problem.places.first().map_or(0, |(span, _)| span.start + 1);
            (problem.source, place)
        });
    }

    /// An error of the file as a whole, such as one that cannot be opened.
    pub(super) fn of_file(file: &Path, message: String) -> Self {
        let mut diagnostics = Self::new(file, "", None);
        diagnostics.push(Problem::of_whole(message));
        diagnostics
    }

    /// How many problems are errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.is_error()).count()
    }

    /// Whether nothing at all was noticed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The text as for stderr: in colour if that is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn for_stderr(&self) -> String {
        let colour =
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        self.render(if colour { Renderer::styled() } else { Renderer::plain() })
    }

    fn render(&self, renderer: Renderer) -> String {
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut shown: Vec<String> =
            self.problems.iter().take(MOST_SHOWN).map(|problem| renderer.render(&[self.group(problem)])).collect();
        if self.problems.len() > MOST_SHOWN {
            shown.push(format!("… and {} more", self.problems.len() - MOST_SHOWN));
        }
        shown.join("\n\n")
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let level = if problem.is_error() { Level::ERROR } else { Level::WARNING };
        let source = &self.sources[problem.source];
        let mut group = if problem.places.is_empty() {
            Group::with_title(level.primary_title(format!("{}: {}", source.name, problem.title)))
        } else {
            let mut snippet = Snippet::source(source.text.as_str()).path(source.name.as_str());
            for (index, (span, label)) in problem.places.iter().enumerate() {
                let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
                let annotation = kind.span(inside(span, &source.text));
                // A label that is empty would leave a trailing blank.
                snippet =
                    snippet.annotation(if label.is_empty() { annotation } else { annotation.label(label.as_str()) });
            }
            level.primary_title(problem.title.as_str()).element(snippet)
        };
        for help in &problem.helps {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        group
    }
}

/// So many problems are shown; the rest is counted.
const MOST_SHOWN: usize = 50;

/// A span that surely lies within the text and on character boundaries, and on one line: a table's span would otherwise
/// show the whole table.
fn inside(span: &Range<usize>, text: &str) -> Range<usize> {
    let clamp = |at: usize| {
        let mut at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (start, end) = (clamp(span.start), clamp(span.end.max(span.start)));
    let line_end = text[start..end].find('\n').map_or(end, |offset| start + offset);
    start..line_end
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Renderer::plain()))
    }
}

impl std::error::Error for Diagnostics {}

/// A user's text in backticks: control characters escaped, cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    let mut shown = String::from("`");
    for (index, c) in text.chars().enumerate() {
        if index == 80 {
            shown.push('…');
            break;
        }
        // Bidirectional overrides reorder what a terminal shows after them.
        if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown.push('`');
    shown
}

/// Words in backticks, joined by commas.
pub(super) fn list<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| quoted(word.as_ref())).collect();
    words.join(", ")
}

/// The word that was probably meant, if one is near enough.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' ', '.'], "_");
    let word = plain(word);
    known
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The label for a word that is not among the known: what was meant, or that there is no such thing.
pub(super) fn not_known<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, otherwise: &str) -> String {
    nearest(word, known).map_or_else(|| otherwise.to_owned(), |near| format!("did you mean {}?", quoted(near)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_file_line_caret_and_help() {
        let text = "[step]\nbatchsize = 8\n";
        let mut diagnostics = Diagnostics::new(Path::new("a.toml"), text, None);
        diagnostics.push(Problem::at(7..16, "unknown key", "did you mean `batch_size`?").help("keys: `clip`"));
        insta::assert_snapshot!(diagnostics, @r"
        error: unknown key
         --> a.toml:2:1
          |
        2 | batchsize = 8
          | ^^^^^^^^^ did you mean `batch_size`?
          |
          = help: keys: `clip`
        ");
    }

    #[test]
    fn hostile_text_is_made_harmless() {
        assert_eq!(quoted("a\u{1b}[31m\0\u{202e}x"), r"`a\u{1b}[31m\u{0}\u{202e}x`");
        assert_eq!(quoted(&"x".repeat(200)).chars().count(), 83);
        assert_eq!(quoted("🚀 <b>"), "`🚀 <b>`");
    }

    #[test]
    fn spans_beyond_the_text_or_inside_a_character_do_no_harm() {
        let mut diagnostics = Diagnostics::new(Path::new("a.toml"), "é", None);
        diagnostics.push(Problem::at(1..99, "odd", "here"));
        assert!(diagnostics.to_string().contains("a.toml:1:1"), "{diagnostics}");
    }

    #[test]
    fn near_misses_are_found_and_far_ones_are_not() {
        let known = ["batch_size", "seq_len", "bf16", "fp8-rowwise"];
        for (word, meant) in [
            ("batchsize", Some("batch_size")),
            ("BF16", Some("bf16")),
            ("fp8_rowise", Some("fp8-rowwise")),
            ("seq-len", Some("seq_len")),
            ("banana", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
