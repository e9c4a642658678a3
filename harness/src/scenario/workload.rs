//! `[workloads.NAME]`: commands beside the built-in step, the parameters they take and the figures read from them.
//!
//! A command takes the axes it declares and the built-in parameters that its arguments name; nothing else is passed to it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use stepwatch_record::run::Metric;
use stepwatch_record::{Parameters, Scalar};
use toml::Spanned;
use toml::de::DeValue;

use super::builtin::{self, PARAMETERS};
use super::diagnostic::{Problem, list, not_known, quoted};
use super::keys;
use super::metric::own_metrics;
use super::raw::RawNamed;
use super::read::{Table, Value, found, scalar};
use super::{CommandAxis, CommandWorkload};

pub(super) use stepwatch_record::cell::BUILTIN;

/// A workload and where its name stands.
pub(super) struct Declared {
    pub(super) workload: CommandWorkload,
    pub(super) place: Range<usize>,
}

/// Reads `[workloads.*]`. `text` is the file's, to point into a regex.
pub(super) fn read(
    raw: &[RawNamed<'_, '_>],
    text: &str,
    folder: &Path,
    standard: &[Metric],
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Declared> {
    let mut all = BTreeMap::new();
    let mut metrics: BTreeMap<String, (Metric, Option<Range<usize>>)> =
        standard.iter().map(|metric| (metric.name.clone(), (metric.clone(), None))).collect();
    for RawNamed { name, table } in raw {
        if name.get_ref() == BUILTIN {
            let title = "the workload `builtin` is the built-in step and cannot be declared";
            problems.push(Problem::at(name.span(), title, "name it otherwise"));
            continue;
        }
        let axes = axes(table, problems);
        let protocol = table.boolean("protocol", problems).unwrap_or(false);
        let persistent = persistent(table, protocol, problems);
        let own = own_metrics(table, text, protocol, &mut metrics, problems);
        let Some((command, axes)) = command(table, axes, problems) else { continue };
        let mut command = command;
        command[0] = program(&command[0], folder, table, problems);
        let workload = CommandWorkload {
            name: name.get_ref().clone(),
            command,
            protocol,
            persistent,
            axes,
            metrics: own,
            working_dir: folder.to_owned(),
        };
        all.insert(name.get_ref().clone(), Declared { workload, place: name.span() });
    }
    all
}

/// `persistent`, which only a worker that can be told of its next round can be.
fn persistent(table: &Table<'_, '_>, protocol: bool, problems: &mut Vec<Problem>) -> bool {
    let persistent = table.boolean("persistent", problems).unwrap_or(false);
    if let (true, false, Some(at)) = (persistent, protocol, table.value("persistent")) {
        let title = format!("{} is persistent and does not speak the protocol", table.name);
        let help = "a worker stays for its next round only where it can be told of it: protocol = true";
        problems.push(Problem::at(at.span(), title, "needs the protocol").help(help));
    }
    persistent
}

/// Program and arguments, and the axes with those added that only the arguments name.
fn command(
    table: &Table<'_, '_>,
    mut axes: BTreeMap<String, CommandAxis>,
    problems: &mut Vec<Problem>,
) -> Option<(Vec<String>, BTreeMap<String, CommandAxis>)> {
    if table.value("command").is_none() {
        table.missing("command", problems);
    }
    let words = table.texts("command", false, problems)?;
    if words.first().is_none_or(|program| program.get_ref().trim().is_empty()) {
        table.wrong("command", table.value("command")?, "a program and its arguments", problems);
        return None;
    }
    for word in &words {
        if word.get_ref().contains('\0') {
            problems.push(Problem::at(word.span(), "an argument cannot hold a NUL character", "here"));
        }
        let parts = match template(word.get_ref()) {
            Ok(parts) => parts,
            Err(why) => {
                problems.push(
                    Problem::at(word.span(), format!("{why} in the command of {}", table.name), "in this argument")
                        .help("a literal brace is written twice: {{ or }}"),
                );
                continue;
            }
        };
        for part in parts {
            let Part::Place(name) = part else { continue };
            if axes.contains_key(name) {
                continue;
            }
            match builtin::parameter(name) {
                Some(parameter) => {
                    let default = Some(parameter.default.scalar());
                    axes.insert(name.to_owned(), CommandAxis { values: Vec::new(), default });
                }
                None => problems.push(unknown_place(name, word, table, &axes)),
            }
        }
    }
    Some((words.into_iter().map(Spanned::into_inner).collect(), axes))
}

fn unknown_place(
    name: &str,
    word: &Spanned<String>,
    table: &Table<'_, '_>,
    axes: &BTreeMap<String, CommandAxis>,
) -> Problem {
    let known: Vec<&str> =
        axes.keys().map(String::as_str).chain(PARAMETERS.iter().map(|parameter| parameter.name)).collect();
    let title = format!("{} names the unknown parameter {}", table.name, quoted(&format!("{{{name}}}")));
    Problem::at(word.span(), title, not_known(name, known.iter().copied(), "no such parameter"))
        .help(format!("parameters are {}", list(known)))
        .help(format!("an axis of its own is declared as: axes = {{ {} = [\"…\"] }}", axis_name(name)))
        .help("a literal brace is written twice: {{ or }}")
}

/// A name that an axis could have.
fn axis_name(text: &str) -> &str {
    if super::resolve::is_name(text) { text } else { "name" }
}

/// The program as it is started: a path with a folder is meant from the scenario's folder, a bare name is looked up.
fn program(program: &str, folder: &Path, table: &Table<'_, '_>, problems: &mut Vec<Problem>) -> String {
    let path = if program.contains('/') {
        let joined = folder.join(program);
        std::path::absolute(&joined).unwrap_or(joined)
    } else {
        PathBuf::from(program)
    };
    let exists = if program.contains('/') {
        path.is_file()
    } else {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
    };
    if !exists && !program.contains('{') {
        let at = table.value("command").map_or(table.span.clone(), |value| value.span());
        let title = format!("the program {} of {} is not on this machine", quoted(program), table.name);
        let help = "a bare name is looked up in PATH; a path with / is taken from the scenario's folder";
        problems.push(Problem::at(at, title, "its cells will fail here").help(help).warning());
    }
    path.to_string_lossy().into_owned()
}

/// A part of an argument.
#[derive(Debug, PartialEq)]
enum Part<'t> {
    Literal(&'t str),
    Place(&'t str),
}

/// Cuts `--x={name}` into its parts; `{{` and `}}` are braces.
fn template(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        parts.push(Part::Literal(&rest[..at]));
        let tail = &rest[at..];
        if tail.starts_with("{{") || tail.starts_with("}}") {
            parts.push(Part::Literal(&tail[..1]));
            rest = &tail[2..];
        } else if tail.starts_with('{') {
            let end = tail.find('}').ok_or_else(|| "a `{` has no `}`".to_owned())?;
            parts.push(Part::Place(&tail[1..end]));
            rest = &tail[end + 1..];
        } else {
            return Err("a `}` has no `{`".to_owned());
        }
    }
    parts.push(Part::Literal(rest));
    Ok(parts)
}

/// Fills the parameters of a cell into the arguments, each value spelled as the workload declared it.
pub(super) fn fill(workload: &CommandWorkload, parameters: &Parameters) -> Vec<String> {
    let value = |name: &str| {
        let value = parameters.get(name)?;
        let declared = workload.axes.get(name)?.values.iter().find(|declared| same(name, declared, value));
        Some(declared.unwrap_or(value).to_string())
    };
    let fill_one = |word: &String| match template(word) {
        Ok(parts) => parts
            .into_iter()
            .map(|part| match part {
                Part::Literal(text) => text.to_owned(),
                Part::Place(name) => value(name).unwrap_or_default(),
            })
            .collect(),
        Err(_) => word.clone(),
    };
    workload.command.iter().map(fill_one).collect()
}

/// The one written form of a value: of a built-in parameter as its table says, of any other as it stands.
pub(super) fn canonical(name: &str, value: &Scalar) -> Scalar {
    builtin::parameter(name).and_then(|parameter| parameter.canonical(value).ok()).unwrap_or_else(|| value.clone())
}

/// Whether two values of a parameter are the same: `1` is `1.0`, and `compile = true` is `"full"`.
pub(super) fn same(name: &str, one: &Scalar, two: &Scalar) -> bool {
    match (canonical(name, one), canonical(name, two)) {
        (Scalar::Integer(one), Scalar::Float(two)) | (Scalar::Float(two), Scalar::Integer(one)) => one as f64 == two,
        (one, two) => one == two,
    }
}

/// `axes = { precision = ["bf16"], threads = { values = [1, 2], default = 1 } }`.
fn axes(table: &Table<'_, '_>, problems: &mut Vec<Problem>) -> BTreeMap<String, CommandAxis> {
    let mut axes = BTreeMap::new();
    for (name, value) in table.table("axes", problems).iter().flat_map(|axes| axes.get_ref().iter()) {
        if !super::resolve::is_name(name.get_ref()) || name.get_ref() == "workload" {
            problems.push(super::resolve::bad_name("an axis", name));
            continue;
        }
        if let Some(axis) = axis(name.get_ref(), value, &table.name, problems) {
            axes.insert(name.get_ref().clone().into_owned(), axis);
        }
    }
    axes
}

fn axis(name: &str, value: &Value<'_>, workload: &str, problems: &mut Vec<Problem>) -> Option<CommandAxis> {
    let called = format!("the axis {} of {workload}", quoted(name));
    match value.get_ref() {
        DeValue::Table(inner) => {
            let inner = Table::new(called.clone(), value.span(), inner, keys::AXIS, problems);
            let Some(values) = inner.value("values") else {
                inner.missing("values", problems);
                return None;
            };
            let values = accepted(values, &called, problems)?;
            let Some(at) = inner.value("default") else {
                let default = default_of(name, &values);
                return Some(CommandAxis { values, default });
            };
            let default = scalar(at.get_ref()).and_then(|given| values.iter().find(|value| same(name, value, &given)));
            if default.is_none() {
                let known = values.iter().map(ToString::to_string);
                problems.push(
                    Problem::at(at.span(), format!("the default of {called} is none of its values"), "not accepted")
                        .help(format!("its values are {}", list(known))),
                );
            }
            let default = default.map(|value| canonical(name, value));
            Some(CommandAxis { values, default })
        }
        _ => {
            let values = accepted(value, &called, problems)?;
            let default = default_of(name, &values);
            Some(CommandAxis { values, default })
        }
    }
}

/// A built-in parameter keeps its default, if the workload accepts it. An axis of the workload's own has none unless it is
/// given: a list may be reordered without thought, and a default that moved would give other work the same id.
fn default_of(name: &str, values: &[Scalar]) -> Option<Scalar> {
    let default = builtin::parameter(name)?.default.scalar();
    values.iter().any(|value| same(name, value, &default)).then_some(default)
}

fn accepted(value: &Value<'_>, called: &str, problems: &mut Vec<Problem>) -> Option<Vec<Scalar>> {
    let items: Vec<&Value<'_>> = match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        _ => vec![value],
    };
    if items.is_empty() {
        problems.push(Problem::at(value.span(), format!("{called} accepts no value"), "give it at least one"));
        return None;
    }
    let mut values = Vec::new();
    for item in items {
        match scalar(item.get_ref()) {
            Some(scalar) => values.push(scalar),
            None => {
                let title = format!("{called} must be a list of values");
                problems.push(Problem::at(item.span(), title, format!("found {}", found(item.get_ref()))));
            }
        }
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_cut_and_braces_doubled() {
        use Part::{Literal, Place};
        assert_eq!(template("--p={precision}").unwrap(), [Literal("--p="), Place("precision"), Literal("")]);
        assert_eq!(template("{{x}}").unwrap(), [Literal(""), Literal("{"), Literal("x"), Literal("}"), Literal("")]);
        assert_eq!(template("a{").unwrap_err(), "a `{` has no `}`");
        assert_eq!(template("a}").unwrap_err(), "a `}` has no `{`");
    }

    #[test]
    fn values_are_the_same_across_spellings() {
        assert!(same("compile", &true.into(), &"full".into()));
        assert!(same("compile", &"fusion+layout".into(), &"layout+fusion".into()));
        assert!(same("threads", &1.into(), &1.0.into()));
        assert!(!same("threads", &1.into(), &"1".into()));
        assert!(!same("other", &true.into(), &"full".into()));
    }

    #[test]
    fn a_value_is_filled_in_as_the_workload_spells_it() {
        let axis = |values: Vec<Scalar>| CommandAxis { values, default: None };
        let workload = CommandWorkload {
            name: "mine".into(),
            command: vec!["run".into(), "--compile={compile}".into(), "{{{clip}}}".into()],
            protocol: false,
            persistent: false,
            axes: [("compile".to_owned(), axis(vec![false.into(), true.into()])), ("clip".to_owned(), axis(vec![]))]
                .into(),
            metrics: vec![],
            working_dir: PathBuf::new(),
        };
        let parameters: Parameters = [("compile".to_owned(), "full".into()), ("clip".to_owned(), 0.5.into())].into();
        assert_eq!(fill(&workload, &parameters), ["run", "--compile=true", "{0.5}"]);
    }
}
