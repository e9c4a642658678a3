//! From one cell's step time to another's: a bar for each op class, begun where the one before ended, between the two
//! totals. The table beside it holds the same seconds.

use serde::Serialize;
use stepwatch_record::waterfall::Waterfall;

use super::{Axis, range};
use crate::clean;
use crate::format::{Hint, Scale};
use crate::view::Links;
use crate::view::change::Link;

/// Width of the bars' frame, in thousandths.
const WIDTH: i32 = 1000;

/// A waterfall as rows of a table, each with its bar.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WaterfallView {
    /// The first cell.
    pub from: Link,
    /// The second cell.
    pub to: Link,
    /// The unit of all times.
    pub unit: String,
    /// Width of the bars' area, pixels.
    pub width: i32,
    /// The first cell's total, the op classes, the second cell's total.
    pub rows: Vec<WaterfallRow>,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WaterfallRow {
    /// The op class, or the cell of a total.
    pub label: String,
    /// Whether it is a total.
    pub total: bool,
    /// Time in the first cell; empty for the second cell's total.
    pub from: String,
    /// Time in the second cell; empty for the first cell's total.
    pub to: String,
    /// What is added, with its sign; empty for totals.
    pub added: String,
    /// Left edge and width of the bar, thousandths of its frame.
    pub bar: [i32; 2],
    /// Whether time is added rather than saved.
    pub slower: bool,
    /// The raw seconds in the first and the second cell.
    pub seconds: [f64; 2],
}

pub(crate) fn waterfall(waterfall: &Waterfall, links: &Links) -> WaterfallView {
    let from: f64 = waterfall.steps.iter().map(|step| step.from_seconds).sum();
    let to: f64 = waterfall.steps.iter().map(|step| step.to_seconds).sum();
    // Where each bar ends: the bars are laid end to end, which is what makes it a waterfall.
    let mut level = from;
    let mut levels = vec![from];
    for step in &waterfall.steps {
        level += step.to_seconds - step.from_seconds;
        levels.push(level);
    }
    let (_, largest) = range(levels.iter().copied().chain([to])).unwrap_or((0.0, 1.0));
    // From zero: lengths are compared.
    let axis = Axis::new(0.0, largest, WIDTH);
    let scale = Scale::new(Hint::Duration, "s", largest);
    let bar = |a: f64, b: f64| {
        let (left, right) = (axis.at(a.min(b)), axis.at(a.max(b)));
        [left, (right - left).max(1)]
    };
    let steps = waterfall.steps.iter().zip(levels.windows(2)).map(|(step, ends)| {
        let added = step.to_seconds - step.from_seconds;
        let sign = if added > 0.0 { "+" } else { "" };
        WaterfallRow {
            label: clean::line(&step.class),
            total: false,
            from: scale.number(step.from_seconds),
            to: scale.number(step.to_seconds),
            added: format!("{sign}{}", scale.number(added)),
            bar: bar(ends[0], ends[1]),
            slower: added > 0.0,
            seconds: [step.from_seconds, step.to_seconds],
        }
    });
    let total = |cell: &str, value: f64, first: bool| WaterfallRow {
        label: cell.to_owned(),
        total: true,
        from: if first { scale.number(value) } else { String::new() },
        to: if first { String::new() } else { scale.number(value) },
        added: String::new(),
        bar: bar(0.0, value),
        slower: false,
        seconds: if first { [value, 0.0] } else { [0.0, value] },
    };
    let (from_link, to_link) = (links.link(&waterfall.from), links.link(&waterfall.to));
    let mut rows = vec![total(&from_link.name, from, true)];
    rows.extend(steps);
    rows.push(total(&to_link.name, to, false));
    WaterfallView { from: from_link, to: to_link, unit: scale.unit, width: WIDTH, rows }
}
