//! Multiplies a checked matrix out: the parameters of each cell, its stable id, and what runs it.

use std::collections::HashMap;
use std::ops::Range;

use stepwatch_model::ConfigError;
use stepwatch_model::config::Dims;
use stepwatch_record::{Cell, CellId, Parameters, Scalar};
use toml::Spanned;

use super::builtin::{self, FILE_PREFIX, PARAMETERS};
use super::diagnostic::{Problem, quoted};
use super::exclude::Exclude;
use super::matrix::{Axis, Known, Matrix};
use super::workload::{self, BUILTIN, Declared, same};
use super::{CommandCell, PlannedCell, Work};

/// A cell with the place of its `[[matrix]]`.
pub(super) struct Placed {
    pub(super) planned: PlannedCell,
    /// Where the matrix stands.
    place: Range<usize>,
}

/// Multiplies one matrix out, the first axis outermost.
pub(super) fn expand(
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
        ConfigError::NoFastAccumulation { .. } => "fast_accumulation",
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
            persistent: declared.workload.persistent,
            metrics: declared.workload.metrics.clone(),
            working_dir: declared.workload.working_dir.clone(),
        });
        return Ok(PlannedCell { cell: Cell { id, workload, parameters, axes }, work, program: None });
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
    let cell = Cell { id, workload, parameters, axes };
    Ok(PlannedCell { cell, work: Work::Builtin(Box::new(config)), program: None })
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
pub(super) fn duplicates(placed: &[Placed], problems: &mut Vec<Problem>) {
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
