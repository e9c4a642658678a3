//! Numbers and changes as a person reads them. Every sentence of the verdict uses these, so that one figure looks the same
//! everywhere.

use stepwatch_record::comparison::{Change, JudgedPair};
use stepwatch_record::run::{Better, Metric};

pub use stepwatch_record::ratio::{ratio, ratio_range};

/// A share as per cent: `2.3 %`, `0.45 %`, `12 %`; the sign is kept.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{} %", percent_digits(share, share))
}

/// A confidence near 1 with enough digits to tell it from 1: `99.958 %`.
#[must_use]
pub fn fine_percent(share: f64) -> String {
    format!("{:.3} %", share * 100.0)
}

/// A range of shares as per cent, both ends with the digits of the nearer one: `1.9…2.7 %`.
#[must_use]
pub fn percent_range(low: f64, high: f64) -> String {
    let finer = if low.abs() < high.abs() { low } else { high };
    // A range that starts near zero would otherwise show many digits of its far end.
    let like = finer.abs().max(high.abs().max(low.abs()) / 10.0);
    format!("{}…{} %", percent_digits(low, like), percent_digits(high, like))
}

fn percent_digits(share: f64, like: f64) -> String {
    let size = (like * 100.0).abs();
    let decimals = match size {
        _ if size >= 9.95 => 0,
        _ if size >= 0.995 => 1,
        _ if size >= 0.0995 => 2,
        _ => 3,
    };
    let text = format!("{:.decimals$}", share * 100.0);
    // `-0.00` reads as a direction where there is none.
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') {
        "0".to_owned()
    } else {
        text.replace('-', "−")
    }
}

/// A relative change in words, by the metric's name: `2.3 % slower`, `5.0 % more peak memory`.
#[must_use]
pub fn change(metric: &Metric, effect: f64) -> String {
    let more = effect > 0.0;
    let size = percent(effect.abs());
    if size == "0 %" {
        return format!("the same {}", spoken(metric));
    }
    match kind(metric) {
        Kind::Rate => format!("{size} {}", if more { "faster" } else { "slower" }),
        Kind::Time => format!("{size} {} {}", if more { "more" } else { "less" }, spoken(metric)),
        Kind::Other => format!("{size} {} {}", if more { "more" } else { "less" }, spoken(metric)),
    }
}

/// The interval of a relative change, in the words' direction: for 2.3 % slower, `1.9…2.7 %`.
#[must_use]
pub fn change_range(effect: f64, low: f64, high: f64) -> String {
    if effect < 0.0 { percent_range(-high, -low) } else { percent_range(low, high) }
}

/// The metric's name with spaces and without its unit: `peak memory`, `setup time`.
#[must_use]
pub fn spoken(metric: &Metric) -> String {
    match metric.name.as_str() {
        "tokens_per_second" => "throughput".to_owned(),
        "step_seconds" => "step time".to_owned(),
        "step_seconds_low" => "step time (5th percentile)".to_owned(),
        "step_seconds_tail" => "step time (95th percentile)".to_owned(),
        "setup_seconds" => "setup time".to_owned(),
        "first_step_seconds" => "time of the first step".to_owned(),
        "peak_memory_bytes" => "peak memory".to_owned(),
        "sm_clock_hz" => "SM clock".to_owned(),
        "mfu" => "model FLOPs utilisation".to_owned(),
        "worst_sqnr_db" => "worst gradient SQNR".to_owned(),
        name => name.replace('_', " "),
    }
}

/// A value with its unit, in four digits: `12.3 ms`, `31.2 GiB`, `184,200 tokens/s`.
#[must_use]
pub fn value(metric: &Metric, value: f64) -> String {
    match (metric.unit.as_str(), metric.name.as_str()) {
        ("s", _) => seconds(value),
        ("bytes", _) => {
            scaled(value, &[(1024.0 * 1024.0 * 1024.0, "GiB"), (1024.0 * 1024.0, "MiB"), (1024.0, "KiB")], "bytes")
        }
        ("Hz", _) => scaled(value, &[(1e9, "GHz"), (1e6, "MHz")], "Hz"),
        ("1/s", "model_flops_per_second") => {
            scaled(value, &[(1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s")], "FLOP/s")
        }
        ("J", "joules_per_token") => format!("{} a token", joules(value)),
        ("J", _) => joules(value),
        ("1/s", name) if name.starts_with("tokens_per_second") => format!("{} tokens/s", number(value)),
        ("", _) => number(value),
        (unit, _) => format!("{} {unit}", number(value)),
    }
}

fn joules(value: f64) -> String {
    scaled(value, &[(1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")], "J")
}

/// What was measured of a claim's pair: `1.206 × (1.198…1.213)`, or the ratio alone.
#[must_use]
pub fn ratio_of(pair: &JudgedPair) -> Option<String> {
    let point = ratio(pair.ratio?);
    let range = pair.low.zip(pair.high).map(|(low, high)| format!(" ({})", ratio_range(low, high)));
    Some(format!("{point} ×{}", range.unwrap_or_default()))
}

/// A judged change with its interval, in words: `2.3 % slower (1.9…2.7 %)`; `None` without an interval.
#[must_use]
pub fn told(judged: &Change) -> Option<String> {
    let (effect, low, high) = (judged.effect?, judged.low?, judged.high?);
    Some(format!("{} ({})", change(&judged.metric, effect), change_range(effect, low, high)))
}

/// A number in four digits, thousands separated.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return value.to_string();
    }
    if size >= 1e15 || (size > 0.0 && size < 1e-4) {
        return format!("{value:.3e}");
    }
    if size >= 1000.0 {
        let rounded = if size >= 10_000.0 {
            let unit = 10_f64.powi(size.log10().floor() as i32 - 3);
            (value / unit).round() * unit
        } else {
            value.round()
        };
        return thousands(&format!("{rounded:.0}"));
    }
    let decimals = if size >= 100.0 {
        1
    } else if size >= 10.0 {
        2
    } else if size >= 0.1 || size == 0.0 {
        3
    } else {
        6
    };
    let text = format!("{value:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `1 cell`, `2 cells`.
#[must_use]
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Whether a metric speaks of speed: a rate, a time of steps, cycles or energy of work done.
#[must_use]
pub fn is_speed(metric: &Metric) -> bool {
    kind(metric) != Kind::Other
        || matches!(metric.name.as_str(), "mfu" | "joules_per_token" | "cycles_per_step" | "sm_clock_hz")
}

#[derive(PartialEq)]
enum Kind {
    Rate,
    Time,
    Other,
}

fn kind(metric: &Metric) -> Kind {
    let per_second = metric.unit.ends_with("/s") || metric.name.ends_with("_per_second");
    match metric.unit.as_str() {
        _ if per_second && metric.better == Better::Higher => Kind::Rate,
        "s" | "ms" | "us" | "µs" | "ns" | "min" => Kind::Time,
        _ => Kind::Other,
    }
}

/// A duration: `1.13 s`, `139.7 ms`, `24 µs`.
#[must_use]
pub fn seconds(value: f64) -> String {
    match value.abs() {
        size if size >= 1.0 || size == 0.0 => format!("{} s", number(value)),
        size if size >= 1e-3 => format!("{} ms", number(value * 1e3)),
        _ => format!("{} µs", number(value * 1e6)),
    }
}

fn scaled(value: f64, units: &[(f64, &str)], plain: &str) -> String {
    let unit = units.iter().find(|(size, _)| value.abs() >= *size);
    unit.map_or_else(|| format!("{} {plain}", number(value)), |(size, name)| format!("{} {name}", number(value / size)))
}

fn thousands(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut text = String::from(sign);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, unit: &str, better: Better) -> Metric {
        Metric { name: name.into(), unit: unit.into(), better }
    }

    #[test]
    fn shares_have_as_many_digits_as_they_deserve() {
        for (share, text) in [
            (0.023, "2.3 %"),
            (0.0045, "0.45 %"),
            (0.1234, "12 %"),
            (-0.023, "−2.3 %"),
            (0.0, "0 %"),
            (0.000_31, "0.031 %"),
            (-0.000_000_1, "0 %"),
            (0.0999, "10 %"),
        ] {
            assert_eq!(percent(share), text, "{share}");
        }
        assert_eq!(percent_range(0.019, 0.027), "1.9…2.7 %");
        assert_eq!(percent_range(-0.0004, 0.012), "−0.04…1.20 %");
    }

    #[test]
    fn a_change_is_told_in_the_words_of_its_metric() {
        let rate = metric("tokens_per_second", "1/s", Better::Higher);
        assert_eq!(change(&rate, -0.023), "2.3 % slower");
        assert_eq!(change(&rate, 0.023), "2.3 % faster");
        assert_eq!(change_range(-0.023, -0.027, -0.019), "1.9…2.7 %");
        let memory = metric("peak_memory_bytes", "bytes", Better::Lower);
        assert_eq!(change(&memory, 0.05), "5.0 % more peak memory");
        assert_eq!(change(&memory, -1e-8), "the same peak memory");
        assert_eq!(change(&metric("latency_p9", "ms", Better::Lower), -0.5), "50 % less latency p9");
    }

    #[test]
    fn values_carry_their_unit() {
        let tokens = metric("tokens_per_second", "1/s", Better::Higher);
        assert_eq!(value(&tokens, 184_213.4), "184,200 tokens/s");
        assert_eq!(value(&metric("peak_memory_bytes", "bytes", Better::Lower), 33_178_419_200.0), "30.9 GiB");
        assert_eq!(value(&metric("step_seconds", "s", Better::Lower), 0.012_34), "12.34 ms");
        assert_eq!(value(&metric("joules_per_token", "J", Better::Lower), 0.003_018), "3.018 mJ a token");
        assert_eq!(value(&metric("battery", "J", Better::Lower), 1_250.0), "1.25 kJ");
        assert_eq!(value(&metric("loss", "nats", Better::Lower), 7.52), "7.52 nats");
        assert_eq!(number(f64::NAN), "NaN");
        assert_eq!(number(-1234.5), "-1,235");
        assert_eq!(number(0.0), "0");
    }
}
