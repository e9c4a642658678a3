//! `metrics` of a workload: the figures read from a command, by regex or by name.

use std::collections::BTreeMap;
use std::ops::Range;

use regex::Regex;
use stepwatch_record::run::{Better, Metric};
use toml::Spanned;
use toml::de::DeValue;

use super::CommandMetric;
use super::diagnostic::{Problem, quoted};
use super::keys::{self, Holds};
use super::read::{Table, found};
use super::resolve::{bad_name, is_name};

/// `metrics.NAME = { regex, unit, better }`. `all` holds every metric so far, with where it was declared (the built-in
/// figures nowhere): one name has one unit and one direction in a scenario.
pub(super) fn own_metrics(
    table: &Table<'_, '_>,
    text: &str,
    protocol: bool,
    all: &mut BTreeMap<String, (Metric, Option<Range<usize>>)>,
    problems: &mut Vec<Problem>,
) -> Vec<CommandMetric> {
    let keys = keys::WORKLOAD.iter().find_map(|key| match key.holds {
        Holds::Named(keys) => Some(keys),
        _ => None,
    });
    let (Some(group), Some(keys)) = (table.table("metrics", problems), keys) else {
        if table.value("metrics").is_none() && !protocol {
            table.missing("metrics", problems);
        }
        return Vec::new();
    };
    let mut metrics = Vec::new();
    for (name, value) in group.get_ref().iter() {
        if !is_name(name.get_ref()) {
            problems.push(bad_name("a metric", name));
            continue;
        }
        let called = format!("the metric {} of {}", quoted(name.get_ref()), table.name);
        let DeValue::Table(inner) = value.get_ref() else {
            let title = format!("{called} must be a table");
            problems.push(
                Problem::at(value.span(), title, format!("found {}", found(value.get_ref())))
                    .help("for example: { regex = 'tokens/sec: ([\\d,.]+)', unit = \"1/s\", better = \"higher\" }"),
            );
            continue;
        };
        let inner = Table::new(called, name.span(), inner, keys, problems);
        let Some(metric) = metric(name.get_ref(), &inner, text, protocol, problems) else { continue };
        let declared = Metric { name: metric.name.clone(), unit: metric.unit.clone(), better: metric.better };
        match all.get(&declared.name) {
            Some((other, place)) if *other != declared => {
                problems.push(conflict(&declared, other, name.span(), place.clone()));
            }
            _ => {
                all.insert(declared.name.clone(), (declared, Some(name.span())));
            }
        }
        metrics.push(metric);
    }
    metrics
}

fn conflict(one: &Metric, other: &Metric, place: Range<usize>, others_place: Option<Range<usize>>) -> Problem {
    let words = |metric: &Metric| {
        let better = if metric.better == Better::Higher { "higher" } else { "lower" };
        format!("unit {}, {better} is better", quoted(&metric.unit))
    };
    let title = format!("the metric {} has two meanings", quoted(&one.name));
    let problem =
        Problem::at(place, title, words(one)).help("one name has one unit and one direction: rename one of them");
    match others_place {
        Some(place) => problem.and(place, words(other)),
        None => problem.help(format!("stepwatch's own {} has {}", quoted(&other.name), words(other))),
    }
}

fn metric(
    name: &str,
    table: &Table<'_, '_>,
    text: &str,
    protocol: bool,
    problems: &mut Vec<Problem>,
) -> Option<CommandMetric> {
    if table.value("better").is_none() {
        table.missing("better", problems);
    }
    let better = match table.word("better", &["higher", "lower"], problems) {
        Some("lower") => Better::Lower,
        _ => Better::Higher,
    };
    let unit = table.text("unit", problems).map(Spanned::into_inner).unwrap_or_default();
    let regex = match (table.text("regex", problems), protocol) {
        (Some(written), true) => {
            let title = format!("{} has a regex, though its workload speaks the protocol", table.name);
            problems.push(Problem::at(written.span(), title, "remove it: the worker sends figures by name"));
            None
        }
        (Some(written), false) => Some(regex(&written, table, text, problems)?),
        (None, true) => None,
        (None, false) => {
            if table.value("regex").is_none() {
                table.missing("regex", problems);
            }
            return None;
        }
    };
    Some(CommandMetric { name: name.to_owned(), regex, unit, better })
}

fn regex(written: &Spanned<String>, table: &Table<'_, '_>, text: &str, problems: &mut Vec<Problem>) -> Option<Regex> {
    let pattern = written.get_ref();
    let regex = match Regex::new(pattern) {
        Ok(regex) => regex,
        Err(error) => {
            let (at, why) = fault(pattern, &error);
            let place = inside(written, at, text).unwrap_or_else(|| written.span());
            problems.push(Problem::at(place, format!("the regex of {} cannot be read", table.name), why));
            return None;
        }
    };
    if regex.captures_len() < 2 {
        let title = format!("the regex of {} has no group", table.name);
        problems.push(
            Problem::at(written.span(), title, "put ( ) around the number")
                .help("for example: 'tokens/sec: ([\\d,.]+)'"),
        );
        return None;
    }
    Some(regex)
}

/// Where in the pattern the fault is, and what it is.
fn fault(pattern: &str, error: &regex::Error) -> (Range<usize>, String) {
    match regex_syntax::parse(pattern) {
        Err(regex_syntax::Error::Parse(error)) => {
            (error.span().start.offset..error.span().end.offset, error.kind().to_string())
        }
        Err(regex_syntax::Error::Translate(error)) => {
            (error.span().start.offset..error.span().end.offset, error.kind().to_string())
        }
        _ => (0..pattern.len(), error.to_string().lines().last().unwrap_or_default().trim().to_owned()),
    }
}

/// The place in the file of a part of a text, where the text stands as it is between single quotation marks.
fn inside(written: &Spanned<String>, part: Range<usize>, text: &str) -> Option<Range<usize>> {
    let start = written.span().start + 1;
    let verbatim = text.get(start..start + written.get_ref().len())? == written.get_ref();
    let end = part.end.max(part.start + 1);
    verbatim.then_some(start + part.start..start + end)
}
