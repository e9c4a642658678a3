//! FP8 cells and the BF16 cells that are equal in all else: what findings and waterfalls compare.

use stepwatch_record::Cell;
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::run::End;

/// What says something of FP8 products alone.
const OF_FP8: &str = "fast_accumulation";

/// Pairs of completed cells that are equal in all but their precision, and what BF16 has none of: FP8 first, BF16 second.
#[must_use]
pub fn twins(summary: &Summary) -> Vec<(&CellFigures, &CellFigures)> {
    let precision = |cell: &Cell| cell.parameters.get("precision").map(ToString::to_string).unwrap_or_default();
    let done = |cell: &&CellFigures| cell.end == Some(End::Completed);
    let rest = |cell: &Cell| {
        let mut rest = cell.parameters.clone();
        rest.remove("precision");
        rest.remove(OF_FP8);
        (cell.workload.clone(), rest)
    };
    let of = |wanted: fn(&str) -> bool| summary.cells.iter().filter(done).filter(move |c| wanted(&precision(&c.cell)));
    let bf16: Vec<(&CellFigures, _)> =
        of(|precision| precision == "bf16").map(|cell| (cell, rest(&cell.cell))).collect();
    let twin = |fp8: &CellFigures| {
        let wanted = rest(&fp8.cell);
        bf16.iter().find(|(_, rest)| *rest == wanted).map(|(cell, _)| *cell)
    };
    of(|precision| precision.starts_with("fp8")).filter_map(|fp8| Some((fp8, twin(fp8)?))).collect()
}
