//! Findings on what all cells share against the reference: a machine that is another than it was, by its canary, and changes of
//! most cells at once, which are one event and not one each.

use stepwatch_record::comparison::{Change, Verdict};
use stepwatch_record::finding::{Finding, Kind, Severity};

use crate::compare::{Canary, Comparison, Shift};
use crate::compatible;
use crate::stats;
use crate::wording::{change as told, count, is_speed, percent, percent_range, spoken};

/// Fewest cells that are a crowd.
const CROWD: usize = 3;

/// The canary's shift against the reference runs, beyond its noise and the policy's margin.
pub(super) fn machine(comparison: &Comparison<'_>, changes: &[Change]) -> Option<Finding> {
    let policy = &comparison.run.manifest.policy;
    let shift = comparison.machine_shift().filter(|shift| shift.point.exp_m1().abs() > policy.margin)?;
    let mut evidence = vec![line("product", shift, comparison.usable.len())];
    let copy = Canary::read_copy(comparison.summary, &comparison.usable);
    evidence.extend(
        copy.and_then(|copy| copy.shift(1.0 - policy.false_alarms))
            .map(|shift| line("copy", shift, comparison.usable.len())),
    );
    let explained: Vec<f64> =
        changes.iter().filter(|change| change.gated).filter_map(|change| change.machine).collect();
    if let Some(middle) = stats::median(&explained) {
        evidence.push(format!(
            "of the change of {} it explains {} in the middle",
            count(explained.len(), "gated figure"),
            percent(middle)
        ));
    }
    Some(Finding {
        kind: Kind::MachineShift,
        severity: Severity::Medium,
        sentence: format!(
            "the machine is {} than in the reference runs: so says its canary, whose work never changes; cells are judged on what remains",
            compared(shift.point.exp_m1())
        ),
        evidence,
        next_step: "look for what changed (clock, power, temperature, cooling, other processes); if the machine stays so, accept \
                    runs of it"
            .to_owned(),
        command: String::new(),
        cells: Vec::new(),
    })
}

/// Metrics of speed in which most cells changed in one direction: one event.
pub(super) fn common(comparison: &Comparison<'_>, changes: &[Change]) -> Vec<Finding> {
    let mut metrics: Vec<&str> = Vec::new();
    for change in changes.iter().filter(|change| change.gated && is_speed(&change.metric)) {
        if !metrics.contains(&change.metric.name.as_str()) {
            metrics.push(&change.metric.name);
        }
    }
    let shifts = metrics.iter().flat_map(|metric| {
        let better = Crowd::of(changes, metric, &[Verdict::Improved]);
        [Crowd::of(changes, metric, &[Verdict::Regressed, Verdict::KnownRegressed]), better]
    });
    shifts.flatten().map(|crowd| crowd.finding(comparison)).collect()
}

/// The changes of most cells at once.
pub(crate) struct Crowd<'change> {
    changes: Vec<&'change Change>,
    compared: usize,
}

impl<'change> Crowd<'change> {
    /// The changes of one gated metric with one of these verdicts, if they are three or more and at least half of those compared.
    pub(crate) fn of(changes: &'change [Change], metric: &str, verdicts: &[Verdict]) -> Option<Self> {
        let compared: Vec<&Change> = changes
            .iter()
            .filter(|change| change.gated && change.metric.name == metric && change.effect.is_some())
            .collect();
        let moved: Vec<&Change> =
            compared.iter().filter(|change| verdicts.contains(&change.verdict)).copied().collect();
        let crowd = moved.len() >= CROWD && 2 * moved.len() >= compared.len();
        crowd.then_some(Self { changes: moved, compared: compared.len() })
    }

    /// The change in the middle of them.
    pub(crate) fn middle(&self) -> f64 {
        stats::median(&self.changes.iter().filter_map(|change| change.effect).collect::<Vec<f64>>()).unwrap_or(0.0)
    }

    fn finding(&self, comparison: &Comparison<'_>) -> Finding {
        let metric = &self.changes[0].metric;
        let effects: Vec<f64> = self.changes.iter().filter_map(|change| change.effect.map(f64::abs)).collect();
        let (least, most) = effects.iter().fold((f64::INFINITY, 0.0_f64), |(l, m), size| (l.min(*size), m.max(*size)));
        let mut evidence = vec![format!("by {} each", percent_range(least, most))];
        evidence.push(match comparison.canary_shift() {
            None if comparison.paired => "rounds of a pair share the machine: it is not the machine's".to_owned(),
            None => "no canary was compared: code and machine cannot be told apart".to_owned(),
            Some(shift) if shift.is_shown() => format!(
                "the canary is {}, which is taken out already: what remains is not the machine's",
                compared(shift.point.exp_m1())
            ),
            Some(_) => "the canary did not move: it is not the machine's".to_owned(),
        });
        if let Some(newest) = comparison.usable.first() {
            evidence.extend(compatible::differences(comparison.summary, newest));
        }
        Finding {
            kind: Kind::CommonShift,
            severity: Severity::High,
            sentence: format!(
                "{} of {} changed together, {} in the middle: one event and not {}",
                self.changes.len(),
                count(self.compared, "cell"),
                told(metric, self.middle()),
                self.changes.len()
            ),
            evidence,
            next_step: format!(
                "look for what all of them share (build, library, driver, setting) before the {} of any one of them",
                spoken(metric)
            ),
            command: String::new(),
            cells: self.changes.iter().map(|change| change.cell.clone()).collect(),
        }
    }
}

fn line(name: &str, shift: Shift, runs: usize) -> String {
    let share = shift.point.exp_m1();
    let (near, far) = ((share.abs() - shift.reach).max(0.0), share.abs() + shift.reach);
    if !shift.is_shown() {
        return format!("canary's {name}: no change shown ({} or less)", percent(far));
    }
    format!(
        "canary's {name}: {} than in {} ({})",
        compared(share),
        count(runs, "reference run"),
        percent_range(near, far)
    )
}

fn compared(share: f64) -> String {
    format!("{} {}", percent(share.abs()), if share < 0.0 { "slower" } else { "faster" })
}
