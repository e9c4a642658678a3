//! `--filter 'precision=fp8-*,compile=full'`: which of the cells are run.
//!
//! Terms are joined by `,` and all of them must hold. A term is `key=pattern` or `key!=pattern`; patterns are globs, joined
//! by `|` where any will do, and a key that is named again with `=` widens the choice. Keys are the cells' parameters,
//! `workload`, and `cell` for the id.

use std::collections::BTreeSet;
use std::ops::Range;

use globset::{Glob, GlobMatcher};

use super::PlannedCell;
use super::diagnostic::{Problem, list, not_known, quoted};

/// One term.
struct Term {
    key: String,
    key_place: Range<usize>,
    place: Range<usize>,
    negated: bool,
    patterns: Vec<GlobMatcher>,
}

/// A filter as written.
pub(super) struct Filter {
    terms: Vec<Term>,
    len: usize,
}

impl Filter {
    /// Reads a filter; what cannot be read is noted.
    pub(super) fn parse(text: &str, problems: &mut Vec<Problem>) -> Self {
        let mut terms: Vec<Term> = Vec::new();
        let mut start = 0;
        for part in text.split(',') {
            let place = start..start + part.len();
            start = place.end + 1;
            let Some(equals) = part.find('=') else {
                problems.push(
                    Problem::at(place, format!("{} is no filter", quoted(part)), "no `=` here")
                        .in_filter()
                        .help("write key=pattern, joined by commas: precision=fp8-*,compile=full"),
                );
                continue;
            };
            let negated = part[..equals].ends_with('!');
            let key = part[..equals - usize::from(negated)].trim().to_owned();
            let key_place = place.start..place.start + equals - usize::from(negated);
            let mut patterns = Vec::new();
            for pattern in part[equals + 1..].split('|') {
                match Glob::new(pattern.trim()) {
                    Ok(glob) => patterns.push(glob.compile_matcher()),
                    Err(error) => problems.push(
                        Problem::at(
                            place.clone(),
                            format!("{} is no pattern: {}", quoted(pattern), error.kind()),
                            "here",
                        )
                        .in_filter(),
                    ),
                }
            }
            match terms.iter_mut().find(|term| term.key == key && !term.negated && !negated) {
                Some(term) => term.patterns.extend(patterns),
                None => terms.push(Term { key, key_place, place, negated, patterns }),
            }
        }
        Self { terms, len: text.len() }
    }

    /// Which cells it selects; selecting none is noted, with the reason.
    pub(super) fn select(&self, cells: &[&PlannedCell], problems: &mut Vec<Problem>) -> Vec<bool> {
        let before = problems.len();
        for term in &self.terms {
            term.check(cells, problems);
        }
        let selected: Vec<bool> = cells.iter().map(|cell| self.terms.iter().all(|term| term.holds(cell))).collect();
        if problems.len() == before && !cells.is_empty() && !selected.contains(&true) {
            let title = format!("--filter selects none of the {} cells", cells.len());
            problems.push(
                Problem::at(0..self.len, title, "no cell has all of these")
                    .in_filter()
                    .help("`stepwatch list` shows the cells; `|` joins alternatives"),
            );
        }
        selected
    }
}

impl Term {
    fn holds(&self, cell: &PlannedCell) -> bool {
        let hit =
            value(cell, &self.key).is_some_and(|value| self.patterns.iter().any(|pattern| pattern.is_match(&value)));
        hit != self.negated
    }

    /// Notes a key that no cell has, or patterns that match no value of it.
    fn check(&self, cells: &[&PlannedCell], problems: &mut Vec<Problem>) {
        // Patterns that cannot be read were noted already.
        if self.patterns.is_empty() {
            return;
        }
        let values: BTreeSet<String> = cells.iter().filter_map(|cell| value(cell, &self.key)).collect();
        if values.is_empty() {
            let keys: BTreeSet<&str> = cells
                .iter()
                .flat_map(|cell| cell.cell.parameters.keys().map(String::as_str))
                .chain(["cell", "workload"])
                .collect();
            let title = format!("no cell has a parameter {}", quoted(&self.key));
            problems.push(
                Problem::at(self.key_place.clone(), title, not_known(&self.key, keys.iter().copied(), "no such key"))
                    .in_filter()
                    .help(format!("keys are {}", list(keys))),
            );
        } else if !values.iter().any(|value| self.patterns.iter().any(|pattern| pattern.is_match(value))) {
            let shown: Vec<&String> = values.iter().take(12).collect();
            let more = if values.len() > shown.len() {
                format!(" and {} more", values.len() - shown.len())
            } else {
                String::new()
            };
            let title = format!("no value of {} matches", quoted(&self.key));
            problems.push(
                Problem::at(self.place.clone(), title, "matches nothing")
                    .in_filter()
                    .help(format!("its values are {}{more}", list(shown))),
            );
        }
    }
}

/// The value of a key of a cell, as text.
fn value(cell: &PlannedCell, key: &str) -> Option<String> {
    match key {
        "workload" => Some(cell.cell.workload.clone()),
        "cell" => Some(cell.cell.id.0.clone()),
        _ => cell.cell.parameters.get(key).map(ToString::to_string),
    }
}
