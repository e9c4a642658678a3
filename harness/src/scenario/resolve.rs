//! From what a file holds to what is run: the one function between the two tiers, and the names that may be paths.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use sha2::{Digest, Sha256};
use stepwatch_model::config::Dims;
use stepwatch_record::run::{Claim, Metric, Policy};
use toml::Spanned;
use toml::de::DeTable;

use super::diagnostic::{Diagnostics, Problem, list, quoted};
use super::matrix::{self, Known};
use super::raw::{self, RawScenario};
use super::read::Table;
use super::workload::Declared;
use super::{BackendChoice, LoadOptions, Measure, PlannedCell, Scenario, Work};
use super::{claim, filter, measure, models, policy, workload};

/// More cells than this need `max_cells`.
const MAX_CELLS: usize = 10_000;

/// Resolves the text of a scenario.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn resolve(file: &Path, text: &str, options: &LoadOptions<'_>) -> Result<Scenario, Diagnostics> {
    let mut diagnostics = Diagnostics::new(file, text, options.filter);
    let mut problems = Vec::new();
    let (tree, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        let place = fault.span().unwrap_or(0..0);
        problems.push(Problem::at(place, format!("this is no TOML: {}", fault.message()), "here"));
    }
    // A tree that was mended after a fault of syntax would give errors that are none.
    let scenario = if faults.is_empty() {
        let raw = raw::read(tree.get_ref(), &mut problems);
        from_raw(file, text, &raw, options, &mut problems)
    } else {
        None
    };
    for problem in problems {
        diagnostics.push(problem);
    }
    diagnostics.sort();
    match scenario {
        Some(scenario) if diagnostics.errors() == 0 => Ok(Scenario { warnings: diagnostics, ..scenario }),
        _ => Err(diagnostics),
    }
}

/// The models that a file declares.
///
/// # Errors
/// What is wrong with them; the rest of the file is not looked at.
pub(super) fn model_dims(file: &Path, text: &str) -> Result<Vec<(String, Dims)>, Diagnostics> {
    let mut diagnostics = Diagnostics::new(file, text, None);
    let mut problems = Vec::new();
    let (tree, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        problems.push(Problem::at(
            fault.span().unwrap_or(0..0),
            format!("this is no TOML: {}", fault.message()),
            "here",
        ));
    }
    let models = if faults.is_empty() {
        models::read(&raw::models(tree.get_ref(), &mut problems), &mut problems)
    } else {
        models::Models::default()
    };
    problems.into_iter().for_each(|problem| diagnostics.push(problem));
    if diagnostics.errors() > 0 {
        return Err(diagnostics);
    }
    let own = models.own().filter_map(|(name, _)| Some((name.to_owned(), models.dims(name)?)));
    Ok(own.collect())
}

/// Every step from raw to resolved, in order. What is wrong is noted and the next step goes on where it can.
fn from_raw(
    file: &Path,
    text: &str,
    raw: &RawScenario<'_, '_>,
    options: &LoadOptions<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Scenario> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let (name, title) = name_and_title(file, raw, problems);
    check_names(raw, problems);
    let models = models::read(&raw.models, problems);
    let standard = stepwatch_verdict::figures::standard_metrics();
    let workloads = workload::read(&raw.workloads, text, folder, &standard, problems);
    let metrics = all_metrics(standard, &workloads);
    let measure = measure::read(raw, options.rounds, problems);
    let policy = policy::read(raw, &metrics, problems);
    let backend = backend(raw.scenario.as_ref(), problems);
    let max_cells = max_cells(raw.scenario.as_ref(), problems);
    let step = matrix::step(raw, folder, problems);
    let declared: Vec<&str> = raw.workloads.iter().map(|named| named.name.get_ref().as_str()).collect();
    let known = Known { models: &models, workloads: &workloads, declared: &declared, folder, step };
    let placed = matrix::cells(raw, &known, options.max_cells.unwrap_or(max_cells), problems);
    let cells: Vec<&PlannedCell> = placed.iter().map(|placed| &placed.planned).collect();
    // Without cells every claim would seem wrong.
    if cells.is_empty() {
        return None;
    }
    let claims: Vec<Claim> =
        raw.claims.iter().filter_map(|raw| claim::resolve(raw, &cells, &metrics, problems)).collect();
    let kept = match options.filter {
        Some(filter) => filter::Filter::parse(filter, problems).select(&cells, problems),
        None => vec![true; cells.len()],
    };
    // Beside errors, what looks like a slip is more often their consequence.
    if problems.iter().all(|problem| !problem.is_error()) {
        warn_of_unused(&cells, &models, &workloads, problems);
        warn_of_no_gate(&cells, &policy, problems);
    }
    let findings = label_findings(&models, problems);
    let cells: Vec<PlannedCell> =
        placed.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(placed, _)| placed.planned).collect();
    let mut notes = Vec::new();
    let claims = claims_of(claims, &cells, &mut notes);
    let hash = hash(&name, &cells, &measure, &policy, &claims);
    Some(Scenario {
        file: file.to_owned(),
        text: text.to_owned(),
        name,
        title,
        backend: options.backend.unwrap_or(backend),
        cells,
        measure,
        policy,
        claims,
        metrics,
        workloads: workloads.into_iter().map(|(name, declared)| (name, declared.workload)).collect(),
        hash,
        findings,
        notes,
        warnings: Diagnostics::new(file, text, options.filter),
    })
}

fn name_and_title(file: &Path, raw: &RawScenario<'_, '_>, problems: &mut Vec<Problem>) -> (String, String) {
    let table = raw.scenario.as_ref();
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let written = table.and_then(|table| table.text("name", problems));
    if let Some(name) = written.as_ref().filter(|name| !is_name(name.get_ref())) {
        problems.push(bad_name("a scenario", name));
    }
    if written.is_none() && table.is_none_or(|table| table.value("name").is_none()) && !is_name(&stem) {
        problems.push(
            Problem::of_whole(format!("the file's name {} cannot name a scenario", quoted(&stem)))
                .help(format!("give it one: [scenario] with name = \"my-study\" below it; {NAME_RULE}")),
        );
    }
    let name = written.map_or(stem, Spanned::into_inner);
    let title = table.and_then(|table| table.text("title", problems)).map(Spanned::into_inner);
    (name.clone(), title.unwrap_or(name))
}

const NAME_RULE: &str = "a name is letters, digits, `-`, `_` and `.`, starts with a letter or digit and has at most 64";

/// Whether a name can be a path component, a part of an id and an argument without being escaped.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The problem of a name that [`is_name`] refuses.
pub(super) fn bad_name(what: &str, name: &Spanned<impl AsRef<str>>) -> Problem {
    let title = format!("{} cannot name {what}", quoted(name.get_ref().as_ref()));
    Problem::at(name.span(), title, "not a safe name").help(NAME_RULE)
}

fn check_names(raw: &RawScenario<'_, '_>, problems: &mut Vec<Problem>) {
    for (what, all) in [("a model", &raw.models), ("a workload", &raw.workloads)] {
        problems
            .extend(all.iter().filter(|named| !is_name(named.name.get_ref())).map(|named| bad_name(what, &named.name)));
    }
}

fn backend(table: Option<&Table<'_, '_>>, problems: &mut Vec<Problem>) -> BackendChoice {
    let Some(table) = table else { return BackendChoice::Auto };
    // Scripted times are for tests and named in no message.
    if table.value("backend").and_then(|value| value.get_ref().as_str()) == Some(BackendChoice::Null.name()) {
        return BackendChoice::Null;
    }
    let word = table.word("backend", &["auto", "cuda", "cpu"], problems);
    word.and_then(BackendChoice::from_name).unwrap_or_default()
}

fn max_cells(table: Option<&Table<'_, '_>>, problems: &mut Vec<Problem>) -> usize {
    let given = table.and_then(|table| table.integer("max_cells", 1, 1_000_000, problems));
    given.and_then(|given| usize::try_from(given).ok()).unwrap_or(MAX_CELLS)
}

fn all_metrics(mut metrics: Vec<Metric>, workloads: &std::collections::BTreeMap<String, Declared>) -> Vec<Metric> {
    for metric in workloads.values().flat_map(|declared| &declared.workload.metrics) {
        if !metrics.iter().any(|known| known.name == metric.name) {
            metrics.push(Metric { name: metric.name.clone(), unit: metric.unit.clone(), better: metric.better });
        }
    }
    metrics
}

/// A model or workload that no cell uses is a slip more often than not.
fn warn_of_unused(
    cells: &[&PlannedCell],
    models: &models::Models,
    workloads: &std::collections::BTreeMap<String, Declared>,
    problems: &mut Vec<Problem>,
) {
    let used_workloads: BTreeSet<&str> = cells.iter().map(|cell| cell.cell.workload.as_str()).collect();
    let used_models: BTreeSet<String> =
        cells.iter().filter_map(|cell| cell.cell.parameters.get("model")).map(ToString::to_string).collect();
    let mut warn = |what: &str, name: &str, place: Range<usize>| {
        let title = format!("no cell uses the {what} {}", quoted(name));
        problems.push(Problem::at(place, title, format!("name it in a [[matrix]]: {what} = \"{name}\"")).warning());
    };
    for (name, place) in models.own().filter(|(name, _)| !used_models.contains(*name) && !models.is_labelled(name)) {
        warn("model", name, place);
    }
    for (name, declared) in workloads.iter().filter(|(name, _)| !used_workloads.contains(name.as_str())) {
        warn("workload", name, declared.place.clone());
    }
}

/// Command cells that have no gated metric of their own can never fail a run.
fn warn_of_no_gate(cells: &[&PlannedCell], policy: &Policy, problems: &mut Vec<Problem>) {
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for cell in cells {
        let Work::Command(command) = &cell.work else { continue };
        let gated = command.protocol || command.metrics.iter().any(|metric| policy.gate.contains(&metric.name));
        if !gated && told.insert(&command.workload) {
            let own = list(command.metrics.iter().map(|metric| &metric.name));
            problems.push(
                Problem::of_whole(format!(
                    "no metric of the workload {} is gated, so it can never be a regression",
                    quoted(&command.workload)
                ))
                .help(format!("write [policy] with gate = […] of {own}"))
                .warning(),
            );
        }
    }
}

/// The findings of size labels, each said as a warning too.
fn label_findings(models: &models::Models, problems: &mut Vec<Problem>) -> Vec<stepwatch_record::finding::Finding> {
    let mut findings = Vec::new();
    for (finding, place) in models.wrong_labels() {
        let problem = Problem::at(place, format!("size-label-wrong: {}", finding.sentence), "declared here");
        problems.push(problem.help(finding.next_step.clone()).warning());
        findings.push(finding);
    }
    findings
}

/// The claims with the pairs that the filter left.
fn claims_of(claims: Vec<Claim>, cells: &[PlannedCell], notes: &mut Vec<String>) -> Vec<Claim> {
    let ids: BTreeSet<_> = cells.iter().map(|cell| &cell.cell.id).collect();
    let mut kept = Vec::new();
    for mut claim in claims {
        claim.pairs.retain(|pair| ids.contains(&pair.of) && ids.contains(&pair.over));
        if claim.pairs.is_empty() {
            notes.push(format!("the filter leaves no pair of the claim {}", quoted(&claim.text)));
        } else {
            kept.push(claim);
        }
    }
    kept
}

/// What was asked, as one number: name, cells, measure, policy and claims. Backend, titles and wording are outside it, and
/// so is the order of cells.
fn hash(name: &str, cells: &[PlannedCell], measure: &Measure, policy: &Policy, claims: &[Claim]) -> String {
    let mut lines: Vec<String> = cells
        .iter()
        .map(|cell| match &cell.work {
            Work::Builtin(_) => cell.cell.id.0.clone(),
            Work::Command(command) => {
                let persistent = if command.persistent { " persistent" } else { "" };
                format!("{} {:?}{persistent}", cell.cell.id, command.argv)
            }
        })
        .collect();
    lines.sort_unstable();
    lines.push(format!("{name} {measure:?} {policy:?}"));
    lines.extend(claims.iter().map(|claim| {
        format!(
            "{} {:?} {:?} {:?} {:?} {}",
            claim.metric, claim.of, claim.over, claim.at_least, claim.at_most, claim.gate
        )
    }));
    let digest = Sha256::digest(lines.join("\n").as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
