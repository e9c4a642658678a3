//! The section on the nights before: every cell's trend, those that changed first, with what was noted and waived.

use serde::Serialize;
use stepwatch_record::comparison::Conclusion;
use stepwatch_record::trend::History;

use super::Links;
use super::change::Link;
use super::column::Column;
use crate::chart::trend::{Times, TrendView, differences, trend};
use crate::{clean, format};

/// The nights of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryView {
    /// How many nights, from when to when, and what was found, in one sentence.
    pub sentence: String,
    /// The days of the first and the last night.
    pub days: [String; 2],
    /// Changes that most cells have at once.
    pub shifts: Vec<ShiftView>,
    /// What people noted, with its place on the time axis.
    pub notes: Vec<NoteView>,
    /// Trends with something to say, most important first.
    pub changed: Vec<TrendView>,
    /// The others, in the order of the scenario.
    pub steady: Vec<TrendView>,
    /// The runs with their days, oldest first: the nights that trends speak of by number.
    #[serde(skip)]
    pub nights: Vec<[String; 2]>,
}

/// A change that most cells have at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShiftView {
    /// The metric.
    pub metric: String,
    /// The first run after it.
    pub run: String,
    /// When that run began.
    pub started: String,
    /// The median change with its sign.
    pub effect: String,
    /// The same as a number.
    pub relative: f64,
    /// The cells that have it.
    pub cells: Vec<Link>,
    /// What differs between that run and the one before it.
    pub differs: Vec<String>,
}

/// Something that people noted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NoteView {
    /// Its place on the time axis; `None` after the last night.
    pub x: Option<i32>,
    /// Its day.
    pub date: String,
    /// What happened.
    pub text: String,
}

/// The history of a scenario as a view.
pub(crate) fn history(history: &History, conclusion: &Conclusion, columns: &[Column], links: &Links) -> HistoryView {
    let times = Times::new(history);
    let mut changed = Vec::new();
    let mut steady = Vec::new();
    for record in &history.trends {
        let Some(mut view) = trend(history, record, columns, links, &times) else { continue };
        let mine = conclusion
            .waivers
            .iter()
            .filter(|judged| judged.waiver.metric == record.metric && judged.waiver.cells.contains(&record.cell));
        view.waivers = mine.map(|judged| clean::line(&judged.sentence)).collect();
        if view.changes.is_empty() && view.outliers.is_empty() { steady.push(view) } else { changed.push(view) }
    }
    // Worse before better, a change of its own before a shared one, then the larger: sort_by keeps the scenario's order.
    changed.sort_by(|a, b| rank(a).0.cmp(&rank(b).0).then_with(|| rank(b).1.total_cmp(&rank(a).1)));
    let shifts = history.shifts.iter().map(|shift| {
        let night = &history.nights[shift.night];
        ShiftView {
            metric: clean::line(&shift.metric),
            run: clean::line(&night.run),
            started: format::minute(&clean::line(&night.started)),
            effect: format::change(shift.effect),
            relative: shift.effect,
            cells: shift.cells.iter().map(|cell| links.link(cell)).collect(),
            differs: shift.night.checked_sub(1).map_or_else(Vec::new, |b| differences(history, b, shift.night)),
        }
    });
    let note = |note: &stepwatch_record::waiver::Annotation| NoteView {
        x: times.of_day(history, &note.date),
        date: clean::line(&note.date),
        text: clean::line(&note.text),
    };
    let day = |started: &str| clean::line(started.get(..10).unwrap_or(started));
    let ends = [history.nights.first(), history.nights.last()];
    HistoryView {
        sentence: sentence(history, &changed, steady.len()),
        days: ends.map(|night| night.map_or_else(String::new, |night| day(&night.started))),
        shifts: shifts.collect(),
        notes: history.annotations.iter().map(note).collect(),
        nights: history.nights.iter().map(|night| [clean::line(&night.run), day(&night.started)]).collect(),
        changed,
        steady,
    }
}

fn rank(view: &TrendView) -> (u8, f64) {
    let of = |wanted: fn(&crate::chart::trend::TrendChange) -> bool| {
        view.changes.iter().filter(|change| wanted(change)).map(|change| change.relative.abs()).reduce(f64::max)
    };
    if let Some(size) = of(|change| change.word == "worse" && !change.shared) {
        return (0, size);
    }
    if let Some(size) = of(|change| change.word == "worse") {
        return (1, size);
    }
    of(|_| true).map_or((3, 0.0), |size| (2, size))
}

fn sentence(history: &History, changed: &[TrendView], steady: usize) -> String {
    let nights = format::count(history.nights.len(), "night", "nights");
    let trends = changed.len() + steady;
    if !history.searched {
        return format!(
            "{nights}, {}: too few to search for lasting changes.",
            format::count(trends, "trend", "trends")
        );
    }
    let lasting = |word: &str| changed.iter().filter(|t| t.changes.iter().any(|c| c.word == word)).count();
    let outliers = changed.iter().filter(|trend| trend.changes.is_empty()).count();
    format!(
        "{nights}, {}: {} with a lasting change for the worse, {} for the better, {} with bad nights only, {steady} steady.",
        format::count(trends, "trend", "trends"),
        lasting("worse"),
        lasting("better"),
        outliers
    )
}
