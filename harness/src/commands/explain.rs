//! `stepwatch explain`: one cell of a stored run in words and numbers: why its verdicts are what they are, or how it
//! differs from another cell.

use std::fmt::Write;

use stepwatch_record::figure::{CellFigures, Figure};
use stepwatch_record::name::Names;
use stepwatch_record::run::Better;
use stepwatch_record::{Cell, CellId, Run};
use stepwatch_verdict::wording::{count, ratio_of, seconds, value};

use super::{CommandError, Places, aligned, emit};
use crate::exit::Exit;
use crate::judgement::{Against, Judgement};
use crate::store;

/// Says why a cell got its verdict; with OTHER, how two cells of the run differ.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The run: a folder, an id, `latest` or `prev`.
    run: String,
    /// The cell: its id, or as much of it as names one cell.
    cell: String,
    /// Another cell of the same run.
    other: Option<String>,
    /// Compare with this run instead of the accepted baseline.
    #[arg(long, value_name = "RUN")]
    baseline: Option<String>,
    #[command(flatten)]
    places: Places,
}

/// Explains.
///
/// # Errors
/// When the run cannot be read, or a name fits no cell or several.
pub fn run(args: &Explain) -> Result<Exit, CommandError> {
    let folder = store::find(&args.run, &args.places.out).map_err(CommandError::usage)?;
    let against = match &args.baseline {
        Some(name) => super::compare::named(name, &args.places.out)?,
        None => Against::Accepted(args.places.baselines.clone()),
    };
    let judgement = Judgement::new(super::load(&folder)?, &against, &args.places.known()?)?;
    let cell = find_cell(&judgement.run, &args.cell)?;
    let text = match &args.other {
        None => one(&judgement, cell),
        Some(other) => two(&judgement, cell, find_cell(&judgement.run, other)?),
    };
    emit(&text)?;
    Ok(Exit::Good)
}

/// The cell that a user means: by its id, what reports call it, the readable part of its id, or any part that only one cell has.
fn find_cell<'a>(run: &'a Run, name: &str) -> Result<&'a Cell, CommandError> {
    let cells = &run.manifest.cells;
    let names = Names::of(cells);
    let called = |fits: &dyn Fn(&Cell) -> bool| cells.iter().filter(|cell| fits(cell)).collect::<Vec<&Cell>>();
    let ways: [&dyn Fn(&Cell) -> bool; 3] =
        [&|cell| cell.id.0 == name || names.get(&cell.id) == name, &|cell| cell.id.readable() == name, &|cell| {
            cell.id.0.contains(name)
        }];
    let fitting = ways.into_iter().map(called).find(|cells| !cells.is_empty()).unwrap_or_default();
    match fitting.as_slice() {
        [cell] => Ok(cell),
        [] => {
            let near = near(cells, name);
            let (word, cells) =
                if near.is_empty() { ("it has", cells.iter().collect()) } else { ("near it are", near) };
            Err(CommandError::usage(format!(
                "{} has no cell `{}`; {word} {}",
                run.manifest.id,
                super::one_line(name),
                listed(cells.into_iter())
            )))
        }
        several => Err(CommandError::usage(format!(
            "`{}` fits {} cells of {}: {}",
            super::one_line(name),
            several.len(),
            run.manifest.id,
            listed(several.iter().copied())
        ))),
    }
}

/// The cells whose name, or whose hash, is like what was typed; the likest first.
fn near<'a>(cells: &'a [Cell], name: &str) -> Vec<&'a Cell> {
    let name = name.to_lowercase();
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(&name, &known.to_lowercase());
    let of_cell = |cell: &Cell| likeness(&cell.id.0).max(likeness(cell.id.readable()));
    let mut near: Vec<(f64, &Cell)> = cells.iter().map(|cell| (of_cell(cell), cell)).collect();
    near.retain(|(likeness, _)| *likeness >= NEAR);
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().map(|(_, cell)| cell).collect()
}

/// Of ten letters, four may be wrong.
const NEAR: f64 = 0.6;

fn listed<'a>(cells: impl Iterator<Item = &'a Cell>) -> String {
    let mut names: Vec<&str> = cells.map(|cell| cell.id.0.as_str()).collect();
    let more = names.len().saturating_sub(5);
    names.truncate(5);
    if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
}

fn one(judgement: &Judgement, cell: &Cell) -> String {
    let mut text = format!("{}\n", cell.id);
    let _ = end_of(judgement, &cell.id, &mut text);
    if let Some(figures) = judgement.summary.cell(&cell.id) {
        text.push_str(&figures_of(figures));
    }
    let _ = bound_of(judgement, &cell.id, &mut text);
    let _ = changes_of(judgement, &cell.id, &mut text);
    let _ = claims_of(judgement, &cell.id, &mut text);
    let _ = findings_of(judgement, &[&cell.id], &mut text);
    text
}

fn end_of(judgement: &Judgement, cell: &CellId, text: &mut String) -> std::fmt::Result {
    let run = &judgement.run;
    let rounds = run.rounds.iter().filter(|round| &round.record.cell == cell);
    match run.cell_end(cell) {
        None => {
            let recorded = rounds.count();
            writeln!(text, "  missing: {recorded} of {} planned rounds have a record", run.manifest.rounds)
        }
        Some(end) => {
            let reason = end.reason();
            let colon = if reason.is_empty() { "" } else { ": " };
            writeln!(text, "  {}{colon}{}", end.word(), super::one_line(&reason))?;
            let prepared = run.prepared.iter().filter(|record| &record.cell == cell);
            let bad = prepared.chain(rounds.map(|round| &round.record)).find(|record| !record.output_tail.is_empty());
            let Some(bad) = bad else { return Ok(()) };
            writeln!(text, "  its last output:")?;
            bad.output_tail.iter().try_for_each(|line| writeln!(text, "    {}", super::one_line(line)))
        }
    }
}

/// One line a figure: its estimate, the interval with what it is made from, and by how much rounds differ.
fn figures_of(figures: &CellFigures) -> String {
    let rows = figures.figures.iter().map(|Figure { metric, estimate }| {
        let rounds = estimate.rounds.len();
        let samples = usize::try_from(estimate.samples).unwrap_or(usize::MAX);
        let made_from = format!("{}, {}", count(rounds, "round"), count(samples, "sample"));
        let point = value(metric, estimate.point);
        if rounds < 2 {
            return vec![metric.name.clone(), point, "no interval from one round".into(), made_from];
        }
        let (low, high) = (value(metric, estimate.low), value(metric, estimate.high));
        let interval = format!("{low} to {high} at {:.0} %", estimate.confidence * 100.0);
        let made_from = format!("{made_from}; rounds differ by {:.2} %", estimate.round_sd_log * 100.0);
        vec![metric.name.clone(), point, interval, made_from]
    });
    indented(rows, &[1])
}

/// Below this an op class is all launches, and how often its least it takes says nothing, seconds.
const LEAST_COMPARED: f64 = 1e-5;

/// What the step could take at the least on this chip, and each op class of it.
fn bound_of(judgement: &Judgement, cell: &CellId, text: &mut String) -> std::fmt::Result {
    let Some(bound) = judgement.conclusion.bounds.iter().find(|bound| &bound.cell == cell) else { return Ok(()) };
    let shown = |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), seconds);
    writeln!(
        text,
        "\nbound on this chip: {} a step, by {} (compute {}, bytes {}, energy {}); serial estimate {}; measured {}",
        seconds(bound.seconds),
        bound.limit.word(),
        seconds(bound.compute_seconds),
        seconds(bound.bytes_seconds),
        shown(bound.energy_seconds),
        seconds(bound.serial_seconds),
        shown(bound.step_seconds)
    )?;
    let heads = ["op class", "at the ceilings", "profiled", ""].map(str::to_owned).to_vec();
    let rows = bound.classes.iter().map(|class| {
        let least = class.least_seconds;
        let profiled = class.profiled_seconds.map_or_else(String::new, seconds);
        let times =
            class.profiled_seconds.filter(|_| least >= LEAST_COMPARED).map(|found| format!("{:.2} ×", found / least));
        vec![class.class.clone(), seconds(least), profiled, times.unwrap_or_default()]
    });
    text.push_str(&indented(std::iter::once(heads).chain(rows), &[1, 2, 3]));
    Ok(())
}

fn changes_of(judgement: &Judgement, cell: &CellId, text: &mut String) -> std::fmt::Result {
    if judgement.conclusion.reference.runs.is_empty() {
        writeln!(text, "\nnot compared: there is no reference run")?;
    }
    for part in stepwatch_verdict::explain::explain(&judgement.comparison(), &judgement.conclusion.changes, cell) {
        writeln!(text, "\n{}", part.title)?;
        part.lines.iter().try_for_each(|line| writeln!(text, "  {}", super::one_line(line)))?;
    }
    Ok(())
}

fn claims_of(judgement: &Judgement, cell: &CellId, text: &mut String) -> std::fmt::Result {
    for claim in &judgement.conclusion.claims {
        for pair in claim.pairs.iter().filter(|pair| &pair.of == cell || &pair.over == cell) {
            let words = super::one_line(&claim.text);
            writeln!(text, "\nclaim \"{words}\" ({} {}): {:?}", claim.metric, claim.asserts, pair.verdict)?;
            let ratio = ratio_of(pair).map_or_else(String::new, |ratio| format!("{ratio}; "));
            writeln!(text, "  {} over {}: {ratio}{}", pair.of, pair.over, pair.why)?;
        }
    }
    Ok(())
}

fn findings_of(judgement: &Judgement, cells: &[&CellId], text: &mut String) -> std::fmt::Result {
    for finding in judgement.conclusion.findings.iter().filter(|f| cells.iter().any(|cell| f.cells.contains(cell))) {
        writeln!(text, "\nfinding: {}", finding.sentence)?;
        finding.evidence.iter().try_for_each(|line| writeln!(text, "  {line}"))?;
        if !finding.next_step.is_empty() {
            writeln!(text, "  next: {}", finding.next_step)?;
        }
        if !finding.command.is_empty() {
            writeln!(text, "  $ {}", finding.command)?;
        }
    }
    Ok(())
}

/// Two cells side by side: what is set differently, what came out differently.
fn two(judgement: &Judgement, from: &Cell, to: &Cell) -> String {
    let mut text = format!("from {}\nto   {}\n\nsettings that differ\n", from.id, to.id);
    let names: std::collections::BTreeSet<&String> = from.parameters.keys().chain(to.parameters.keys()).collect();
    let shown = |cell: &Cell, name: &str| {
        cell.parameters.get(name).map_or_else(|| "not set".to_owned(), |value| super::one_line(&value.to_string()))
    };
    for name in names {
        let (a, b) = (shown(from, name), shown(to, name));
        if a != b {
            let _ = writeln!(text, "  {name}: {a} → {b}");
        }
    }
    let _ = writeln!(text, "\nfigures");
    let figures = |cell: &Cell| judgement.summary.cell(&cell.id);
    if let (Some(from), Some(to)) = (figures(from), figures(to)) {
        let rows = from.figures.iter().filter_map(|Figure { metric, estimate: a }| {
            let b = &to.figure(&metric.name)?.estimate;
            let change = b.point / a.point - 1.0;
            let good = match change {
                0.0 => "equal",
                _ if (change > 0.0) == (metric.better == Better::Higher) => "better",
                _ => "worse",
            };
            let values = format!("{} → {}", value(metric, a.point), value(metric, b.point));
            // Decibels are a ratio already.
            let by = if metric.unit == "dB" { format!("{:+.2} dB", b.point - a.point) } else { percent(change) };
            Some(vec![metric.name.clone(), values, by, good.to_owned()])
        });
        text.push_str(&indented(rows, &[2]));
    }
    let _ = waterfall_of(judgement, &from.id, &to.id, &mut text);
    let _ = findings_of(judgement, &[&from.id, &to.id], &mut text);
    text
}

fn waterfall_of(judgement: &Judgement, from: &CellId, to: &CellId, text: &mut String) -> std::fmt::Result {
    let fall = stepwatch_verdict::waterfall::between(&judgement.run, &judgement.summary, from, to);
    let Some(fall) = fall else { return Ok(()) };
    writeln!(text, "\nwhere the time of a step goes")?;
    let rows = fall.steps.iter().filter(|step| step.from_seconds != 0.0 || step.to_seconds != 0.0).map(|step| {
        let (a, b) = (step.from_seconds, step.to_seconds);
        vec![step.class.clone(), format!("{} → {}", seconds(a), seconds(b)), format!("{:+.2} ms", (b - a) * 1e3)]
    });
    text.push_str(&indented(rows, &[2]));
    Ok(())
}

/// A table, indented.
fn indented(rows: impl IntoIterator<Item = Vec<String>>, right: &[usize]) -> String {
    aligned(rows, right).iter().map(|line| format!("  {line}\n")).collect()
}

fn percent(share: f64) -> String {
    format!("{:+.2} %", share * 100.0)
}
