//! From simulated nights to verdicts, by the functions that judge a run: nothing of the method is written down a second time.
//! Summaries are made directly, without the samples behind them.

use stepwatch_record::comparison::Verdict;
use stepwatch_record::figure::{CellFigures, Conditions, Estimate, Figure, Summary};
use stepwatch_record::machine::Build;
use stepwatch_record::run::{Better, Metric, Policy, RunManifest};
use stepwatch_record::version::CURRENT;
use stepwatch_record::{Cell, CellId, End, Parameters, Run};
use stepwatch_verdict::compare::{Comparison, decide, effects};
use stepwatch_verdict::policy::exit::{REGRESSED, exit_code};

use crate::families::{Night, ROUNDS};

/// The metric that is judged.
const METRIC: &str = "tokens_per_second";
/// Confidence at which coverage is counted, of each interval by itself.
const NOMINAL: f64 = 0.99;

/// Counts over judged nights; squares are kept since the cells of a night are not independent of one another.
#[derive(Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) nights: u64,
    pub(crate) cells: u64,
    pub(crate) regressed: u64,
    pub(crate) regressed_squared: u64,
    pub(crate) improved: u64,
    pub(crate) red_nights: u64,
    pub(crate) unchanged: u64,
    pub(crate) blind: u64,
    pub(crate) covered: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.nights += other.nights;
        self.cells += other.cells;
        self.regressed += other.regressed;
        self.regressed_squared += other.regressed_squared;
        self.improved += other.improved;
        self.red_nights += other.red_nights;
        self.unchanged += other.unchanged;
        self.blind += other.blind;
        self.covered += other.covered;
    }
}

/// A judge with the policy of a scenario.
pub(crate) struct Judge {
    run: Run,
}

impl Judge {
    /// The default policy with another `margin` and `false_alarms`, and the speed alone gated.
    pub(crate) fn new(margin: f64, false_alarms: f64) -> Self {
        let policy =
            Policy { gate: vec![METRIC.into()], margin, false_alarms, reference_runs: 1000, ..Policy::default() };
        let manifest = RunManifest {
            format: CURRENT,
            id: "simulated".into(),
            scenario: "simulated".into(),
            title: String::new(),
            scenario_hash: String::new(),
            scenario_file: String::new(),
            scenario_text: String::new(),
            started: String::new(),
            backend: "null".into(),
            seed: 0,
            cells: vec![],
            rounds: ROUNDS as u32,
            samples: 30,
            metrics: vec![metric()],
            claims: vec![],
            policy,
            machines: vec![],
            build: Build::default(),
            peaks: vec![],
            notes: vec![],
            command: vec![],
            asked: Default::default(),
        };
        let run = Run::planned(manifest);
        Self { run }
    }

    /// Verdicts of one night by cell, and whether the run ends red.
    pub(crate) fn verdicts(&self, tonight: &Summary, reference: &[Summary]) -> (Vec<(Verdict, bool)>, bool) {
        let changes = Comparison::new(&self.run, tonight, reference).changes();
        let red = exit_code(&changes, &[], true) == REGRESSED;
        (changes.iter().map(|change| (change.verdict, change.blind)).collect(), red)
    }

    /// Counts of one night of unchanged code.
    pub(crate) fn night(&self, tonight: &Summary, reference: &[Summary]) -> Counts {
        let (verdicts, red) = self.verdicts(tonight, reference);
        let count = |wanted: Verdict| verdicts.iter().filter(|(verdict, _)| *verdict == wanted).count() as u64;
        let regressed = count(Verdict::Regressed);
        Counts {
            nights: 1,
            cells: verdicts.len() as u64,
            regressed,
            regressed_squared: regressed * regressed,
            improved: count(Verdict::Improved),
            red_nights: u64::from(red),
            unchanged: count(Verdict::Unchanged),
            blind: verdicts.iter().filter(|(_, blind)| *blind).count() as u64,
            covered: self.covered(tonight, reference),
        }
    }

    /// How many cells have no change in their interval at [`NOMINAL`], each by itself.
    fn covered(&self, tonight: &Summary, reference: &[Summary]) -> u64 {
        let reference: Vec<&Summary> = reference.iter().collect();
        let holds = |effect: &stepwatch_verdict::compare::Effect| {
            let decision = decide(&effect.by_itself(), Better::Higher, &self.run.manifest.policy, NOMINAL);
            decision.interval.is_some_and(|(low, high)| low <= 0.0 && 0.0 <= high)
        };
        effects(METRIC, tonight, &reference).iter().flatten().filter(|effect| holds(effect)).count() as u64
    }
}

fn metric() -> Metric {
    Metric { name: METRIC.into(), unit: "1/s".into(), better: Better::Higher }
}

/// A night as it is stored, at 100,000 tokens a second where nothing disturbs.
pub(crate) fn summary(night: &Night) -> Summary {
    let cell = |(number, logs): (usize, &[f64; ROUNDS])| CellFigures {
        cell: Cell {
            id: CellId(format!("{number}")),
            workload: "builtin".into(),
            parameters: Parameters::new(),
            axes: vec![],
        },
        end: Some(End::Completed),
        figures: vec![figure(metric(), logs)],
        plan_hash: None,
        rounds: ROUNDS as u32,
        conditions: Some(Conditions {
            canary_flops_per_second: night.canary[number].iter().map(|log| Some(1e14 * log.exp())).collect(),
            canary_bytes_per_second: vec![None; ROUNDS],
            held_down: vec![None; ROUNDS],
            throttle: vec![0; ROUNDS],
        }),
        work: None,
    };
    Summary {
        format: CURRENT,
        run: String::new(),
        scenario: "simulated".into(),
        started: String::new(),
        backend: "null".into(),
        machines: vec![],
        build: Build::default(),
        cells: night.speed.iter().enumerate().map(cell).collect(),
    }
}

fn figure(metric: Metric, logs: &[f64; ROUNDS]) -> Figure {
    let rounds: Vec<f64> = logs.iter().map(|log| 1e5 * log.exp()).collect();
    let point = 1e5;
    let estimate = Estimate {
        point,
        low: point,
        high: point,
        confidence: 0.95,
        rounds,
        samples: 0,
        round_sd_log: 0.0,
        step_sd_log: 0.0,
    };
    Figure { metric, estimate }
}
