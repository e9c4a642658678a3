//! Waivers: which regressions are known and therefore fail no run, and what became of every waiver. A waived regression keeps
//! its numbers and its place in every report; it only changes its verdict to `known-regressed`.

use stepwatch_record::comparison::{Change, Verdict};
use stepwatch_record::run::Metric;
use stepwatch_record::waiver::{Annotation, JudgedWaiver, Waiver, WaiverState};

use crate::wording::{count, percent};

/// What one waiver met among the changes.
#[derive(Default)]
struct Met {
    /// Changes that it speaks of, whatever their verdict.
    changes: usize,
    waived: usize,
    exceeded: usize,
    /// Regressions that it would have waived had it not expired.
    too_late: usize,
}

/// Applies the waivers to the changes of a run that has these `metrics` and began on `day` (`YYYY-MM-DD`); says what each did.
///
/// The day of the run decides, not today: a report that is made again of an old run says what it said. Where several waivers
/// speak of one regression, any that holds and reaches far enough waives it.
#[must_use]
pub fn waive(changes: &mut [Change], waivers: &[Waiver], metrics: &[Metric], day: &str) -> Vec<JudgedWaiver> {
    let mut met: Vec<Met> = waivers.iter().map(|_| Met::default()).collect();
    for change in changes {
        let speaks = |waiver: &Waiver| waiver.metric == change.metric.name && waiver.cells.contains(&change.cell);
        let mine: Vec<usize> = (0..waivers.len()).filter(|i| speaks(&waivers[*i])).collect();
        mine.iter().for_each(|i| met[*i].changes += 1);
        if change.verdict != Verdict::Regressed {
            continue;
        }
        let size = change.effect.map_or(f64::INFINITY, f64::abs);
        let holds = |i: &&usize| waivers[**i].expires.as_str() >= day;
        let reaches = |i: &&usize| waivers[**i].limit >= size;
        if let Some(&i) = mine.iter().find(|i| holds(i) && reaches(i)) {
            met[i].waived += 1;
            change.verdict = Verdict::KnownRegressed;
            change.reason = "waived".to_owned();
            change.why.push_str(&format!("; {}", terms(&waivers[i])));
            continue;
        }
        for i in &mine {
            let waiver = &waivers[*i];
            if holds(&i) {
                met[*i].exceeded += 1;
                change.why.push_str(&format!("; more than the {} that {} waived", percent(waiver.limit), waiver.owner));
            } else {
                met[*i].too_late += usize::from(reaches(&i));
                change.why.push_str(&format!("; {}'s waiver expired on {}", waiver.owner, waiver.expires));
            }
        }
    }
    waivers.iter().zip(met).map(|(waiver, met)| judged(waiver, &met, metrics, day)).collect()
}

/// `waived up to 3.0 % until 2026-12-31 by anna: cuDNN 9.19 …`.
fn terms(waiver: &Waiver) -> String {
    format!("waived up to {} until {} by {}: {}", percent(waiver.limit), waiver.expires, waiver.owner, waiver.reason)
}

fn judged(waiver: &Waiver, met: &Met, metrics: &[Metric], day: &str) -> JudgedWaiver {
    let what = format!("{} of {}", waiver.metric, waiver.cell);
    let expired = waiver.expires.as_str() < day;
    let of = |number: usize| count(number, "regression");
    let (state, sentence) = match met {
        _ if expired && met.too_late > 0 => (
            WaiverState::Expired,
            format!(
                "{what}: expired on {}, so {} counted that it would have waived: {} fixes it or waives it anew",
                waiver.expires,
                of(met.too_late),
                waiver.owner
            ),
        ),
        _ if expired => {
            (WaiverState::Expired, format!("{what}: expired on {} and would waive nothing: remove it", waiver.expires))
        }
        Met { exceeded: 1.., .. } => (
            WaiverState::Exceeded,
            format!("{what}: {} beyond its limit, {} within it; {}", of(met.exceeded), met.waived, terms(waiver)),
        ),
        Met { waived: 1.., .. } => (WaiverState::Waives, format!("{what}: {}; {}", of(met.waived), terms(waiver))),
        _ if waiver.cells.is_empty() => (
            WaiverState::Unused,
            format!("{what}: this run has no such cell, so nothing is waived: `stepwatch list` shows the cells' names"),
        ),
        _ if !metrics.iter().any(|metric| metric.name == waiver.metric) => {
            let known: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
            let known = known.join(", ");
            (
                WaiverState::Unused,
                format!("{what}: this run has no such metric, so nothing is waived; its metrics are {known}"),
            )
        }
        Met { changes: 0, .. } => {
            (WaiverState::Unused, format!("{what}: nothing of it was compared in this run, so nothing is waived"))
        }
        Met { .. } => (
            WaiverState::Unused,
            format!("{what}: no regression was shown, so nothing is waived: remove it if it is fixed"),
        ),
    };
    JudgedWaiver { waiver: waiver.clone(), state, sentence }
}

/// The annotations that fall between the oldest run compared with and the run itself, both days included; oldest first.
#[must_use]
pub fn annotations_between(annotations: &[Annotation], from: &str, to: &str) -> Vec<Annotation> {
    let inside = |note: &&Annotation| (from..=to).contains(&note.date.as_str());
    let mut notes: Vec<Annotation> = annotations.iter().filter(inside).cloned().collect();
    notes.sort_by(|a, b| a.date.cmp(&b.date));
    notes
}

/// The day of an RFC 3339 time in UTC.
#[must_use]
pub fn day(time: &str) -> &str {
    time.get(..10).unwrap_or(time)
}
