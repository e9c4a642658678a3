//! What a cell's step could take at the least on its chip, beside what it takes.

use stepwatch_record::ceiling::{CellBound, ClassBound};

use super::cell::{Fact, fact};
use crate::format::{self, Hint};

/// The bound of a cell as named texts: the whole, its three parts, the serial estimate, and the op classes that stand nowhere else.
pub(crate) fn facts(bound: &CellBound, elsewhere: impl Fn(&str) -> bool) -> Vec<Fact> {
    let seconds = |value: f64| format::quantity(Hint::Duration, "s", value);
    let step = bound.step_seconds.map(|step| format!("; the step takes {}", seconds(step))).unwrap_or_default();
    let energy = bound.energy_seconds.map_or_else(|| "unknown".to_owned(), seconds);
    let mut facts = vec![
        fact("bound", format!("{} ({}){step}", seconds(bound.seconds), bound.limit.word())),
        fact(
            "compute, bytes, energy",
            format!("{}, {}, {energy}", seconds(bound.compute_seconds), seconds(bound.bytes_seconds)),
        ),
        fact("serial estimate", format!("{}: its parts at their ceilings, one by one", seconds(bound.serial_seconds))),
    ];
    facts.extend(bound.classes.iter().filter(|class| !elsewhere(&class.class)).map(class));
    facts
}

fn class(class: &ClassBound) -> Fact {
    let seconds = |value: f64| format::quantity(Hint::Duration, "s", value);
    fact(&class.class, format!("{} at the ceilings", seconds(class.least_seconds)))
}

#[cfg(test)]
mod tests {
    use stepwatch_record::CellId;
    use stepwatch_record::ceiling::Limit;

    use super::*;

    fn lines(facts: &[Fact]) -> Vec<String> {
        facts.iter().map(|fact| format!("{}: {}", fact.name, fact.value)).collect()
    }

    #[test]
    fn a_bound_says_what_limits_and_what_the_parts_come_to() {
        let bound = CellBound {
            cell: CellId("a~1".into()),
            seconds: 0.0971,
            limit: Limit::Energy,
            compute_seconds: 0.0912,
            bytes_seconds: 0.0604,
            energy_seconds: Some(0.0971),
            serial_seconds: 0.1264,
            step_seconds: Some(0.1438),
            classes: vec![
                ClassBound { class: "attention".into(), least_seconds: 0.02, profiled_seconds: Some(0.037) },
                ClassBound { class: "norm".into(), least_seconds: 0.007, profiled_seconds: None },
            ],
        };
        let expected = [
            "bound: 97.1 ms (energy); the step takes 144 ms",
            "compute, bytes, energy: 91.2 ms, 60.4 ms, 97.1 ms",
            "serial estimate: 126 ms: its parts at their ceilings, one by one",
            "attention: 20.0 ms at the ceilings",
            "norm: 7.00 ms at the ceilings",
        ];
        assert_eq!(lines(&facts(&bound, |_| false)), expected);
        assert_eq!(lines(&facts(&bound, |class| class == "norm")), expected[..4], "a profile says it of norms");
        let unknown = CellBound { energy_seconds: None, step_seconds: None, limit: Limit::Compute, ..bound };
        assert_eq!(
            lines(&facts(&unknown, |_| false))[..2],
            ["bound: 97.1 ms (compute)", "compute, bytes, energy: 91.2 ms, 60.4 ms, unknown"]
        );
    }
}
