//! The ladder of passes: cells that differ in `compile` alone, each step as a bar of its op classes from zero, so that one
//! sees which ops a pass takes away.

use std::collections::BTreeMap;

use serde::Serialize;
use stepwatch_record::cell::BUILTIN;

use super::{Axis, range};
use crate::format::{Hint, Scale};
use crate::view::cell::CellView;
use crate::view::column::Column;

const WIDTH: i32 = 480;
/// A page draws so many; the matrix and the cells hold the numbers of the others.
const MOST_LADDERS: usize = 12;
/// Colours that the page has; classes beyond the last share it.
const COLOURS: usize = 13;
/// A segment narrower than this, pixels, has no room for its name.
const NAMED: i32 = 54;

/// One ladder as geometry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ladder {
    /// What all its cells share.
    pub title: String,
    /// The unit of the times.
    pub unit: String,
    /// Width of the drawing, pixels.
    pub width: i32,
    /// The op classes with their colours, which are the same in every ladder.
    pub classes: Vec<(String, usize)>,
    /// The cells, fewest passes first.
    pub rungs: Vec<Rung>,
}

/// One cell of a ladder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rung {
    /// Its `compile`.
    pub compile: String,
    /// Its anchor.
    pub anchor: String,
    /// Its step time.
    pub time: String,
    /// The interval of that.
    pub interval: String,
    /// Its speed with its unit, or `–`.
    pub speed: String,
    /// What it takes beyond the rung before, with its sign; empty for the first.
    pub added: String,
    /// Left end, width, colour and name of each segment.
    pub segments: Vec<(i32, i32, usize, String)>,
    /// Low and high end of the interval, pixels.
    pub whisker: [i32; 2],
    /// Time by class in the ladder's unit; `–` without a profile.
    pub classes: Vec<String>,
}

/// Ladders of two rungs or more, those with profiles first; of a large sweep the first of them.
pub(crate) fn ladders(cells: &[CellView], columns: &[Column]) -> Vec<Ladder> {
    let Some(step) = columns.iter().position(|column| column.name == "step_seconds") else { return Vec::new() };
    let mut groups: BTreeMap<Vec<(&str, &str)>, Vec<&CellView>> = BTreeMap::new();
    let mut order: Vec<Vec<(&str, &str)>> = Vec::new();
    let completed = cells.iter().filter(|cell| cell.end.mark.word == "completed");
    for cell in completed.filter(|cell| cell.value("compile") != "–" && cell.figures.iter().any(|f| f.column == step))
    {
        let rest = cell.parameters.iter().filter(|fact| fact.name != "compile");
        let key: Vec<(&str, &str)> = rest.map(|fact| (fact.name.as_str(), fact.value.as_str())).collect();
        let group = groups.entry(key.clone()).or_default();
        if group.is_empty() {
            order.push(key);
        }
        group.push(cell);
    }
    let palette = palette(cells);
    let mut ladders: Vec<(bool, Ladder)> = Vec::new();
    for key in order {
        let mut rungs = groups.remove(&key).unwrap_or_default();
        if rungs.len() > 1 {
            rungs.sort_by_key(|cell| passes(cell.value("compile")));
            ladders.push((rungs.iter().all(|cell| cell.ops.is_empty()), ladder(&rungs, step, columns, &palette)));
        }
    }
    ladders.sort_by_key(|(without_profiles, _)| *without_profiles);
    ladders.into_iter().map(|(_, ladder)| ladder).take(MOST_LADDERS).collect()
}

/// Every op class, those that take the most time in any cell first.
fn palette(cells: &[CellView]) -> Vec<String> {
    let mut classes: Vec<(&str, f64)> = Vec::new();
    for op in cells.iter().flat_map(|cell| &cell.ops) {
        match classes.iter_mut().find(|(class, _)| *class == op.class) {
            Some((_, most)) => *most = most.max(op.raw[0]),
            None => classes.push((&op.class, op.raw[0])),
        }
    }
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    classes.into_iter().map(|(class, _)| class.to_owned()).collect()
}

/// How many passes a `compile` names; `full` has all.
fn passes(compile: &str) -> usize {
    match compile {
        "none" => 0,
        "full" => usize::MAX,
        names => names.split('+').count(),
    }
}

fn ladder(cells: &[&CellView], step: usize, columns: &[Column], palette: &[String]) -> Ladder {
    let figure = |cell: &CellView| cell.figures.iter().find(|f| f.column == step).map(|f| [f.point, f.low, f.high]);
    let times: Vec<[f64; 3]> = cells.iter().map(|cell| figure(cell).unwrap_or([0.0; 3])).collect();
    let profiled = cells.iter().map(|cell| cell.ops.iter().map(|op| op.raw[0]).sum::<f64>());
    let (_, longest) = range(times.iter().map(|time| time[2]).chain(profiled)).unwrap_or((0.0, 1.0));
    let (axis, scale) = (Axis::new(0.0, longest, WIDTH), Scale::new(Hint::Duration, "s", longest));
    let here = |class: &&String| cells.iter().any(|cell| of_class(cell, class).is_some());
    let classes: Vec<(String, usize)> = palette
        .iter()
        .zip(0..)
        .filter(|(class, _)| here(class))
        .map(|(class, i)| (class.clone(), i.min(COLOURS)))
        .collect();
    let speed = columns.iter().position(|column| column.name == "tokens_per_second");
    let rungs = cells.iter().enumerate().map(|(index, cell)| {
        let [point, low, high] = times[index];
        let before = index.checked_sub(1).map(|before| times[before][0]);
        let figure = cell.figures.iter().find(|figure| Some(figure.column) == speed);
        Rung {
            compile: cell.value("compile").to_owned(),
            anchor: cell.anchor.clone(),
            time: scale.number(point),
            interval: if low < high { scale.interval(low, high) } else { String::new() },
            speed: figure.map_or_else(|| "–".into(), |f| format!("{} {}", f.text, columns[f.column].scale.unit)),
            added: before.map_or_else(String::new, |before| {
                let sign = if point > before { "+" } else { "" };
                format!("{sign}{}", scale.number(point - before))
            }),
            segments: segments(cell, &classes, point, &axis),
            whisker: [axis.at(low), axis.at(high)],
            classes: classes
                .iter()
                .map(|(class, _)| of_class(cell, class).map_or("–".into(), |s| scale.number(s)))
                .collect(),
        }
    });
    let names = ["workload", "model", "precision", "attention", "batch_size", "seq_len", "head", "fast_accumulation"];
    let title = names.into_iter().filter_map(|name| {
        let value = cells[0].value(name);
        // What goes without saying: our own step, and accumulation as the recipe has it.
        (!["–", BUILTIN, "forward"].contains(&value)).then(|| match name {
            "batch_size" => format!("batch {value}"),
            "seq_len" => format!("length {value}"),
            "head" => format!("head {value}"),
            "fast_accumulation" => format!("fast accumulation {value}"),
            _ => value.to_owned(),
        })
    });
    Ladder {
        title: title.collect::<Vec<_>>().join(" · "),
        width: WIDTH,
        rungs: rungs.collect(),
        unit: scale.unit.clone(),
        classes,
    }
}

fn of_class(cell: &CellView, class: &str) -> Option<f64> {
    cell.ops.iter().find(|op| op.class == class).map(|op| op.raw[0])
}

/// The classes in the order of the legend; without a profile the whole step is one nameless segment.
fn segments(cell: &CellView, classes: &[(String, usize)], step: f64, axis: &Axis) -> Vec<(i32, i32, usize, String)> {
    if cell.ops.is_empty() {
        return vec![(0, axis.at(step).max(1), COLOURS, String::new())];
    }
    let (mut end, mut segments) = (0.0, Vec::new());
    for (class, colour) in classes {
        let Some(seconds) = of_class(cell, class).filter(|seconds| *seconds > 0.0) else { continue };
        let left = axis.at(end);
        end += seconds;
        let width = axis.at(end) - left;
        if width > 0 {
            let fits = width >= NAMED && class.chars().count() as i32 * 7 <= width;
            segments.push((left, width, *colour, if fits { class.clone() } else { String::new() }));
        }
    }
    segments
}
