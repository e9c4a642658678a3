//! How numbers become text, in every export alike: three significant digits, one SI scale per column with the unit in its
//! header, intervals as `a…b`, ratios with ×, changes with a sign. May scale and round, never compute a statistic.

use serde::Serialize;

/// What kind of quantity a column holds, so that every format scales it the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hint {
    /// Seconds: shown as s, ms, µs or ns.
    Duration,
    /// Something per second.
    Rate,
    /// Bytes, with decimal prefixes as vendors print them.
    Bytes,
    /// A share of a whole, shown in %.
    Share,
    /// Everything else.
    Plain,
}

impl Hint {
    /// The kind of quantity that a metric's name and unit say.
    #[must_use]
    pub fn of(name: &str, unit: &str) -> Self {
        match unit {
            "s" => Self::Duration,
            "bytes" | "B" => Self::Bytes,
            "share" => Self::Share,
            "" | "1" if name == "mfu" || name.ends_with("_share") => Self::Share,
            _ if unit.ends_with("/s") || unit == "Hz" || unit == "FLOPS" => Self::Rate,
            _ => Self::Plain,
        }
    }
}

/// Units that take a prefix without a space between, up and down.
const PREFIXED: [&str; 9] = ["Hz", "FLOP/s", "FLOPS", "FLOP", "B/s", "J", "J/token", "W", "V"];
/// Units that are never scaled: they are logarithmic, relative, or already what people think in.
const UNSCALED: [&str; 8] = ["dB", "nats", "%", "°C", "share", "×", "x", "bits"];
const UP: [(f64, &str); 5] = [(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")];
const DOWN: [(f64, &str); 4] = [(1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")];

/// The factor and unit one column is shown in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scale {
    /// Shown value = value × `factor`.
    pub factor: f64,
    /// The unit in the header; empty for a plain number.
    pub unit: String,
}

impl Scale {
    /// The scale of a column whose largest magnitude is `largest`, in the metric's own unit.
    #[must_use]
    pub fn new(hint: Hint, unit: &str, largest: f64) -> Self {
        let largest = if largest.is_finite() { largest.abs() } else { 0.0 };
        match hint {
            Hint::Share => Self { factor: 100.0, unit: "%".into() },
            Hint::Duration => prefixed("s", down(largest)),
            Hint::Bytes => prefixed("B", up(largest, 1e3)),
            _ if UNSCALED.contains(&unit) => Self { factor: 1.0, unit: unit.into() },
            _ if PREFIXED.contains(&unit) => {
                prefixed(unit, if largest < 1.0 { down(largest) } else { up(largest, 1e3) })
            }
            _ => {
                let (size, prefix) = up(largest, 1e4);
                let unit = match (prefix, unit) {
                    ("", unit) => unit.to_owned(),
                    (prefix, "" | "1") => prefix.to_owned(),
                    (prefix, "1/s") => format!("{prefix}/s"),
                    (prefix, unit) => format!("{prefix} {unit}"),
                };
                Self { factor: 1.0 / size, unit }
            }
        }
    }

    /// `value` in this scale, without its unit.
    #[must_use]
    pub fn number(&self, value: f64) -> String {
        number(value * self.factor)
    }

    /// `low…high` in this scale, without their unit, with as many digits as keep the two apart.
    #[must_use]
    pub fn interval(&self, low: f64, high: f64) -> String {
        interval(low * self.factor, high * self.factor)
    }

    /// `value` with its unit, for running text.
    #[must_use]
    pub fn with_unit(&self, value: f64) -> String {
        with_unit(&self.number(value), &self.unit)
    }
}

fn prefixed(unit: &str, (size, prefix): (f64, &str)) -> Scale {
    Scale { factor: 1.0 / size, unit: format!("{prefix}{unit}") }
}

/// The largest upward prefix that `largest` fills, none below `from`.
fn up(largest: f64, from: f64) -> (f64, &'static str) {
    if largest < from {
        return UP[0];
    }
    UP.iter().rev().find(|(size, _)| largest >= *size).copied().unwrap_or(UP[0])
}

fn down(largest: f64) -> (f64, &'static str) {
    if largest == 0.0 {
        return DOWN[0];
    }
    DOWN.iter().find(|(size, _)| largest >= *size).copied().unwrap_or(DOWN[3])
}

fn with_unit(number: &str, unit: &str) -> String {
    if unit.is_empty() { number.to_owned() } else { format!("{number} {unit}") }
}

/// One free-standing quantity with its own scale and unit, such as `3.10 s` or `33.2 GB`.
#[must_use]
pub fn quantity(hint: Hint, unit: &str, value: f64) -> String {
    Scale::new(hint, unit, value).with_unit(value)
}

/// The power of ten of the first digit that three significant digits round to.
fn exponent(value: f64, digits: usize) -> i32 {
    let written = format!("{value:.*e}", digits.saturating_sub(1));
    written.split('e').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let zero = text.bytes().all(|b| matches!(b, b'-' | b'0' | b'.'));
    match text.strip_prefix('-') {
        Some(rest) if zero => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// Digits after the point that show three significant digits of `value`.
fn decimals(value: f64) -> usize {
    if value == 0.0 { 0 } else { usize::try_from(2 - exponent(value, 3)).unwrap_or(0) }
}

fn extreme(value: f64) -> bool {
    value != 0.0 && !(1e-4..1e7).contains(&value.abs())
}

/// A number with three significant digits; whole digits are never rounded away. Not finite: `–`.
#[must_use]
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    if extreme(value) {
        return format!("{value:.2e}").replace('-', "−");
    }
    fixed(value, decimals(value))
}

/// `low…high`: three significant digits, and up to six where its ends would else look alike.
#[must_use]
pub fn interval(low: f64, high: f64) -> String {
    let largest = low.abs().max(high.abs());
    if !low.is_finite() || !high.is_finite() || extreme(largest) {
        return format!("{}…{}", number(low), number(high));
    }
    let width = high - low;
    let apart = if width > 0.0 { usize::try_from(-exponent(width, 1)).unwrap_or(0) } else { 0 };
    let finest = usize::try_from(5 - exponent(largest, 6)).unwrap_or(0);
    let decimals = if largest == 0.0 { 0 } else { decimals(largest).max(apart.min(finest)) };
    format!("{}…{}", fixed(low, decimals), fixed(high, decimals))
}

/// A relative change with its sign: `−2.31 %`, `+183 %`; never finer than 0.01 %.
#[must_use]
pub fn change(relative: f64) -> String {
    if !relative.is_finite() {
        return "–".into();
    }
    let text = fixed(relative * 100.0, percent_decimals(relative));
    let nothing = text.bytes().all(|b| matches!(b, b'0' | b'.'));
    if nothing || text.starts_with('−') { format!("{text} %") } else { format!("+{text} %") }
}

/// The interval of a relative change: `−2.71…−1.90 %`.
#[must_use]
pub fn change_interval(low: f64, high: f64) -> String {
    if !low.is_finite() || !high.is_finite() {
        return "–".into();
    }
    let decimals = percent_decimals(if low.abs() > high.abs() { low } else { high });
    let signed = |value: f64| {
        let text = fixed(value * 100.0, decimals);
        if value > 0.0 && text.bytes().any(|b| matches!(b, b'1'..=b'9')) { format!("+{text}") } else { text }
    };
    format!("{}…{} %", signed(low), signed(high))
}

fn percent_decimals(relative: f64) -> usize {
    decimals(relative * 100.0).min(2)
}

/// A share without a sign: `61.0 %`.
#[must_use]
pub fn share(value: f64) -> String {
    if value.is_finite() { format!("{} %", fixed(value * 100.0, percent_decimals(value))) } else { "–".into() }
}

/// A ratio: `1.206 ×`.
#[must_use]
pub fn ratio(value: f64) -> String {
    format!("{} ×", stepwatch_record::ratio::ratio(value))
}

/// The interval of a ratio: `1.198…1.213 ×`.
#[must_use]
pub fn ratio_interval(low: f64, high: f64) -> String {
    format!("{} ×", stepwatch_record::ratio::ratio_range(low, high))
}

/// A confidence as people say it: `95 %`, `99.98 %`.
#[must_use]
pub fn confidence(value: f64) -> String {
    let text = format!("{:.4}", value * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `1 cell`, `2 cells`.
#[must_use]
pub fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// The first names of many: `a, b, c and 5 more`.
#[must_use]
pub fn some_of<'name>(names: impl Iterator<Item = &'name str>) -> String {
    /// More names than this say no more in a line.
    const MOST: usize = 8;
    let names: Vec<&str> = names.collect();
    // One that is left out takes as much room as its name.
    let shown = if names.len() <= MOST + 1 { names.len() } else { MOST };
    let more = names.len() - shown;
    let text = names[..shown].join(", ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}

/// An RFC 3339 time in UTC to the minute: `2026-11-23 17:15 UTC`; anything else as it is.
#[must_use]
pub fn minute(time: &str) -> String {
    let utc = time.ends_with('Z') && time.is_ascii();
    match (time.get(..10), time.get(10..11), time.get(11..16)) {
        (Some(day), Some("T"), Some(minute)) if utc => format!("{day} {minute} UTC"),
        _ => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        let cases = [
            (0.0, "0"),
            (1.0, "1.00"),
            (9.996, "10.0"),
            (99.95, "100"),
            (123.4, "123"),
            (1234.0, "1234"),
            (0.012_34, "0.0123"),
            (-2.306, "−2.31"),
            (-0.0, "0"),
            (1.23e-7, "1.23e−7"),
            (1.5e9, "1.50e9"),
            (f64::NAN, "–"),
            (f64::INFINITY, "–"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text, "{value:e}");
        }
    }

    #[test]
    fn intervals_keep_their_ends_apart() {
        let cases = [
            (1.09, 1.11, "1.09…1.11"),
            (105.023, 105.098, "105.02…105.10"),
            (151.2, 153.9, "151…154"),
            (100.0, 200.0, "100…200"),
            (5.0, 5.0, "5.00…5.00"),
            (0.0, 0.0, "0…0"),
            (-0.5, 12.0, "−0.5…12.0"),
            (105.000_000_01, 105.000_000_02, "105.000…105.000"),
            (1.0, f64::NAN, "1.00…–"),
        ];
        for (low, high, text) in cases {
            assert_eq!(interval(low, high), text, "{low} {high}");
        }
    }

    #[test]
    fn changes_carry_a_sign_and_ratios_a_cross() {
        let cases = [
            (-0.023_06, "−2.31 %"),
            (0.004_5, "+0.45 %"),
            (1.83, "+183 %"),
            (0.0, "0 %"),
            (0.000_001, "0.00 %"),
            (-0.000_001, "0.00 %"),
            (f64::NAN, "–"),
        ];
        for (value, text) in cases {
            assert_eq!(change(value), text, "{value:e}");
        }
        assert_eq!(change_interval(-0.0271, -0.0190), "−2.71…−1.90 %");
        assert_eq!(change_interval(-0.001, 0.011), "−0.10…+1.10 %");
        assert_eq!(
            [0.398, 1.0745, 4.236, 42.34, 423.4].map(ratio),
            ["0.398 ×", "1.075 ×", "4.24 ×", "42.3 ×", "423 ×"]
        );
        assert_eq!(ratio_interval(0.9984, 1.0), "0.998…1.000 ×");
        assert_eq!(ratio_interval(1.98, 2.04), "1.98…2.04 ×");
        assert_eq!(share(0.61), "61.0 %");
        assert_eq!(confidence(0.95), "95 %");
        assert_eq!(confidence(0.999_791_666), "99.9792 %");
    }

    #[test]
    fn columns_are_scaled_by_si_prefixes() {
        let cases = [
            (Hint::Rate, "1/s", 188_000.0, "188 k/s"),
            (Hint::Rate, "1/s", 950.0, "950 1/s"),
            (Hint::Rate, "tokens/s", 1.2e6, "1.20 M tokens/s"),
            (Hint::Rate, "FLOP/s", 4.5e14, "450 TFLOP/s"),
            (Hint::Rate, "Hz", 1.98e9, "1.98 GHz"),
            (Hint::Duration, "s", 0.215, "215 ms"),
            (Hint::Duration, "s", 4.2e-5, "42.0 µs"),
            (Hint::Duration, "s", 312.0, "312 s"),
            (Hint::Bytes, "bytes", 33_178_419_200.0, "33.2 GB"),
            (Hint::Share, "", 0.61, "61.0 %"),
            (Hint::Plain, "J", 0.0042, "4.20 mJ"),
            (Hint::Plain, "dB", 41.2, "41.2 dB"),
            (Hint::Plain, "nats", 12_345.0, "12345 nats"),
            (Hint::Plain, "", 9_999.0, "9999"),
            (Hint::Plain, "", 12_345.0, "12.3 k"),
            (Hint::Plain, "cycles", 4e8, "400 M cycles"),
        ];
        for (hint, unit, value, text) in cases {
            assert_eq!(quantity(hint, unit, value), text, "{unit}");
        }
    }

    #[test]
    fn metrics_say_what_they_hold() {
        let cases = [
            ("step_seconds", "s", Hint::Duration),
            ("tokens_per_second", "1/s", Hint::Rate),
            ("sm_clock_hz", "Hz", Hint::Rate),
            ("peak_memory_bytes", "bytes", Hint::Bytes),
            ("mfu", "", Hint::Share),
            ("loss", "nats", Hint::Plain),
        ];
        for (name, unit, hint) in cases {
            assert_eq!(Hint::of(name, unit), hint, "{name}");
        }
    }

    #[test]
    fn times_are_shown_to_the_minute() {
        assert_eq!(minute("2026-11-23T17:15:03Z"), "2026-11-23 17:15 UTC");
        assert_eq!(minute("yesterday"), "yesterday");
        assert_eq!(minute("2026-11-23T17:15:03+01:00"), "2026-11-23T17:15:03+01:00");
        assert_eq!(count(1, "cell", "cells"), "1 cell");
    }
}
