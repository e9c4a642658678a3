//! A cell's op classes under the measured ceilings: FLOPs a byte across, FLOP/s upward, dots as large as their share of the
//! step. Classes without arithmetic stand in the table alone, with their traffic.

use serde::Serialize;
use stepwatch_record::CellId;
use stepwatch_record::ceiling::CellBound;
use stepwatch_record::profile::Profile;

use super::plot::{Plot, Ruler};
use super::range;
use crate::clean;
use crate::format::{self, Hint, Scale};
use crate::view::Links;
use crate::view::ceilings::Ceiling;
use crate::view::change::Link;

const WIDTH: i32 = 520;
const HEIGHT: i32 = 280;

/// A roofline as geometry, with its table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Roofline {
    /// The cell.
    pub cell: Link,
    /// The frame.
    pub plot: Plot,
    /// The ceilings.
    pub roofs: Vec<Roof>,
    /// The classes, the most time first.
    pub classes: Vec<ClassView>,
}

/// What the machine was measured to do at the most, as data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CeilingView {
    /// What reached it.
    pub name: String,
    /// How much, in its unit.
    pub rate: f64,
    /// `FLOP/s` or `B/s`.
    pub unit: &'static str,
}

impl CeilingView {
    pub(crate) fn new(ceiling: &Ceiling) -> Self {
        let unit = if ceiling.traffic { "B/s" } else { "FLOP/s" };
        Self { name: clean::line(&ceiling.name), rate: ceiling.rate, unit }
    }
}

/// One ceiling.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Roof {
    /// What reached it, and how much.
    pub label: String,
    /// Its line.
    pub path: String,
    /// Where its label stands.
    pub x: i32,
    /// Where its label stands.
    pub y: i32,
}

/// One op class of a cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassView {
    /// Its name.
    pub class: String,
    /// Launches a step.
    pub count: u64,
    /// Time a step with its unit.
    pub time: String,
    /// Share of the classes' time.
    pub share: String,
    /// FLOPs a byte, or `–`.
    pub intensity: String,
    /// FLOP/s with its unit, or `–`.
    pub rate: String,
    /// Bytes a second with its unit, or `–`.
    pub traffic: String,
    /// Place and radius of its dot, pixels; `None` without arithmetic or traffic.
    pub dot: Option<[i32; 3]>,
    /// Seconds, FLOPs and bytes a step.
    pub raw: [f64; 3],
    /// What it would take at the ceilings of its chip, with its unit; empty where they are not known.
    pub least: String,
    /// The same in seconds.
    pub least_seconds: Option<f64>,
}

impl ClassView {
    /// The class beside its bound.
    pub(crate) fn bounded(mut self, bound: Option<&CellBound>) -> Self {
        let own = bound.and_then(|bound| bound.classes.iter().find(|class| class.class == self.class));
        self.least_seconds = own.map(|class| class.least_seconds);
        self.least = self.least_seconds.map_or_else(String::new, |least| format::quantity(Hint::Duration, "s", least));
        self
    }
}

/// A cell's op classes summed over labels and phases, the most time first.
pub(crate) fn classes(profile: &Profile) -> Vec<ClassView> {
    let mut sums: Vec<(String, u64, [f64; 3])> = Vec::new();
    for op in &profile.ops {
        let add = [op.gpu_ns * 1e-9, op.flops, op.bytes];
        match sums.iter_mut().find(|(class, ..)| *class == op.class) {
            Some((_, count, sum)) => {
                *count += op.count;
                sum.iter_mut().zip(add).for_each(|(sum, add)| *sum += add);
            }
            None => sums.push((op.class.clone(), op.count, add)),
        }
    }
    sums.sort_by(|a, b| b.2[0].total_cmp(&a.2[0]));
    let all: f64 = sums.iter().map(|(.., sum)| sum[0]).sum();
    let scale = Scale::new(Hint::Duration, "s", sums.first().map_or(0.0, |(.., sum)| sum[0]));
    let view = |(class, count, [seconds, flops, bytes]): (String, u64, [f64; 3])| {
        let a_second = |amount: f64, unit: &str| {
            let known = seconds > 0.0 && amount > 0.0;
            if known { format::quantity(Hint::Rate, unit, amount / seconds) } else { "–".into() }
        };
        ClassView {
            class: clean::line(&class),
            count,
            time: scale.with_unit(seconds),
            share: if all > 0.0 { format::share(seconds / all) } else { "–".into() },
            intensity: if flops > 0.0 && bytes > 0.0 { format::number(flops / bytes) } else { "–".into() },
            rate: a_second(flops, "FLOP/s"),
            traffic: a_second(bytes, "B/s"),
            dot: None,
            raw: [seconds, flops, bytes],
            least: String::new(),
            least_seconds: None,
        }
    };
    sums.into_iter().map(view).collect()
}

/// `None` where no class has both arithmetic and traffic.
pub(crate) fn roofline(cell: &CellId, profile: &Profile, ceilings: &[Ceiling], links: &Links) -> Option<Roofline> {
    let mut classes = classes(profile);
    let point = |class: &ClassView| {
        let [seconds, flops, bytes] = class.raw;
        (seconds > 0.0 && flops > 0.0 && bytes > 0.0).then(|| (flops / bytes, flops / seconds))
    };
    let arithmetic = || ceilings.iter().filter(|c| !c.traffic).map(|c| c.rate);
    let (left, right) = range(classes.iter().filter_map(point).map(|(x, _)| x))?;
    let (low, high) = range(classes.iter().filter_map(point).map(|(_, y)| y).chain(arithmetic()))?;
    let (x, y) = (Ruler::log(left, right, WIDTH), Ruler::log(low, high, HEIGHT));
    let all: f64 = classes.iter().map(|class| class.raw[0]).sum();
    for class in &mut classes {
        // Areas are compared, so the radius goes with the root of the share.
        let radius = (4.0 + 18.0 * (class.raw[0] / all).sqrt()) as i32;
        class.dot = point(class).map(|(intensity, rate)| [x.at(intensity), y.down(rate), radius]);
    }
    let rate = Scale::new(Hint::Rate, "FLOP/s", high);
    let plot = Plot {
        width: WIDTH,
        height: HEIGHT,
        across: "FLOPs a byte of least traffic".into(),
        upward: rate.unit.clone(),
        x: x.ticks(&Scale { factor: 1.0, unit: String::new() }, false),
        y: y.ticks(&rate, true),
    };
    let most = arithmetic().reduce(f64::max);
    let roofs = ceilings.iter().filter_map(|ceiling| roof(ceiling, &x, &y, most)).collect();
    Some(Roofline { cell: links.link(cell), plot, roofs, classes })
}

/// A level line for arithmetic, a rising one for traffic up to the highest level; `None` of what lies outside the frame.
fn roof(ceiling: &Ceiling, x: &Ruler, y: &Ruler, most: Option<f64>) -> Option<Roof> {
    let name = clean::line(&ceiling.name);
    if !ceiling.traffic {
        let label = format!("{name}: {}", format::quantity(Hint::Rate, "FLOP/s", ceiling.rate));
        let at = y.down(ceiling.rate);
        return Some(Roof { label, path: format!("M0 {at}H{WIDTH}"), x: 4, y: at - 5 });
    }
    let ([left, right], [low, high]) = (x.ends(), y.ends());
    let top = most.unwrap_or(high).min(high);
    let (from, to) = (left.max(low / ceiling.rate), right.min(top / ceiling.rate));
    if from >= to {
        return None;
    }
    let place = |at: f64| (x.at(at), y.down(at * ceiling.rate));
    let ((x1, y1), (x2, y2)) = (place(from), place(to));
    let label = format!("{name}: {}", format::quantity(Hint::Rate, "B/s", ceiling.rate));
    Some(Roof {
        label,
        path: format!("M{x1} {y1}L{x2} {y2}"),
        x: f64::midpoint(x1.into(), x2.into()) as i32 + 8,
        y: f64::midpoint(y1.into(), y2.into()) as i32 + 14,
    })
}
