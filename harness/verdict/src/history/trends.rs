//! The search over all cells and metrics of a scenario, as a record that reports draw.

use stepwatch_record::CellId;
use stepwatch_record::trend::{ChangePoint, History, Night, Shift, Trend, Value};

use super::{CommonShift, FEWEST_NIGHTS, common_shifts, history};

/// One metric of one cell over the nights.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Which cell.
    pub cell: CellId,
    /// Which metric.
    pub metric: String,
    /// One value per night.
    pub values: Vec<Option<Value>>,
}

/// Searches every series; shifts are looked for among the cells of one metric. Every series holds one value per night.
#[must_use]
pub fn trends(nights: Vec<Night>, series: Vec<Series>) -> History {
    let points = |series: &Series| -> Vec<Option<f64>> {
        series.values.iter().map(|value| value.map(|value| value.point)).collect()
    };
    let found: Vec<super::History> = series.iter().map(|series| history(&points(series))).collect();
    let mut metrics: Vec<&str> = series.iter().map(|series| series.metric.as_str()).collect();
    metrics.sort_unstable();
    metrics.dedup();
    let mut shifts = Vec::new();
    for metric in metrics {
        let members: Vec<usize> = (0..series.len()).filter(|index| series[*index].metric == metric).collect();
        let of_metric: Vec<super::History> = members.iter().map(|index| found[*index].clone()).collect();
        let shift = |shift: CommonShift| Shift {
            metric: metric.to_owned(),
            night: shift.night,
            cells: shift.cells.iter().map(|cell| series[members[*cell]].cell.clone()).collect(),
            effect: shift.effect,
        };
        shifts.extend(common_shifts(&of_metric).into_iter().map(shift));
    }
    let trends = series.into_iter().zip(found).map(|(series, found)| trend(series, found, &shifts)).collect();
    History { searched: nights.len() >= FEWEST_NIGHTS, nights, trends, shifts, annotations: Vec::new() }
}

fn trend(series: Series, found: super::History, shifts: &[Shift]) -> Trend {
    let changes = found.changes.into_iter().map(|change| ChangePoint {
        shared: shifts.iter().any(|shift| {
            shift.metric == series.metric
                && shift.cells.contains(&series.cell)
                && (shift.effect > 0.0) == (change.effect > 0.0)
                && change.earliest <= shift.night + 1
                && shift.night <= change.latest + 1
        }),
        night: change.night,
        earliest: change.earliest,
        latest: change.latest,
        shape: change.shape,
        effect: change.effect,
    });
    let changes = changes.collect();
    Trend { cell: series.cell, metric: series.metric, values: series.values, changes, outliers: found.outliers }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cells whose level falls by a tenth at night 30, but the last, which stays; one bad night each.
    fn nights(cells: usize) -> History {
        let night = |index| Night { run: format!("r{index}"), started: String::new(), facts: Default::default() };
        let value = |cell: usize, night: usize| {
            let level = if night < 30 || cell + 1 == cells { 100.0 } else { 90.0 };
            let point = if night == 45 + cell { 50.0 } else { level + (night * 7 % 5) as f64 * 0.1 };
            Some(Value { point, low: point, high: point })
        };
        let series = |cell| Series {
            cell: CellId(format!("c{cell}")),
            metric: "tokens_per_second".into(),
            values: (0..60).map(|night| value(cell, night)).collect(),
        };
        trends((0..60).map(night).collect(), (0..cells).map(series).collect())
    }

    #[test]
    fn a_change_of_most_cells_is_shared_and_one_cell_alone_shares_nothing() {
        let found = nights(4);
        assert_eq!(found.shifts.len(), 1, "{:?}", found.shifts);
        assert_eq!((found.shifts[0].night, found.shifts[0].cells.len()), (30, 3));
        assert!(found.trends[0].changes[0].shared && found.trends[3].changes.is_empty(), "{:?}", found.trends[3]);
        assert_eq!(found.trends[1].outliers, [46]);
        let alone = nights(2);
        assert!(alone.shifts.is_empty() && !alone.trends[0].changes[0].shared, "{:?}", alone.trends[0].changes);
    }

    #[test]
    fn too_few_nights_are_said_not_searched() {
        assert!(!trends(Vec::new(), Vec::new()).searched);
    }
}
