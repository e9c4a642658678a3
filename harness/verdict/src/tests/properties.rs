//! Properties that hold for any numbers: no panic, every cell judged once, units and directions without influence.

use proptest::prelude::*;
use stepwatch_record::comparison::Verdict;
use stepwatch_record::run::Better;
use stepwatch_record::waiver::Known;

use super::scripted::Script;
use crate::{conclude, stats};

/// Any value a workload may print.
fn wild() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 1e-3..1e6_f64,
        1 => -10.0..10.0_f64,
        1 => prop::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, 1e300, -f64::MAX, f64::MAX]),
    ]
}

fn cells(values: &[Vec<f64>], better: Better, unit: f64) -> Script {
    let mut script = Script::new("run").policy(|policy| policy.gate = vec!["m".into()]);
    for (i, values) in values.iter().enumerate() {
        let scaled: Vec<f64> = values.iter().map(|value| value * unit).collect();
        let name = format!("c{i}");
        script = script.cell(&name, &vec![1000.0; values.len()]).metric(&name, "m", better, &scaled);
    }
    script
}

fn verdicts(run: &Script, reference: &Script) -> Vec<(Verdict, Option<f64>)> {
    let conclusion = conclude(&run.run, &run.summary(), &[reference.summary()], "", vec![], &Known::default());
    let of_m = conclusion.changes.into_iter().filter(|change| change.metric.name == "m");
    of_m.map(|change| (change.verdict, change.effect)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_numbers_end_in_one_verdict_per_cell(
        run in prop::collection::vec(prop::collection::vec(wild(), 1..4), 1..6),
        reference in prop::collection::vec(prop::collection::vec(wild(), 1..4), 1..6),
    ) {
        let (run, reference) = (cells(&run, Better::Higher, 1.0), cells(&reference, Better::Higher, 1.0));
        let conclusion = conclude(&run.run, &run.summary(), &[reference.summary()], "", vec![], &Known::default());
        for cell in &run.run.manifest.cells {
            prop_assert!(conclusion.changes.iter().any(|change| change.cell == cell.id && change.gated));
        }
        for change in &conclusion.changes {
            prop_assert!(change.effect.is_none_or(|effect| !effect.is_nan()));
            if let (Some(low), Some(effect), Some(high)) = (change.low, change.effect, change.high) {
                prop_assert!(low <= effect && effect <= high, "{change:?}");
            }
        }
    }

    #[test]
    fn neither_the_unit_nor_the_name_of_the_good_side_changes_what_is_found(
        run in prop::collection::vec(prop::collection::vec(0.9..1.1_f64, 3), 2..6),
        reference in prop::collection::vec(prop::collection::vec(0.9..1.1_f64, 3), 6),
        unit in 1e-6..1e6_f64,
    ) {
        let plain = verdicts(&cells(&run, Better::Higher, 1.0), &cells(&reference, Better::Higher, 1.0));
        let scaled = verdicts(&cells(&run, Better::Higher, unit), &cells(&reference, Better::Higher, unit));
        let turned = verdicts(&cells(&run, Better::Lower, 1.0), &cells(&reference, Better::Lower, 1.0));
        for ((plain, scaled), turned) in plain.iter().zip(&scaled).zip(&turned) {
            prop_assert_eq!(plain.0, scaled.0);
            let mirrored = match plain.0 {
                Verdict::Regressed => Verdict::Improved,
                Verdict::Improved => Verdict::Regressed,
                other => other,
            };
            prop_assert_eq!(mirrored, turned.0);
        }
    }

    #[test]
    fn quantiles_rise_and_stay_within_the_sample(
        values in prop::collection::vec(-1e9..1e9_f64, 1..40), p in 0.0..1.0_f64, q in 0.0..1.0_f64,
    ) {
        let at = |p| stats::quantile(&values, p).unwrap();
        prop_assert!(at(p.min(q)) <= at(p.max(q)));
        prop_assert!(at(0.0) <= at(p) && at(p) <= at(1.0));
    }

    #[test]
    fn moderated_variances_lie_between_the_extremes(
        variances in prop::collection::vec(1e-8..1e-2_f64, 2..30), df in 1.0..20.0_f64,
    ) {
        let groups: Vec<_> = variances.iter().map(|&variance| stats::Group { variance, df }).collect();
        let total = df * groups.len() as f64;
        for spread in stats::moderate(&groups, 0.0).into_iter().flatten() {
            prop_assert!(spread.variance > 0.0 && spread.variance.is_finite());
            prop_assert!(spread.df > 0.0 && spread.df <= total + 1e-9);
        }
    }
}
