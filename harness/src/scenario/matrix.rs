//! From `[[matrix]]`, `[[exclude]]` and `[step]` to cells: products, then exclude, then defaults.
//!
//! Every value is checked once, before anything is multiplied out; the work per cell is then linear and small.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use stepwatch_model::ConfigError;
use stepwatch_model::config::Dims;
use stepwatch_record::{Cell, CellId, Parameters, Scalar};
use toml::Spanned;

use super::builtin::{self, Accepts, FILE_PREFIX, PARAMETERS};
use super::diagnostic::{Problem, list, not_known, quoted};
use super::models::Models;
use super::raw::{RawAxis, RawScenario, RawSelection};
use super::workload::{self, BUILTIN, Declared, canonical, same};
use super::{CommandCell, PlannedCell, Work};

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
struct Matrix {
    place: Range<usize>,
    /// The axes in the order of the file; one for `workload` stands first where the file has none.
    axes: Vec<Axis>,
    /// Which of them is `workload`.
    workload: usize,
}

struct Axis {
    name: String,
    /// Whether the file has it.
    given: bool,
    values: Vec<Spanned<Scalar>>,
}

impl Matrix {
    fn cells(&self) -> usize {
        self.axes.iter().fold(1, |product: usize, axis| product.saturating_mul(axis.values.len()))
    }
}

/// A cell with the place of its `[[matrix]]`.
pub(super) struct Placed {
    pub(super) planned: PlannedCell,
    place: Range<usize>,
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
                            problems.push(known.models.unknown(&value.get_ref().to_string(), at));
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
                problems.push(known.models.unknown(&value.get_ref().to_string(), value.span()));
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

/// Axes of a matrix by index, with one flag a value: whether it is named.
type Mask = Vec<(usize, Vec<bool>)>;

/// An `[[exclude]]`, prepared: for each matrix, which values of which axes it names.
struct Exclude {
    place: Range<usize>,
    /// By matrix; `None` where the matrix lacks an axis that it names.
    masks: Vec<Option<Mask>>,
    /// Whether something of it is wrong already.
    wrong: bool,
}

fn excludes(raw: &RawScenario<'_, '_>, matrices: &[Matrix], problems: &mut Vec<Problem>) -> Vec<Exclude> {
    let one = |exclude: &RawSelection| {
        let before = problems.len();
        if exclude.axes.is_empty() {
            problems.push(Problem::at(
                exclude.span.clone(),
                "this [[exclude]] names no axis",
                "it would exclude every cell",
            ));
        }
        for axis in &exclude.axes {
            exclude_axis(axis, matrices, problems);
        }
        let masks = matrices.iter().map(|matrix| {
            let mask = |axis: &RawAxis| {
                let at = matrix.axes.iter().position(|known| known.name == *axis.name.get_ref())?;
                let named = |value: &Spanned<Scalar>| {
                    axis.values.iter().any(|wanted| same(axis.name.get_ref(), wanted.get_ref(), value.get_ref()))
                };
                Some((at, matrix.axes[at].values.iter().map(named).collect::<Vec<bool>>()))
            };
            exclude.axes.iter().map(mask).collect::<Option<Vec<_>>>()
        });
        Exclude { place: exclude.span.clone(), masks: masks.collect(), wrong: problems.len() > before }
    };
    raw.excludes.iter().map(one).collect()
}

/// Notes an axis of an `[[exclude]]` that no matrix gives, or a value of it that none has.
fn exclude_axis(axis: &RawAxis, matrices: &[Matrix], problems: &mut Vec<Problem>) {
    let name = axis.name.get_ref();
    let mut given: Vec<&Axis> = Vec::new();
    given.extend(matrices.iter().flat_map(|matrix| &matrix.axes).filter(|known| known.name == *name));
    if given.is_empty() {
        let names: Vec<&str> = matrices.iter().flat_map(|matrix| &matrix.axes).map(|axis| axis.name.as_str()).collect();
        let title = format!("[[exclude]] names {}, which no [[matrix]] gives", quoted(name));
        problems.push(
            Problem::at(axis.name.span(), title, not_known(name, names.iter().copied(), "no such axis here"))
                .help("exclude looks at the values given in each [[matrix]], before defaults"),
        );
        return;
    }
    for value in &axis.values {
        let mut all = given.iter().flat_map(|axis| &axis.values);
        if !all.any(|known| same(name, known.get_ref(), value.get_ref())) {
            let words: Vec<String> =
                given.iter().flat_map(|axis| &axis.values).map(|value| value.get_ref().to_string()).collect();
            let title = format!("no [[matrix]] has {name} = {}", quoted(&value.get_ref().to_string()));
            let label = not_known(&value.get_ref().to_string(), words.iter().map(String::as_str), "leaves nothing out");
            problems.push(Problem::at(value.span(), title, label));
        }
    }
}

/// Multiplies one matrix out, the first axis outermost.
fn expand(
    matrix: &Matrix,
    index: usize,
    known: &Known<'_>,
    excludes: &[Exclude],
    used: &mut [usize],
    placed: &mut Vec<Placed>,
    problems: &mut Vec<Problem>,
) {
    let bases: Vec<Base<'_>> =
        matrix.axes[matrix.workload].values.iter().map(|value| base(&value.get_ref().to_string(), known)).collect();
    let given: Vec<String> = matrix.axes.iter().filter(|axis| axis.given).map(|axis| axis.name.clone()).collect();
    let mut refused: HashMap<String, (Range<usize>, usize)> = HashMap::new();
    let mut order: Vec<String> = Vec::new();
    let mut choice = vec![0usize; matrix.axes.len()];
    for _ in 0..matrix.cells() {
        let mut excluded = false;
        for (exclude, used) in excludes.iter().zip(used.iter_mut()) {
            let hit =
                exclude.masks[index].as_ref().is_some_and(|masks| masks.iter().all(|(axis, mask)| mask[choice[*axis]]));
            *used += usize::from(hit);
            excluded |= hit;
        }
        if !excluded {
            let values = || matrix.axes.iter().zip(&choice).map(|(axis, at)| (axis.name.as_str(), &axis.values[*at]));
            match cell(&bases[choice[matrix.workload]], values(), &given, known) {
                Ok(planned) => placed.push(Placed { planned, place: matrix.place.clone() }),
                Err(error) => {
                    let at = values().find(|(name, _)| *name == culprit(&error)).map(|(_, value)| value.span());
                    let text = error.to_string();
                    if !refused.contains_key(&text) {
                        order.push(text.clone());
                    }
                    refused.entry(text).or_insert((at.unwrap_or(matrix.place.clone()), 0)).1 += 1;
                }
            }
        }
        advance(&mut choice, &matrix.axes);
    }
    for text in order {
        if let Some((place, cells)) = refused.remove(&text) {
            let label = if cells == 1 { "1 cell cannot run".to_owned() } else { format!("{cells} cells cannot run") };
            problems.push(Problem::at(place, text, label));
        }
    }
}

fn advance(choice: &mut [usize], axes: &[Axis]) {
    for (at, axis) in choice.iter_mut().zip(axes).rev() {
        *at += 1;
        if *at < axis.values.len() {
            return;
        }
        *at = 0;
    }
}

/// The parameter whose value a user would look at first.
fn culprit(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::Dims(_) => "model",
        ConfigError::Zero { key } | ConfigError::Number { key, .. } => key,
        ConfigError::TooManyTokens { .. } => "batch_size",
        ConfigError::Fp8Shape { .. } => "precision",
        ConfigError::Cudnn { .. } => "attention",
        ConfigError::BytesNeedVocab { .. } => "data",
        ConfigError::Bf16StatesOfFp32 => "optimizer_state",
    }
}

/// What all cells of one workload have, before a matrix says otherwise.
struct Base<'a> {
    workload: &'a str,
    declared: Option<&'a Declared>,
    parameters: Parameters,
}

fn base<'a>(name: &str, known: &'a Known<'_>) -> Base<'a> {
    let step = |name: &str| known.step.get(name).map(|value| value.get_ref().clone());
    match known.workloads.get_key_value(name) {
        Some((workload, declared)) => {
            let value = |(name, axis): (&String, &super::CommandAxis)| {
                Some((name.clone(), step(name).or(axis.default.clone())?))
            };
            let parameters = declared.workload.axes.iter().filter_map(value).collect();
            Base { workload, declared: Some(declared), parameters }
        }
        None => {
            let value = |parameter: &builtin::Parameter| {
                (parameter.name.to_owned(), step(parameter.name).unwrap_or_else(|| parameter.default.scalar()))
            };
            Base { workload: BUILTIN, declared: None, parameters: PARAMETERS.iter().map(value).collect() }
        }
    }
}

/// One cell: its parameters, its id and what runs it.
fn cell<'v>(
    base: &Base<'_>,
    values: impl Iterator<Item = (&'v str, &'v Spanned<Scalar>)>,
    given: &[String],
    known: &Known<'_>,
) -> Result<PlannedCell, Box<ConfigError>> {
    let mut parameters = base.parameters.clone();
    for (name, value) in values.filter(|(name, _)| *name != "workload") {
        // A key that is there already keeps its allocation.
        match parameters.get_mut(name) {
            Some(place) => place.clone_from(value.get_ref()),
            None => {
                parameters.insert(name.to_owned(), value.get_ref().clone());
            }
        }
    }
    let axes = given.to_vec();
    let workload = base.workload.to_owned();
    if let Some(declared) = base.declared {
        let id = command_id(declared, &parameters);
        let work = Work::Command(CommandCell {
            workload: workload.clone(),
            argv: workload::fill(&declared.workload, &parameters),
            protocol: declared.workload.protocol,
            metrics: declared.workload.metrics.clone(),
            working_dir: declared.workload.working_dir.clone(),
        });
        return Ok(PlannedCell { cell: Cell { id, workload, parameters, axes }, work });
    }
    let model = parameters.get("model").map(ToString::to_string).unwrap_or_default();
    let dims = known.models.dims(&model).unwrap_or(Dims { dim: 0, layers: 0, heads: 0, ffn: 0, vocab: 0 });
    let id = builtin_id(&dims, &parameters);
    if let Some(Scalar::Text(word)) = parameters.get_mut("data")
        && let Some(file) = word.strip_prefix(FILE_PREFIX)
    {
        *word = format!("{FILE_PREFIX}{}", known.folder.join(file).display());
    }
    let config = builtin::configure(dims, &parameters);
    stepwatch_model::check_config(&config)?;
    parameters.extend(builtin::dims_parameters(&dims).map(|(name, value)| (name.to_owned(), value.into())));
    Ok(PlannedCell { cell: Cell { id, workload, parameters, axes }, work: Work::Builtin(Box::new(config)) })
}

/// The parameters that the readable part of an id shows, in its order.
const READABLE: [&str; 4] = ["model", "precision", "attention", "compile"];

/// The id of a built-in cell: the model counts by its dims, whatever it is called; what has its default does not count; a
/// data file counts by its path as written.
fn builtin_id(dims: &Dims, parameters: &Parameters) -> CellId {
    let mut identity = Parameters::from([("model".to_owned(), dims.to_string().into())]);
    for parameter in PARAMETERS.iter().filter(|parameter| parameter.name != "model") {
        if let Some(value) = parameters.get(parameter.name).filter(|value| **value != parameter.default.scalar()) {
            identity.insert(parameter.name.to_owned(), value.clone());
        }
    }
    let readable = READABLE.map(|name| parameters.get(name).map(ToString::to_string).unwrap_or_default());
    CellId::new(&readable.each_ref().map(String::as_str), &identity)
}

/// The id of a command's cell: the workload by name, and each parameter that has not its default. Axes of its own are
/// shown in the readable part too, since nothing else would tell their cells apart.
fn command_id(declared: &Declared, parameters: &Parameters) -> CellId {
    let workload = &declared.workload;
    let mut identity = Parameters::from([("workload".to_owned(), workload.name.clone().into())]);
    let mut readable = vec![workload.name.clone()];
    readable.extend(READABLE.iter().filter_map(|name| parameters.get(*name)).map(ToString::to_string));
    for (name, value) in parameters {
        let default = workload.axes.get(name).and_then(|axis| axis.default.as_ref());
        if default.is_some_and(|default| same(name, default, value)) {
            continue;
        }
        identity.insert(name.clone(), value.clone());
        if !READABLE.contains(&name.as_str()) {
            readable.push(format!("{name}={value}"));
        }
    }
    CellId::new(&readable.iter().map(String::as_str).collect::<Vec<_>>(), &identity)
}

/// Notes cells that are named twice: one problem for each pair of matrices.
fn duplicates(placed: &[Placed], problems: &mut Vec<Problem>) {
    let mut first: HashMap<&str, &Placed> = HashMap::with_capacity(placed.len());
    let mut told: HashMap<(usize, usize), usize> = HashMap::new();
    let mut found: Vec<(&Placed, &Placed, usize)> = Vec::new();
    for one in placed {
        let Some(other) = first.insert(one.planned.cell.id.0.as_str(), one) else { continue };
        match told.get(&(other.place.start, one.place.start)) {
            Some(at) => found[*at].2 += 1,
            None => {
                told.insert((other.place.start, one.place.start), found.len());
                found.push((other, one, 1));
            }
        }
    }
    for (other, one, count) in found {
        let id = quoted(one.planned.cell.id.readable());
        let title = if one.planned.cell.parameters == other.planned.cell.parameters {
            format!("the cell {id} is named twice")
        } else {
            format!("two cells have the id {}", quoted(&one.planned.cell.id.0))
        };
        let more = if count > 1 { format!(", and {} more cells like it", count - 1) } else { String::new() };
        problems.push(
            Problem::at(one.place.clone(), title, format!("again in this matrix{more}"))
                .and(other.place.clone(), "first in this one")
                .help(
                    "leave it out of one of them, with [[exclude]] or fewer values, or give one a setting that differs",
                ),
        );
    }
}
