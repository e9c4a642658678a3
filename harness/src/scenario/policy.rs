//! `[policy]`: when a change matters. Its defaults are those of the record, so that a run folder without a policy means
//! the same.

use stepwatch_record::run::{Metric, Policy};
use toml::Spanned;

use super::diagnostic::{Problem, list, not_known, quoted};
use super::keys::{self, Holds};
use super::raw::RawScenario;
use super::read::Table;

/// Reads `[policy]`; `metrics` are those that some cell can have.
pub(super) fn read(raw: &RawScenario<'_, '_>, metrics: &[Metric], problems: &mut Vec<Problem>) -> Policy {
    let default = Policy::default();
    let Some(table) = &raw.policy else { return default };
    let gate = table.texts("gate", false, problems).map(|gate| known_metrics(&gate, metrics, problems));
    let mut share = |name: &str, otherwise: f64| {
        let inside = |number: f64| 0.0 < number && number < 1.0;
        table.number(name, inside, "a share between 0 and 1 (0.01 is 1 %)", problems).unwrap_or(otherwise)
    };
    let (equal_within, detect) = (share("equal_within", default.equal_within), share("detect", default.detect));
    let false_alarms = share("false_alarms", default.false_alarms);
    let not_negative = |number: f64| (0.0..1.0).contains(&number);
    let margin = table.number("margin", not_negative, "a share from 0 to below 1 (0.01 is 1 %)", problems);
    let (reference_runs, reference_same, reference_promote) = reference(table, &default, problems);
    Policy {
        gate: gate.unwrap_or(default.gate),
        margin: margin.unwrap_or(default.margin),
        equal_within,
        detect,
        false_alarms,
        reference_runs,
        reference_same,
        reference_promote,
    }
}

fn known_metrics(gate: &[Spanned<String>], metrics: &[Metric], problems: &mut Vec<Problem>) -> Vec<String> {
    for name in gate {
        if let Some(problem) = unknown_metric(name, metrics) {
            problems.push(problem);
        }
    }
    gate.iter().map(|name| name.get_ref().clone()).collect()
}

/// The problem of a metric that no cell can have.
pub(super) fn unknown_metric(name: &Spanned<String>, metrics: &[Metric]) -> Option<Problem> {
    let known = || metrics.iter().map(|metric| metric.name.as_str());
    if known().any(|metric| metric == name.get_ref()) {
        return None;
    }
    let title = format!("there is no metric {}", quoted(name.get_ref()));
    let label = not_known(name.get_ref(), known(), "no such metric");
    Some(Problem::at(name.span(), title, label).help(format!("the metrics of this scenario are {}", list(known()))))
}

fn reference(table: &Table<'_, '_>, default: &Policy, problems: &mut Vec<Problem>) -> (u32, Vec<String>, u32) {
    let otherwise = || (default.reference_runs, default.reference_same.clone(), default.reference_promote);
    let keys = keys::POLICY.iter().find_map(|key| match key.holds {
        Holds::Table(keys) => Some(keys),
        _ => None,
    });
    let (Some(inner), Some(keys)) = (table.table("reference", problems), keys) else { return otherwise() };
    let inner = Table::new("`reference`".to_owned(), inner.span(), inner.get_ref(), keys, problems);
    let runs = inner.integer("runs", 1, 1000, problems).and_then(|runs| u32::try_from(runs).ok());
    let promote = inner.integer("promote", 0, 1000, problems).and_then(|nights| u32::try_from(nights).ok());
    if promote == Some(1) {
        let title = "`promote` in `reference` must be 0 or at least 2".to_owned();
        let label = "one night agrees with nothing".to_owned();
        problems.push(Problem::at(inner.span.clone(), title, label));
    }
    let same = inner.texts("same", true, problems);
    for word in same.iter().flatten().filter(|word| !keys::SAME.contains(&word.get_ref().as_str())) {
        let title = format!("`same` in `reference` must be of {}", list(keys::SAME));
        problems.push(Problem::at(
            word.span(),
            title,
            not_known(word.get_ref(), keys::SAME.iter().copied(), "no such thing"),
        ));
    }
    let same = same.map(|same| same.into_iter().map(Spanned::into_inner).collect());
    (
        runs.unwrap_or(default.reference_runs),
        same.unwrap_or_else(|| default.reference_same.clone()),
        promote.unwrap_or(default.reference_promote),
    )
}
