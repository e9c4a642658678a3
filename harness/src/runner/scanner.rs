//! Figures read from what a command prints: every match of a metric's regex is a sample.
//!
//! Matching is line by line, standard output and standard error alike, so that no amount of output costs memory.

use std::collections::BTreeMap;

use stepwatch_record::run::End;

use super::output::Tail;
use crate::scenario::CommandMetric;

/// A metric that matches more often than this in one round is taken for a mistake.
pub const MATCH_LIMIT: usize = 100_000;

/// Reads one command's output.
pub struct Scanner<'a> {
    metrics: &'a [CommandMetric],
    values: BTreeMap<String, Vec<f64>>,
    wrong: Option<String>,
}

impl<'a> Scanner<'a> {
    /// A scanner for these metrics.
    #[must_use]
    pub fn new(metrics: &'a [CommandMetric]) -> Self {
        Self { metrics, values: BTreeMap::new(), wrong: None }
    }

    /// Takes one line; says whether it held a figure.
    pub fn line(&mut self, line: &str) -> bool {
        let mut found = false;
        for metric in self.metrics {
            let Some(regex) = &metric.regex else { continue };
            for captures in regex.captures_iter(line) {
                let Some(text) = captures.get(1).or_else(|| captures.get(0)) else { continue };
                found = true;
                let values = self.values.entry(metric.name.clone()).or_default();
                match number(text.as_str()) {
                    _ if values.len() >= MATCH_LIMIT => {
                        self.wrong.get_or_insert_with(|| {
                            format!("`{}` matched more than {MATCH_LIMIT} times: its regex is too wide", metric.name)
                        });
                    }
                    Some(value) => values.push(value),
                    None => {
                        self.wrong.get_or_insert_with(|| {
                            format!(
                                "`{}` matched `{}`, which is no finite number above 0",
                                metric.name,
                                text.as_str().chars().take(60).collect::<String>()
                            )
                        });
                    }
                }
            }
        }
        found
    }

    /// What the figures come to once the command exited with 0: completed, or which metric is missing or wrong.
    #[must_use]
    pub fn close(self, tail: &Tail) -> (End, BTreeMap<String, Vec<f64>>) {
        let missing =
            self.metrics.iter().find(|metric| metric.regex.is_some() && !self.values.contains_key(&metric.name));
        let end = match (self.wrong, missing) {
            (Some(message), _) => End::Failed { message },
            (None, Some(metric)) => End::Failed { message: unmatched(metric, tail) },
            (None, None) => End::Completed,
        };
        (end, self.values)
    }
}

fn unmatched(metric: &CommandMetric, tail: &Tail) -> String {
    let regex = metric.regex.as_ref().map_or("", |regex| regex.as_str());
    let last =
        tail.last().map_or_else(|| "it printed nothing".to_owned(), |last| format!("its last line was `{last}`"));
    format!("no line of its output matches `{}` ({regex}): {last}", metric.name)
}

/// A number as programs print it: `1,234.5`, `1_000`, `1e3`; a sentence's full stop after it is not part of it.
fn number(text: &str) -> Option<f64> {
    let plain: String = text.trim().trim_end_matches(['.', ',']).chars().filter(|c| !matches!(c, ',' | '_')).collect();
    plain.parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwatch_record::run::Better;

    fn metric(name: &str, regex: &str) -> CommandMetric {
        CommandMetric {
            name: name.to_owned(),
            regex: Some(regex::Regex::new(regex).unwrap()),
            unit: "1/s".to_owned(),
            better: Better::Higher,
        }
    }

    fn scan(lines: &[&str]) -> (End, Vec<f64>) {
        let metrics = [metric("rate", r"tokens/sec: (\S+)")];
        let mut scanner = Scanner::new(&metrics);
        let mut tail = Tail::default();
        for line in lines {
            scanner.line(line);
            tail.push(line);
        }
        let (end, mut values) = scanner.close(&tail);
        (end, values.remove("rate").unwrap_or_default())
    }

    #[test]
    fn every_match_is_a_sample() {
        let (end, values) = scan(&["step 1 tokens/sec: 1,234.5", "noise", "tokens/sec: 2_000. tokens/sec: 3e3"]);
        assert_eq!(end, End::Completed);
        assert_eq!(values, [1234.5, 2000.0, 3000.0]);
    }

    #[test]
    fn what_is_no_figure_fails_with_the_text_it_saw() {
        for (line, message) in [
            ("tokens/sec: nan", "`rate` matched `nan`, which is no finite number above 0"),
            ("tokens/sec: -3", "`rate` matched `-3`, which is no finite number above 0"),
            ("tokens/sec: 0.0", "`rate` matched `0.0`, which is no finite number above 0"),
            ("tokens/sec: inf", "`rate` matched `inf`, which is no finite number above 0"),
            ("tok/s 5", r"no line of its output matches `rate` (tokens/sec: (\S+)): its last line was `tok/s 5`"),
        ] {
            assert_eq!(scan(&[line]).0.reason(), message);
        }
        assert_eq!(
            scan(&[]).0.reason(),
            r"no line of its output matches `rate` (tokens/sec: (\S+)): it printed nothing"
        );
    }

    #[test]
    fn a_regex_that_matches_everything_is_bounded() {
        let metrics = [metric("digit", r"\d")];
        let mut scanner = Scanner::new(&metrics);
        let line = "7".repeat(1000);
        for _ in 0..MATCH_LIMIT / 1000 + 5 {
            scanner.line(&line);
        }
        let (end, values) = scanner.close(&Tail::default());
        assert_eq!(values["digit"].len(), MATCH_LIMIT);
        assert_eq!(end.reason(), "`digit` matched more than 100000 times: its regex is too wide");
    }
}
