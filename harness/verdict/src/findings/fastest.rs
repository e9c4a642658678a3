//! The finding what to use: of the cells that train the same model on the same batch, the one that trains fastest, those that
//! noise cannot tell from it, and what it costs. Drawn on a GPU only.

use stepwatch_record::Cell;
use stepwatch_record::cell::BUILTIN;
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::run::Run;

use crate::contest::{self, CHOICES, Contest, SPEED, is_fp8, precision};
use crate::ratio::{Ratio, Ratios};
use crate::wording::{self, ratio_range, value};

/// One finding for every contest.
pub(super) fn fastest(run: &Run, summary: &Summary) -> Vec<Finding> {
    let ratios = Ratios::new(summary, SPEED);
    contest::all(run, summary).iter().filter_map(|contest| finding(contest, &ratios)).collect()
}

fn finding(contest: &Contest<'_>, ratios: &Ratios<'_>) -> Option<Finding> {
    let ranked = &contest.ranked;
    let best = *ranked.first()?;
    let over = |cell: &CellFigures| ratios.of(&best.cell.id, &cell.cell.id, 0.95).ok();
    let level = |cell: &&&CellFigures| over(cell).is_some_and(|ratio| ratio.low <= 1.0);
    let level: Vec<&str> = ranked.iter().skip(1).filter(level).map(|cell| cell.cell.id.0.as_str()).collect();
    let fp8 = is_fp8(best);
    let other = if fp8 { contest.bf16() } else { contest.fp8() };
    let against = other.and_then(|cell| Some((over(cell)?, cell)));
    let of = |cell: &CellFigures, name: &str| cell.figure(name).map(|f| value(&f.metric, f.estimate.point));
    let mut evidence: Vec<String> = ranked.iter().take(4).filter_map(|cell| line(cell, best, ratios)).collect();
    let costs = [
        of(best, "joules_per_token"),
        of(best, "peak_memory_bytes").map(|bytes| format!("{bytes} at its peak")),
        of(best, "worst_sqnr_db").map(|db| format!("{db} between its worst gradient and that of fp32")),
    ];
    let costs: Vec<String> = costs.into_iter().flatten().collect();
    if !costs.is_empty() {
        evidence.push(format!("its cost: {}", costs.join(", ")));
    }
    if !level.is_empty() {
        evidence.push(format!("as fast within the noise: {}", level.join(", ")));
    }
    let lead = against.map_or_else(String::new, |(ratio, cell)| {
        format!(
            ", {} × ({}) the fastest in {}",
            wording::ratio(ratio.point),
            ratio_range(ratio.low, ratio.high),
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
        next_step: next_step(best, fp8, against),
        command: String::new(),
        cells: ranked.iter().take(4).map(|cell| cell.cell.id.clone()).collect(),
    })
}

/// `454m on 16 × 2048 tokens`, and whose step it is where it is not the built-in one.
fn trained(cell: &Cell) -> String {
    let of = |name: &str| cell.parameters.get(name).map(ToString::to_string);
    let model = of("model").unwrap_or_default();
    let workload = if cell.workload == BUILTIN { String::new() } else { format!(" with {}", cell.workload) };
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

/// `454m/fp8-delayed/cudnn/full: 216,300 tokens/s, 0.971 × (0.969…0.973) of it`.
fn line(cell: &CellFigures, best: &CellFigures, ratios: &Ratios<'_>) -> Option<String> {
    let figure = cell.figure(SPEED)?;
    let speed = value(&figure.metric, figure.estimate.point);
    if cell.cell.id == best.cell.id {
        return Some(format!("{}: {speed}", cell.cell.id));
    }
    let ratio = ratios.of(&cell.cell.id, &best.cell.id, 0.95).ok()?;
    let (point, range) = (wording::ratio(ratio.point), ratio_range(ratio.low, ratio.high));
    Some(format!("{}: {speed}, {point} × ({range}) of it", cell.cell.id))
}

fn settings(cell: &CellFigures) -> String {
    let chosen = CHOICES.iter().filter_map(|name| Some(format!("{name} = {}", cell.cell.parameters.get(*name)?)));
    let chosen: Vec<String> = chosen.filter(|text| !text.ends_with("= false")).collect();
    let workload = if cell.cell.workload == BUILTIN { String::new() } else { format!("{}: ", cell.cell.workload) };
    format!("{workload}{}", chosen.join(", "))
}
