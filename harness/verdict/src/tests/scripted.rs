//! A run written down in a few words: cells with a value per round, everything else plausible and the same.

use std::collections::BTreeMap;

use stepwatch_record::figure::Summary;
use stepwatch_record::machine::{Build, Gpu, Machine};
use stepwatch_record::message::{Finished, Ready};
use stepwatch_record::plan::{Plan, PlanFile, Verification};
use stepwatch_record::run::{Better, Claim, Metric, Policy, Round, RoundRecord, RunManifest, Sample};
use stepwatch_record::version::CURRENT;
use stepwatch_record::{Cell, CellId, End, Parameters, Run};

use crate::figures::{standard_metrics, summarise};

/// Tokens of one step of every scripted cell.
pub(crate) const TOKENS: u64 = 1000;

/// A builder of runs.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) run: Run,
}

pub(crate) fn id(name: &str) -> CellId {
    CellId(format!("{name}~00000000"))
}

impl Script {
    /// An empty run on the scripted backend.
    pub(crate) fn new(run_id: &str) -> Self {
        let machine = Machine {
            cpu: "Test 9000".into(),
            cpu_cores: 2,
            gpus: vec![Gpu { name: "H100".into(), uuid: "GPU-1".into(), power_limit_w: Some(700.0), ..Gpu::default() }],
            driver: Some("580.1".into()),
            ..Machine::default()
        };
        let manifest = RunManifest {
            format: CURRENT,
            id: run_id.into(),
            scenario: "scripted".into(),
            title: String::new(),
            scenario_hash: String::new(),
            scenario_file: String::new(),
            scenario_text: String::new(),
            started: "2026-11-23T17:15:03Z".into(),
            backend: "cuda".into(),
            seed: 1,
            cells: vec![],
            rounds: 0,
            samples: 2,
            metrics: standard_metrics(),
            claims: vec![],
            policy: Policy::default(),
            machines: vec![machine],
            build: Build::default(),
            peaks: vec![],
            notes: vec![],
            command: vec![],
            asked: Default::default(),
        };
        let run = Run::planned(manifest);
        Self { run }
    }

    /// Adds a cell whose rounds reach these tokens per second.
    pub(crate) fn cell(mut self, name: &str, rates: &[f64]) -> Self {
        let mut parameters = Parameters::new();
        let mut parts = name.split('/');
        for axis in ["model", "precision", "compile"] {
            parameters.insert(axis.into(), parts.next().unwrap_or("none").into());
        }
        self.run.manifest.cells.push(Cell { id: id(name), workload: "builtin".into(), parameters, axes: vec![] });
        self.run.manifest.rounds = self.run.manifest.rounds.max(rates.len() as u32);
        for (number, rate) in rates.iter().enumerate() {
            self.run.rounds.push(round(name, number as u32, *rate));
        }
        self
    }

    /// Lets every round of a cell end so.
    pub(crate) fn ends(mut self, name: &str, end: &End) -> Self {
        self.each_round(name, |round| round.record.end = end.clone());
        self
    }

    /// A user's metric with its values by round.
    pub(crate) fn metric(mut self, name: &str, metric: &str, better: Better, values: &[f64]) -> Self {
        if !self.run.manifest.metrics.iter().any(|known| known.name == metric) {
            self.run.manifest.metrics.push(Metric { name: metric.into(), unit: String::new(), better });
        }
        let mut values = values.iter();
        self.each_round(name, |round| {
            if let Some(value) = values.next() {
                round.record.metrics.insert(metric.into(), vec![*value]);
            }
        });
        self
    }

    pub(crate) fn each_round(&mut self, name: &str, change: impl FnMut(&mut Round)) {
        self.run.rounds.iter_mut().filter(|round| round.record.cell == id(name)).for_each(change);
    }

    pub(crate) fn policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(&mut self.run.manifest.policy);
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Run)) -> Self {
        change(&mut self.run);
        self
    }

    pub(crate) fn claim(mut self, of: &str, over: &str, at_least: f64, gate: bool) -> Self {
        let pair = stepwatch_record::run::ClaimPair { of: id(of), over: id(over), unequal: vec![] };
        self.run.manifest.claims.push(Claim {
            text: format!("{of} is {at_least} times {over}"),
            metric: "tokens_per_second".into(),
            of: Parameters::new(),
            over: Parameters::new(),
            at_least: Some(at_least),
            at_most: None,
            gate,
            pairs: vec![pair],
        });
        self
    }

    pub(crate) fn plan(mut self, name: &str, plan: Plan) -> Self {
        self.run.plans.push(PlanFile { cell: id(name), plan: Some(plan), verification: None, ready: None });
        self
    }

    pub(crate) fn verification(mut self, name: &str, ok: bool, failures: &[&str]) -> Self {
        let verification = Verification {
            ok,
            worst_sqnr_db: 40.0,
            against: "fp32".into(),
            loss: 5.5,
            grad_norm: 1.0,
            sqnr_fp32_db: None,
            cast_overflows: None,
            cast_underflows: None,
            operations: Vec::new(),
            twin: None,
            casts: Vec::new(),
            failures: failures.iter().map(|text| (*text).into()).collect(),
        };
        self.run.plans.push(PlanFile { cell: id(name), plan: None, verification: Some(verification), ready: None });
        self
    }

    pub(crate) fn summary(&self) -> Summary {
        summarise(&self.run)
    }
}

/// A completed round of two equal measured steps and one warm-up step that must not count.
fn round(name: &str, number: u32, rate: f64) -> Round {
    let gpu_ns = (TOKENS as f64 / rate * 1e9) as u64;
    let sample = |step: u64, measured: bool, gpu_ns: u64| Sample {
        step,
        measured,
        t_ns: 0,
        gpu_ns,
        cycles: 0,
        loss: 5.5,
        sm_clock_hz: f64::NAN,
        power_w: f64::NAN,
        temperature_c: f64::NAN,
        throttle: 0,
    };
    let record = RoundRecord {
        cell: id(name),
        round: Some(number),
        attempt: 0,
        end: End::Completed,
        started: String::new(),
        wall_seconds: 1.0,
        setup_seconds: Some(0.5),
        warmup_steps: 1,
        steady: true,
        tokens: TOKENS,
        samples_bytes: (0, 0),
        samples: 2,
        ready: Some(Ready { flops_per_token: Some(6e6), first_step_seconds: Some(0.25), ..Ready::default() }),
        finished: Some(Finished { steps: 3, loss: Some(5.0), peak_memory_bytes: Some(1 << 30), cast_overflows: None }),
        metrics: BTreeMap::new(),
        canaries: vec![],
        gpu: None,
        output_tail: vec![],
    };
    let samples = vec![sample(0, false, 9 * gpu_ns), sample(1, true, gpu_ns), sample(2, true, gpu_ns)];
    Round { record, samples }
}
