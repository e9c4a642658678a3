//! How a ratio of two figures is written, by whoever writes one: without its `×`, to three decimals below 2, where ratios are close to
//! each other and a tenth of a per cent is what is quarrelled about.

/// A ratio: `1.206`.
#[must_use]
pub fn ratio(value: f64) -> String {
    format!("{value:.*}", decimals(value))
}

/// The interval of a ratio, both ends alike: `0.993…1.000`.
#[must_use]
pub fn ratio_range(low: f64, high: f64) -> String {
    let decimals = decimals(high);
    format!("{low:.decimals$}…{high:.decimals$}")
}

fn decimals(value: f64) -> usize {
    match value.abs() {
        value if value < 2.0 => 3,
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_near_one_have_three_decimals_and_both_ends_as_many() {
        assert_eq!([0.99, 1.2061, 3.456, 34.56, 345.6].map(ratio), ["0.990", "1.206", "3.46", "34.6", "346"]);
        assert_eq!([ratio_range(0.9934, 1.0), ratio_range(1.987, 2.013)], ["0.993…1.000", "1.99…2.01"]);
    }
}
