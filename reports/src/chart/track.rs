//! What the GPU did while a cell's samples were taken: SM clock, power and temperature as lines over the same rounds as the
//! samples above them, with the power cap, and marks where the clock was held down.

use std::fmt::Write as _;

use serde::Serialize;
use stepwatch_record::run::{Round, Sample};

use super::{Axis, range};
use crate::format::{Hint, Scale};

/// Height of a track, pixels.
const HEIGHT: i32 = 34;
const MARGIN: i32 = 4;
/// Points of a line lie at least so far apart, pixels: closer ones cannot be told apart.
const APART: i32 = 4;

/// One track as geometry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Track {
    /// `SM clock`, `power` or `temperature`.
    pub what: &'static str,
    /// Its unit.
    pub unit: String,
    /// Height, pixels.
    pub height: i32,
    /// Text at the top.
    pub high: String,
    /// Text at the bottom.
    pub low: String,
    /// The line, lifted between rounds.
    pub path: String,
    /// Where the power cap lies, pixels from the top.
    pub cap: Option<i32>,
    /// Upright strokes where power or heat held the clock down.
    pub held: String,
    /// What it shows, in one sentence.
    pub caption: String,
}

/// NVML's reasons that hold a clock down: software power cap, hardware slowdown, software and hardware thermal slowdown.
const HELD: u64 = 0x4 | 0x8 | 0x20 | 0x40;

/// A name, how it is shown and its unit, and where it is read from.
type Source<'a> = (&'static str, Hint, &'a str, fn(&Sample) -> f64);

/// The tracks that are known, over rounds at these left ends and widths.
pub(crate) fn tracks(rounds: &[&Round], places: &[(i32, i32)], cap_w: Option<f64>) -> Vec<Track> {
    let all: [Source<'_>; 3] = [
        ("SM clock", Hint::Rate, "Hz", |sample| sample.sm_clock_hz),
        ("power", Hint::Plain, "W", |sample| sample.power_w),
        ("temperature", Hint::Plain, "°C", |sample| sample.temperature_c),
    ];
    let track = |(what, hint, unit, value): Source<'_>| {
        let cap = cap_w.filter(|_| what == "power");
        let values = || rounds.iter().flat_map(|round| &round.samples).map(value);
        let (low, high) = range(values().filter(|value| *value > 0.0))?;
        let (_, top) = range([high].into_iter().chain(cap))?;
        let scale = Scale::new(hint, unit, top);
        let axis = Axis::new(low, top, HEIGHT - 2 * MARGIN);
        let y = |value: f64| HEIGHT - MARGIN - axis.at(value);
        let with_cap = cap.map_or_else(String::new, |cap| format!("; the cap is {}", scale.with_unit(cap)));
        Some(Track {
            what,
            height: HEIGHT,
            high: scale.number(top),
            low: scale.number(low),
            path: line(rounds, places, value, y),
            cap: cap.map(y),
            held: if what == "SM clock" { held(rounds, places) } else { String::new() },
            caption: format!("{what} from {} to {}{with_cap}", scale.number(low), scale.with_unit(high)),
            unit: scale.unit,
        })
    };
    all.into_iter().filter_map(track).collect()
}

/// Where a sample lies across its round.
fn across(round: &Round, (x, width): (i32, i32)) -> impl Fn(usize) -> i32 {
    let axis = Axis::new(0.0, (round.samples.len().max(2) - 1) as f64, width - 1);
    move |index| x + axis.at(index as f64)
}

fn line(rounds: &[&Round], places: &[(i32, i32)], value: fn(&Sample) -> f64, y: impl Fn(f64) -> i32) -> String {
    let mut path = String::new();
    for (round, place) in rounds.iter().zip(places) {
        let at = across(round, *place);
        let mut pen: Option<(i32, i32)> = None;
        let last = round.samples.len().saturating_sub(1);
        for (index, sample) in round.samples.iter().enumerate().filter(|(_, sample)| value(sample) > 0.0) {
            let (to_x, to_y) = (at(index), y(value(sample)));
            // Writing to a string cannot fail.
            let _ = match pen {
                None => write!(path, "M{to_x} {to_y}"),
                Some((x, _)) if to_x - x < APART && index < last => continue,
                Some((x, y)) if y == to_y => write!(path, "h{}", to_x - x),
                Some((x, y)) => {
                    let space = if to_y < y { "" } else { " " };
                    write!(path, "l{}{space}{}", to_x - x, to_y - y)
                }
            };
            pen = Some((to_x, to_y));
        }
    }
    path
}

/// A short stroke at the foot of the track for every sample during which the clock was held down, runs of them as one line.
fn held(rounds: &[&Round], places: &[(i32, i32)]) -> String {
    let mut path = String::new();
    for (round, place) in rounds.iter().zip(places) {
        let at = across(round, *place);
        let mut from = None;
        for index in 0..=round.samples.len() {
            let now = round.samples.get(index).is_some_and(|sample| sample.throttle & HELD != 0);
            match (now, from) {
                (true, None) => from = Some(index),
                (false, Some(first)) => {
                    // Writing to a string cannot fail.
                    let _ = write!(path, "M{} {}h{}", at(first), HEIGHT - 1, (at(index - 1) - at(first)).max(1));
                    from = None;
                }
                _ => {}
            }
        }
    }
    path
}
