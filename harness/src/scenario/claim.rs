//! `[[claim]]`: which pairs of cells a claim speaks of, and whether the two of a pair are equal in all else.
//!
//! Cells pair when they agree on every axis that the claim does not name. Where a pair exists that agrees on the step's
//! settings too, such pairs are the claim's; else the nearest cells pair and what differs is written down, so that the
//! comparison is shown to be unequal instead of being confirmed or refuted.

use std::collections::HashMap;

use stepwatch_record::run::{Claim, ClaimPair, Metric};
use stepwatch_record::{Parameters, Scalar};
use toml::Spanned;

use super::PlannedCell;
use super::builtin;
use super::diagnostic::{Problem, list, not_known, quoted};
use super::policy::unknown_metric;
use super::raw::{RawClaim, RawSelection};
use super::read::Table;
use super::workload::{canonical, same};

/// So many candidates are compared with a cell that has no equal partner.
const MOST_CANDIDATES: usize = 64;

/// Resolves one claim over all cells of the file, filtered or not.
pub(super) fn resolve(
    raw: &RawClaim<'_, '_>,
    cells: &[&PlannedCell],
    metrics: &[Metric],
    problems: &mut Vec<Problem>,
) -> Option<Claim> {
    let before = problems.len();
    let table = &raw.table;
    let metric = metric(table, metrics, problems);
    let bounds = bounds(table, problems);
    let gate = table.boolean("gate", problems).unwrap_or(false);
    let text = table.text("text", problems).map(Spanned::into_inner);
    let (of, over) = (raw.of.as_ref()?, raw.over.as_ref()?);
    same_axes(table, of, over, problems);
    check_side("of", of, cells, problems);
    check_side("over", over, cells, problems);
    if problems.len() > before {
        return None;
    }
    let (first, second) = (side(of), side(over));
    let pairs = pairs(&first, &second, cells);
    if pairs.is_empty() {
        problems.push(no_pair(table, &first, &second, cells));
        return None;
    }
    let unequal = pairs.iter().filter(|pair| !pair.unequal.is_empty());
    if let Some(pair) = unequal.clone().next() {
        let title = format!("this claim compares what is unequal, in {} of its {} pairs", unequal.count(), pairs.len());
        problems.push(
            Problem::at(
                table.span.clone(),
                title,
                format!("{} differ in {}", pair.of.readable(), pair.unequal.join("; ")),
            )
            .help("such a pair is neither confirmed nor refuted: add cells that are equal in all else")
            .warning(),
        );
    }
    let (at_least, at_most) = bounds?;
    let text = text.unwrap_or_else(|| words(&first, &second, at_least, at_most));
    Some(Claim { text, metric, of: first, over: second, at_least, at_most, gate, pairs })
}

fn metric(table: &Table<'_, '_>, metrics: &[Metric], problems: &mut Vec<Problem>) -> String {
    let Some(name) = table.text("metric", problems) else { return "tokens_per_second".to_owned() };
    problems.extend(unknown_metric(&name, metrics));
    name.into_inner()
}

/// `at_least` and `at_most`, of which one must be there.
fn bounds(table: &Table<'_, '_>, problems: &mut Vec<Problem>) -> Option<(Option<f64>, Option<f64>)> {
    let mut bound = |name: &str| {
        let value = table.number(name, |number| 0.0 < number && number <= 1e9, "a ratio above 0", problems);
        (value, table.value(name).is_some())
    };
    let ((at_least, says_least), (at_most, says_most)) = (bound("at_least"), bound("at_most"));
    if !says_least && !says_most {
        let help = "say what the ratio of the first side to the second is: at_least = 1.7, at_most = 1.0, or both";
        problems
            .push(Problem::at(table.span.clone(), "this claim asserts nothing", "no at_least or at_most").help(help));
        return None;
    }
    if let (Some(least), Some(most)) = (at_least, at_most)
        && least > most
    {
        let title = format!("at_least {least} is more than at_most {most}: no ratio is both");
        problems.push(Problem::at(table.span.clone(), title, "this claim"));
    }
    Some((at_least, at_most))
}

/// Both sides must name the same axes, or they would differ in more than the claim says.
fn same_axes(table: &Table<'_, '_>, of: &RawSelection, over: &RawSelection, problems: &mut Vec<Problem>) {
    let has = |side: &RawSelection, name: &str| side.axes.iter().any(|axis| axis.name.get_ref() == name);
    for (side, here, there) in [(of, "of", over), (over, "over", of)] {
        for axis in side.axes.iter().filter(|axis| !has(there, axis.name.get_ref())) {
            let name = axis.name.get_ref();
            let title =
                format!("the sides of this claim differ in more than they name: {} is only in `{here}`", quoted(name));
            let other = if here == "of" { "over" } else { "of" };
            problems.push(
                Problem::at(axis.name.span(), title, format!("`{other}` does not say which"))
                    .help(format!("name {} in both sides, with equal values if it should not differ", quoted(name))),
            );
        }
    }
    let (first, second) = (side(of), side(over));
    if first == second {
        problems.push(Problem::at(
            table.span.clone(),
            "the two sides of this claim are the same",
            "nothing to compare",
        ));
    }
}

/// Notes a parameter that no cell has, or a value of it that none has.
fn check_side(name: &str, side: &RawSelection, cells: &[&PlannedCell], problems: &mut Vec<Problem>) {
    for axis in &side.axes {
        let key = axis.name.get_ref();
        let mut values: Vec<&Scalar> = Vec::new();
        let mut builtin_or_workload = Vec::new();
        for cell in cells {
            match cell.cell.parameters.get(key) {
                Some(value) if !values.contains(&value) => values.push(value),
                None if key == "workload" && !builtin_or_workload.contains(&cell.cell.workload) => {
                    builtin_or_workload.push(cell.cell.workload.clone());
                }
                _ => {}
            }
        }
        let mut known: Vec<String> = values.iter().map(ToString::to_string).collect();
        known.extend(builtin_or_workload);
        if known.is_empty() {
            let keys: Vec<&str> =
                cells.first().map(|cell| cell.cell.parameters.keys().map(String::as_str).collect()).unwrap_or_default();
            let title = format!("no cell has the parameter {} that `{name}` names", quoted(key));
            problems.push(
                Problem::at(axis.name.span(), title, not_known(key, keys.iter().copied(), "no such parameter"))
                    .help(format!("parameters are `workload`, {}", list(keys))),
            );
            continue;
        }
        for value in &axis.values {
            let wanted = value.get_ref();
            if !known.iter().any(|known| same(key, &Scalar::from(known.as_str()), wanted))
                && !values.iter().any(|value| same(key, value, wanted))
            {
                let text = wanted.to_string();
                let title = format!("no cell has {key} = {}, which `{name}` names", quoted(&text));
                problems.push(
                    Problem::at(
                        value.span(),
                        title,
                        not_known(&text, known.iter().map(String::as_str), "no such cell"),
                    )
                    .help(format!("values of {} are {}", quoted(key), list(known.iter().take(12)))),
                );
            }
        }
    }
}

fn side(raw: &RawSelection) -> Parameters {
    let one = |axis: &super::raw::RawAxis| {
        let value = axis.values.first()?;
        Some((axis.name.get_ref().clone(), canonical(axis.name.get_ref(), value.get_ref())))
    };
    raw.axes.iter().filter_map(one).collect()
}

fn matches(cell: &PlannedCell, side: &Parameters) -> bool {
    side.iter().all(|(name, wanted)| match cell.cell.parameters.get(name) {
        Some(value) => same(name, value, wanted),
        None => name == "workload" && *wanted == Scalar::from(cell.cell.workload.as_str()),
    })
}

/// Whether a parameter sorts cells into groups (an axis) or is a setting of the step.
fn is_setting(name: &str) -> bool {
    builtin::parameter(name).is_some_and(|parameter| parameter.in_step)
}

/// The parameters of a cell that a claim does not name, of one kind, as one text. Where the claim compares workloads, only
/// what both sides have counts. The dims go with the model, and a claim that names the model does not hold them equal.
fn rest(cell: &PlannedCell, named: &Parameters, shared: Option<&[String]>, settings: bool) -> String {
    let counts = |name: &str| {
        !named.contains_key(name)
            && !builtin::is_dim(name)
            && is_setting(name) == settings
            && shared.is_none_or(|shared| shared.iter().any(|other| other == name))
    };
    let mut text = String::new();
    if !settings && !named.contains_key("workload") {
        text.push_str(&cell.cell.workload);
    }
    for (name, value) in cell.cell.parameters.iter().filter(|(name, _)| counts(name)) {
        text.push_str(&format!("\u{1f}{name}={value}"));
    }
    text
}

fn pairs(of: &Parameters, over: &Parameters, cells: &[&PlannedCell]) -> Vec<ClaimPair> {
    let first: Vec<&PlannedCell> = cells.iter().copied().filter(|cell| matches(cell, of)).collect();
    let second: Vec<&PlannedCell> = cells.iter().copied().filter(|cell| matches(cell, over)).collect();
    let shared = of.contains_key("workload").then(|| shared_parameters(&first, &second));
    let shared = shared.as_deref();
    let mut groups: HashMap<String, HashMap<String, Vec<&PlannedCell>>> = HashMap::new();
    for cell in &second {
        let group = groups.entry(rest(cell, of, shared, false)).or_default();
        group.entry(rest(cell, of, shared, true)).or_default().push(cell);
    }
    // In the order of the file: each cell with its equal partners, and the groups in which some cell has one.
    let mut equal: Vec<(&PlannedCell, String, Vec<&PlannedCell>)> = Vec::with_capacity(first.len());
    let mut has_equal: HashMap<String, bool> = HashMap::new();
    for cell in first {
        let key = rest(cell, of, shared, false);
        let Some(group) = groups.get(&key) else { continue };
        let partners = group.get(&rest(cell, of, shared, true)).cloned().unwrap_or_default();
        *has_equal.entry(key.clone()).or_default() |= !partners.is_empty();
        equal.push((cell, key, partners));
    }
    let mut pairs = Vec::new();
    for (cell, key, partners) in equal {
        if has_equal.get(&key) == Some(&true) {
            pairs.extend(partners.iter().map(|partner| pair(cell, partner, Vec::new())));
        } else if let Some(group) = groups.get(&key) {
            let candidates = group.values().flatten().take(MOST_CANDIDATES);
            let nearest = candidates
                .map(|partner| (differences(cell, partner, of, shared), *partner))
                .min_by(|a, b| (a.0.len(), &a.1.cell.id).cmp(&(b.0.len(), &b.1.cell.id)));
            pairs.extend(nearest.map(|(differences, partner)| pair(cell, partner, differences)));
        }
    }
    pairs
}

fn pair(of: &PlannedCell, over: &PlannedCell, unequal: Vec<String>) -> ClaimPair {
    ClaimPair { of: of.cell.id.clone(), over: over.cell.id.clone(), unequal }
}

fn shared_parameters(first: &[&PlannedCell], second: &[&PlannedCell]) -> Vec<String> {
    let (Some(one), Some(other)) = (first.first(), second.first()) else { return Vec::new() };
    one.cell.parameters.keys().filter(|name| other.cell.parameters.contains_key(*name)).cloned().collect()
}

/// The settings in which two cells differ, such as `batch_size 16 against 4`.
fn differences(one: &PlannedCell, other: &PlannedCell, named: &Parameters, shared: Option<&[String]>) -> Vec<String> {
    let counts = |name: &String| {
        is_setting(name) && !named.contains_key(name) && shared.is_none_or(|shared| shared.contains(name))
    };
    let parameters = one.cell.parameters.iter().filter(|(name, _)| counts(name));
    parameters
        .filter_map(|(name, value)| {
            let other = other.cell.parameters.get(name)?;
            (!same(name, value, other)).then(|| format!("{name} {value} against {other}"))
        })
        .collect()
}

fn no_pair(table: &Table<'_, '_>, of: &Parameters, over: &Parameters, cells: &[&PlannedCell]) -> Problem {
    let count = |side: &Parameters| cells.iter().filter(|cell| matches(cell, side)).count();
    let help = match (count(of), count(over)) {
        (0, _) => format!("no cell matches `of`: {}", side_words(of)),
        (_, 0) => format!("no cell matches `over`: {}", side_words(over)),
        (first, second) => format!(
            "{first} cells match `of` and {second} match `over`, but no two of them agree on every axis that the claim does not name"
        ),
    };
    Problem::at(table.span.clone(), "this claim matches no pair of cells", "nothing to compare").help(help)
}

fn side_words(side: &Parameters) -> String {
    side.iter().map(|(name, value)| format!("{name} = {value}")).collect::<Vec<_>>().join(", ")
}

fn words(of: &Parameters, over: &Parameters, at_least: Option<f64>, at_most: Option<f64>) -> String {
    let bound = |word: &str, bound: Option<f64>| bound.map(|bound| format!("{word} {bound} times"));
    let bounds: Vec<String> = [bound("at least", at_least), bound("at most", at_most)].into_iter().flatten().collect();
    format!("({}) is {} ({})", side_words(of), bounds.join(" and "), side_words(over))
}
