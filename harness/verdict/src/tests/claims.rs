//! Claims on scripted runs: confirmed, refuted, undecided, unequal, emulated.

use stepwatch_record::comparison::{ClaimVerdict, Conclusion};
use stepwatch_record::finding::Kind;
use stepwatch_record::waiver::Known;

use super::scripted::Script;
use crate::conclude;

const FP8: &str = "m/fp8-tensorwise/full";
const BF16: &str = "m/bf16/full";

fn script(ratio: f64) -> Script {
    let rates = [1000.0, 1002.0, 998.0, 1001.0, 999.0];
    let fast: Vec<f64> = rates.iter().rev().map(|rate| rate * ratio).collect();
    Script::new("run").cell(FP8, &fast).cell(BF16, &rates)
}

fn judge(script: &Script) -> Conclusion {
    conclude(&script.run, &script.summary(), &[], "", vec![], &Known::default())
}

fn kinds(conclusion: &Conclusion) -> Vec<Kind> {
    conclusion.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn the_interval_of_the_ratio_decides() {
    for (ratio, verdict, gate, exit) in [
        (1.8, ClaimVerdict::Confirmed, true, 0),
        (1.2, ClaimVerdict::Refuted, false, 0),
        (1.2, ClaimVerdict::Refuted, true, 5),
        (1.7, ClaimVerdict::Undecided, true, 0),
    ] {
        let conclusion = judge(&script(ratio).claim(FP8, BF16, 1.7, gate));
        let claim = &conclusion.claims[0];
        assert_eq!((claim.verdict, conclusion.exit_code), (verdict, exit), "{ratio}: {}", claim.pairs[0].why);
        assert!((claim.pairs[0].ratio.unwrap() - ratio).abs() < 1e-3);
        assert_eq!(claim.asserts, "≥ 1.7 ×");
        assert_eq!(kinds(&conclusion).contains(&Kind::ClaimRefuted), verdict == ClaimVerdict::Refuted);
    }
}

#[test]
fn unequal_pairs_are_neither_confirmed_nor_refuted() {
    let unequal = script(1.2).claim(FP8, BF16, 1.7, true).with(|run| {
        run.manifest.claims[0].pairs[0].unequal.push("batch_size: 16 and 4".into());
    });
    let conclusion = judge(&unequal);
    assert_eq!((conclusion.claims[0].verdict, conclusion.exit_code), (ClaimVerdict::Undecided, 0));
    assert_eq!(conclusion.claims[0].pairs[0].why, "the two differ in more than the claim names: batch_size: 16 and 4");
    assert_eq!(kinds(&conclusion), [Kind::UnequalComparison, Kind::Fastest]);
}

#[test]
fn on_a_cpu_no_speed_claim_is_drawn_from_emulated_fp8() {
    let cpu = script(0.1).claim(FP8, BF16, 1.7, true).with(|run| run.manifest.backend = "cpu".into());
    let conclusion = judge(&cpu);
    assert_eq!((conclusion.claims[0].verdict, conclusion.exit_code), (ClaimVerdict::Undecided, 0));
    assert_eq!(kinds(&conclusion), [Kind::Emulated]);
    assert!(conclusion.headline.contains("FP8 is emulated on this CPU"), "{}", conclusion.headline);
}

#[test]
fn one_round_and_failed_sides_are_undecided() {
    let single = Script::new("run").cell(FP8, &[1700.0]).cell(BF16, &[1000.0]).claim(FP8, BF16, 1.5, true);
    let conclusion = judge(&single);
    assert_eq!(conclusion.claims[0].verdict, ClaimVerdict::Undecided);
    assert!(conclusion.claims[0].pairs[0].why.ends_with("has 1 round and shows nothing of its spread"));
    let failed = script(1.8).claim(FP8, BF16, 1.7, true).ends(BF16, &stepwatch_record::End::Crashed { signal: 9 });
    assert_eq!(judge(&failed).claims[0].pairs[0].why, "m/bf16/full ended crashed");
}

#[test]
fn an_unfinished_pair_shows_its_ratio_so_far_and_wins_nothing() {
    let so_far = |of: &[f64], over: &[f64]| {
        let script = Script::new("run").cell(FP8, of).cell(BF16, over).claim(FP8, BF16, 1.5, true);
        let conclusion = judge(&script.with(|run| run.manifest.rounds = 5));
        assert_eq!((conclusion.claims[0].verdict, conclusion.exit_code), (ClaimVerdict::Undecided, 3));
        conclusion.claims[0].pairs[0].clone()
    };
    let one = so_far(&[1700.0], &[1000.0]);
    assert_eq!(one.why, "so far (1 of 5 rounds; no interval from one)");
    assert!((one.ratio.unwrap() - 1.7).abs() < 1e-6 && one.low.is_none() && one.high.is_none());
    // A side of one round borrows no spread from the other.
    let uneven = so_far(&[1700.0], &[1000.0, 1000.0, 1000.0]);
    assert_eq!((uneven.why.as_str(), uneven.low), ("so far (1 and 3 of 5 rounds; no interval from one)", None));
    // However clear it looks, it is no verdict.
    let clear = so_far(&[1700.0, 1702.0, 1701.0, 1699.0], &[1000.0, 1001.0, 1000.0, 999.0]);
    assert!(clear.low.unwrap() > 1.5 && clear.high.unwrap() < 2.0, "{clear:?}");
    assert!(clear.why.starts_with("so far, at 99") && clear.why.ends_with(" (4 of 5 rounds)"), "{}", clear.why);
    let none = so_far(&[], &[1000.0]);
    assert_eq!((none.why.as_str(), none.ratio), ("no ratio yet (0 and 1 of 5 rounds)", None));
}

#[test]
fn what_rounds_cannot_settle_is_told_of_an_unfinished_pair_too() {
    let unequal = script(1.2).claim(FP8, BF16, 1.7, true).with(|run| {
        run.manifest.claims[0].pairs[0].unequal.push("batch_size: 16 and 4".into());
        run.manifest.rounds = 9;
    });
    let pair = &judge(&unequal).claims[0].pairs[0];
    assert_eq!(pair.why, "the two differ in more than the claim names: batch_size: 16 and 4");
    let failed = script(1.8).claim(FP8, BF16, 1.7, true).with(|run| run.manifest.rounds = 9);
    let failed = failed.ends(BF16, &stepwatch_record::End::Crashed { signal: 9 });
    let pair = &judge(&failed).claims[0].pairs[0];
    assert_eq!((pair.why.as_str(), pair.ratio), ("m/bf16/full ended crashed", None));
}

#[test]
fn fp8_slower_than_its_twin_is_found_on_a_gpu() {
    let conclusion = judge(&script(0.9));
    let finding = &conclusion.findings[0];
    assert_eq!(finding.kind, Kind::Fp8SlowerThanBf16);
    assert_eq!(finding.sentence, "m/fp8-tensorwise/full is 10 % slower than its BF16 twin");
    assert_eq!(kinds(&judge(&script(1.0))), [Kind::Fastest]);
}
