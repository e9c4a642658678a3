//! Code or machine: what the canary, joules and clocks make of changes of speed, and work that is not the same work.

use stepwatch_record::comparison::{Cause, Change, Conclusion, Verdict};
use stepwatch_record::finding::Kind;
use stepwatch_record::message::Canary;
use stepwatch_record::plan::Plan;
use stepwatch_record::waiver::Known;

use super::scripted::{Script, id};
use crate::conclude;

const QUIET: [f64; 5] = [1000.0, 1001.0, 999.0, 1000.5, 999.5];
const CELLS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn canary(rate: f64) -> Canary {
    Canary { flops_per_second: rate, bytes_per_second: rate / 100.0, ..Canary::default() }
}

/// A night on which every cell runs at `speed` and the canary, before the steps, at `machine`, both as shares of the usual.
fn night(speed: f64, machine: f64) -> Script {
    let mut night = Script::new("run");
    for (place, cell) in CELLS.into_iter().enumerate() {
        night = night.cell(cell, &QUIET.map(|rate| rate * speed));
        let mut round = 0;
        night.each_round(cell, |record| {
            // Readings scatter by 0.2 %, and after the steps the chip is 5 % slower, as it always is.
            let noise = 1.0 + 0.002 * f64::from((round * 2 + place as i32) % 5 - 2) / 2.0;
            record.record.canaries = vec![canary(1e14 * machine * noise), canary(0.95e14 * machine)];
            round += 1;
        });
    }
    night
}

fn judged(run: &Script, reference: &[Script]) -> Conclusion {
    let reference: Vec<_> = reference.iter().map(Script::summary).collect();
    conclude(&run.run, &run.summary(), &reference, "accepted baseline", vec![], &Known::default())
}

fn usual() -> Vec<Script> {
    (0..5).map(|_| night(1.0, 1.0)).collect()
}

fn speed<'a>(conclusion: &'a Conclusion, cell: &str) -> &'a Change {
    conclusion.changes.iter().find(|c| c.cell == id(cell) && c.metric.name == "tokens_per_second").unwrap()
}

fn kinds(conclusion: &Conclusion) -> Vec<Kind> {
    let shared = |kind: &Kind| matches!(kind, Kind::MachineShift | Kind::CommonShift);
    conclusion.findings.iter().map(|finding| finding.kind).filter(shared).collect()
}

#[test]
fn a_slow_machine_is_one_finding_and_no_regression() {
    let conclusion = judged(&night(0.97, 0.97), &usual());
    assert_ne!(conclusion.exit_code, 5, "{}", conclusion.headline);
    assert_eq!(kinds(&conclusion), [Kind::MachineShift]);
    let finding = conclusion.findings.iter().find(|finding| finding.kind == Kind::MachineShift).unwrap();
    assert!(finding.sentence.starts_with("the machine is 3.0 % slower than in the reference runs"), "{finding:?}");
    assert!(finding.evidence.iter().any(|line| line.starts_with("canary's copy: 3.0 % slower")), "{finding:?}");
    let change = speed(&conclusion, "a");
    assert_eq!(change.cause, Some(Cause::Machine), "{}", change.why);
    assert!((change.machine.unwrap() + 0.03).abs() < 0.002 && change.effect.unwrap().abs() < 0.002, "{change:?}");
    assert!(change.why.contains("as measured it is 3.0 % slower"), "{}", change.why);
}

#[test]
fn without_the_canary_the_same_night_is_red() {
    let blindfold = |mut script: Script| {
        CELLS.iter().for_each(|cell| script.each_round(cell, |round| round.record.canaries.clear()));
        script
    };
    let conclusion = judged(&blindfold(night(0.97, 0.97)), &usual());
    assert_eq!((conclusion.exit_code, speed(&conclusion, "a").machine), (5, None));
    // One reference without readings, such as an older summary, leaves nothing to compare with.
    let mut older = usual();
    older[2] = blindfold(older[2].clone());
    assert_eq!(speed(&judged(&night(0.97, 0.97), &older), "a").machine, None);
}

#[test]
fn all_cells_slower_beside_an_unmoved_canary_are_one_event_of_the_code() {
    let conclusion = judged(&night(0.97, 1.0), &usual());
    assert_eq!((conclusion.exit_code, kinds(&conclusion)), (5, vec![Kind::CommonShift]));
    let told = "6 of 6 cells regressed together (3.0 % slower in the middle, one event), most of all ";
    assert!(conclusion.headline.starts_with(told), "{}", conclusion.headline);
    let finding = conclusion.findings.iter().find(|finding| finding.kind == Kind::CommonShift).unwrap();
    assert!(finding.evidence.iter().any(|line| line.contains("the canary did not move")), "{finding:?}");
    assert_eq!(speed(&conclusion, "a").cause, Some(Cause::Code));
    // Two cells are no crowd.
    let two = |speed| night(speed, 1.0).with(|run| run.manifest.cells.truncate(2));
    assert!(kinds(&judged(&two(0.97), &[two(1.0), two(1.0), two(1.0)])).is_empty());
}

#[test]
fn a_cell_that_is_slower_than_the_slow_machine_explains_is_found() {
    let mut run = night(0.97, 0.97);
    run.each_round("c", |round| round.samples.iter_mut().for_each(|sample| sample.gpu_ns += sample.gpu_ns / 20));
    // Nights of both kinds in the reference tell how speeds follow the canary.
    let mut reference = usual();
    reference.extend([night(0.97, 0.97), night(0.97, 0.97)]);
    let conclusion = judged(&run, &reference);
    let change = speed(&conclusion, "c");
    assert_eq!((change.verdict, change.cause), (Verdict::Regressed, Some(Cause::Code)), "{}", change.why);
    assert!((change.effect.unwrap() + 0.0476).abs() < 0.003, "{change:?}");
    assert_eq!(speed(&conclusion, "a").verdict, Verdict::Unchanged, "{}", speed(&conclusion, "a").why);
}

#[test]
fn a_canary_that_moved_excuses_no_more_than_it_explains() {
    // The cells lost 8 %, the canary 1 %: no step follows its canary eight times over.
    let conclusion = judged(&night(0.92, 0.99), &usual());
    assert_eq!(conclusion.exit_code, 5, "{}", conclusion.headline);
    assert!(speed(&conclusion, "a").machine.unwrap().abs() < 0.016, "{:?}", speed(&conclusion, "a"));
}

#[test]
fn a_chip_that_the_cell_itself_warmed_is_no_excuse() {
    let mut run = night(0.97, 1.0);
    for cell in CELLS {
        run.each_round(cell, |round| round.record.canaries[1].flops_per_second *= 0.9);
    }
    assert_eq!(judged(&run, &usual()).exit_code, 5);
}

#[test]
fn code_that_burns_more_at_the_power_cap_is_code_though_its_cycles_stay() {
    let watched = |speed: f64, watts: f64| {
        let mut script = night(speed, 1.0);
        for cell in CELLS {
            let mut step = 0_u64;
            script.each_round(cell, |round| {
                for sample in &mut round.samples {
                    step += 1;
                    sample.cycles = 1_000_000 + 500 * (step % 3);
                    sample.sm_clock_hz = 1.7e9 * speed * (1.0 + 1e-4 * (step % 5) as f64);
                    sample.power_w = watts + (step % 4) as f64;
                    sample.throttle = 0x4;
                }
            });
        }
        script
    };
    let conclusion = judged(&watched(0.97, 700.0), &(0..5).map(|_| watched(1.0, 700.0)).collect::<Vec<_>>());
    let change = speed(&conclusion, "b");
    assert_eq!((change.verdict, change.cause), (Verdict::Regressed, Some(Cause::Code)), "{}", change.why);
    let told =
        "it burns 3.1 % more joules a token and so lowers its own clock by 3.0 % at the power cap, in as many cycles";
    assert!(change.why.contains(told), "{}", change.why);
}

#[test]
fn faster_by_other_work_is_no_improvement() {
    let faster = || night(1.05, 1.0);
    let with = |change: &dyn Fn(&mut Script)| {
        let mut script = faster();
        change(&mut script);
        judged(&script, &usual())
    };
    let improved = judged(&faster(), &usual());
    assert_eq!((speed(&improved, "a").verdict, improved.exit_code), (Verdict::Improved, 0));
    let ready = |round: &mut stepwatch_record::run::Round, flops: f64, loss: f64| {
        let ready = round.record.ready.as_mut().unwrap();
        (ready.flops_per_token, ready.loss) = (Some(flops), Some(loss));
    };
    let fewer = with(&|script| script.each_round("a", |round| ready(round, 5e6, 5.5)));
    let change = speed(&fewer, "a");
    assert_eq!((change.verdict, change.reason.as_str(), fewer.exit_code), (Verdict::NumbersWrong, "other-work", 4));
    assert!(change.why.contains("FLOPs a token 5,000,000 against 6,000,000"), "{}", change.why);
    assert!(
        fewer.findings.iter().any(|f| f.kind == Kind::UnequalComparison && f.cells == [id("a")]),
        "{:?}",
        fewer.findings
    );

    let mut losing = usual();
    losing.iter_mut().for_each(|script| script.each_round("a", |round| ready(round, 6e6, 5.5)));
    let mut other_loss = faster();
    other_loss.each_round("a", |round| ready(round, 6e6, 7.0));
    let judged_loss = judged(&other_loss, &losing);
    assert_eq!((speed(&judged_loss, "a").verdict, judged_loss.exit_code), (Verdict::NumbersWrong, 4));
    // Unlike seeds have unlike losses.
    let other_seed = judged(&other_loss.with(|run| run.manifest.seed = 2), &losing);
    assert_eq!((speed(&other_seed, "a").verdict, other_seed.exit_code), (Verdict::Improved, 0));

    let planned = |script: Script, hash: &str| script.plan("a", Plan { hash: hash.into(), ..Plan::default() });
    let reference: Vec<Script> = usual().into_iter().map(|script| planned(script, "one")).collect();
    let other_plan = judged(&planned(faster(), "two"), &reference);
    let change = speed(&other_plan, "a");
    assert_eq!((change.verdict, change.reason.as_str()), (Verdict::Undecided, "algorithm-changed"), "{}", change.why);
    let slower = judged(&planned(night(0.95, 1.0), "two"), &reference);
    assert_eq!(speed(&slower, "a").verdict, Verdict::Regressed, "slower is slower by whatever plan");
}

#[test]
fn the_words_say_whether_the_fast_steps_moved_with_the_mean() {
    // Twenty steps a round, of which the last `slow` take `factor` times as long.
    let stepped = |slow: usize, factor: f64| {
        let mut script = night(1.0, 1.0);
        for cell in CELLS {
            script.each_round(cell, |round| {
                let sample = round.samples[1];
                round.samples.truncate(1);
                for step in 0..20 {
                    let times = if step as usize >= 20 - slow { factor } else { 1.0 };
                    let gpu_ns = (sample.gpu_ns as f64 * times) as u64;
                    round.samples.push(stepwatch_record::run::Sample { step: 1 + step, gpu_ns, ..sample });
                }
            });
        }
        script
    };
    let usual: Vec<Script> = (0..5).map(|_| stepped(0, 1.0)).collect();
    let why = |script: &Script| speed(&judged(script, &usual), "a").why.clone();
    let every = why(&stepped(20, 1.05));
    assert!(every.contains("the fast steps moved with the mean"), "{every}");
    let few = why(&stepped(2, 1.6));
    assert!(few.contains("the mean moved but the fast steps did not, and the slow ones did"), "{few}");
}
