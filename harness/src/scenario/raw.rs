//! What a scenario file holds, as written, with the place of everything: no default is applied here and no word understood.

use std::ops::Range;

use stepwatch_record::Scalar;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::builtin::FILE_PREFIX;
use super::diagnostic::{Problem, quoted};
use super::keys::{self, Key};
use super::read::{Table, Value, found, scalar, unknown_key};

/// A parameter and the values written for it.
#[derive(Debug, Clone)]
pub(super) struct RawAxis {
    /// The key.
    pub(super) name: Spanned<String>,
    /// The values; one where a scalar was written.
    pub(super) values: Vec<Spanned<Scalar>>,
}

/// Parameters with values, as one table holds them.
#[derive(Debug, Clone)]
pub(super) struct RawSelection {
    /// Where the table stands.
    pub(super) span: Range<usize>,
    /// Its keys, in the order of the file.
    pub(super) axes: Vec<RawAxis>,
}

/// A table under a name of the user's.
pub(super) struct RawNamed<'a, 'i> {
    /// The name.
    pub(super) name: Spanned<String>,
    /// Its keys.
    pub(super) table: Table<'a, 'i>,
}

/// A claim as written.
pub(super) struct RawClaim<'a, 'i> {
    /// All keys but the sides.
    pub(super) table: Table<'a, 'i>,
    /// `of`.
    pub(super) of: Option<RawSelection>,
    /// `over`.
    pub(super) over: Option<RawSelection>,
}

/// A scenario file.
pub(super) struct RawScenario<'a, 'i> {
    pub(super) scenario: Option<Table<'a, 'i>>,
    pub(super) matrices: Vec<RawSelection>,
    pub(super) excludes: Vec<RawSelection>,
    pub(super) step: Option<RawSelection>,
    pub(super) models: Vec<RawNamed<'a, 'i>>,
    pub(super) workloads: Vec<RawNamed<'a, 'i>>,
    pub(super) measure: Option<Table<'a, 'i>>,
    pub(super) claims: Vec<RawClaim<'a, 'i>>,
    pub(super) policy: Option<Table<'a, 'i>>,
}

/// Reads the tree of a file.
pub(super) fn read<'a, 'i>(root: &'a DeTable<'i>, problems: &mut Vec<Problem>) -> RawScenario<'a, 'i> {
    let tables = keys::TABLES.iter().map(|(name, _)| *name);
    for key in root.keys().filter(|key| !tables.clone().any(|name| name == key.get_ref())) {
        problems.push(unknown_key(key, "a scenario", tables.clone()));
    }
    RawScenario {
        scenario: keyed(root, "scenario", keys::SCENARIO, problems),
        matrices: selections(root, "matrix", problems),
        excludes: selections(root, "exclude", problems),
        step: one_table(root, "step", problems).map(|table| selection(&table, "[step]", Lists::No, problems)),
        models: models(root, problems),
        workloads: named(root, "workloads", keys::WORKLOAD, problems),
        measure: keyed(root, "measure", keys::MEASURE, problems),
        claims: many_tables(root, "claim", problems).iter().map(|table| claim(table, problems)).collect(),
        policy: keyed(root, "policy", keys::POLICY, problems),
    }
}

/// Reads `[models.*]` alone.
pub(super) fn models<'a, 'i>(root: &'a DeTable<'i>, problems: &mut Vec<Problem>) -> Vec<RawNamed<'a, 'i>> {
    named(root, "models", keys::MODEL, problems)
}

pub(super) type SpannedTable<'a, 'i> = Spanned<&'a DeTable<'i>>;

/// `[name]`, which stands at most once.
fn one_table<'a, 'i>(root: &'a DeTable<'i>, name: &str, problems: &mut Vec<Problem>) -> Option<SpannedTable<'a, 'i>> {
    let value = root.get(name)?;
    match value.get_ref() {
        DeValue::Table(table) => Some(Spanned::new(value.span(), table)),
        other => {
            let title = format!("{} must be one table", quoted(name));
            let label = if matches!(other, DeValue::Array(_)) {
                "found several".to_owned()
            } else {
                format!("found {}", found(other))
            };
            problems.push(
                Problem::at(value.span(), title, label).help(format!("write [{name}] with single brackets, once")),
            );
            None
        }
    }
}

/// `[[name]]`, which may repeat.
pub(super) fn many_tables<'a, 'i>(
    root: &'a DeTable<'i>,
    name: &str,
    problems: &mut Vec<Problem>,
) -> Vec<SpannedTable<'a, 'i>> {
    let Some(value) = root.get(name) else { return Vec::new() };
    let DeValue::Array(items) = value.get_ref() else {
        let title = format!("{} must be a list of tables", quoted(name));
        problems.push(
            Problem::at(value.span(), title, format!("found {}", found(value.get_ref())))
                .help(format!("write [[{name}]] with double brackets: it may repeat")),
        );
        return Vec::new();
    };
    let mut tables = Vec::new();
    for item in items.iter() {
        match item.get_ref() {
            DeValue::Table(table) => tables.push(Spanned::new(item.span(), table)),
            other => problems.push(
                Problem::at(
                    item.span(),
                    format!("{} must be a list of tables", quoted(name)),
                    format!("found {}", found(other)),
                )
                .help(format!("write [[{name}]] with double brackets: it may repeat")),
            ),
        }
    }
    tables
}

fn keyed<'a, 'i>(
    root: &'a DeTable<'i>,
    name: &str,
    keys: &'static [Key],
    problems: &mut Vec<Problem>,
) -> Option<Table<'a, 'i>> {
    let table = one_table(root, name, problems)?;
    Some(Table::new(format!("[{name}]"), table.span(), table.get_ref(), keys, problems))
}

/// `[name.NAME]` for names of the user's.
fn named<'a, 'i>(
    root: &'a DeTable<'i>,
    name: &str,
    keys: &'static [Key],
    problems: &mut Vec<Problem>,
) -> Vec<RawNamed<'a, 'i>> {
    let Some(group) = one_table(root, name, problems) else { return Vec::new() };
    let mut all = Vec::new();
    for (key, value) in group.get_ref().iter() {
        let called = format!("[{name}.{}]", quoted(key.get_ref()).trim_matches('`'));
        match value.get_ref() {
            DeValue::Table(table) => all.push(RawNamed {
                name: Spanned::new(key.span(), key.get_ref().clone().into_owned()),
                table: Table::new(called, key.span(), table, keys, problems),
            }),
            other => problems.push(
                Problem::at(value.span(), format!("{called} must be a table"), format!("found {}", found(other)))
                    .help(format!("write [{name}.NAME] and its keys below it")),
            ),
        }
    }
    all
}

/// Whether a list of values may stand for one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lists {
    Yes,
    No,
}

fn selections(root: &DeTable<'_>, name: &str, problems: &mut Vec<Problem>) -> Vec<RawSelection> {
    let called = format!("[[{name}]]");
    let tables = many_tables(root, name, problems);
    tables.iter().map(|table| selection(table, &called, Lists::Yes, problems)).collect()
}

fn selection(table: &SpannedTable<'_, '_>, called: &str, lists: Lists, problems: &mut Vec<Problem>) -> RawSelection {
    let axes = table.get_ref().iter().filter_map(|(key, value)| {
        let name = Spanned::new(key.span(), key.get_ref().clone().into_owned());
        let values = values(name.get_ref(), value, called, lists, problems)?;
        Some(RawAxis { name, values })
    });
    RawSelection { span: table.span(), axes: axes.collect() }
}

/// The values of one parameter, or `None` where what stands there cannot be used (noted).
fn values(
    name: &str,
    value: &Value<'_>,
    called: &str,
    lists: Lists,
    problems: &mut Vec<Problem>,
) -> Option<Vec<Spanned<Scalar>>> {
    let title = || {
        format!(
            "{} in {called} must be a value{}",
            quoted(name),
            if lists == Lists::Yes { " or a list of values" } else { "" }
        )
    };
    match value.get_ref() {
        DeValue::Array(items) if lists == Lists::Yes => {
            if items.is_empty() {
                let title = format!("the axis {} in {called} is empty", quoted(name));
                problems.push(
                    Problem::at(value.span(), title, "no values, so no cells")
                        .help("give it at least one value, or leave the axis out to have its default"),
                );
                return None;
            }
            let mut read = Vec::with_capacity(items.len());
            for item in items.iter() {
                match one_value(name, item) {
                    Some(scalar) => read.push(Spanned::new(item.span(), scalar)),
                    None => {
                        problems.push(Problem::at(item.span(), title(), format!("found {}", found(item.get_ref()))))
                    }
                }
            }
            (read.len() == items.len()).then_some(read)
        }
        other => {
            let Some(scalar) = one_value(name, value) else {
                let mut problem = Problem::at(value.span(), title(), format!("found {}", found(other)));
                if matches!(other, DeValue::Array(_)) && called == "[step]" {
                    problem = problem.help("several values are an axis: write them in a [[matrix]]");
                }
                problems.push(problem);
                return None;
            };
            Some(vec![Spanned::new(value.span(), scalar)])
        }
    }
}

/// A scalar, or `{ file = "…" }` where the parameter is `data`.
fn one_value(name: &str, value: &Value<'_>) -> Option<Scalar> {
    match value.get_ref() {
        DeValue::Table(table) if name == "data" && table.len() == 1 => {
            let file = table.get("file")?.get_ref().as_str()?;
            Some(format!("{FILE_PREFIX}{file}").into())
        }
        other => scalar(other),
    }
}

fn claim<'a, 'i>(table: &SpannedTable<'a, 'i>, problems: &mut Vec<Problem>) -> RawClaim<'a, 'i> {
    let span = table.span();
    let table = Table::new("[[claim]]".to_owned(), span, table.get_ref(), keys::CLAIM, problems);
    let mut side = |name: &str| {
        let Some(side) = table.table(name, problems) else {
            if table.value(name).is_none() {
                table.missing(name, problems);
            }
            return None;
        };
        Some(selection(&side, &format!("{} of [[claim]]", quoted(name)), Lists::No, problems))
    };
    let of = side("of");
    let over = side("over");
    RawClaim { table, of, over }
}
