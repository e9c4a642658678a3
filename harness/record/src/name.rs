//! What people call the cells of a run: short, and different for cells that differ. An id stays the same whatever is added to a
//! scenario, so it shows either too little or too much of what tells one run's cells apart.

use std::collections::{BTreeMap, BTreeSet};

use crate::cell::{Cell, CellId, Scalar, safe};

/// The names of one run's cells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<CellId, String>);

impl Names {
    /// `454m/bf16/cudnn/full/batch_size=1`: the readable part of the id without the parameters spelled out in it, and those in
    /// which cells differ that would be called alike. A value that most cells have goes without saying.
    #[must_use]
    pub fn of(cells: &[Cell]) -> Self {
        let mut alike: BTreeMap<String, Vec<&Cell>> = BTreeMap::new();
        for cell in cells {
            alike.entry(base(cell)).or_default().push(cell);
        }
        let telling: BTreeSet<&str> = alike.values().flat_map(|group| differing(group)).collect();
        let telling: Vec<(&str, Option<String>)> = telling.into_iter().map(|name| (name, usual(cells, name))).collect();
        let name = |cell: &Cell| {
            let said = telling.iter().filter_map(|(name, usual)| {
                let value = cell.parameters.get(*name)?.to_string();
                (usual.as_ref() != Some(&value)).then(|| format!("/{name}={value}"))
            });
            base(cell) + &said.collect::<String>()
        };
        let named: Vec<(&CellId, String)> = cells.iter().map(|cell| (&cell.id, name(cell))).collect();
        let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
        named.iter().for_each(|(_, name)| *taken.entry(name).or_default() += 1);
        let unique = |id: &CellId, name: &str| if taken[name] > 1 { id.0.clone() } else { name.to_owned() };
        Self(named.iter().map(|(id, name)| ((*id).clone(), unique(id, name))).collect())
    }

    /// The name of a cell; of one that is not in the run the readable part of its id.
    #[must_use]
    pub fn get<'a>(&'a self, id: &'a CellId) -> &'a str {
        self.0.get(id).map_or_else(|| id.readable(), String::as_str)
    }

    /// A text for people, or a command of theirs, with names where it has ids.
    #[must_use]
    pub fn said(&self, text: &str) -> String {
        if !text.contains('~') {
            return text.to_owned();
        }
        self.0.iter().fold(text.to_owned(), |text, (id, name)| text.replace(&id.0, name))
    }
}

/// The readable part of the id without what is spelled out as `name=value`.
fn base(cell: &Cell) -> String {
    let spelled: BTreeSet<String> =
        cell.parameters.iter().map(|(name, value)| safe(&format!("{name}={value}"))).collect();
    let parts: Vec<&str> = cell.id.readable().split('/').filter(|part| !spelled.contains(*part)).collect();
    parts.join("/")
}

/// Parameters that not all of some cells have alike.
fn differing<'a>(cells: &[&'a Cell]) -> Vec<&'a str> {
    let names: BTreeSet<&str> = cells.iter().flat_map(|cell| cell.parameters.keys()).map(String::as_str).collect();
    let differs = |name: &&str| cells.iter().any(|cell| cell.parameters.get(*name) != cells[0].parameters.get(*name));
    names.into_iter().filter(differs).collect()
}

/// The value of a parameter that more than half of the cells that have it have, if there is one.
fn usual(cells: &[Cell], name: &str) -> Option<String> {
    let values: Vec<String> =
        cells.iter().filter_map(|cell| cell.parameters.get(name)).map(Scalar::to_string).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    values.iter().for_each(|value| *counts.entry(value).or_default() += 1);
    counts.into_iter().find(|(_, count)| 2 * count > values.len()).map(|(value, _)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(readable: &[&str], parameters: &[(&str, Scalar)]) -> Cell {
        let parameters: BTreeMap<String, Scalar> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Cell { id: CellId::new(readable, &parameters), workload: "w".into(), parameters, axes: vec![] }
    }

    fn names(cells: &[Cell]) -> Vec<String> {
        let names = Names::of(cells);
        cells.iter().map(|cell| names.get(&cell.id).to_owned()).collect()
    }

    #[test]
    fn what_most_cells_have_goes_without_saying() {
        let step = |precision: &str, batch: i64, head: &str| {
            let parameters = [("precision", precision.into()), ("batch_size", batch.into()), ("head", head.into())];
            cell(&["454m", precision], &parameters)
        };
        let cells = [
            step("bf16", 16, "bf16"),
            step("bf16", 1, "bf16"),
            step("fp8-delayed", 16, "bf16"),
            step("fp8-delayed", 16, "fp8"),
            step("fp8-rowwise", 4, "bf16"),
            step("fp8-tensorwise", 16, "bf16"),
        ];
        let expected = [
            "454m/bf16",
            "454m/bf16/batch_size=1",
            "454m/fp8-delayed",
            "454m/fp8-delayed/head=fp8",
            // Alone of its name, and still unlike the others.
            "454m/fp8-rowwise/batch_size=4",
            "454m/fp8-tensorwise",
        ];
        assert_eq!(names(&cells), expected);
    }

    #[test]
    fn what_an_id_spells_out_is_left_out_where_all_have_it() {
        let step = |batch: i64, clip: f64| {
            let spelled = [format!("batch_size={batch}"), format!("clip={clip}")];
            let readable = ["pytorch", "bf16", &spelled[0], &spelled[1]];
            cell(&readable, &[("batch_size", batch.into()), ("clip", clip.into())])
        };
        // Neither of two has a majority: both are said.
        assert_eq!(names(&[step(4, 0.0), step(8, 0.0)]), ["pytorch/bf16/batch_size=4", "pytorch/bf16/batch_size=8"]);
        assert_eq!(names(&[step(4, 0.0)]), ["pytorch/bf16"]);
        let cell = step(4, 0.0);
        let said = Names::of(std::slice::from_ref(&cell)).said(&format!("{}: slow, unlike other~1", cell.id));
        assert_eq!(said, "pytorch/bf16: slow, unlike other~1");
    }

    #[test]
    fn a_model_given_by_its_dims_stays() {
        let dims = cell(&["dim=64-layers=2", "bf16"], &[("model", "dim=64,layers=2".into())]);
        assert_eq!(names(&[dims]), ["dim=64-layers=2/bf16"]);
    }

    #[test]
    fn cells_that_no_parameter_tells_apart_keep_their_ids() {
        let mut cells = [cell(&["a"], &[]), cell(&["a"], &[])];
        cells[1].id = CellId("a~1".into());
        assert_eq!(names(&cells), [cells[0].id.0.clone(), "a~1".into()]);
        assert_eq!(Names::default().get(&cells[0].id), "a", "of another run");
    }
}
