//! The models a scenario knows: the presets and its own `[models.NAME]`, with the size their author believes they have.

use std::collections::BTreeMap;
use std::ops::Range;

use stepwatch_model::config::{self, Dims};
use stepwatch_model::{count, solve};
use stepwatch_record::finding::{Finding, Kind, Severity};
use toml::de::DeValue;

use super::diagnostic::{Problem, list, not_known, quoted};
use super::raw::RawNamed;
use super::read::{Table, integer};

/// A declared size further than this from the real one is a finding.
const LABEL_TOLERANCE: f64 = 0.02;

/// Where ffn follows from dim.
const FFN_PER_DIM: usize = 4;

/// The vocabulary of a model that says nothing: GPT-2's.
const DEFAULT_VOCAB: i64 = 50257;

/// The models by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Models {
    own: BTreeMap<String, OwnModel>,
    /// Declared, but wrong in itself: to say so once is enough.
    broken: Vec<String>,
}

#[derive(Debug, Clone)]
struct OwnModel {
    dims: Dims,
    place: Range<usize>,
    /// What its author believes its size to be, as written, and where.
    label: Option<(String, f64, Range<usize>)>,
}

impl Models {
    /// The dims of a model, a preset or an own one.
    pub(super) fn dims(&self, name: &str) -> Option<Dims> {
        self.own.get(name).map(|model| model.dims).or_else(|| config::preset(name))
    }

    /// The names of all models, presets first.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        config::PRESETS.iter().map(|(name, _)| *name).chain(self.own.keys().map(String::as_str))
    }

    /// The problem of a model that does not exist, unless it is declared and was refused with a problem of its own.
    pub(super) fn unknown(&self, name: &str, place: Range<usize>) -> Option<Problem> {
        if self.is_broken(name) {
            return None;
        }
        let known: Vec<&str> = self.names().collect();
        let label = not_known(name, known.iter().copied(), "no such model");
        let problem = Problem::at(place, format!("there is no model {}", quoted(name)), label);
        Some(problem.help(format!("models are {}; others are declared as [models.NAME]", list(known))))
    }

    /// Whether a model of this name is declared and was refused.
    pub(super) fn is_broken(&self, name: &str) -> bool {
        self.broken.iter().any(|broken| broken == name)
    }

    /// Whether a model says what size it is believed to have: to be checked is use enough.
    pub(super) fn is_labelled(&self, name: &str) -> bool {
        self.own.get(name).is_some_and(|model| model.label.is_some())
    }

    /// The scenario's own models with where they stand.
    pub(super) fn own(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        self.own.iter().map(|(name, model)| (name.as_str(), model.place.clone()))
    }

    /// A finding and its place for every label that does not fit.
    pub(super) fn wrong_labels(&self) -> Vec<(Finding, Range<usize>)> {
        let of_one = |(name, model): (&String, &OwnModel)| {
            let (label, declared, place) = model.label.as_ref()?;
            Some((wrong_label(name, &model.dims, label, *declared)?, place.clone()))
        };
        self.own.iter().filter_map(of_one).collect()
    }
}

/// The finding `size-label-wrong`, if the label is further off than allowed.
fn wrong_label(name: &str, dims: &Dims, label: &str, declared: f64) -> Option<Finding> {
    let built = count::count(dims).total;
    let deviation = built as f64 / declared - 1.0;
    if deviation.abs() <= LABEL_TOLERANCE {
        return None;
    }
    let nearest = solve::search(declared as u64, dims);
    let dims_that_fit: Vec<String> = nearest
        .iter()
        .map(|proposal| {
            format!("{} has {} ({:+.1} %)", proposal.dims, millions(proposal.parameters), proposal.deviation * 100.0)
        })
        .collect();
    Some(Finding {
        kind: Kind::SizeLabelWrong,
        severity: Severity::High,
        sentence: format!("{} declared, {} built: model {}", label, millions(built), quoted(name)),
        evidence: [format!("{dims} has {built} parameters, {:+.1} % off its label", deviation * 100.0)]
            .into_iter()
            .chain(dims_that_fit)
            .collect(),
        next_step: nearest.first().map_or_else(String::new, |proposal| {
            format!("write params = \"{}\", or use {} for {label}", millions(built).replace(' ', ""), proposal.dims)
        }),
        command: String::new(),
        cells: Vec::new(),
    })
}

/// A parameter count as people say it.
pub(crate) fn millions(parameters: u64) -> String {
    match parameters {
        1_000_000_000.. => format!("{:.2} B", parameters as f64 / 1e9),
        1_000_000.. => format!("{:.1} M", parameters as f64 / 1e6),
        1_000.. => format!("{:.1} K", parameters as f64 / 1e3),
        _ => parameters.to_string(),
    }
}

/// `350M`, `1.2B`, `454.2 m`, `64k`, or plain digits.
pub(crate) fn parse_count(text: &str) -> Option<f64> {
    let text = text.trim();
    let (number, scale) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (&text[..at], 1e3),
        (at, 'm' | 'M') => (&text[..at], 1e6),
        (at, 'b' | 'B' | 'g' | 'G') => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let count = number.trim().parse::<f64>().ok()? * scale;
    (1.0..=1e15).contains(&count).then_some(count)
}

/// Reads `[models.*]`.
pub(super) fn read(raw: &[RawNamed<'_, '_>], problems: &mut Vec<Problem>) -> Models {
    let mut models = Models::default();
    for RawNamed { name, table } in raw {
        let shown = quoted(name.get_ref());
        if config::preset(name.get_ref()).is_some() {
            problems.push(
                Problem::at(
                    name.span(),
                    format!("model {shown} would hide the preset of this name"),
                    "name it otherwise",
                )
                .help(format!("presets are {}", list(config::PRESETS.map(|(name, _)| name)))),
            );
        }
        if let Some(model) = model(table, name.span(), problems) {
            models.own.insert(name.get_ref().clone(), model);
        } else {
            models.broken.push(name.get_ref().clone());
        }
    }
    models
}

fn model(table: &Table<'_, '_>, place: Range<usize>, problems: &mut Vec<Problem>) -> Option<OwnModel> {
    const MOST: i64 = 1 << 24;
    let mut dimension = |name: &str, default: Option<i64>| {
        if table.value(name).is_none() && default.is_none() {
            table.missing(name, problems);
        }
        if table.value(name).is_none() { default } else { table.integer(name, 1, MOST, problems) }
    };
    let (dim, layers, heads) = (dimension("dim", None), dimension("layers", None), dimension("heads", None));
    let ffn = dimension("ffn", Some(dim.unwrap_or(1) * FFN_PER_DIM as i64));
    let vocab = dimension("vocab", Some(DEFAULT_VOCAB));
    let label = label(table, problems);
    let size = |value: i64| usize::try_from(value).ok();
    let dims =
        Dims { dim: size(dim?)?, layers: size(layers?)?, heads: size(heads?)?, ffn: size(ffn?)?, vocab: size(vocab?)? };
    if let Err(error) = dims.check() {
        let at = table.value("heads").map_or(table.span.clone(), |value| value.span());
        let divisors: Vec<String> =
            (1..=dims.dim).filter(|heads| dims.dim.is_multiple_of(2 * heads)).map(|heads| heads.to_string()).collect();
        let near: Vec<&String> = nearest_numbers(&divisors, dims.heads);
        problems.push(Problem::at(at, format!("{}: {error}", table.name), "here").help(format!(
            "heads that fit dim {}: {}",
            dims.dim,
            list(near)
        )));
        return None;
    }
    Some(OwnModel { dims, place, label })
}

/// The numbers nearest to a wanted one, at most four, ascending.
fn nearest_numbers(all: &[String], wanted: usize) -> Vec<&String> {
    let at = all.partition_point(|number| number.parse::<usize>().is_ok_and(|number| number < wanted));
    all.iter().skip(at.saturating_sub(2)).take(4).collect()
}

fn label(table: &Table<'_, '_>, problems: &mut Vec<Problem>) -> Option<(String, f64, Range<usize>)> {
    let value = table.value("params")?;
    let text = match value.get_ref() {
        DeValue::String(text) => text.clone().into_owned(),
        other => integer(other).map(|number| number.to_string()).unwrap_or_default(),
    };
    let count = parse_count(&text);
    if count.is_none() {
        table.wrong("params", value, "a count such as \"350M\" or \"1.2B\"", problems);
    }
    Some((text, count?, value.span()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_people_write_them() {
        for (text, count) in [("350M", 350e6), ("1.2B", 1.2e9), ("454.2 m", 454.2e6), ("64k", 64e3), ("1000", 1000.0)] {
            assert_eq!(parse_count(text), Some(count), "{text}");
        }
        for text in ["", "M", "-3M", "lots", "3T", "nanM", "infM", "0"] {
            assert_eq!(parse_count(text), None, "{text}");
        }
    }

    #[test]
    fn a_label_two_per_cent_off_is_a_finding_with_dims_that_fit() {
        let dims = config::preset("454m").unwrap();
        assert_eq!(wrong_label("x", &dims, "454M", 454e6), None);
        assert_eq!(wrong_label("x", &dims, "446M", 446e6), None);
        let finding = wrong_label("x", &dims, "350M", 350e6).unwrap();
        assert_eq!(finding.sentence, "350M declared, 454.2 M built: model `x`");
        assert!(
            finding.evidence.iter().any(|line| line.contains("dim=896,layers=24,heads=14,ffn=3584")),
            "{finding:?}"
        );
        assert!(wrong_label("x", &dims, "444M", 444e6).is_some());
    }
}
