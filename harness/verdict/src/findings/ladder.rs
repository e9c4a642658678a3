//! The finding what each pass brings: along cells that differ in `compile` alone, how much of the step each rung takes away,
//! and from which ops. Drawn on a GPU only: a CPU runs fused ops part by part.

use stepwatch_record::CellId;
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::run::Run;

use crate::ratio::{Ratio, Ratios};
use crate::waterfall::{self, UNATTRIBUTED};
use crate::wording::{number, percent, ratio, ratio_range};

/// One rung of a ladder and the next.
struct Rung<'a> {
    from: &'a CellFigures,
    to: &'a CellFigures,
    ratio: Ratio,
}

/// So many ladders have a finding of their own.
const MOST_LADDERS: usize = 4;

/// One finding for each ladder, from its lowest rung to its highest; those that gain the most first.
pub(super) fn passes(run: &Run, summary: &Summary) -> Vec<Finding> {
    if run.manifest.backend == "cpu" {
        return Vec::new();
    }
    let ratios = Ratios::new(summary, "tokens_per_second");
    let pairs = waterfall::rungs(summary);
    let confidence = 1.0 - run.manifest.policy.false_alarms.clamp(1e-9, 0.5) / pairs.len().max(1) as f64;
    let rung = |(from, to): &(&CellId, &CellId)| {
        let ratio = ratios.of(to, from, confidence).ok()?;
        Some(Rung { from: summary.cell(from)?, to: summary.cell(to)?, ratio })
    };
    let rungs: Vec<Rung<'_>> = pairs.iter().filter_map(rung).collect();
    let lowest = |rung: &&Rung<'_>| !rungs.iter().any(|other| other.to.cell.id == rung.from.cell.id);
    let mut findings = Vec::new();
    for first in rungs.iter().filter(lowest) {
        let mut ladder = vec![first];
        while let Some(next) = rungs.iter().find(|rung| rung.from.cell.id == ladder[ladder.len() - 1].to.cell.id) {
            ladder.push(next);
        }
        findings.push(finding(run, summary, &ratios, &ladder, confidence));
    }
    let mut findings: Vec<(f64, Finding)> = findings.into_iter().flatten().collect();
    // Those in which compiling brings the most come first; of a large sweep the others would drown what else there is to say.
    findings.sort_by(|a, b| b.0.total_cmp(&a.0));
    let more = findings.len().saturating_sub(MOST_LADDERS);
    findings.truncate(MOST_LADDERS);
    if let Some((_, last)) = findings.last_mut().filter(|_| more > 0) {
        last.evidence.push(format!("{} more {}", more, if more == 1 { "ladder" } else { "ladders" }));
    }
    findings.into_iter().map(|(_, finding)| finding).collect()
}

fn finding(
    run: &Run,
    summary: &Summary,
    ratios: &Ratios<'_>,
    ladder: &[&Rung<'_>],
    confidence: f64,
) -> Option<(f64, Finding)> {
    let (bottom, top) = (ladder.first()?.from, ladder.last()?.to);
    let whole = ratios.of(&top.cell.id, &bottom.cell.id, confidence).ok()?;
    let best = ladder.iter().max_by(|a, b| a.ratio.point.total_cmp(&b.ratio.point))?;
    let mut sentence = format!(
        "compiling makes {} {} × as fast ({})",
        bottom.cell.id,
        ratio(whole.point),
        ratio_range(whole.low, whole.high)
    );
    if ladder.len() > 1 && best.ratio.low > 1.0 {
        sentence.push_str(&format!(", most of all {}: {} ×", named(best), ratio(best.ratio.point)));
    }
    let idle: Vec<String> =
        ladder.iter().filter(|r| r.ratio.low <= 1.0 && r.ratio.high >= 1.0).map(|r| named(r)).collect();
    let finding = Finding {
        kind: Kind::WhatPassesBring,
        severity: Severity::Low,
        sentence,
        evidence: ladder.iter().map(|rung| line(run, summary, rung)).collect(),
        next_step: if idle.is_empty() {
            String::new()
        } else {
            format!("leave out what brings nothing here ({}), or measure more rounds to see less", idle.join("; "))
        },
        command: String::new(),
        cells: ladder.iter().map(|rung| rung.from.cell.id.clone()).chain([top.cell.id.clone()]).collect(),
    };
    Some((whole.point, finding))
}

/// `none → layout`.
fn named(rung: &Rung<'_>) -> String {
    format!("{} → {}", compile(rung.from), compile(rung.to))
}

fn compile(cell: &CellFigures) -> String {
    cell.cell.parameters.get("compile").map_or_else(|| "none".to_owned(), ToString::to_string)
}

/// `none → layout: 860.1 → 640.2 ms, 1.34 × (1.33…1.36): quantise −120.3 ms, transpose −98.0 ms`.
fn line(run: &Run, summary: &Summary, rung: &Rung<'_>) -> String {
    /// Classes named: the rest is small.
    const MOST: usize = 4;
    let ms = |cell: &CellFigures| cell.figure("step_seconds").map_or(f64::NAN, |f| f.estimate.point * 1e3);
    let mut text = format!(
        "{}: {} → {} ms ({} of the step), {} × as fast ({})",
        named(rung),
        number(ms(rung.from)),
        number(ms(rung.to)),
        percent(ms(rung.to) / ms(rung.from) - 1.0),
        ratio(rung.ratio.point),
        ratio_range(rung.ratio.low, rung.ratio.high)
    );
    if let Some(fall) = waterfall::between(run, summary, &rung.from.cell.id, &rung.to.cell.id) {
        let change = |step: &stepwatch_record::waterfall::WaterfallStep| (step.to_seconds - step.from_seconds) * 1e3;
        let steps = fall.steps.iter().filter(|step| step.class != UNATTRIBUTED && change(step).abs() >= 0.05);
        let classes: Vec<String> =
            steps.take(MOST).map(|step| format!("{} {:+.1} ms", step.class, change(step))).collect();
        if !classes.is_empty() {
            text.push_str(&format!("; {}", classes.join(", ")));
        }
    }
    text
}
