//! What a history says of the run that ends it: since when each metric of each cell has its level, and whether the run stands
//! alone. Searches nothing itself.

use stepwatch_record::trend::{History, LatestChange, Trend, Value};

use crate::stats::median;

/// The newest lasting change of every trend that has one, and every trend whose last night stands alone; in the order of the
/// trends. A trend without a value in the last night says nothing of it and is left out.
#[must_use]
pub fn latest(history: &History) -> Vec<LatestChange> {
    history.trends.iter().flat_map(|trend| [lasting(history, trend), alone(history, trend)]).flatten().collect()
}

/// The value of the history's last night.
fn newest(history: &History, trend: &Trend) -> Option<Value> {
    trend.values.get(history.nights.len().checked_sub(1)?).copied().flatten()
}

fn lasting(history: &History, trend: &Trend) -> Option<LatestChange> {
    newest(history, trend)?;
    let change = trend.changes.last()?;
    let night = history.nights.get(change.night)?;
    let run = |index: usize| history.nights.get(index).map(|night| night.run.clone());
    Some(LatestChange {
        cell: trend.cell.clone(),
        metric: trend.metric.clone(),
        shape: Some(change.shape),
        run: night.run.clone(),
        started: night.started.clone(),
        between: [run(change.earliest)?, run(change.latest)?],
        effect: six_digits(change.effect),
        runs: trend.values.iter().skip(change.night).flatten().count(),
        shared: change.shared,
    })
}

fn alone(history: &History, trend: &Trend) -> Option<LatestChange> {
    let value = newest(history, trend)?;
    let last = history.nights.len() - 1;
    let from = trend.changes.last().map_or(0, |change| change.night);
    let level: Vec<f64> = trend.values.get(from..last)?.iter().flatten().map(|value| value.point).collect();
    let night = trend.outliers.contains(&last).then(|| history.nights.last())??;
    Some(LatestChange {
        cell: trend.cell.clone(),
        metric: trend.metric.clone(),
        shape: None,
        run: night.run.clone(),
        started: night.started.clone(),
        between: [night.run.clone(), night.run.clone()],
        effect: six_digits(value.point / median(&level)? - 1.0),
        runs: 1,
        shared: false,
    })
}

/// A change to six significant digits, far below any noise: so short a number reads back as it was written, whatever reads it.
fn six_digits(effect: f64) -> f64 {
    format!("{effect:.5e}").parse().unwrap_or(effect)
}

#[cfg(test)]
mod tests {
    use stepwatch_record::CellId;
    use stepwatch_record::trend::{Night, Shape};

    use super::*;
    use crate::history::{Series, trends};

    /// 60 nights of one cell around 100, with `shift` on the log scale; `None` where there is none.
    fn told(shift: impl Fn(usize) -> Option<f64>) -> Vec<LatestChange> {
        let mut random = crate::tests::random::Random::seeded(5);
        let night =
            |index| Night { run: format!("r{index}"), started: format!("day {index}"), facts: Default::default() };
        let mut value = |index: usize| {
            let noise = 0.002 * random.normal();
            let point = 100.0 * (noise + shift(index)?).exp();
            Some(Value { point, low: point, high: point })
        };
        let values = (0..60).map(&mut value).collect();
        let series = Series { cell: CellId("c".into()), metric: "tokens_per_second".into(), values };
        latest(&trends((0..60).map(night).collect(), vec![series]))
    }

    #[test]
    fn a_level_is_told_since_when_and_a_flat_one_not() {
        assert_eq!(told(|_| Some(0.0)), vec![]);
        let found = told(|night| Some(if night < 40 { 0.0 } else { -0.05 }));
        assert_eq!(found.len(), 1, "{found:?}");
        let change = &found[0];
        assert_eq!((change.shape, change.run.as_str(), change.started.as_str()), (Some(Shape::Step), "r40", "day 40"));
        assert!(change.runs == 20 && (change.effect + 0.0488).abs() < 0.005, "{change:?}");
    }

    #[test]
    fn of_a_change_that_was_taken_back_the_way_back_is_told() {
        let found = told(|night| Some(if (20..40).contains(&night) { -0.05 } else { 0.0 }));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].run == "r40" && found[0].effect > 0.04, "{found:?}");
    }

    #[test]
    fn a_run_alone_is_no_lasting_change() {
        let found = told(|night| Some(if night == 59 { -0.08 } else { 0.0 }));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].shape.is_none() && found[0].run == "r59" && found[0].runs == 1, "{found:?}");
        assert!((found[0].effect + 0.077).abs() < 0.006, "{found:?}");
        assert_eq!(told(|night| Some(if night == 50 { -0.08 } else { 0.0 })), vec![], "an old bad night is no news");
    }

    #[test]
    fn a_cell_that_the_run_has_no_value_of_says_nothing() {
        assert_eq!(told(|night| (night < 59).then_some(if night < 40 { 0.0 } else { -0.05 })), vec![]);
        assert_eq!(latest(&History::default()), vec![]);
    }
}
