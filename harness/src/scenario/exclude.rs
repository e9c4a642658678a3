//! `[[exclude]]`: cells of the product that are left out, by the values that a matrix gives.

use std::ops::Range;

use stepwatch_record::Scalar;
use toml::Spanned;

use super::diagnostic::{Problem, not_known, quoted};
use super::matrix::{Axis, Matrix};
use super::raw::{RawAxis, RawScenario, RawSelection};
use super::workload::same;

/// Axes of a matrix by index, with one flag a value: whether it is named.
pub(super) type Mask = Vec<(usize, Vec<bool>)>;

/// An `[[exclude]]`, prepared: for each matrix, which values of which axes it names.
pub(super) struct Exclude {
    pub(super) place: Range<usize>,
    /// By matrix; `None` where the matrix lacks an axis that it names.
    pub(super) masks: Vec<Option<Mask>>,
    /// Whether something of it is wrong already.
    pub(super) wrong: bool,
}

pub(super) fn excludes(raw: &RawScenario<'_, '_>, matrices: &[Matrix], problems: &mut Vec<Problem>) -> Vec<Exclude> {
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
