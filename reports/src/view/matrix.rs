//! The matrix: cells laid out by two of their axes, one panel per combination of the others. Knows positions and texts,
//! not markup; the page's script lays out the same slots by other axes.

use serde::Serialize;

use super::cell::{ABSENT, CellView};
use super::change::ChangeView;
use super::column::Column;
use super::mark::{Mark, Tone};

/// A parameter in which the cells differ, with its values in the order of the scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Axis {
    /// The parameter's name.
    pub name: String,
    /// Its values as text; `–` stands for cells that do not have it.
    pub values: Vec<String>,
}

/// What one cell shows for one metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slot {
    /// The figure in the column's scale, or how the cell ended, or `–`.
    pub text: String,
    /// Length of its bar, 0 to 100, of the column's largest figure.
    pub bar: u8,
    /// The verdict on this metric, or the cell's end where it has no figure.
    pub mark: Option<Mark>,
    /// The change against the reference with its sign, or empty.
    pub change: String,
    /// How deep it is shaded, 0 to 100: by the size of a change that is better or worse.
    pub heat: u8,
    /// Whether it is blind.
    pub blind: bool,
    /// The interval in the column's scale, or empty.
    pub interval: String,
    /// Interval and counts in words.
    pub detail: String,
}

/// One slot at its place, with where the page shows its cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Placed {
    /// The cell's anchor.
    pub anchor: String,
    /// What people call the cell.
    pub cell: String,
    /// What it shows.
    pub slot: Slot,
}

/// One row of a panel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The row axis' value.
    pub label: String,
    /// For each column, the cells there: one, or none where the scenario has no such cell.
    pub places: Vec<Vec<Placed>>,
}

/// One table of the matrix.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Panel {
    /// The values of the axes that are neither rows nor columns; empty if there are none.
    pub title: String,
    /// The column axis' values that occur here.
    pub columns: Vec<String>,
    /// The rows that occur here.
    pub rows: Vec<Row>,
}

/// The matrix as first shown: precision down, compile across, the first gated metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Matrix {
    /// Index of the row axis in `View::axes`, if there is an axis at all.
    pub rows: Option<usize>,
    /// Index of the column axis, if there are two.
    pub columns: Option<usize>,
    /// Index of the metric in `View::columns`, if anything was measured.
    pub metric: Option<usize>,
    /// The tables.
    pub panels: Vec<Panel>,
    /// The same as one table, where panels would be slivers of a row or two: their columns, and rows padded to them.
    pub together: Option<Together>,
    /// Whether a slot has no more than its figure: nothing was compared.
    pub bare: bool,
}

/// Panels that share one head of columns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Together {
    /// The column axis' values that occur anywhere.
    pub columns: Vec<String>,
    /// A group of rows for each panel.
    pub groups: Vec<Panel>,
}

/// Panels beyond which slivers are put together, and the rows that a panel has at the least on average to be none.
pub(crate) const MANY_PANELS: usize = 3;
pub(crate) const ROWS_OF_A_PANEL: usize = 3;

/// One table of panels that are slivers; `None` where they are not.
fn together(panels: &[Panel], axis: Option<&Axis>) -> Option<Together> {
    let rows: usize = panels.iter().map(|panel| panel.rows.len()).sum();
    if panels.len() <= MANY_PANELS || rows >= ROWS_OF_A_PANEL * panels.len() {
        return None;
    }
    let occurs = |value: &&String| panels.iter().any(|panel| panel.columns.contains(value));
    let columns: Vec<String> =
        axis.map_or_else(|| vec![String::new()], |axis| axis.values.iter().filter(occurs).cloned().collect());
    let padded = |panel: &Panel, row: &Row| Row {
        label: row.label.clone(),
        places: columns
            .iter()
            .map(|column| {
                let at = panel.columns.iter().position(|known| known == column);
                at.map_or_else(Vec::new, |at| row.places[at].clone())
            })
            .collect(),
    };
    let group = |panel: &Panel| Panel {
        title: panel.title.clone(),
        columns: Vec::new(),
        rows: panel.rows.iter().map(|row| padded(panel, row)).collect(),
    };
    Some(Together { groups: panels.iter().map(group).collect(), columns })
}

/// The parameters in which cells differ, in the order in which the scenario names them; their values too, but that `compile`
/// climbs. That another workload has none of a name
/// is no difference: the workload says it.
pub(crate) fn axes(cells: &[CellView]) -> Vec<Axis> {
    let mut names: Vec<&str> = Vec::new();
    let named = cells.iter().flat_map(|cell| cell.axes.iter().map(String::as_str));
    let others = cells.iter().flat_map(|cell| cell.parameters.iter().map(|fact| fact.name.as_str()));
    for name in named.chain(others) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
        .into_iter()
        .filter_map(|name| {
            let mut values: Vec<String> = Vec::new();
            for cell in cells {
                let value = cell.value(name);
                if !values.iter().any(|known| known == value) {
                    values.push(value.to_owned());
                }
            }
            if name == "compile" {
                values.sort_by_key(|value| passes(value));
            }
            let known = values.iter().filter(|value| *value != ABSENT).count();
            (known > 1).then(|| Axis { name: name.to_owned(), values })
        })
        .collect()
}

/// How far up the ladder of passes a value of `compile` stands.
fn passes(value: &str) -> usize {
    match value {
        "none" => 0,
        "full" | ABSENT => usize::MAX,
        named => named.split('+').count(),
    }
}

/// What `cell` shows for `column`.
pub(crate) fn slot(cell: &CellView, index: usize, column: &Column) -> Slot {
    let change = cell.changes.iter().find(|change| change.metric == column.name);
    let figure = cell.figures.iter().find(|figure| figure.column == index);
    let Some(figure) = figure else {
        let ended_well = cell.end.mark.word == "completed";
        let mark = (!ended_well).then_some(cell.end.mark);
        let text = if ended_well { "–" } else { cell.end.mark.word };
        let detail = if ended_well { "not measured by this cell".into() } else { cell.end.reason.clone() };
        return Slot {
            text: text.into(),
            bar: 0,
            mark,
            change: String::new(),
            heat: 0,
            blind: false,
            interval: String::new(),
            detail,
        };
    };
    let broken = cell.end.mark.tone == Tone::Bad;
    let verdict = change.filter(|change| change.gated || change.mark.tone != Tone::Calm).map(|change| change.mark);
    Slot {
        text: figure.text.clone(),
        bar: bar(figure.point, column.largest),
        mark: if broken { Some(cell.end.mark) } else { verdict },
        heat: change.map_or(0, heat),
        change: change.filter(|c| c.raw.effect.is_some()).map_or_else(String::new, |c| c.effect.clone()),
        blind: change.is_some_and(|change| change.blind),
        interval: figure.interval.clone(),
        detail: figure.detail(&column.scale.unit),
    }
}

/// The change that has the full shade, relative.
const FULL_SHADE: f64 = 0.05;

fn heat(change: &ChangeView) -> u8 {
    let told = matches!(change.mark.tone, Tone::Bad | Tone::Good | Tone::Warn);
    let size = change.raw.effect.filter(|_| told).map_or(0.0, |effect| effect.abs() / FULL_SHADE);
    // Within 0…100 by construction, so the cast cannot wrap.
    (size * 100.0).clamp(0.0, 100.0) as u8
}

fn bar(value: f64, largest: f64) -> u8 {
    if !(value > 0.0 && largest > 0.0) {
        return 0;
    }
    // Within 0…100 by construction, so the cast cannot wrap.
    (value / largest * 100.0).round().clamp(0.0, 100.0) as u8
}

/// The matrix as first shown.
pub(crate) fn matrix(axes: &[Axis], cells: &[CellView], columns: &[Column], slots: &[Vec<Slot>]) -> Matrix {
    let named = |name: &str| axes.iter().position(|axis| axis.name == name);
    let rows = named("precision").or_else(|| (0..axes.len()).find(|i| axes[*i].name != "compile")).or(named("compile"));
    let other = |i: &usize| Some(*i) != rows;
    let across = named("compile").filter(other).or_else(|| (0..axes.len()).find(other));
    let metric = columns.iter().position(|column| column.gated).or((!columns.is_empty()).then_some(0));
    let shown = |panels: Vec<Panel>, bare| Matrix {
        together: together(&panels, across.map(|i| &axes[i])),
        rows,
        columns: across,
        metric,
        panels,
        bare,
    };
    let Some(metric_index) = metric else {
        return shown(ended_only(rows, across, axes, cells), false);
    };
    let place = |cell: usize| Placed {
        anchor: cells[cell].anchor.clone(),
        cell: cells[cell].name.clone(),
        slot: slots[cell][metric_index].clone(),
    };
    let plain = |slot: &Slot| slot.mark.is_none() && slot.change.is_empty() && !slot.blind;
    shown(panels(rows, across, axes, cells, &place), slots.iter().all(|slots| plain(&slots[metric_index])))
}

/// Where nothing was measured, the matrix still shows how every cell ended.
fn ended_only(rows: Option<usize>, across: Option<usize>, axes: &[Axis], cells: &[CellView]) -> Vec<Panel> {
    let place = |cell: usize| {
        let cell = &cells[cell];
        let slot = Slot {
            text: cell.end.mark.word.into(),
            bar: 0,
            mark: Some(cell.end.mark),
            change: String::new(),
            heat: 0,
            blind: false,
            interval: String::new(),
            detail: cell.end.reason.clone(),
        };
        Placed { anchor: cell.anchor.clone(), cell: cell.name.clone(), slot }
    };
    panels(rows, across, axes, cells, &place)
}

fn panels(
    rows: Option<usize>,
    across: Option<usize>,
    axes: &[Axis],
    cells: &[CellView],
    place: &dyn Fn(usize) -> Placed,
) -> Vec<Panel> {
    let value = |cell: &CellView, axis: Option<usize>| axis.map_or("", |i| cell.value(&axes[i].name)).to_owned();
    let title = |cell: &CellView| {
        let rest = axes.iter().enumerate().filter(|(i, _)| Some(*i) != rows && Some(*i) != across);
        let rest = rest.map(|(_, axis)| (&axis.name, cell.value(&axis.name))).filter(|(_, value)| *value != ABSENT);
        rest.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(" · ")
    };
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        let title = title(cell);
        match groups.iter_mut().find(|(known, _)| *known == title) {
            Some((_, members)) => members.push(index),
            None => groups.push((title, vec![index])),
        }
    }
    let occurring = |members: &[usize], axis: Option<usize>| -> Vec<String> {
        let Some(axis) = axis else { return vec![String::new()] };
        let occurs = |v: &&String| members.iter().any(|i| cells[*i].value(&axes[axis].name) == v.as_str());
        axes[axis].values.iter().filter(occurs).cloned().collect()
    };
    groups
        .into_iter()
        .map(|(title, members)| {
            let columns = occurring(&members, across);
            let row = |label: String| {
                let here = |column: &String| {
                    let fits = |i: &&usize| value(&cells[**i], rows) == label && value(&cells[**i], across) == *column;
                    members.iter().filter(fits).map(|i| place(*i)).collect()
                };
                let places = columns.iter().map(here).collect();
                Row { label, places }
            };
            let rows = occurring(&members, rows).into_iter().map(row).collect();
            Panel { title, columns, rows }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(title: &str, columns: &[&str], rows: usize) -> Panel {
        let slot = Slot {
            text: title.into(),
            bar: 0,
            mark: None,
            change: String::new(),
            heat: 0,
            blind: false,
            interval: String::new(),
            detail: String::new(),
        };
        let placed = vec![Placed { anchor: String::new(), cell: title.into(), slot }];
        let row = |at: usize| Row { label: at.to_string(), places: vec![placed.clone(); columns.len()] };
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        Panel { title: title.into(), columns: columns.clone(), rows: (0..rows).map(row).collect() }
    }

    #[test]
    fn compile_climbs_from_none_to_full() {
        let mut values = ["none", "full", "layout", "layout+fusion", "layout+fusion+graph", "graph"];
        values.sort_by_key(|value| passes(value));
        assert_eq!(values, ["none", "layout", "graph", "layout+fusion", "layout+fusion+graph", "full"]);
    }

    #[test]
    fn panels_of_a_row_or_two_are_one_table_with_every_figure_under_its_column() {
        let axis = Axis { name: "compile".into(), values: ["none", "full", "graph"].map(String::from).to_vec() };
        let panels = [
            panel("a", &["none", "full"], 2),
            panel("b", &["full"], 1),
            panel("c", &["graph"], 1),
            panel("d", &["none"], 1),
        ];
        let table = together(&panels, Some(&axis)).expect("5 rows in 4 panels are slivers");
        assert_eq!(table.columns, ["none", "full", "graph"]);
        let figures =
            |group: usize| -> Vec<usize> { table.groups[group].rows[0].places.iter().map(Vec::len).collect() };
        assert_eq!([0, 1, 2, 3].map(figures), [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]);
        assert_eq!(table.groups.iter().map(|group| group.rows.len()).sum::<usize>(), 5);
        // Three panels are few, and four of three rows each stand by themselves.
        assert_eq!(together(&panels[..3], Some(&axis)), None);
        let tall = ["a", "b", "c", "d"].map(|title| panel(title, &["none"], 3));
        assert_eq!(together(&tall, Some(&axis)), None);
    }
}
