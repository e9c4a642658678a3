//! `waivers.toml` and `annotations.toml`, which lie beside the accepted runs: what people know of a scenario that no record
//! holds. Read and resolved here; what a waiver does to a verdict is not known here.

use std::path::{Path, PathBuf};

use globset::{Glob, GlobMatcher};
use stepwatch_record::name::Names;
use stepwatch_record::run::RunManifest;
use stepwatch_record::waiver::{Annotation, Known, Waiver};
use stepwatch_record::{Cell, CellId};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostics, Problem, quoted};
use super::keys::{self, Key};
use super::raw::many_tables;
use super::read::{Table, unknown_key};

/// The file of the waivers.
pub const WAIVERS: &str = "waivers.toml";
/// The file of the annotations.
pub const ANNOTATIONS: &str = "annotations.toml";

/// Which cells of which scenario an entry speaks of.
#[derive(Debug)]
struct Place {
    /// `None` speaks of every scenario.
    scenario: Option<String>,
    /// As written, with its matcher; `None` speaks of every cell.
    cell: Option<(String, GlobMatcher)>,
}

/// Both files as written, with every word understood.
#[derive(Debug, Default)]
pub struct KnownFiles {
    waivers: Vec<(Place, Waiver)>,
    annotations: Vec<(Place, Annotation)>,
}

impl KnownFiles {
    /// Reads both files of a folder; one that is not there says nothing.
    ///
    /// # Errors
    /// Everything that is wrong with the first file that has errors, each with line, caret and what is allowed.
    pub fn load(folder: &Path) -> Result<Self, Diagnostics> {
        let mut known = Self::default();
        if let Some((path, text)) = read(folder.join(WAIVERS))? {
            known.waivers = entries(&path, &text, "waiver", keys::WAIVER, waiver)?;
        }
        if let Some((path, text)) = read(folder.join(ANNOTATIONS))? {
            known.annotations = entries(&path, &text, "annotation", keys::ANNOTATION, annotation)?;
        }
        Ok(known)
    }

    /// Checks one file by its name, and says how many entries it has; `None` if it is neither of the two.
    ///
    /// # Errors
    /// As [`Self::load`]; a file that is not there is one.
    pub fn check(path: &Path) -> Option<Result<(usize, &'static str), Diagnostics>> {
        let name = path.file_name()?.to_str()?;
        let text = || {
            let missing = || Diagnostics::of_file(path, "there is no such file".to_owned());
            read(path.to_owned())?.map(|(_, text)| text).ok_or_else(missing)
        };
        match name {
            WAIVERS => Some(
                text().and_then(|text| Ok((entries(path, &text, "waiver", keys::WAIVER, waiver)?.len(), "waiver"))),
            ),
            ANNOTATIONS => Some(text().and_then(|text| {
                Ok((entries(path, &text, "annotation", keys::ANNOTATION, annotation)?.len(), "annotation"))
            })),
            _ => None,
        }
    }

    /// What they say of one run: entries of other scenarios left out, patterns replaced by the cells that they match.
    #[must_use]
    pub fn of_run(&self, manifest: &RunManifest) -> Known {
        let names = Names::of(&manifest.cells);
        let meant = |place: &Place, id: &CellId| place.speaks_of(id, names.get(id));
        let cells = |place: &Place| manifest.cells.iter().map(id).filter(|id| meant(place, id)).collect();
        let of_scenario = |place: &Place| place.scenario.as_ref().is_none_or(|name| *name == manifest.scenario);
        let waivers = self.waivers.iter().filter(|(place, _)| of_scenario(place));
        let annotations = self.annotations.iter().filter_map(|(place, annotation)| {
            let cells: Vec<CellId> = if place.cell.is_some() { cells(place) } else { Vec::new() };
            let fits = of_scenario(place) && (place.cell.is_none() || !cells.is_empty());
            fits.then(|| Annotation { cells, ..annotation.clone() })
        });
        Known {
            waivers: waivers.map(|(place, waiver)| Waiver { cells: cells(place), ..waiver.clone() }).collect(),
            annotations: annotations.collect(),
        }
    }
}

fn id(cell: &Cell) -> CellId {
    cell.id.clone()
}

impl Place {
    /// A pattern is of the whole id, of its readable part, or of the name in reports; an id that happens to hold a pattern's characters
    /// is itself.
    fn speaks_of(&self, id: &CellId, name: &str) -> bool {
        let names = [id.0.as_str(), id.readable(), name];
        self.cell.as_ref().is_none_or(|(text, glob)| names.iter().any(|name| name == text || glob.is_match(name)))
    }
}

/// A file with its text, if it is there.
fn read(path: PathBuf) -> Result<Option<(PathBuf, String)>, Diagnostics> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(Diagnostics::of_file(&path, "the file is not UTF-8 text".to_owned()))
        }
        Err(error) => Err(Diagnostics::of_file(&path, format!("the file cannot be read: {error}"))),
    }
}

/// The entries of a file that holds `[[name]]` and nothing else.
fn entries<T>(
    path: &Path,
    text: &str,
    name: &'static str,
    keys: &'static [Key],
    entry: impl Fn(&Table<'_, '_>, &mut Vec<Problem>) -> Option<T>,
) -> Result<Vec<T>, Diagnostics> {
    let mut diagnostics = Diagnostics::new(path, text, None);
    let mut problems = Vec::new();
    let (tree, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        let place = fault.span().unwrap_or(0..0);
        problems.push(Problem::at(place, format!("this is no TOML: {}", fault.message()), "here"));
    }
    let mut read = Vec::new();
    if faults.is_empty() {
        let root = tree.get_ref();
        for key in root.keys().filter(|key| key.get_ref() != name) {
            problems.push(unknown_key(key, "this file", std::iter::once(name)));
        }
        for table in many_tables(root, name, &mut problems) {
            let table = Table::new(format!("[[{name}]]"), table.span(), table.get_ref(), keys, &mut problems);
            read.extend(entry(&table, &mut problems));
        }
    }
    problems.into_iter().for_each(|problem| diagnostics.push(problem));
    diagnostics.sort();
    if diagnostics.errors() > 0 { Err(diagnostics) } else { Ok(read) }
}

fn waiver(table: &Table<'_, '_>, problems: &mut Vec<Problem>) -> Option<(Place, Waiver)> {
    for key in ["cell", "metric", "limit", "owner", "expires", "reason"] {
        if table.value(key).is_none() {
            table.missing(key, problems);
        }
    }
    // Every key is read before any is asked for, so that all that is wrong is noted.
    let place = place(table, problems);
    let inside = |limit: f64| 0.0 < limit && limit < 1.0;
    let limit = table.number("limit", inside, "a share between 0 and 1 (0.03 is 3 %)", problems);
    let expires = day(table, "expires", problems);
    let [metric, owner, reason] = ["metric", "owner", "reason"].map(|key| said(table, key, problems));
    let waiver = Waiver {
        cell: place.as_ref()?.cell.as_ref()?.0.clone(),
        cells: Vec::new(),
        metric: metric?,
        limit: limit?,
        owner: owner?,
        expires: expires?,
        reason: reason?,
    };
    Some((place?, waiver))
}

fn annotation(table: &Table<'_, '_>, problems: &mut Vec<Problem>) -> Option<(Place, Annotation)> {
    for key in ["date", "text"] {
        if table.value(key).is_none() {
            table.missing(key, problems);
        }
    }
    let place = place(table, problems);
    let (date, text) = (day(table, "date", problems), said(table, "text", problems));
    Some((place?, Annotation { date: date?, text: text?, cells: Vec::new() }))
}

/// `scenario` and `cell`; `None` if one of them is wrong.
fn place(table: &Table<'_, '_>, problems: &mut Vec<Problem>) -> Option<Place> {
    let before = problems.len();
    let scenario = said(table, "scenario", problems);
    let cell = table.text("cell", problems).and_then(|text| match Glob::new(text.get_ref()) {
        Ok(glob) => Some((text.into_inner(), glob.compile_matcher())),
        Err(error) => {
            let title = format!("{} is no pattern: {}", quoted(text.get_ref()), error.kind());
            problems.push(
                Problem::at(text.span(), title, "here").help("write a cell's id, or a pattern such as \"454m/fp8-*\""),
            );
            None
        }
    });
    (problems.len() == before).then_some(Place { scenario, cell })
}

/// A text that says something.
fn said(table: &Table<'_, '_>, key: &str, problems: &mut Vec<Problem>) -> Option<String> {
    let text: Spanned<String> = table.text(key, problems)?;
    if text.get_ref().trim().is_empty() {
        let title = format!("{} in {} says nothing", quoted(key), table.name);
        problems.push(Problem::at(text.span(), title, "must not be empty"));
        return None;
    }
    Some(text.into_inner().trim().to_owned())
}

/// A day, as text or as TOML's own date.
fn day(table: &Table<'_, '_>, key: &str, problems: &mut Vec<Problem>) -> Option<String> {
    let value = table.value(key)?;
    let text = match value.get_ref() {
        DeValue::String(text) => text.clone().into_owned(),
        DeValue::Datetime(date) => date.to_string(),
        _ => String::new(),
    };
    // Ten characters: what is longer has a time of day, which says less than it seems to.
    let date = Some(text).filter(|text| text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok());
    if date.is_none() {
        table.wrong(key, value, "a day that exists, as year-month-day", problems);
    }
    date
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waivers(text: &str) -> Result<Vec<(Place, Waiver)>, Diagnostics> {
        entries(Path::new(WAIVERS), text, "waiver", keys::WAIVER, waiver)
    }

    const GOOD: &str = r#"
[[waiver]]
cell    = "454m/fp8-*"
metric  = "tokens_per_second"
limit   = 0.03
owner   = "kim"
expires = 2026-12-31
reason  = "cuBLAS 13.0.2 picks a slower kernel"
"#;

    #[test]
    fn a_waiver_is_read_with_its_day_as_text_or_as_date() {
        for text in [GOOD.to_owned(), GOOD.replace("2026-12-31", "\"2026-12-31\"")] {
            let read = waivers(&text).unwrap_or_else(|errors| panic!("{errors}"));
            let (place, waiver) = &read[0];
            assert_eq!((waiver.limit, waiver.expires.as_str(), waiver.owner.as_str()), (0.03, "2026-12-31", "kim"));
            let (fp8, bf16) = ("454m/fp8-rowwise/flash/full", "454m/bf16/flash/full");
            let speaks = |id: &str, name: &str| place.speaks_of(&CellId(format!("{id}~0123abcd")), name);
            assert!(speaks(fp8, fp8) && !speaks(bf16, bf16));
            assert!(speaks("w/model=454m", "454m/fp8-rowwise"), "by the name in reports");
        }
        assert_eq!(waivers("").map(|read| read.len()).unwrap_or(9), 0);
    }

    #[test]
    fn every_mistake_of_a_waiver_is_told_with_its_place_and_what_is_right() {
        let cases = [
            ("cell    = \"454m/fp8-*\"\n", "", "[[waiver]] has no `cell`"),
            ("reason  = \"cuBLAS 13.0.2 picks a slower kernel\"\n", "", "[[waiver]] has no `reason`"),
            ("expires = 2026-12-31\n", "", "[[waiver]] has no `expires`"),
            ("\"kim\"", "\"  \"", "`owner` in [[waiver]] says nothing"),
            ("2026-12-31", "2026-13-01", "this is no TOML"),
            ("2026-12-31", "\"2026-02-30\"", "`expires` in [[waiver]] must be a day that exists, as year-month-day"),
            ("2026-12-31", "2026-12-31T10:00:00Z", "`expires` in [[waiver]] must be a day that exists"),
            ("2026-12-31", "20261231", "found the number 20261231"),
            ("0.03", "3", "`limit` in [[waiver]] must be a share between 0 and 1 (0.03 is 3 %)"),
            ("0.03", "nan", "`limit` in [[waiver]] must be a share"),
            ("454m/fp8-*", "454m/[", "`454m/[` is no pattern"),
            ("metric ", "metrics", "did you mean `metric`?"),
            ("[[waiver]]", "[waiver]", "write [[waiver]] with double brackets"),
            ("[[waiver]]", "[[waivers]]", "did you mean `waiver`?"),
        ];
        for (from, to, message) in cases {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            let errors = waivers(&text).unwrap_err().to_string();
            assert!(errors.contains(message), "{message} is not in:\n{errors}");
            assert!(errors.contains("waivers.toml:"), "{errors}");
        }
        // All at once.
        assert_eq!(waivers("[[waiver]]\n").unwrap_err().errors(), 6);
    }

    #[test]
    fn an_annotation_needs_a_day_and_a_text() {
        let read = |text: &str| entries(Path::new(ANNOTATIONS), text, "annotation", keys::ANNOTATION, annotation);
        let good = read("[[annotation]]\ndate = 2026-11-20\ntext = \"driver 580.95\"\n").unwrap();
        assert_eq!((good[0].1.date.as_str(), good[0].1.text.as_str()), ("2026-11-20", "driver 580.95"));
        let errors = read("[[annotation]]\ndate = \"yesterday\"\nwhat = \"x\"\n").unwrap_err().to_string();
        for message in ["must be a day that exists", "has no `text`", "unknown key `what` in [[annotation]]"] {
            assert!(errors.contains(message), "{message} is not in:\n{errors}");
        }
    }
}
