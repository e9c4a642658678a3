//! Why a cell's verdicts are what they are: the figures of both sides, the noise and the rule that made each interval, which
//! reference runs were used, and what the machine did meanwhile. Words for one reader; nothing is judged anew here.

use stepwatch_record::CellId;
use stepwatch_record::comparison::Change;
use stepwatch_record::figure::Figure;
use stepwatch_record::run::{Better, Policy, Round, Sample};

use crate::compare::{Comparison, Effect, POWER, decide};
use crate::compatible;
use crate::findings::is_held_down;
use crate::looks::Looks;
use crate::stats;
use crate::wording::{change, change_range, count, fine_percent, number, percent, spoken, told, value};

/// A heading with its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What the lines are about.
    pub title: String,
    /// One statement each.
    pub lines: Vec<String>,
}

/// More rounds than this are not proposed: another remedy is needed.
const MOST_ROUNDS: u32 = 1000;
/// So many values or runs are written out; the rest is counted.
const MOST_SHOWN: usize = 10;

/// Explains one cell: its reference runs, every one of its `changes`, and the machine.
///
/// `changes` are those of the conclusion, waivers applied; those of other cells are passed over.
#[must_use]
pub fn explain(comparison: &Comparison<'_>, changes: &[Change], cell: &CellId) -> Vec<Part> {
    let mut parts = Vec::new();
    if !comparison.given.is_empty() {
        let title = if comparison.paired { "the other side" } else { "reference runs" };
        parts.push(Part { title: title.to_owned(), lines: references(comparison, cell) });
    }
    parts.extend(changes.iter().filter(|change| &change.cell == cell).map(|change| of_change(comparison, change)));
    parts.push(Part { title: "machine, in this cell's rounds".to_owned(), lines: machine(comparison, cell) });
    parts
}

/// Every reference run that was given, newest first: used, or why not.
fn references(comparison: &Comparison<'_>, cell: &CellId) -> Vec<String> {
    let policy = &comparison.run.manifest.policy;
    let line = |given: &stepwatch_record::figure::Summary| {
        let (run, started) = (&given.run, &given.started);
        if comparison.usable.iter().any(|used| used.run == given.run) {
            let lacks = match given.cell(cell) {
                None => "; it does not have this cell".to_owned(),
                Some(figures) if figures.figures.is_empty() => {
                    let end = figures.end.as_ref().map_or("incomplete", |end| end.word());
                    format!("; it has no figures of this cell, which ended {end} there")
                }
                Some(_) => String::new(),
            };
            return format!("used: {run}, begun {started}{lacks}");
        }
        let why = compatible::obstacles(comparison.summary, given, &policy.reference_same);
        let why = if why.is_empty() {
            format!("the policy compares with {} at most", count(policy.reference_runs as usize, "run"))
        } else {
            why.join("; ")
        };
        format!("refused: {run}, begun {started}: {why}")
    };
    comparison.given.iter().map(line).collect()
}

/// One metric: its verdict, and where the numbers behind it come from.
fn of_change(comparison: &Comparison<'_>, judged: &Change) -> Part {
    let gated = if judged.gated { "gated" } else { "informs" };
    let title = format!("{} ({gated}): {} [{}]", judged.metric.name, judged.verdict.word(), judged.reason);
    let mut lines = vec![with_numbers(judged)];
    let place = comparison.summary.cells.iter().position(|figures| figures.cell.id == judged.cell);
    let effect = place.and_then(|place| comparison.effects(&judged.metric.name).into_iter().nth(place).flatten());
    if let Some(effect) = effect {
        lines.extend(sides(comparison, judged, &effect));
        lines.extend(interval(comparison, judged));
        lines.extend(noise(comparison, judged, &effect));
        lines.extend(sight(judged, &effect, &comparison.run.manifest.policy));
    }
    Part { title, lines }
}

/// The change with its interval, and why the verdict is what it is.
pub(crate) fn with_numbers(judged: &Change) -> String {
    told(judged).map_or_else(|| judged.why.clone(), |told| format!("{told}: {}", judged.why))
}

/// The figures on both sides, round by round here and run by run there.
fn sides(comparison: &Comparison<'_>, judged: &Change, effect: &Effect) -> Vec<String> {
    let metric = &judged.metric;
    let of = |summary: &stepwatch_record::figure::Summary| -> Option<Figure> {
        summary.cell(&judged.cell)?.figure(&metric.name).cloned()
    };
    let mut lines = Vec::new();
    if let Some(figure) = of(comparison.summary) {
        let rounds = &figure.estimate.rounds;
        lines.push(format!(
            "this run: {} over {}: {}",
            value(metric, effect.value),
            count(rounds.len(), "round"),
            shortened(rounds.iter().map(|round| value(metric, *round)))
        ));
    }
    let runs: Vec<String> = comparison
        .usable
        .iter()
        .filter_map(|summary| {
            let estimate = of(summary)?.estimate;
            let rounds = count(estimate.rounds.len(), "round");
            Some(format!("{} {} ({rounds})", summary.run, value(metric, estimate.point)))
        })
        .collect();
    lines.push(format!(
        "reference: {} over {}: {}",
        value(metric, effect.reference_value),
        count(runs.len(), "run"),
        shortened(runs.into_iter())
    ));
    lines
}

/// The change with its interval, and what its confidence is made of.
fn interval(comparison: &Comparison<'_>, judged: &Change) -> Option<String> {
    let (effect, low, high) = (judged.effect?, judged.low?, judged.high?);
    let policy = &comparison.run.manifest.policy;
    let family = comparison.family();
    let share = if family == 1 {
        "all of it is this comparison's".to_owned()
    } else {
        format!("shared equally by {family} gated comparisons, {} each", percent(policy.false_alarms / family as f64))
    };
    let look = Looks::of(&comparison.run.manifest).zip(comparison.summary.cell(&judged.cell)).map(|(looks, cell)| {
        let look = looks.at(cell.rounds);
        format!("; its look {look} of {} has {} of that", looks.count(), percent(looks.share(look)))
    });
    let share = share + &look.unwrap_or_default();
    Some(format!(
        "change: {}, interval {} at {} confidence: the chance of any false red in the run is {}, {share}",
        change(&judged.metric, effect),
        change_range(effect, low, high),
        fine_percent(judged.confidence?),
        percent(policy.false_alarms)
    ))
}

/// The levels of noise that the interval holds.
fn noise(comparison: &Comparison<'_>, judged: &Change, effect: &Effect) -> Vec<String> {
    let figure = |summary: &stepwatch_record::figure::Summary| -> Option<Figure> {
        summary.cell(&judged.cell)?.figure(&judged.metric.name).cloned()
    };
    let mut lines = Vec::new();
    let own = figure(comparison.summary).map(|figure| figure.estimate);
    if let Some(step) = own.as_ref().map(|own| own.step_sd_log).filter(|sd| sd.is_finite() && *sd > 0.0) {
        lines.push(format!(
            "noise of steps within a round: {} (sd; in no interval, the round is the observation)",
            percent(step)
        ));
    }
    let Some(rounds) = effect.round_variance else {
        lines.push("noise of rounds: unknown, one round a run shows none".to_owned());
        return lines;
    };
    let source =
        if effect.alone { "its own alone, far above the other cells'" } else { "moderated over the cells of the run" };
    let own = own.map_or_else(String::new, |own| format!("; {} in this run alone", percent(own.round_sd_log)));
    if comparison.paired {
        lines.push(format!(
            "noise of the difference of two rounds of a pair: {} (sd, {source}); what both rounds share is not in it",
            percent(rounds.sqrt())
        ));
        lines.extend(error_of(effect));
        return lines;
    }
    lines.push(format!("noise of rounds within a run: {} (sd, {source}{own})", percent(rounds.sqrt())));
    let counts: Vec<f64> = comparison
        .usable
        .iter()
        .filter_map(|summary| Some(figure(summary)?.estimate.rounds.len() as f64).filter(|rounds| *rounds > 0.0))
        .collect();
    lines.push(between_runs(effect, rounds, &counts));
    if let Some(machine) = effect.machine {
        lines.push(format!(
            "the machine's part by the canary: {} of the change, ± {} (sd)",
            percent(effect.scale.relative(machine)),
            percent(effect.machine_variance.sqrt())
        ));
    }
    lines.extend(error_of(effect));
    lines
}

fn error_of(effect: &Effect) -> Option<String> {
    let error = percent(effect.standard_error(effect.rounds)?);
    Some(format!("standard error of the change: {error}, {} degrees of freedom", number(effect.df)))
}

/// What runs of the same code differ by, taken back out of the fixed part of the variance: τ²(1 + 1/R) + σ²·Σ(1/n_r)/R², and what
/// all cells share.
fn between_runs(effect: &Effect, round_variance: f64, counts: &[f64]) -> String {
    let runs = counts.len().max(1) as f64;
    let (shared, own_share) = effect.shared.map_or((0.0, 1.0), |shared| (shared.variance, shared.own_share));
    let rounds = round_variance * own_share * counts.iter().map(|rounds| 1.0 / rounds).sum::<f64>() / (runs * runs);
    let of_runs = 1.0 + 1.0 / runs;
    let variance = (effect.fixed_variance - effect.machine_variance - shared - rounds) / of_runs;
    let own = match () {
        () if counts.len() < 2 => {
            return "noise between runs of the same code: unknown with one reference run, and in no interval"
                .to_owned();
        }
        // What rounding leaves of a difference of equal variances.
        () if variance <= effect.fixed_variance * 1e-9 => "no more than their rounds explain".to_owned(),
        () => format!("{} (sd)", percent(variance.sqrt())),
    };
    let shared = effect.shared.map_or_else(String::new, |shared| {
        let sd = percent((shared.variance / of_runs).sqrt());
        format!("; {sd} (sd, {} degrees of freedom) that all cells of a run share", number(shared.df))
    });
    format!("noise between runs of the same code: {own}{shared}")
}

/// What could have been seen, and how many rounds would decide or see.
fn sight(judged: &Change, effect: &Effect, policy: &Policy) -> Vec<String> {
    let mut lines = vec![format!(
        "rule: a change matters from {} on, unchanged is shown within ± {}, {} must be seen",
        percent(policy.margin),
        percent(policy.equal_within),
        percent(policy.detect)
    )];
    if let Some(detectable) = judged.detectable {
        let blind = if judged.blind { "blind: " } else { "" };
        lines.push(format!(
            "{blind}the smallest worsening that would have been seen with a chance of {} is {}",
            percent(POWER),
            percent(detectable)
        ));
    }
    if let Some(rounds) = judged.rounds_to_decide {
        lines.push(format!("about {} in all would decide it", count(rounds as usize, "round")));
    }
    if judged.blind {
        let confidence = judged.confidence.unwrap_or(1.0 - policy.false_alarms);
        lines.push(match rounds_to_see(effect, judged.metric.better, policy, confidence) {
            Some(rounds) => {
                format!("about {} in all would see {}", count(rounds as usize, "round"), percent(policy.detect))
            }
            None => {
                "more rounds of this run alone would not see it: accept more reference runs, or quieten the machine"
                    .to_owned()
            }
        });
    }
    lines
}

/// The fewest rounds of this run at which the policy's `detect` would be seen; `None` if none up to 1000 do.
pub(crate) fn rounds_to_see(effect: &Effect, better: Better, policy: &Policy, confidence: f64) -> Option<u32> {
    let sees = |rounds: u32| {
        // The estimate plays no part in what can be seen.
        decide(&effect.with_rounds(rounds), better, policy, confidence)
            .detectable
            .is_some_and(|share| share <= policy.detect)
    };
    if effect.rounds >= MOST_ROUNDS || !sees(MOST_ROUNDS) {
        return None;
    }
    let (mut blind, mut enough) = (effect.rounds, MOST_ROUNDS);
    while enough - blind > 1 {
        let middle = u32::midpoint(blind, enough);
        if sees(middle) { enough = middle } else { blind = middle }
    }
    Some(enough)
}

/// Clock, power, heat and the canary in the rounds of a cell.
fn machine(comparison: &Comparison<'_>, cell: &CellId) -> Vec<String> {
    let run = comparison.run;
    let rounds: Vec<&Round> = run.rounds.iter().filter(|round| &round.record.cell == cell).collect();
    let mut lines = Vec::new();
    let place = comparison.summary.cells.iter().position(|figures| &figures.cell.id == cell);
    for name in ["sm_clock_hz", "cycles_per_step", "joules_per_token"] {
        let Some(metric) = run.manifest.metrics.iter().find(|metric| metric.name == name) else { continue };
        let here = comparison.summary.cell(cell).and_then(|figures| figures.figure(name));
        let Some(here) = here.map(|figure| figure.estimate.point) else { continue };
        let effect = place.and_then(|i| comparison.effects(name).into_iter().nth(i)?);
        let beside = effect.map_or_else(String::new, |effect| {
            let there = value(metric, effect.reference_value);
            format!(", in the reference {there} ({})", change(metric, effect.scale.relative(effect.difference)))
        });
        lines.push(format!("{}: {}{beside}", spoken(metric), value(metric, here)));
    }
    let samples: Vec<&Sample> =
        rounds.iter().flat_map(|round| &round.samples).filter(|sample| sample.measured).collect();
    let known = |pick: fn(&Sample) -> f64| {
        let known: Vec<f64> = samples.iter().map(|sample| pick(sample)).filter(|value| value.is_finite()).collect();
        stats::mean(&known)
    };
    let power = known(|sample| sample.power_w);
    lines.extend(power.map(|watts| format!("power: {} W on average", number(watts))));
    lines.extend(
        known(|sample| sample.temperature_c).map(|celsius| format!("temperature: {} °C on average", number(celsius))),
    );
    if power.is_some() {
        let held = samples.iter().filter(|sample| is_held_down(sample)).count();
        let share = percent(held as f64 / samples.len().max(1) as f64);
        lines.push(format!("clock held down by power or heat: {share} of {}", count(samples.len(), "sample")));
    }
    lines.extend(canary(comparison, cell));
    if lines.is_empty() {
        lines.push("neither clocks nor power nor a canary were recorded".to_owned());
    }
    lines
}

/// The canary in the rounds of this cell beside all others of the run: its work is the same everywhere.
fn canary(comparison: &Comparison<'_>, cell: &CellId) -> Vec<String> {
    let median = |own: bool, rate: fn(&stepwatch_record::message::Canary) -> f64| {
        let rounds = comparison.run.rounds.iter().filter(|round| (&round.record.cell == cell) == own);
        let rates: Vec<f64> = rounds.flat_map(|round| &round.record.canaries).map(rate).collect();
        stats::median(&rates).filter(|rate| *rate > 0.0)
    };
    let line = |name: &str, unit: (f64, &str), rate: fn(&stepwatch_record::message::Canary) -> f64| {
        let here = median(true, rate)?;
        let beside = median(false, rate).map_or_else(String::new, |other| {
            let shift = here / other - 1.0;
            let word = if shift < 0.0 { "slower" } else { "faster" };
            format!(", {} {word} than in the run's other cells", percent(shift.abs()))
        });
        Some(format!("canary's {name}: {} {}{beside}", number(here / unit.0), unit.1))
    };
    let product = line("product", (1e9, "GFLOP/s"), |canary| canary.flops_per_second);
    let copy = line("copy", (1e9, "GB/s"), |canary| canary.bytes_per_second);
    product.into_iter().chain(copy).collect()
}

fn shortened(texts: impl ExactSizeIterator<Item = String>) -> String {
    let more = texts.len().saturating_sub(MOST_SHOWN);
    let shown: Vec<String> = texts.take(MOST_SHOWN).collect();
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}
