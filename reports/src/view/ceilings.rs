//! What the machine was measured to do at the most, the only place where ceilings come from: a roofline that is drawn from a
//! datasheet says nothing about the machine at hand.

use stepwatch_record::Run;
use stepwatch_record::ceiling::{self, Work};

use super::cell::{Fact, fact};
use crate::format::{self, Hint};

/// One ceiling.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ceiling {
    /// What reached it.
    pub(crate) name: String,
    /// Bytes or FLOPs a second.
    pub(crate) rate: f64,
    /// Whether it bounds traffic rather than arithmetic.
    pub(crate) traffic: bool,
}

/// What was held for seconds on the run's GPUs, the best of each kind; where nothing was, the best that the canary reached in all
/// rounds of all cells: a bf16 product and a copy.
pub(crate) fn ceilings(run: &Run) -> Vec<Ceiling> {
    let held: Vec<Ceiling> = [Work::Bf16Product, Work::Fp8Product, Work::Copy]
        .into_iter()
        .filter_map(|work| {
            let rate = run.ceilings.iter().filter_map(|all| Some(all.of(work)?.per_second)).reduce(f64::max)?;
            Some(Ceiling { name: name(work).into(), rate, traffic: work == Work::Copy })
        })
        .collect();
    if held.is_empty() { of_canary(run) } else { held }
}

fn of_canary(run: &Run) -> Vec<Ceiling> {
    let readings = || run.rounds.iter().flat_map(|round| &round.record.canaries);
    let flops = readings().map(|canary| canary.flops_per_second).filter(|rate| *rate > 0.0).reduce(f64::max);
    let bytes = readings().map(|canary| canary.bytes_per_second).filter(|rate| *rate > 0.0).reduce(f64::max);
    let product = if run.manifest.backend == "cpu" { "multiply-adds (canary)" } else { "bf16 product (canary)" };
    let arithmetic = flops.map(|rate| Ceiling { name: product.into(), rate, traffic: false });
    let traffic = bytes.map(|rate| Ceiling { name: "copy (canary)".into(), rate, traffic: true });
    arithmetic.into_iter().chain(traffic).collect()
}

/// What was held, with clock and power, as the machine's facts.
pub(crate) fn facts(run: &Run) -> Vec<Fact> {
    let all = run.ceilings.iter().flat_map(|ceilings| &ceilings.all);
    all.map(|held| fact(name(held.work), line(held))).collect()
}

const fn name(work: Work) -> &'static str {
    match work {
        Work::Bf16Product => "bf16 product, held",
        Work::Fp8Product => "FP8 product, held",
        Work::Copy => "copy, held",
    }
}

fn line(held: &ceiling::Ceiling) -> String {
    let unit = if held.work == Work::Copy { "B/s" } else { "FLOP/s" };
    let mut parts = vec![
        format::quantity(Hint::Rate, unit, held.per_second),
        format!("for {}", format::quantity(Hint::Duration, "s", held.seconds)),
    ];
    parts.extend(held.sm_clock_hz.map(|hz| format!("at {}", format::quantity(Hint::Rate, "Hz", hz))));
    parts.extend(held.power_w.map(|watts| format!("{} W", format::number(watts))));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn a_ceiling_has_its_clock_and_power_where_they_are_known() {
        let held = ceiling::Ceiling {
            work: Work::Bf16Product,
            per_second: 6.5e14,
            seconds: 2.01,
            from_ns: 0,
            to_ns: 1,
            sm_clock_hz: Some(1.41e9),
            power_w: Some(699.2),
        };
        assert_eq!(line(&held), "650 TFLOP/s, for 2.01 s, at 1.41 GHz, 699 W");
        let copy = ceiling::Ceiling { work: Work::Copy, per_second: 3.02e12, sm_clock_hz: None, power_w: None, ..held };
        assert_eq!(line(&copy), "3.02 TB/s, for 2.01 s");
    }

    #[test]
    fn what_was_held_comes_before_the_canary() {
        let (mut run, ..) = example::study();
        let names = |run: &Run| ceilings(run).into_iter().map(|ceiling| ceiling.name).collect::<Vec<_>>();
        assert_eq!(names(&run), ["bf16 product, held", "FP8 product, held", "copy, held"]);
        run.ceilings.clear();
        assert!(names(&run).iter().all(|name| name.ends_with("(canary)")), "{:?}", names(&run));
    }
}
