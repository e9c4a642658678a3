//! The finding what to use: of the cells that train the same model on the same batch, the one that trains fastest, those that
//! noise cannot tell from it, and what it costs. Drawn on a GPU only.

use stepwatch_record::Cell;
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::run::{End, Run};

use crate::ratio::{Ratio, Ratios};
use crate::wording::{number, value};

/// Parameters that are a choice: cells that differ in these alone do the same work.
const CHOICES: [&str; 5] = ["precision", "compile", "attention", "head", "recompute"];
/// The metric that decides.
const SPEED: &str = "tokens_per_second";

/// What a cell computes, by parameter.
type Work<'a> = Vec<(&'a str, String)>;

/// One finding for every work that at least two completed cells do.
pub(super) fn fastest(run: &Run, summary: &Summary) -> Vec<Finding> {
    if run.manifest.backend == "cpu" {
        return Vec::new();
    }
    let mut groups: Vec<(Work<'_>, Vec<&CellFigures>)> = Vec::new();
    let done = summary.cells.iter().filter(|cell| cell.end == Some(End::Completed) && cell.figure(SPEED).is_some());
    for cell in done.filter(|cell| cell.cell.parameters.contains_key("model")) {
        let work = work(&cell.cell);
        match groups.iter_mut().find(|(known, _)| *known == work) {
            Some((_, cells)) => cells.push(cell),
            None => groups.push((work, vec![cell])),
        }
    }
    let ratios = Ratios::new(summary, SPEED);
    groups.iter().filter(|(_, cells)| cells.len() > 1).filter_map(|(_, cells)| finding(cells, &ratios)).collect()
}

/// All that is no choice; dims stand behind the model's name and are left to it, since a command may not know them.
fn work(cell: &Cell) -> Work<'_> {
    const DIMS: [&str; 5] = ["dim", "layers", "heads", "ffn", "vocab"];
    let named = cell.parameters.iter().filter(|(name, _)| {
        !CHOICES.contains(&name.as_str()) && !DIMS.contains(&name.as_str()) && name.as_str() != "workload"
    });
    named.map(|(name, value)| (name.as_str(), value.to_string())).collect()
}

fn finding(cells: &[&CellFigures], ratios: &Ratios<'_>) -> Option<Finding> {
    let speed = |cell: &CellFigures| cell.figure(SPEED).map_or(0.0, |figure| figure.estimate.point);
    let mut ranked = cells.to_vec();
    ranked.sort_by(|a, b| speed(b).total_cmp(&speed(a)));
    let best = *ranked.first()?;
    let over = |cell: &CellFigures| ratios.of(&best.cell.id, &cell.cell.id, 0.95).ok();
    let level = |cell: &&&CellFigures| over(cell).is_some_and(|ratio| ratio.low <= 1.0);
    let level: Vec<&str> = ranked.iter().skip(1).filter(level).map(|cell| cell.cell.id.0.as_str()).collect();
    let precision = |cell: &CellFigures| cell.cell.parameters.get("precision").map(ToString::to_string);
    let fp8 = precision(best).is_some_and(|precision| precision.starts_with("fp8"));
    let other = ranked
        .iter()
        .find(|cell| precision(cell).is_some_and(|name| if fp8 { name == "bf16" } else { name.starts_with("fp8") }));
    let against = other.and_then(|cell| Some((over(cell)?, cell)));
    let of = |cell: &CellFigures, name: &str| cell.figure(name).map(|f| value(&f.metric, f.estimate.point));
    let mut evidence: Vec<String> = ranked.iter().take(4).filter_map(|cell| line(cell, best, ratios)).collect();
    let costs = ["joules_per_token", "peak_memory_bytes", "worst_sqnr_db"].map(|name| of(best, name)).into_iter();
    let costs: Vec<String> = costs.flatten().collect();
    if !costs.is_empty() {
        evidence.push(format!("its cost: {}", costs.join(", ")));
    }
    if !level.is_empty() {
        evidence.push(format!("as fast within the noise: {}", level.join(", ")));
    }
    let lead = against.map_or_else(String::new, |(ratio, cell)| {
        format!(
            ", {} × ({}…{}) the fastest in {}",
            number(ratio.point),
            number(ratio.low),
            number(ratio.high),
            if fp8 { "BF16".to_owned() } else { precision(cell).unwrap_or_default() }
        )
    });
    Some(Finding {
        kind: Kind::Fastest,
        // Where both precisions ran it is the study's answer; else it is worth knowing.
        severity: if against.is_some() { Severity::Medium } else { Severity::Low },
        sentence: format!(
            "the fastest way here to train {} is {}: {}{lead}",
            trained(&best.cell),
            best.cell.id,
            of(best, SPEED).unwrap_or_default()
        ),
        evidence,
        next_step: next_step(best, fp8, against.map(|(ratio, cell)| (ratio, *cell))),
        cells: ranked.iter().take(4).map(|cell| cell.cell.id.clone()).collect(),
    })
}

/// `454m on 16 × 2048 tokens`, and whose step it is where it is not the built-in one.
fn trained(cell: &Cell) -> String {
    let of = |name: &str| cell.parameters.get(name).map(ToString::to_string);
    let model = of("model").unwrap_or_default();
    let workload = if cell.workload == "builtin" { String::new() } else { format!(" with {}", cell.workload) };
    match of("batch_size").zip(of("seq_len")) {
        Some((batch, length)) => format!("{model} on {batch} × {length} tokens{workload}"),
        None => format!("{model}{workload}"),
    }
}

/// What to train with: FP8 only where it is shown to be faster than the fastest BF16.
fn next_step(best: &CellFigures, fp8: bool, against: Option<(Ratio, &CellFigures)>) -> String {
    match against {
        Some((ratio, bf16)) if fp8 && ratio.low <= 1.0 => {
            format!("stay in BF16 ({}): FP8 is not shown to be faster here", settings(bf16))
        }
        _ if fp8 => {
            format!("train with {}; see first that the loss falls as in BF16 (`scenarios/learn.toml`)", settings(best))
        }
        Some(_) => format!("train with {}; FP8 does not pay at this size", settings(best)),
        None => format!("train with {}", settings(best)),
    }
}

/// `454m/fp8-delayed/cudnn/full~…: 216.3k tokens/s, 0.004 J`.
fn line(cell: &CellFigures, best: &CellFigures, ratios: &Ratios<'_>) -> Option<String> {
    let figure = cell.figure(SPEED)?;
    let speed = value(&figure.metric, figure.estimate.point);
    if cell.cell.id == best.cell.id {
        return Some(format!("{}: {speed}", cell.cell.id));
    }
    let ratio = ratios.of(&cell.cell.id, &best.cell.id, 0.95).ok()?;
    let [point, low, high] = [ratio.point, ratio.low, ratio.high].map(number);
    Some(format!("{}: {speed}, {point} × ({low}…{high}) of it", cell.cell.id))
}

fn settings(cell: &CellFigures) -> String {
    let chosen = CHOICES.iter().filter_map(|name| Some(format!("{name} = {}", cell.cell.parameters.get(*name)?)));
    let chosen: Vec<String> = chosen.filter(|text| !text.ends_with("= false")).collect();
    let workload = if cell.cell.workload == "builtin" { String::new() } else { format!("{}: ", cell.cell.workload) };
    format!("{workload}{}", chosen.join(", "))
}
