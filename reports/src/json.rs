//! The report as JSON, for programs: the same facts as every other export, raw numbers in the metrics' own units beside the
//! texts that people read.
//!
//! # Schema (`"schema": "stepwatch-report/1"`; keys are only ever added; [`schema()`] gives it as a JSON Schema)
//!
//! | key | holds |
//! |---|---|
//! | `schema` | `stepwatch-report/1` |
//! | `run`, `scenario`, `title`, `started`, `backend`, `device`, `size` | what was run, where and when; texts |
//! | `outcome` | `headline`, `tone`, `exit_code`, `exit` (its meaning) |
//! | `counts[]` | `verdict`, `cells`; `missing` and `blind` always among them |
//! | `emulated` | why no speed conclusion is drawn, or `null` |
//! | `reference` | `sentence`, `runs[]`, `differences[]`, `accept` (a command, empty if there is a reference) |
//! | `next_steps[]` | `text`, `command` (may be empty) |
//! | `metrics[]` | `name`, `unit`, `better` (words), `gated` |
//! | `cells[]` | `id`, `name` (what texts for people call it), `end`, `reason`, `verdict`, `blind`, `parameters` (name → text), `figures[]`, `plan_hash`, `passes[]`, `passes_skipped` (name → reason), `numbers_ok` (or `null`), `ops[]`, `command` |
//! | `cells[].ops[]` | of a profiled cell, a step each: `class`, `count`, `seconds`, `flops`, `bytes`, `least_seconds` at the ceilings where they are known |
//! | `cells[].figures[]` | `metric`, `point`, `low`, `high`, `confidence`, `rounds[]` (a value per round), `samples` |
//! | `changes[]` | `cell`, `metric`, `gated`, `verdict`, `reason`, `why`, `effect`, `low`, `high`, `confidence`, `detectable` (relative, or `null`), `blind`, `rounds_to_decide`, `value`, `reference_value` |
//! | `claims[]` | `text`, `metric`, `asserts`, `gate`, `verdict`, `pairs[]` of `of`, `over`, `verdict`, `ratio`, `low`, `high`, `why` |
//! | `findings[]` | `kind`, `severity`, `sentence`, `evidence[]`, `next_step`, `command` (may be empty), `cells[]` |
//! | `waivers[]` | `cell` (as written), `cells[]`, `metric`, `limit`, `owner`, `expires`, `reason`, `state` (`waives`, `exceeded`, `expired`, `unused`), `sentence` |
//! | `annotations[]` | `date`, `text`, `cells[]` (empty: all) |
//! | `waterfalls[]` | `from`, `to`, `steps[]` of `class`, `from_seconds`, `to_seconds`; saved from the page the first 16 |
//! | `gains[]` | FP8 over its BF16 twin: `of`, `over`, `width` (or `null`), `ratio`, `low`, `high`, `confidence`, `product_share`, `bound` (or `null`) |
//! | `ceilings[]` | what the machine was measured to do at the most: `name`, `rate`, `unit` |
//! | `history` | with `--history`, else `null`: `sentence`, `nights[]` (pairs of run and day), `shifts[]` of `metric`, `run`, `effect`, `cells[]`, `differs[]`; `notes[]` of `date`, `text`; `trends[]` |
//! | `history.trends[]` | `cell`, `metric`, `newest`, `values[]` (a night each: `null` or estimate, low, high; saved from the page the estimate alone), `changes[]` of `run`, `between[]`, `shape` (`step`, `drift`), `word` (`worse`, `better`), `effect`, `shared`, `differs[]`; `outliers[]` (runs), `waivers[]` |
//! | `latest_changes[]` | absent where the runs before show none or were not searched: `cell`, `metric`, `shape` (`step`, `drift`; `alone`: this run only), `word` (`worse`, `better`), `effect`, `run` (the first after it), `started`, `between[]`, `runs` (since then), `shared` |
//! | `provenance` | `machines[]` (facts, libraries), `build`, `settings` (name → text), `notes[]`, `damage[]`, `method[]`, `command` |
//!
//! A number that is not finite is `null`.

mod schema;

use serde_json::{Map, Value, json};

pub use schema::schema;

use crate::ReportError;
use crate::chart::gain::GainView;
use crate::chart::roofline::ClassView;
use crate::chart::trend::{TrendChange, TrendView};
use crate::chart::waterfall::WaterfallView;
use crate::clean;
use crate::view::View;
use crate::view::cell::{CellView, Fact};
use crate::view::change::{ChangeView, ClaimView, FindingView, Link};
use crate::view::history::{HistoryView, ShiftView};
use crate::view::known::{AnnotationView, WaiverView};
use crate::view::latest::LatestView;

/// What the key `schema` holds.
const VERSION: &str = "stepwatch-report/1";

/// The report as indented JSON; the schema is in this module's documentation.
///
/// # Errors
/// [`ReportError::Json`] if the writer fails, which no input makes it do.
pub fn render(view: &View) -> Result<String, ReportError> {
    let mut text = serde_json::to_string_pretty(&value(view))?;
    text.push('\n');
    Ok(text)
}

/// The report as a JSON value.
pub(crate) fn value(view: &View) -> Value {
    let each = |items: Vec<Value>| Value::Array(items);
    let mut report = json!({
        "schema": VERSION,
        "run": view.run,
        "scenario": view.scenario,
        "title": view.title,
        "started": view.started,
        "backend": view.backend,
        "device": view.device,
        "size": view.size,
        "outcome": {
            "headline": view.outcome.headline,
            "tone": view.outcome.tone,
            "exit_code": view.outcome.exit_code,
            "exit": view.outcome.exit,
        },
        "counts": each(view.counts.iter().map(|c| json!({"verdict": c.mark.word, "cells": c.cells})).collect()),
        "emulated": view.emulated,
        "reference": view.reference,
        "next_steps": view.next_steps,
        "metrics": each(view.columns.iter().map(|c| json!({"name": c.name, "unit": c.unit, "better": c.better, "gated": c.gated})).collect()),
        "cells": each(view.cells.iter().map(|c| cell(view, c)).collect()),
        "changes": each(view.changes.iter().map(change).collect()),
        "claims": each(view.claims.iter().map(claim).collect()),
        "findings": each(view.findings.iter().map(finding).collect()),
        "waivers": each(view.waivers.iter().map(waiver).collect()),
        "annotations": each(view.annotations.iter().map(annotation).collect()),
        "waterfalls": each(view.waterfalls.iter().map(waterfall).collect()),
        "gains": each(view.gain.iter().flat_map(|chart| &chart.pairs).map(gain).collect()),
        "ceilings": view.ceilings,
        "history": view.history.as_ref().map(history),
        "provenance": provenance(view),
    });
    if !view.latest.is_empty() {
        report["latest_changes"] = each(view.latest.iter().map(latest).collect());
    }
    report
}

fn latest(view: &LatestView) -> Value {
    json!({
        "cell": view.cell.cell,
        "metric": view.metric,
        "shape": view.shape,
        "word": view.word,
        "effect": view.raw.effect,
        "run": clean::line(&view.raw.run),
        "started": clean::line(&view.raw.started),
        "between": view.raw.between.iter().map(|run| clean::line(run)).collect::<Vec<_>>(),
        "runs": view.raw.runs,
        "shared": view.raw.shared,
    })
}

fn facts(facts: &[Fact]) -> Value {
    Value::Object(facts.iter().map(|fact| (fact.name.clone(), Value::from(fact.value.as_str()))).collect::<Map<_, _>>())
}

fn ids(links: &[Link]) -> Vec<&str> {
    links.iter().map(|link| link.cell.as_str()).collect()
}

fn cell(view: &View, cell: &CellView) -> Value {
    let figures = cell.figures.iter().map(|figure| {
        json!({
            "metric": view.columns[figure.column].name,
            "point": figure.point,
            "low": figure.low,
            "high": figure.high,
            "confidence": figure.confidence,
            "rounds": figure.rounds,
            "samples": figure.samples,
        })
    });
    let plan = cell.plan.as_ref();
    let mut value = json!({
        "id": cell.id,
        "name": cell.name,
        "end": cell.end.mark.word,
        "reason": cell.end.reason,
        "verdict": cell.mark.word,
        "blind": cell.blind,
        "parameters": facts(&cell.parameters),
        "figures": figures.collect::<Vec<_>>(),
        "plan_hash": plan.map(|plan| plan.hash.as_str()),
        "passes": plan.map_or(&[][..], |plan| &plan.passes),
        "passes_skipped": plan.map_or_else(|| facts(&[]), |plan| facts(&plan.skipped)),
        "numbers_ok": cell.verification.as_ref().map(|verification| verification.ok),
        "ops": cell.ops.iter().map(op).collect::<Vec<_>>(),
        "command": cell.command,
    });
    // Where there is none, nothing is said of it: of hundreds of cells even little is much.
    if !cell.bound.is_empty() {
        value["bound"] = facts(&cell.bound);
    }
    value
}

fn op(class: &ClassView) -> Value {
    let [seconds, flops, bytes] = class.raw;
    let mut value =
        json!({"class": class.class, "count": class.count, "seconds": seconds, "flops": flops, "bytes": bytes});
    if let Some(least) = class.least_seconds {
        value["least_seconds"] = least.into();
    }
    value
}

fn gain(pair: &GainView) -> Value {
    let raw = &pair.raw;
    json!({
        "of": pair.of.cell,
        "over": pair.over.cell,
        "width": raw.width,
        "ratio": raw.ratio,
        "low": raw.low,
        "high": raw.high,
        "confidence": raw.confidence,
        "product_share": raw.product_share,
        "bound": raw.bound,
    })
}

fn change(change: &ChangeView) -> Value {
    let raw = &change.raw;
    json!({
        "cell": change.cell,
        "metric": change.metric,
        "gated": change.gated,
        "verdict": change.mark.word,
        "reason": change.reason,
        "why": change.why,
        "effect": raw.effect,
        "low": raw.low,
        "high": raw.high,
        "confidence": raw.confidence,
        "detectable": raw.detectable,
        "blind": change.blind,
        "rounds_to_decide": change.rounds_to_decide,
        "value": raw.value,
        "reference_value": raw.reference_value,
    })
}

fn claim(claim: &ClaimView) -> Value {
    let pairs = claim.pairs.iter().map(|pair| {
        let [ratio, low, high] = pair.numbers.map_or([None; 3], |numbers| numbers.map(Some));
        json!({
            "of": pair.of.cell,
            "over": pair.over.cell,
            "verdict": pair.mark.word,
            "ratio": ratio,
            "low": low,
            "high": high,
            "why": pair.why,
        })
    });
    json!({
        "text": claim.text,
        "metric": claim.metric,
        "asserts": claim.asserts,
        "gate": claim.gate,
        "verdict": claim.mark.word,
        "pairs": pairs.collect::<Vec<_>>(),
    })
}

fn finding(finding: &FindingView) -> Value {
    json!({
        "kind": finding.kind,
        "severity": finding.severity.word,
        "sentence": finding.sentence,
        "evidence": finding.evidence,
        "next_step": finding.next_step,
        "command": finding.command,
        "cells": ids(&finding.cells),
    })
}

fn waiver(view: &WaiverView) -> Value {
    let waiver = &view.raw.waiver;
    let line = |text: &str| clean::line(text);
    json!({
        "cell": line(&waiver.cell),
        "cells": waiver.cells.iter().map(|cell| line(&cell.0)).collect::<Vec<_>>(),
        "metric": line(&waiver.metric),
        "limit": waiver.limit,
        "owner": line(&waiver.owner),
        "expires": line(&waiver.expires),
        "reason": line(&waiver.reason),
        "state": view.mark.word,
        "sentence": view.sentence,
    })
}

fn annotation(note: &AnnotationView) -> Value {
    json!({"date": note.date, "text": note.text, "cells": ids(&note.cells)})
}

fn waterfall(waterfall: &WaterfallView) -> Value {
    let steps = waterfall.rows.iter().filter(|row| !row.total);
    let step = |row: &crate::chart::waterfall::WaterfallRow| json!({"class": row.label, "from_seconds": row.seconds[0], "to_seconds": row.seconds[1]});
    json!({
        "from": waterfall.from.cell,
        "to": waterfall.to.cell,
        "steps": steps.map(step).collect::<Vec<_>>(),
    })
}

fn history(history: &HistoryView) -> Value {
    let shift = |shift: &ShiftView| {
        json!({
            "metric": shift.metric,
            "run": shift.run,
            "effect": shift.relative,
            "cells": ids(&shift.cells),
            "differs": shift.differs,
        })
    };
    json!({
        "sentence": history.sentence,
        "nights": history.nights,
        "shifts": history.shifts.iter().map(shift).collect::<Vec<_>>(),
        "notes": history.notes.iter().map(|note| json!({"date": note.date, "text": note.text})).collect::<Vec<_>>(),
        "trends": history.changed.iter().chain(&history.steady).map(trend).collect::<Vec<_>>(),
    })
}

fn trend(trend: &TrendView) -> Value {
    let change = |change: &TrendChange| {
        json!({
            "run": change.run,
            "between": change.between,
            "shape": change.shape,
            "word": change.word,
            "effect": change.relative,
            "shared": change.shared,
            "differs": change.differs,
        })
    };
    json!({
        "cell": trend.cell.cell,
        "metric": trend.metric,
        "newest": trend.newest,
        "values": trend.values.iter().map(|v| v.map(|v| [v.point, v.low, v.high])).collect::<Vec<_>>(),
        "changes": trend.changes.iter().map(change).collect::<Vec<_>>(),
        "outliers": trend.outliers.iter().map(|outlier| outlier.run.as_str()).collect::<Vec<_>>(),
        "waivers": trend.waivers,
    })
}

fn provenance(view: &View) -> Value {
    let provenance = &view.provenance;
    let machines = provenance.machines.iter().map(|machine| {
        // Several GPUs share one name, so facts stay a list here.
        json!({"facts": machine.facts, "libraries": machine.libraries})
    });
    json!({
        "machines": machines.collect::<Vec<_>>(),
        "build": facts(&provenance.build),
        "settings": facts(&provenance.settings),
        "notes": provenance.notes,
        "damage": provenance.damage,
        "method": provenance.method,
        "command": provenance.command,
    })
}
