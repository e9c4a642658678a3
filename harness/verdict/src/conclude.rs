//! The whole judgement of one run in named steps.

use stepwatch_record::comparison::{Conclusion, Reference};
use stepwatch_record::figure::Summary;
use stepwatch_record::finding::Finding;
use stepwatch_record::name::Names;
use stepwatch_record::run::Run;
use stepwatch_record::waiver::Known;

use crate::compare::Comparison;
use crate::policy::exit::exit_code;
use crate::policy::waive::{annotations_between, day, waive};
use crate::{bounds, claims, compatible, findings, gains, headline, method, pairs, waterfall};

/// Concludes a run.
///
/// `summary` is [`crate::figures::summarise`] of `run`. `reference` holds the summaries of the reference runs, newest first;
/// empty if there are none. `origin` says where they come from, in words. `extra` are findings made elsewhere (model sizes,
/// FP8 eligibility), which are ranked among those made here. `known` is what people know beside the records, resolved for this run.
#[must_use]
pub fn conclude(
    run: &Run,
    summary: &Summary,
    reference: &[Summary],
    origin: &str,
    extra: Vec<Finding>,
    known: &Known,
) -> Conclusion {
    let comparison = Comparison::new(run, summary, reference);
    concluded(&comparison, summary, origin, extra, known)
}

/// Concludes a run of two sides by its pairs of rounds; `None` where it has one side only.
///
/// `summary` has the cells of both sides.
#[must_use]
pub fn conclude_sides(run: &Run, summary: &Summary, extra: Vec<Finding>, known: &Known) -> Option<Conclusion> {
    let against = run.manifest.asked.against.as_ref()?;
    let sides = pairs::sides(run, summary)?;
    let comparison = Comparison::of_sides(run, &sides);
    let mut conclusion = concluded(&comparison, summary, &pairs::origin(against), extra, known);
    conclusion.headline = format!("against {}: {}", pairs::named(against), conclusion.headline);
    Some(conclusion)
}

/// `summary` has all cells of the run, of which the comparison may judge a part.
fn concluded(
    comparison: &Comparison<'_>,
    summary: &Summary,
    origin: &str,
    extra: Vec<Finding>,
    known: &Known,
) -> Conclusion {
    let run = comparison.run;
    let mut changes = comparison.changes();
    let today = day(&run.manifest.started);
    let waivers = waive(&mut changes, &known.waivers, &run.manifest.metrics, today);
    let oldest = comparison.usable.iter().map(|summary| day(&summary.started)).min().unwrap_or(today);
    let mut claims = claims::judge(run, summary);
    let bounds = bounds::all(run, summary);
    let mut findings = findings::all(comparison, &changes, &claims, &bounds, extra);
    // Whatever was said of a cell by its id, people read its name; commands take either.
    let names = Names::of(&run.manifest.cells);
    let pairs = claims.iter_mut().flat_map(|claim| &mut claim.pairs).map(|pair| &mut pair.why);
    let texts = findings
        .iter_mut()
        .flat_map(|finding| finding.evidence.iter_mut().chain([&mut finding.sentence, &mut finding.command]));
    pairs.chain(texts).for_each(|text| *text = names.said(text));
    Conclusion {
        run: run.manifest.id.clone(),
        reference: described(comparison, origin),
        headline: headline::headline(comparison, &changes, &claims, &names),
        exit_code: exit_code(&changes, &claims, !comparison.given.is_empty()),
        method: method::method(run, comparison),
        changes,
        claims,
        findings,
        waterfalls: waterfall::all(run, summary),
        gains: gains::all(run, summary),
        bounds,
        waivers,
        annotations: annotations_between(&known.annotations, oldest, today),
        latest_changes: None,
    }
}

/// Names the runs compared with; where none may be, those that were given, so that a reader sees what was refused.
fn described(comparison: &Comparison<'_>, origin: &str) -> Reference {
    let given: Vec<&Summary> = comparison.given.iter().collect();
    let named = if comparison.usable.is_empty() { &given } else { &comparison.usable };
    let mut differences: Vec<String> = comparison.obstacles.clone();
    if let Some(newest) = named.first() {
        let plain = compatible::differences(comparison.summary, newest);
        differences.extend(
            plain.into_iter().filter(|line| !comparison.obstacles.contains(&line.replacen(": ", " differs: ", 1))),
        );
    }
    let passed_over = comparison.given.len() - comparison.usable.len();
    if passed_over > 0 && !comparison.usable.is_empty() {
        differences.push(format!("{passed_over} of {} reference runs were not used", comparison.given.len()));
    }
    Reference {
        runs: named.iter().map(|summary| summary.run.clone()).collect(),
        origin: if given.is_empty() { String::new() } else { origin.to_owned() },
        differences,
    }
}
