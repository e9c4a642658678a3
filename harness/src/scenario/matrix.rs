//! From `[[matrix]]`, `[[exclude]]` and `[step]` to cells: products, then exclude, then defaults.
//!
//! Every value is checked once here, before anything is multiplied out (`expand`); the work per cell is then small.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use stepwatch_record::Scalar;
use toml::Spanned;

use super::builtin::{self, Accepts, FILE_PREFIX, PARAMETERS};
use super::diagnostic::{Problem, list, not_known, quoted};
use super::exclude::excludes;
use super::expand::{Placed, duplicates, expand};
use super::models::Models;
use super::raw::{RawAxis, RawScenario, RawSelection};
use super::workload::{BUILTIN, Declared, canonical, same};

type Workloads = std::collections::BTreeMap<String, Declared>;

/// What a matrix is resolved against.
pub(super) struct Known<'a> {
    pub(super) models: &'a Models,
    pub(super) workloads: &'a Workloads,
    /// The names of all declared workloads, those included that are wrong in themselves: to say so once is enough.
    pub(super) declared: &'a [&'a str],
    /// The folder that relative files are taken from.
    pub(super) folder: &'a Path,
    /// `[step]`, checked, by parameter.
    pub(super) step: HashMap<String, Spanned<Scalar>>,
}

/// Checks `[step]`.
pub(super) fn step(
    raw: &RawScenario<'_, '_>,
    folder: &Path,
    problems: &mut Vec<Problem>,
) -> HashMap<String, Spanned<Scalar>> {
    let mut step = HashMap::new();
    let keys = || PARAMETERS.iter().filter(|parameter| parameter.in_step).map(|parameter| parameter.name);
    for axis in raw.step.iter().flat_map(|step| &step.axes) {
        let name = axis.name.get_ref();
        match builtin::parameter(name) {
            Some(parameter) if parameter.in_step => {
                for value in &axis.values {
                    if let Some(read) = builtin_value(parameter, value, folder, problems) {
                        step.insert(name.clone(), Spanned::new(value.span(), read));
                    }
                }
            }
            Some(_) => problems.push(
                Problem::at(axis.name.span(), format!("{} is an axis, not a key of [step]", quoted(name)), "move it")
                    .help(format!("write it in a [[matrix]]: {name} = …")),
            ),
            None => {
                problems.push(super::read::unknown_key(&axis.name, "[step]", keys().collect::<Vec<_>>().into_iter()))
            }
        }
    }
    step
}

/// A value of a built-in parameter in its one written form.
fn builtin_value(
    parameter: &builtin::Parameter,
    value: &Spanned<Scalar>,
    folder: &Path,
    problems: &mut Vec<Problem>,
) -> Option<Scalar> {
    let given = value.get_ref();
    match parameter.canonical(given) {
        Ok(read) => {
            if let (Accepts::Data, Scalar::Text(word)) = (parameter.accepts, &read)
                && let Some(file) = word.strip_prefix(FILE_PREFIX)
                && !folder.join(file).is_file()
            {
                let title = format!("there is no file {}", quoted(&folder.join(file).display().to_string()));
                problems.push(
                    Problem::at(value.span(), title, "not found").help("the path is relative to the scenario file"),
                );
                return None;
            }
            Some(read)
        }
        Err(expected) => {
            let label = not_known(&given.to_string(), parameter.words(), "not accepted");
            let title = format!("{} is {}, expected {expected}", quoted(parameter.name), quoted(&given.to_string()));
            problems.push(Problem::at(value.span(), title, label));
            None
        }
    }
}

/// One `[[matrix]]`, checked: every value is accepted by every workload of it.
pub(super) struct Matrix {
    pub(super) place: Range<usize>,
    /// The axes in the order of the file; one for `workload` stands first where the file has none.
    pub(super) axes: Vec<Axis>,
    /// Which of them is `workload`.
    pub(super) workload: usize,
}

pub(super) struct Axis {
    pub(super) name: String,
    /// Whether the file has it.
    pub(super) given: bool,
    pub(super) values: Vec<Spanned<Scalar>>,
}

impl Matrix {
    pub(super) fn cells(&self) -> usize {
        self.axes.iter().fold(1, |product: usize, axis| product.saturating_mul(axis.values.len()))
    }
}

/// Makes the cells.
pub(super) fn cells(
    raw: &RawScenario<'_, '_>,
    known: &Known<'_>,
    max_cells: usize,
    problems: &mut Vec<Problem>,
) -> Vec<Placed> {
    // A table that is misspelt or misshapen was noted already.
    if raw.matrices.is_empty() && problems.is_empty() {
        problems.push(
            Problem::of_whole("there is no [[matrix]], so there are no cells")
                .help("for example: [[matrix]] with model = \"tiny\" and precision = [\"fp32\", \"bf16\"] below it"),
        );
    }
    let before = problems.len();
    let matrices: Vec<Matrix> = raw.matrices.iter().filter_map(|raw| matrix(raw, known, problems)).collect();
    if problems.len() > before || matrices.is_empty() || matrices.len() < raw.matrices.len() {
        return Vec::new();
    }
    let total = matrices.iter().fold(0usize, |sum, matrix| sum.saturating_add(matrix.cells()));
    if total > max_cells {
        let largest = matrices.iter().max_by_key(|matrix| matrix.cells()).map_or(0..0, |matrix| matrix.place.clone());
        let title = format!("the matrices make {total} cells, more than max_cells = {max_cells}");
        problems.push(
            Problem::at(largest, title, "the largest is this one")
                .help("narrow an axis, or set max_cells in [scenario] if so many are meant"),
        );
        return Vec::new();
    }
    let excludes = excludes(raw, &matrices, problems);
    let mut placed = Vec::with_capacity(total);
    let mut used = vec![0usize; excludes.len()];
    for (index, matrix) in matrices.iter().enumerate() {
        expand(matrix, index, known, &excludes, &mut used, &mut placed, problems);
    }
    for (exclude, _) in excludes.iter().zip(&used).filter(|(exclude, used)| **used == 0 && !exclude.wrong) {
        problems.push(
            Problem::at(
                exclude.place.clone(),
                "this [[exclude]] leaves nothing out",
                "no cell has all of these values",
            )
            .help("it looks at the values given in each [[matrix]]; remove it, or name values that occur together"),
        );
    }
    if placed.is_empty() && total > 0 && problems.len() == before {
        let place = excludes.first().map_or(0..0, |exclude| exclude.place.clone());
        problems.push(Problem::at(
            place,
            format!("every cell is excluded, all of {total}"),
            "nothing is left to measure",
        ));
    }
    duplicates(&placed, problems);
    placed
}

/// Checks one `[[matrix]]`.
fn matrix(raw: &RawSelection, known: &Known<'_>, problems: &mut Vec<Problem>) -> Option<Matrix> {
    let before = problems.len();
    let mut axes: Vec<Axis> = Vec::with_capacity(raw.axes.len() + 1);
    if !raw.axes.iter().any(|axis| axis.name.get_ref() == "workload") {
        let values = vec![Spanned::new(raw.span.clone(), BUILTIN.into())];
        axes.push(Axis { name: "workload".to_owned(), given: false, values });
    }
    let names = workload_names(raw, known, problems)?;
    let broken = |value: &Spanned<Scalar>| known.models.is_broken(&value.get_ref().to_string());
    if raw.axes.iter().any(|axis| axis.name.get_ref() == "model" && axis.values.iter().any(broken)) {
        return None;
    }
    for axis in &raw.axes {
        if let Some(values) = axis_values(axis, &names, known, problems) {
            repeated(axis, &values, problems);
            axes.push(Axis { name: axis.name.get_ref().clone(), given: true, values });
        }
    }
    for name in names.iter().filter(|name| *name != BUILTIN) {
        without_value(name, raw, known, problems);
    }
    let workload = axes.iter().position(|axis| axis.name == "workload")?;
    (problems.len() == before).then(|| Matrix { place: raw.span.clone(), axes, workload })
}

/// The workloads of a matrix, or `None` where one of them does not exist (noted).
fn workload_names(raw: &RawSelection, known: &Known<'_>, problems: &mut Vec<Problem>) -> Option<Vec<String>> {
    let Some(axis) = raw.axes.iter().find(|axis| axis.name.get_ref() == "workload") else {
        return Some(vec![BUILTIN.to_owned()]);
    };
    let mut names = Vec::new();
    for value in &axis.values {
        let name = value.get_ref().to_string();
        if name != BUILTIN && !known.workloads.contains_key(&name) {
            if known.declared.contains(&name.as_str()) {
                return None;
            }
            let all: Vec<&str> = std::iter::once(BUILTIN).chain(known.workloads.keys().map(String::as_str)).collect();
            let title = format!("there is no workload {}", quoted(&name));
            problems.push(
                Problem::at(value.span(), title, not_known(&name, all.iter().copied(), "no such workload"))
                    .help(format!("workloads are {}; others are declared as [workloads.NAME]", list(all))),
            );
            return None;
        }
        names.push(name);
    }
    Some(names)
}

/// The values of one axis in their one written form, if every workload of the matrix accepts every one.
fn axis_values(
    axis: &RawAxis,
    workloads: &[String],
    known: &Known<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Vec<Spanned<Scalar>>> {
    let name = axis.name.get_ref().as_str();
    if name == "workload" {
        return Some(axis.values.clone());
    }
    let before = problems.len();
    let mut read = axis.values.clone();
    for workload in workloads {
        match known.workloads.get(workload) {
            Some(declared) => command_values(axis, declared, known, problems),
            None => match builtin::parameter(name) {
                Some(parameter) => {
                    for (value, read) in axis.values.iter().zip(&mut read) {
                        let at = value.span();
                        if matches!(parameter.accepts, Accepts::Model)
                            && known.models.dims(&value.get_ref().to_string()).is_none()
                        {
                            problems.extend(known.models.unknown(&value.get_ref().to_string(), at));
                        } else if let Some(scalar) = builtin_value(parameter, value, known.folder, problems) {
                            *read = Spanned::new(at, scalar);
                        }
                    }
                }
                None => problems.push(unknown_axis(axis, known)),
            },
        }
    }
    for value in &mut read {
        *value = Spanned::new(value.span(), canonical(name, value.get_ref()));
    }
    (problems.len() == before).then_some(read)
}

fn unknown_axis(axis: &RawAxis, known: &Known<'_>) -> Problem {
    let name = axis.name.get_ref();
    let keys: Vec<&str> =
        std::iter::once("workload").chain(PARAMETERS.iter().map(|parameter| parameter.name)).collect();
    let owner = known.workloads.iter().find(|(_, declared)| declared.workload.axes.contains_key(name));
    let title = format!("unknown axis {} in [[matrix]]", quoted(name));
    let problem = Problem::at(axis.name.span(), title, not_known(name, keys.iter().copied(), "no such axis"));
    match owner {
        Some((workload, _)) => {
            problem.help(format!("the workload {} has it: add workload = \"{workload}\"", quoted(workload)))
        }
        None => problem.help(format!("the axes of the built-in step are {}", list(keys))),
    }
}

fn command_values(axis: &RawAxis, declared: &Declared, known: &Known<'_>, problems: &mut Vec<Problem>) {
    let (name, workload) = (axis.name.get_ref(), &declared.workload);
    let called = quoted(&workload.name);
    let Some(accepts) = workload.axes.get(name) else {
        let axes: Vec<&str> = workload.axes.keys().map(String::as_str).collect();
        let title = format!("the workload {called} has no axis {}", quoted(name));
        let has = if axes.is_empty() {
            "it has none".to_owned()
        } else {
            format!("its axes are {}", list(axes.iter().copied()))
        };
        problems.push(
            Problem::at(axis.name.span(), title, not_known(name, axes.iter().copied(), "not accepted"))
                .and(declared.place.clone(), "declared here")
                .help(format!(
                    "{has}; where other workloads of this [[matrix]] take it, give {called} a [[matrix]] of its own"
                )),
        );
        return;
    };
    for value in &axis.values {
        if accepts.values.is_empty() {
            if name == "model" && known.models.dims(&value.get_ref().to_string()).is_none() {
                problems.extend(known.models.unknown(&value.get_ref().to_string(), value.span()));
            } else if let Some(parameter) = builtin::parameter(name) {
                let _ = builtin_value(parameter, value, known.folder, problems);
            }
        } else if !accepts.values.iter().any(|accepted| same(name, accepted, value.get_ref())) {
            let words: Vec<String> = accepts.values.iter().map(ToString::to_string).collect();
            let title =
                format!("the workload {called} does not accept {} = {}", name, quoted(&value.get_ref().to_string()));
            let label = not_known(&value.get_ref().to_string(), words.iter().map(String::as_str), "not accepted");
            problems.push(
                Problem::at(value.span(), title, label)
                    .and(declared.place.clone(), "declared here")
                    .help(format!("it accepts {}", list(words))),
            );
        }
    }
}

/// Notes axes of a command that have no value in a matrix: none given, none in `[step]`, no default.
fn without_value(name: &str, raw: &RawSelection, known: &Known<'_>, problems: &mut Vec<Problem>) {
    let Some(declared) = known.workloads.get(name) else { return };
    for (axis, accepts) in &declared.workload.axes {
        if raw.axes.iter().any(|given| given.name.get_ref() == axis) {
            continue;
        }
        match known.step.get(axis) {
            Some(value)
                if !accepts.values.is_empty() && !accepts.values.iter().any(|v| same(axis, v, value.get_ref())) =>
            {
                let words = accepts.values.iter().map(ToString::to_string);
                let title =
                    format!("the workload {} does not accept {axis} = {} of [step]", quoted(name), value.get_ref());
                problems.push(
                    Problem::at(value.span(), title, "not accepted")
                        .and(raw.span.clone(), "by this matrix")
                        .help(format!("it accepts {}: give one in the [[matrix]]", list(words))),
                );
            }
            None if accepts.default.is_none() => {
                let words: Vec<String> = accepts.values.iter().map(ToString::to_string).collect();
                let title = format!("the axis {} of the workload {} has no value here", quoted(axis), quoted(name));
                problems.push(
                    Problem::at(raw.span.clone(), title, "in this matrix")
                        .help(format!("it accepts {}: give one in the [[matrix]]", list(words)))
                        .help(format!("or give it a default: axes.{axis} = {{ values = […], default = … }}")),
                );
            }
            _ => {}
        }
    }
}

fn repeated(axis: &RawAxis, values: &[Spanned<Scalar>], problems: &mut Vec<Problem>) {
    let mut seen: HashMap<String, Range<usize>> = HashMap::with_capacity(values.len());
    for value in values {
        // Text and number of one spelling are two values.
        let written = format!("{:?}", value.get_ref());
        if let Some(first) = seen.get(&written) {
            let title = format!("{} names {} twice", quoted(axis.name.get_ref()), quoted(&value.get_ref().to_string()));
            problems.push(Problem::at(value.span(), title, "again here").and(first.clone(), "first here"));
        } else {
            seen.insert(written, value.span());
        }
    }
}
