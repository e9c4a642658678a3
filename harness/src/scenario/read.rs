//! Reading tables of a TOML tree: every wrong key and every wrong value is noted with its place, and reading goes on, so
//! that a user sees all that is wrong with a file at once.

use std::ops::Range;
use std::time::Duration;

use stepwatch_record::Scalar;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Problem, list, not_known, quoted};
use super::keys::Key;

/// A value and where it stands.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// One table that is being read, with its keys.
pub(super) struct Table<'a, 'i> {
    /// How a message calls it: `[measure]`.
    pub(super) name: String,
    /// Where it stands.
    pub(super) span: Range<usize>,
    table: &'a DeTable<'i>,
    keys: &'static [Key],
}

impl<'a, 'i> Table<'a, 'i> {
    /// Takes a table and notes every key of it that is not among `keys`.
    pub(super) fn new(
        name: String,
        span: Range<usize>,
        table: &'a DeTable<'i>,
        keys: &'static [Key],
        problems: &mut Vec<Problem>,
    ) -> Self {
        let known = || keys.iter().map(|key| key.name);
        for key in table.keys().filter(|key| !known().any(|name| name == key.get_ref())) {
            problems.push(unknown_key(key, &name, known()));
        }
        Self { name, span, table, keys }
    }

    /// The value of a key, as it stands.
    pub(super) fn value(&self, name: &str) -> Option<&'a Value<'i>> {
        self.table.get(name)
    }

    /// Notes that a value is of the wrong kind.
    pub(super) fn wrong(&self, name: &str, value: &Value<'_>, expected: &str, problems: &mut Vec<Problem>) {
        let title = format!("{} in {} must be {expected}", quoted(name), self.name);
        let mut problem = Problem::at(value.span(), title, format!("found {}", found(value.get_ref())));
        if let Some(key) = self.keys.iter().find(|key| key.name == name) {
            problem = problem.help(format!("for example: {} = {}", key.name, key.example));
        }
        problems.push(problem);
    }

    /// Notes that a key without a default is absent.
    pub(super) fn missing(&self, name: &str, problems: &mut Vec<Problem>) {
        let title = format!("{} has no {}", self.name, quoted(name));
        let mut problem = Problem::at(self.span.clone(), title, "this one");
        if let Some(key) = self.keys.iter().find(|key| key.name == name) {
            problem = problem.help(format!("for example: {} = {}", key.name, key.example));
        }
        problems.push(problem);
    }

    /// A text.
    pub(super) fn text(&self, name: &str, problems: &mut Vec<Problem>) -> Option<Spanned<String>> {
        let value = self.value(name)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(value.span(), text.clone().into_owned())),
            _ => {
                self.wrong(name, value, "text", problems);
                None
            }
        }
    }

    /// One of some words.
    pub(super) fn word(&self, name: &str, words: &[&'static str], problems: &mut Vec<Problem>) -> Option<&'static str> {
        let value = self.value(name)?;
        let word = value.get_ref().as_str();
        let known = words.iter().find(|known| Some(**known) == word);
        if known.is_none() {
            let title = format!("{} in {} must be one of {}", quoted(name), self.name, list(words));
            let label = match word {
                Some(word) => not_known(word, words.iter().copied(), "no such word"),
                None => format!("found {}", found(value.get_ref())),
            };
            problems.push(Problem::at(value.span(), title, label));
        }
        known.copied()
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, name: &str, problems: &mut Vec<Problem>) -> Option<bool> {
        let value = self.value(name)?;
        let read = value.get_ref().as_bool();
        if read.is_none() {
            self.wrong(name, value, "`true` or `false`", problems);
        }
        read
    }

    /// A whole number in a range.
    pub(super) fn integer(&self, name: &str, least: i64, most: i64, problems: &mut Vec<Problem>) -> Option<i64> {
        let value = self.value(name)?;
        let read = integer(value.get_ref()).filter(|number| (least..=most).contains(number));
        if read.is_none() {
            self.wrong(name, value, &format!("a whole number from {least} to {most}"), problems);
        }
        read
    }

    /// A finite number that `accepts`; `expected` says in words which ones do.
    pub(super) fn number(
        &self,
        name: &str,
        accepts: impl Fn(f64) -> bool,
        expected: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<f64> {
        let value = self.value(name)?;
        let read = number(value.get_ref()).filter(|number| accepts(*number));
        if read.is_none() {
            self.wrong(name, value, expected, problems);
        }
        read
    }

    /// A duration such as `"5min"`.
    pub(super) fn duration(&self, name: &str, problems: &mut Vec<Problem>) -> Option<Duration> {
        let value = self.value(name)?;
        let read = value.get_ref().as_str().and_then(duration);
        if read.is_none() {
            self.wrong(name, value, "a time of at least 1s with its unit, ms, s, min or h", problems);
        }
        read
    }

    /// A list of texts that is not empty; with `one_is_enough`, a text is a list of one.
    pub(super) fn texts(
        &self,
        name: &str,
        one_is_enough: bool,
        problems: &mut Vec<Problem>,
    ) -> Option<Vec<Spanned<String>>> {
        let value = self.value(name)?;
        let items = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            DeValue::String(_) if one_is_enough => vec![value],
            _ => {
                self.wrong(name, value, "a list of texts", problems);
                return None;
            }
        };
        let mut texts = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::String(text) => texts.push(Spanned::new(item.span(), text.clone().into_owned())),
                _ => self.wrong(name, item, "a list of texts", problems),
            }
        }
        Some(texts)
    }

    /// A table.
    pub(super) fn table(&self, name: &str, problems: &mut Vec<Problem>) -> Option<Spanned<&'a DeTable<'i>>> {
        let value = self.value(name)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Spanned::new(value.span(), table)),
            _ => {
                self.wrong(name, value, "a table", problems);
                None
            }
        }
    }
}

/// The problem of a key that nobody reads.
pub(super) fn unknown_key<'k>(
    key: &Spanned<impl AsRef<str>>,
    table: &str,
    known: impl Iterator<Item = &'k str> + Clone,
) -> Problem {
    let word = key.get_ref().as_ref();
    let title = format!("unknown key {} in {table}", quoted(word));
    let label = not_known(word, known.clone(), "no such key");
    Problem::at(key.span(), title, label).help(format!("the keys of {table} are {}", list(known)))
}

/// What a value is, in words.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text \"{}\"", quoted(text).trim_matches('`')),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(items) if items.is_empty() => "an empty list".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A whole number, if it is one that fits.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A finite number, whole ones included.
pub(super) fn number(value: &DeValue<'_>) -> Option<f64> {
    let number = match value {
        DeValue::Float(number) => number.as_str().parse().ok()?,
        _ => integer(value)? as f64,
    };
    f64::is_finite(number).then_some(number)
}

/// A scalar of a parameter, if it is one.
pub(super) fn scalar(value: &DeValue<'_>) -> Option<Scalar> {
    match value {
        DeValue::String(text) => Some(Scalar::Text(text.clone().into_owned())),
        DeValue::Integer(_) => integer(value).map(Scalar::Integer),
        DeValue::Float(_) => number(value).map(Scalar::Float),
        DeValue::Boolean(value) => Some(Scalar::Bool(*value)),
        _ => None,
    }
}

/// `30s`, `5min`, `2h`, `1.5h`, `500ms`; at least a second, at most a week.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (amount, unit) = text.split_at(unit_at);
    let scale = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let seconds = amount.trim().parse::<f64>().ok()? * scale;
    (1.0..=7.0 * 86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_sense() {
        for (text, seconds) in [("30s", 30.0), ("5min", 300.0), ("2h", 7200.0), ("1.5 h", 5400.0), ("2500ms", 2.5)] {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "5", "min", "-5s", "0s", "5 minutes", "nan s", "1e9h", "5min30s", "10ms"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
