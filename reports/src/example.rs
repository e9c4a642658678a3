//! Made-up runs for tests, benchmarks and pictures: every verdict and every end once, sizes on demand, hostile names. The
//! numbers are written down or come from a fixed sequence; they mean nothing.
//! Long because it is data: every record a report can hold, once.

use stepwatch_record::ceiling::{Ceiling, Ceilings, CellBound, ClassBound, Limit, Work};
use stepwatch_record::cell::{Cell, CellId, Parameters, Scalar};
use stepwatch_record::comparison::{Change, ClaimVerdict, Conclusion, JudgedClaim, JudgedPair, Reference, Verdict};
use stepwatch_record::figure::{CellFigures, Estimate, Figure, Summary};
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::gain::Gain;
use stepwatch_record::machine::{Build, Gpu, Library, Machine};
use stepwatch_record::message::{Canary, Ready};
use stepwatch_record::plan::{CastCount, CheckedOp, Plan, PlanFile, SkippedPass, Twin, Verification};
use stepwatch_record::profile::{OpClass, Profile};
use stepwatch_record::run::{Asked, Better, End, Metric, Policy, Round, RoundRecord, Run, RunManifest, Sample};
use stepwatch_record::trend::{ChangePoint, History, LatestChange, Night, Shape, Shift, Trend, Value};
use stepwatch_record::version::CURRENT;
use stepwatch_record::waiver::{Annotation, JudgedWaiver, Waiver, WaiverState};
use stepwatch_record::waterfall::{Waterfall, WaterfallStep};

/// What a report is made from.
pub type Inputs = (Run, Summary, Conclusion);

const TOKENS: f64 = 32_768.0;

/// The study of the README in small: 14 cells that hold every verdict and every end.
#[must_use]
pub fn study() -> Inputs {
    let rates = [
        ("bf16", [104_900.0, 105_300.0, 141_200.0, 152_400.0]),
        ("fp8-tensorwise", [38_100.0, 51_200.0, 158_300.0, 169_100.0]),
        ("fp8-delayed", [60_200.0, 71_400.0, 188_000.0, 193_700.0]),
    ];
    let compiles = ["none", "layout", "layout+fusion", "full"];
    let mut made = Maker::new("fp8-study", 5, 30);
    for (precision, row) in rates {
        for (compile, rate) in compiles.iter().zip(row) {
            made.cell(
                &[("model", "454m"), ("precision", precision), ("attention", "cudnn"), ("compile", compile)],
                rate,
            );
        }
    }
    made.cell(&[("model", "454m"), ("precision", "bf16"), ("attention", "naive"), ("compile", "none")], 61_000.0);
    made.cell(
        &[("model", "454m"), ("precision", "fp8-delayed"), ("attention", "naive"), ("compile", "none")],
        40_000.0,
    );
    let ids: Vec<CellId> = made.run.manifest.cells.iter().map(|cell| cell.id.clone()).collect();
    made.fail(&ids[12], End::OutOfMemory { message: "cudaMalloc of 17.2 GB failed: 3.1 GB free".into() });
    made.fail(&ids[13], End::Skipped { reason: "naive attention has no FP8 form".into() });
    made.lose_round(&ids[1]);
    let verdicts = [
        (0, Verdict::Unchanged, 0.001, false),
        (2, Verdict::Unchanged, -0.003, true),
        (3, Verdict::Unchanged, 0.002, false),
        (4, Verdict::KnownRegressed, -0.031, false),
        (5, Verdict::Incomparable, 0.0, false),
        (6, Verdict::Improved, 0.042, false),
        (7, Verdict::Unchanged, -0.001, false),
        (8, Verdict::New, 0.0, false),
        (9, Verdict::Undecided, -0.012, false),
        (10, Verdict::Unchanged, 0.004, false),
        (11, Verdict::Regressed, -0.023, false),
    ];
    for (index, verdict, effect, blind) in verdicts {
        made.change(&ids[index], verdict, effect, blind);
    }
    made.change(&ids[12], Verdict::Failed, f64::NAN, false);
    made.change(&ids[1], Verdict::Missing, f64::NAN, false);
    made.conclude(&ids);
    made.conclusion.waivers = vec![
        waived(
            WaiverState::Waives,
            "454m/*",
            "1 regression; waived up to 4.0 % until 2026-12-31 by kim: cuBLAS 13.0.2",
        ),
        waived(WaiverState::Expired, "1b/*", "expired on 2026-11-01 and would waive nothing: remove it"),
    ];
    made.conclusion.annotations = vec![Annotation {
        date: "2026-11-22".into(),
        text: "cuBLAS 13.0.1 replaced by 13.0.2".into(),
        cells: Vec::new(),
    }];
    made.done()
}

/// The same cells on a CPU without a reference: nothing to compare with, FP8 emulated.
#[must_use]
pub fn first_on_cpu() -> Inputs {
    let (mut run, mut summary, mut conclusion) = study();
    run.manifest.backend = "cpu".into();
    summary.backend = "cpu".into();
    run.manifest.machines[0].gpus.clear();
    run.manifest.machines[0].driver = None;
    conclusion.reference = Reference::default();
    conclusion.waivers.clear();
    conclusion.annotations.clear();
    conclusion.changes.retain(|change| matches!(change.verdict, Verdict::Failed | Verdict::Missing));
    conclusion.headline = "12 of 14 cells measured; nothing to compare with yet".into();
    conclusion.exit_code = 3;
    conclusion.findings = vec![Finding {
        kind: Kind::Emulated,
        severity: Severity::High,
        sentence: "FP8 is emulated on this CPU: the numbers are real, the speed says nothing of a GPU".into(),
        evidence: vec!["8 of 14 cells compute FP8 by exact rounding".into()],
        next_step: "run the same scenario on a GPU with FP8".into(),
        command: String::new(),
        cells: Vec::new(),
    }];
    (run, summary, conclusion)
}

/// The cells of the study after a run that was cut off in its last round: all but the first two cells lack that round.
#[must_use]
pub fn unfinished() -> Inputs {
    let mut made = Maker::new("fp8-study", 5, 30);
    for (precision, rate) in [("bf16", 105_000.0), ("fp8-tensorwise", 158_000.0), ("fp8-delayed", 188_000.0)] {
        for compile in ["none", "layout", "layout+fusion", "full"] {
            made.cell(&[("model", "454m"), ("precision", precision), ("compile", compile)], rate);
        }
    }
    let ids: Vec<CellId> = made.run.manifest.cells.iter().map(|cell| cell.id.clone()).collect();
    for id in &ids[2..] {
        made.lose_round(id);
        made.change(id, Verdict::Missing, f64::NAN, false);
    }
    made.conclude(&ids);
    for claim in &mut made.conclusion.claims {
        claim.verdict = ClaimVerdict::Undecided;
        for pair in &mut claim.pairs {
            (pair.verdict, pair.why) = (ClaimVerdict::Undecided, "so far, at 99 % (4 of 5 rounds)".into());
        }
    }
    made.conclusion.headline = "the run was not finished: 50 of 60 planned rounds are recorded".into();
    made.conclusion.exit_code = 3;
    made.done()
}

/// Names and texts that try to break out of every format.
#[must_use]
pub fn hostile() -> Inputs {
    let nasty = [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "../../etc/passwd",
        "nul\0esc\u{1b}[31m\u{202e}",
        "🚀 `code` | pipe @everyone",
        "</script><!-- ]]> {{ 7*7 }}",
    ];
    let mut made = Maker::new("<script>alert('scenario')</script>", 2, 3);
    made.run.manifest.title = nasty[1].into();
    made.run.manifest.scenario_file = "a b'c;$(rm -rf).toml".into();
    made.run.manifest.scenario_text = nasty.join("\n");
    made.run.manifest.notes = nasty.map(String::from).to_vec();
    for (index, text) in nasty.iter().enumerate() {
        let compile = nasty[(index + 1) % nasty.len()];
        made.cell(&[("precision", text), ("compile", compile), ("<b>axis", text)], 1000.0 * (index + 1) as f64);
    }
    let ids: Vec<CellId> = made.run.manifest.cells.iter().map(|cell| cell.id.clone()).collect();
    made.fail(&ids[0], End::Failed { message: nasty[5].into() });
    made.change(&ids[1], Verdict::Regressed, -0.5, true);
    made.conclude(&ids);
    made.conclusion.waivers = nasty.map(|text| waived(WaiverState::Unused, text, text)).to_vec();
    made.conclusion.annotations =
        nasty.map(|text| Annotation { date: text.into(), text: text.into(), cells: ids.clone() }).to_vec();
    for finding in &mut made.conclusion.findings {
        finding.sentence = nasty[0].into();
        finding.evidence = nasty.map(String::from).to_vec();
        finding.next_step = nasty[4].into();
        finding.command = nasty[0].into();
    }
    for claim in &mut made.conclusion.claims {
        claim.text = nasty[1].into();
    }
    made.conclusion.headline = nasty[5].into();
    made.conclusion.method = vec![nasty[0].into()];
    made.done()
}

/// `cells` cells with so many rounds and samples: four axes, nothing special.
#[must_use]
pub fn sized(cells: usize, rounds: u32, samples: u32) -> Inputs {
    let precisions = ["fp32", "bf16", "fp8-tensorwise", "fp8-delayed", "fp8-rowwise"];
    let compiles = ["none", "layout", "layout+fusion", "layout+fusion+graph", "full"];
    let attentions = ["naive", "flash", "cudnn"];
    let mut made = Maker::new("sized", rounds, samples);
    for index in 0..cells {
        let model = format!("{}m", 100 + index / 75 * 50);
        let parameters = [
            ("model", model.as_str()),
            ("precision", precisions[index / 15 % 5]),
            ("attention", attentions[index / 5 % 3]),
            ("compile", compiles[index % 5]),
        ];
        made.cell(&parameters, 50_000.0 + 317.0 * (index % 400) as f64);
    }
    let ids: Vec<CellId> = made.run.manifest.cells.iter().map(|cell| cell.id.clone()).collect();
    for (index, id) in ids.iter().enumerate() {
        let (verdict, effect) = match index % 40 {
            0 => (Verdict::Regressed, -0.02 - index as f64 * 1e-4),
            1 => (Verdict::Improved, 0.03),
            2 => (Verdict::Undecided, -0.011),
            _ => (Verdict::Unchanged, 0.001),
        };
        made.change(id, verdict, effect, index % 50 == 3);
    }
    made.conclude(&ids);
    made.conclusion.waterfalls = ids.windows(2).map(|pair| made.waterfall(&pair[0], &pair[1])).collect();
    made.done()
}

/// The nights before a run, one a day: a tenth of the cells step down at a third of them, the next tenth drifts, one night is
/// bad for a few, two are missing.
#[must_use]
pub fn nights((run, summary, _): &Inputs, nights: usize) -> History {
    let mut noise = Noise(7);
    let night = |index: usize| {
        // 2025-11-24 and so many days later, months of 28 days being enough here.
        let (month, day) = (index / 28, index % 28 + 1);
        let (year, month) = (2025 + (10 + month) / 12, (10 + month) % 12 + 1);
        let commit = format!("{:07x}", 0x1a2_b3c4 + index / 5 * 77_777);
        let facts = [("commit", commit), ("driver", if index < nights / 3 { "575.57" } else { "580.95" }.to_owned())];
        Night {
            run: format!("{year}{month:02}{day:02}T030000Z-{:04x}", index * 37 % 65_536),
            started: format!("{year}-{month:02}-{day:02}T03:00:00Z"),
            facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    };
    let mut history = History { searched: nights >= 8, nights: (0..nights).map(night).collect(), ..History::default() };
    let step = nights / 3;
    for (index, cell) in summary.cells.iter().enumerate() {
        let Some(figure) = cell.figure("tokens_per_second") else { continue };
        let (steps, drifts) = (index % 10 == 1, index % 10 == 4);
        let value = |night: usize| {
            let lasting = if steps && night < step { 1.04 } else { 1.0 };
            let drift = if drifts { 1.03 - 0.03 * night as f64 / nights as f64 } else { 1.0 };
            let bad = if index % 10 == 7 && night == nights / 2 { 0.9 } else { 1.0 };
            let point = figure.estimate.point * lasting * drift * bad * (1.0 + 0.002 * noise.next());
            let value = Value { point, low: point * 0.9975, high: point * 1.0025 };
            (night % 97 != 40).then_some(value)
        };
        let values = (0..nights).map(value).collect();
        let change = |shape, effect| {
            let (earliest, latest) = if shape == Shape::Step { (step, step) } else { (nights / 8, nights - 1) };
            ChangePoint { night: step, earliest, latest, shape, effect, shared: false }
        };
        let mut changes = Vec::new();
        if nights >= 8 && steps {
            changes.push(change(Shape::Step, -0.038));
        }
        if nights >= 8 && drifts {
            changes.push(change(Shape::Drift, -0.029));
        }
        let outliers = if index % 10 == 7 { vec![nights / 2] } else { Vec::new() };
        let metric = "tokens_per_second".to_owned();
        history.trends.push(Trend { cell: cell.cell.id.clone(), metric, values, changes, outliers });
    }
    let metric = "tokens_per_second".to_owned();
    let cells = run.manifest.cells.iter().take(3).map(|cell| cell.id.clone()).collect();
    history.shifts = vec![Shift { metric, night: step, cells, effect: -0.038 }];
    let day = |night: usize| history.nights[night].started[..10].to_owned();
    history.annotations = vec![Annotation { date: day(step), text: "driver 580.95".into(), cells: Vec::new() }];
    history
}

/// A fixed sequence of numbers, −1 to 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / f64::from(1_u32 << 23) - 1.0
    }
}

/// Builds a run cell by cell.
struct Maker {
    run: Run,
    figures: Vec<CellFigures>,
    conclusion: Conclusion,
    noise: Noise,
}

fn metrics() -> Vec<Metric> {
    let metric = |name: &str, unit: &str, better| Metric { name: name.into(), unit: unit.into(), better };
    vec![
        metric("tokens_per_second", "1/s", Better::Higher),
        metric("tokens_per_second_per_device", "1/s", Better::Higher),
        metric("step_seconds", "s", Better::Lower),
        metric("step_seconds_p10", "s", Better::Lower),
        metric("step_seconds_p90", "s", Better::Lower),
        metric("setup_seconds", "s", Better::Lower),
        metric("first_step_seconds", "s", Better::Lower),
        metric("peak_memory_bytes", "bytes", Better::Lower),
        metric("joules_per_token", "J", Better::Lower),
        metric("model_flops_per_second", "FLOP/s", Better::Higher),
        metric("mfu", "", Better::Higher),
        metric("worst_sqnr_db", "dB", Better::Higher),
        metric("loss", "nats", Better::Lower),
    ]
}

impl Maker {
    fn new(scenario: &str, rounds: u32, samples: u32) -> Self {
        let manifest = RunManifest {
            format: CURRENT,
            id: "20261123T171503Z-7f3a".into(),
            scenario: scenario.into(),
            title: "Is FP8 training faster than BF16 here, and why?".into(),
            scenario_hash: "9c1185a5c5e9fc54".into(),
            scenario_file: "scenarios/fp8-study.toml".into(),
            scenario_text: "[scenario]\nname = \"fp8-study\"\n".into(),
            started: "2026-11-23T17:15:03Z".into(),
            backend: "cuda".into(),
            seed: 1,
            cells: Vec::new(),
            rounds,
            samples,
            metrics: metrics(),
            claims: Vec::new(),
            policy: Policy::default(),
            machines: vec![machine()],
            build: Build {
                version: "0.1.0".into(),
                binary: "1f0a66c2d9e07b31".into(),
                commit: Some("8d75325c3".into()),
                dirty: false,
            },
            peaks: Vec::new(),
            notes: vec!["one round of 454m/bf16/cudnn/layout was cut: the worker was killed".into()],
            command: ["stepwatch", "run", "scenarios/fp8-study.toml"].map(String::from).into(),
            asked: Asked::default(),
        };
        let run = Run::planned(manifest);
        Self { run, figures: Vec::new(), conclusion: conclusion(), noise: Noise(1) }
    }

    fn cell(&mut self, parameters: &[(&str, &str)], tokens_per_second: f64) {
        let axes: Vec<String> = parameters.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut all: Parameters = parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let readable: Vec<&str> = parameters.iter().map(|(_, value)| *value).collect();
        let id = CellId::new(&readable, &all);
        all.insert("batch_size".into(), Scalar::Integer(16));
        all.insert("dim".into(), Scalar::Integer(1024));
        all.insert("seq_len".into(), Scalar::Integer(2048));
        let cell = Cell { id: id.clone(), workload: "builtin".into(), parameters: all, axes };
        self.plan(&id, parameters);
        let step = TOKENS / tokens_per_second;
        self.run.profiles.push(profile(&id, parameters, step));
        let rounds = self.run.manifest.rounds;
        let factors: Vec<f64> = (0..rounds).map(|_| 1.0 + 0.004 * self.noise.next()).collect();
        for (round, factor) in (0..rounds).zip(&factors) {
            self.round(&id, round, step / factor);
        }
        // Joules a token: 690 W for as long as a token takes, a little less where the step is short.
        let device = 690.0 / tokens_per_second * (0.9 + step / 5.0).min(1.0);
        let figures = [
            tokens_per_second,
            tokens_per_second,
            step,
            step * 0.99,
            step * 1.02,
            3.12 + step,
            step * 4.0,
            3.317_841_92e10,
            device,
            tokens_per_second * 2.9e9,
            tokens_per_second * 2.9e9 / 9.894e14,
            41.2,
            7.52,
        ];
        let figures = self.run.manifest.metrics.iter().zip(figures).map(|(metric, value)| Figure {
            metric: metric.clone(),
            estimate: Estimate {
                point: value,
                low: value * 0.9965,
                high: value * 1.0036,
                confidence: 0.95,
                rounds: factors.iter().map(|factor| value * factor).collect(),
                samples: u64::from(rounds * self.run.manifest.samples),
                round_sd_log: 0.0023,
                step_sd_log: 0.0041,
            },
        });
        self.figures.push(CellFigures {
            cell: cell.clone(),
            end: Some(End::Completed),
            figures: figures.collect(),
            plan_hash: Some("5e0b41c7".into()),
            rounds,
            conditions: None,
            work: None,
        });
        self.run.manifest.cells.push(cell);
    }

    fn plan(&mut self, id: &CellId, parameters: &[(&str, &str)]) {
        let compile = parameters.iter().find(|(name, _)| *name == "compile").map_or("none", |(_, value)| *value);
        let applied = compile.split('+').filter(|pass| *pass != "none").map(String::from).collect();
        self.run.plans.push(PlanFile {
            cell: id.clone(),
            plan: Some(Plan {
                hash: "5e0b41c79a22d410".into(),
                passes: applied,
                skipped_passes: vec![SkippedPass {
                    name: "search".into(),
                    reason: "no more than one algorithm fits this shape".into(),
                }],
                ops: 1187,
                flops: 9.6e13,
                bytes: 4.1e11,
                work: Vec::new(),
                memory_bytes: 31_400_000_000,
                algorithms: std::collections::BTreeMap::new(),
                compile_seconds: 1.84,
                search_seconds: 0.0,
            }),
            verification: Some(Verification {
                ok: true,
                worst_sqnr_db: 41.2,
                against: "emulation".into(),
                loss: 10.98,
                grad_norm: 2.31,
                sqnr_fp32_db: Some(23.4),
                cast_overflows: Some(0),
                cast_underflows: Some(5122),
                operations: vec![CheckedOp {
                    op: "Gemm".into(),
                    label: "gate-up forward".into(),
                    elements: 256,
                    worst_error: 0.62,
                }],
                twin: Some(Twin {
                    layers: 24,
                    batch_size: 1,
                    seq_len: 2048,
                    fp32_loss: 10.979,
                    fp32_grad_norm: 2.32,
                    loss: 10.981,
                    grad_norm: 2.31,
                }),
                casts: vec![CastCount {
                    step: 0,
                    class: "gradient".into(),
                    values: 1_073_741_824,
                    overflows: 0,
                    underflows: 5122,
                }],
                failures: Vec::new(),
            }),
            ready: Some(Ready {
                protocol: Some(1),
                device: Some("NVIDIA H100 80GB HBM3".into()),
                parameters_count: Some(454_166_528),
                fp8_linears: Some(120),
                attention: Some("cudnn".into()),
                flops_per_token: Some(2.9e9),
                ..Ready::default()
            }),
        });
    }

    fn round(&mut self, id: &CellId, round: u32, step: f64) {
        let warmup = 6;
        let samples = (0..warmup + u64::from(self.run.manifest.samples)).map(|index| {
            let warming = if index < warmup { 1.0 + 0.4 / (index + 1) as f64 } else { 1.0 };
            let seconds = step * warming * (1.0 + 0.006 * self.noise.next());
            // As a board at its cap does: the clock gives way while it warms up.
            let warm = 1.0 - 1.0 / (1.0 + index as f64 / 8.0);
            let clock = 1.98e9 - 0.2e9 * warm + 0.015e9 * self.noise.next().round();
            Sample {
                step: index,
                measured: index >= warmup,
                t_ns: index * 1_000_000,
                gpu_ns: (seconds * 1e9) as u64,
                cycles: 0,
                loss: 10.98 - 0.01 * index as f64,
                sm_clock_hz: clock,
                power_w: (560.0 + 136.0 * warm + 4.0 * self.noise.next()).round(),
                temperature_c: (48.0 + 14.0 * warm + f64::from(round)).round(),
                throttle: if warm > 0.7 { 4 } else { 0 },
            }
        });
        let samples: Vec<Sample> = samples.collect();
        let record = RoundRecord {
            cell: id.clone(),
            round: Some(round),
            attempt: 0,
            end: End::Completed,
            started: "2026-11-23T17:16:00Z".into(),
            wall_seconds: 14.2,
            setup_seconds: Some(3.12),
            warmup_steps: warmup,
            steady: true,
            tokens: 32_768,
            samples_bytes: (0, 0),
            samples: self.run.manifest.samples,
            ready: None,
            finished: None,
            metrics: std::collections::BTreeMap::new(),
            canaries: vec![Canary {
                flops_per_second: 7.03e14 * (1.0 + 0.002 * self.noise.next()),
                flops_spread: 0.001,
                bytes_per_second: 2.91e12,
                bytes_spread: 0.001,
                sm_clock_hz: Some(1.71e9),
            }],
            gpu: None,
            output_tail: Vec::new(),
        };
        self.run.rounds.push(Round { record, samples });
    }

    /// Ends a cell badly in its first round, with no figures.
    fn fail(&mut self, id: &CellId, end: End) {
        let loud = !matches!(end, End::Skipped { .. });
        self.run.rounds.retain(|round| round.record.cell != *id || round.record.round == Some(0));
        for round in self.run.rounds.iter_mut().filter(|round| round.record.cell == *id) {
            round.samples.clear();
            round.record.samples = 0;
            round.record.end = end.clone();
            if loud {
                round.record.output_tail = vec!["allocating scores (16, 16, 2048, 2048) f32".into(), end.reason()];
            }
        }
        for cell in self.figures.iter_mut().filter(|cell| cell.cell.id == *id) {
            cell.figures.clear();
            cell.end = Some(end.clone());
            cell.rounds = 0;
        }
    }

    /// Takes the last round of a cell away: a hole in the ledger.
    fn lose_round(&mut self, id: &CellId) {
        let last = self.run.manifest.rounds - 1;
        self.run.rounds.retain(|round| round.record.cell != *id || round.record.round != Some(last));
        for cell in self.figures.iter_mut().filter(|cell| cell.cell.id == *id) {
            cell.end = None;
            cell.rounds = last;
            cell.figures.iter_mut().for_each(|figure| {
                figure.estimate.rounds.pop();
            });
        }
    }

    /// A change of `tokens_per_second`, and for calm verdicts one of memory; an effect that is no number is left out.
    fn change(&mut self, id: &CellId, verdict: Verdict, effect: f64, blind: bool) {
        let (reason, why) = match verdict {
            Verdict::Regressed => ("interval-beyond-margin", "the whole interval is below −1 %"),
            Verdict::Improved => ("interval-beyond-margin", "the whole interval is above +1 %"),
            Verdict::Unchanged => ("interval-within-equal", "the whole interval lies within ±2 %"),
            Verdict::Undecided => ("too-few-rounds", "9 rounds would decide"),
            Verdict::KnownRegressed => ("waived", "waived until 2026-12-31 by kim: cuBLAS 13.0.2, limit 4 %"),
            Verdict::Incomparable => ("plan-differs", "the reference ran another attention kernel"),
            Verdict::New => ("no-reference", "the reference does not have it"),
            Verdict::Failed => ("failed", "out of memory in round 0"),
            Verdict::Missing => ("missing", "4 of 5 planned rounds have a record"),
            Verdict::NumbersWrong | Verdict::Skipped => ("other", "see the cell"),
        };
        let measured = !matches!(verdict, Verdict::Failed | Verdict::Missing | Verdict::New | Verdict::Incomparable);
        let figure =
            self.figures.iter().find(|cell| cell.cell.id == *id).and_then(|cell| cell.figure("tokens_per_second"));
        let value = figure.map(|figure| figure.estimate.point);
        let known = |value: f64| measured.then_some(value);
        self.conclusion.changes.push(Change {
            cell: id.clone(),
            metric: metrics().swap_remove(0),
            gated: true,
            verdict,
            reason: reason.into(),
            why: why.into(),
            effect: known(effect),
            low: known(effect - 0.004),
            high: known(effect + 0.004),
            confidence: known(0.9993),
            detectable: known(if blind { 0.034 } else { 0.008 }),
            rounds_to_decide: (verdict == Verdict::Undecided).then_some(9),
            blind,
            value,
            reference_value: value.filter(|_| measured).map(|value| value / (1.0 + effect)),
            machine: None,
            cause: None,
            false_discovery: None,
        });
    }

    fn conclude(&mut self, ids: &[CellId]) {
        let (bf16, fp8) = (ids[3.min(ids.len() - 1)].clone(), ids[7.min(ids.len() - 1)].clone());
        self.conclusion.claims = vec![JudgedClaim {
            text: "compiled FP8 is 1.7 times compiled BF16".into(),
            metric: "tokens_per_second".into(),
            asserts: "≥ 1.7 ×".into(),
            gate: false,
            verdict: ClaimVerdict::Refuted,
            pairs: vec![JudgedPair {
                of: fp8.clone(),
                over: bf16.clone(),
                verdict: ClaimVerdict::Refuted,
                ratio: Some(1.1096),
                low: Some(1.102),
                high: Some(1.117),
                why: "the whole interval lies below 1.7".into(),
            }],
        }];
        self.conclusion.findings = findings(&bf16, &fp8);
        self.conclusion.waterfalls = vec![self.waterfall(&bf16, &fp8)];
        self.conclusion.bounds = vec![bound(&fp8)];
        self.run.ceilings = vec![ceilings()];
        self.conclusion.gains = [512_u64, 1024, 2048]
            .into_iter()
            .map(|width| Gain {
                of: fp8.clone(),
                over: bf16.clone(),
                width: Some(width),
                ratio: 0.9 + width as f64 / 8192.0,
                low: 0.88 + width as f64 / 8192.0,
                high: 0.92 + width as f64 / 8192.0,
                confidence: 0.9993,
                product_share: Some(0.51),
                bound: Some(1.342),
            })
            .collect();
    }

    /// The difference of two profiles, class by class.
    fn waterfall(&self, from: &CellId, to: &CellId) -> Waterfall {
        let classes = |cell: &CellId| -> Vec<(String, f64)> {
            let profile = self.run.profiles.iter().find(|profile| profile.cell == *cell);
            profile.map_or_else(Vec::new, |p| p.ops.iter().map(|op| (op.class.clone(), op.gpu_ns * 1e-9)).collect())
        };
        let (a, b) = (classes(from), classes(to));
        let mut names: Vec<&String> = a.iter().chain(&b).map(|(class, _)| class).collect();
        names.sort_unstable();
        names.dedup();
        let of = |all: &[(String, f64)], name: &str| all.iter().find(|(class, _)| class == name).map_or(0.0, |c| c.1);
        let step = |class: &&String| WaterfallStep {
            class: (*class).clone(),
            from_seconds: of(&a, class),
            to_seconds: of(&b, class),
        };
        Waterfall { from: from.clone(), to: to.clone(), steps: names.iter().map(step).collect() }
    }

    fn done(self) -> Inputs {
        let manifest = &self.run.manifest;
        let summary = Summary {
            format: CURRENT,
            run: manifest.id.clone(),
            scenario: manifest.scenario.clone(),
            started: manifest.started.clone(),
            backend: manifest.backend.clone(),
            machines: manifest.machines.clone(),
            build: manifest.build.clone(),
            cells: self.figures,
        };
        (self.run, summary, self.conclusion)
    }
}

/// Where a step of so many seconds goes: the classes of a GPU's profile in about the shares that they have there.
fn profile(id: &CellId, parameters: &[(&str, &str)], step: f64) -> Profile {
    let value = |name: &str| parameters.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| *value);
    let (fp8, fused) =
        (value("precision").starts_with("fp8"), value("compile").contains("fus") || value("compile") == "full");
    let weights: [(&str, f64, f64, f64); 10] = [
        ("gemm forward", if fp8 { 9.0 } else { 16.0 }, 2.1e13, 3.2e10),
        ("gemm input gradient", if fp8 { 10.0 } else { 17.0 }, 2.1e13, 3.4e10),
        ("gemm weight gradient", if fp8 { 11.0 } else { 18.0 }, 2.1e13, 3.6e10),
        ("gemm head", 9.0, 1.0e13, 1.2e10),
        ("attention", 11.0, 8.9e12, 1.9e10),
        (
            "quantise",
            if !fp8 {
                0.0
            } else if fused {
                3.0
            } else {
                45.0
            },
            0.0,
            4.4e10,
        ),
        (
            "scale",
            if !fp8 {
                0.0
            } else if fused {
                0.4
            } else {
                30.0
            },
            0.0,
            2.2e10,
        ),
        ("norm", if fused { 3.0 } else { 9.0 }, 3.1e10, 2.8e10),
        ("elementwise", if fused { 4.0 } else { 14.0 }, 6.0e10, 6.9e10),
        ("optimiser", 4.0, 5.4e9, 1.1e10),
    ];
    let all: f64 = weights.iter().map(|(_, weight, ..)| weight).sum();
    let op = |(class, weight, flops, bytes): (&str, f64, f64, f64)| OpClass {
        class: class.into(),
        label: class.into(),
        phase: "forward".into(),
        count: 24,
        gpu_ns: weight / all * step * 0.985e9,
        flops,
        bytes,
    };
    Profile { cell: id.clone(), ops: weights.into_iter().filter(|(_, weight, ..)| *weight > 0.0).map(op).collect() }
}

fn machine() -> Machine {
    let library = |name: &str, version: &str, path: &str| Library {
        name: name.into(),
        version: version.into(),
        path: path.into(),
    };
    Machine {
        host: "3fa95c01".into(),
        os: "Linux 6.8.0-79-generic".into(),
        cpu: "Intel Xeon Platinum 8480C".into(),
        cpu_cores: 26,
        memory_bytes: 236_000_000_000,
        gpus: vec![Gpu {
            name: "NVIDIA H100 80GB HBM3".into(),
            uuid: "GPU-5b1d4a3c-0000-0000-0000-000000000000".into(),
            memory_bytes: 85_520_809_984,
            power_limit_w: Some(700.0),
            max_sm_clock_hz: Some(1.98e9),
            ..Gpu::default()
        }],
        driver: Some("580.95.05".into()),
        libraries: vec![
            library("cublasLt", "13.0.2", "/usr/local/cuda/lib64/libcublasLt.so.13"),
            library("cudnn", "9.14.0", "/usr/lib/x86_64-linux-gnu/libcudnn.so.9"),
        ],
    }
}

/// The least that the faster side could take.
fn bound(cell: &CellId) -> CellBound {
    let class = |class: &str, least_seconds, profiled| ClassBound {
        class: class.into(),
        least_seconds,
        profiled_seconds: Some(profiled),
    };
    CellBound {
        cell: cell.clone(),
        seconds: 0.1022,
        limit: Limit::Energy,
        compute_seconds: 0.0871,
        bytes_seconds: 0.0604,
        energy_seconds: Some(0.1022),
        serial_seconds: 0.1264,
        step_seconds: Some(0.1694),
        classes: vec![class("gemm", 0.067, 0.078), class("attention", 0.021, 0.041), class("quantise", 0.017, 0.019)],
    }
}

/// What the GPU sustained before the first round.
fn ceilings() -> Ceilings {
    let ceiling = |work, per_second, sm_clock_hz, power_w| Ceiling {
        work,
        per_second,
        seconds: 2.0,
        from_ns: 0,
        to_ns: 2_000_000_000,
        sm_clock_hz: Some(sm_clock_hz),
        power_w: Some(power_w),
    };
    Ceilings {
        gpu: "GPU-6b1f0c2a".into(),
        power_limit_w: Some(700.0),
        idle_w: Some(72.0),
        all: vec![
            ceiling(Work::Bf16Product, 6.41e14, 1.365e9, 699.0),
            ceiling(Work::Fp8Product, 1.214e15, 1.38e9, 698.0),
            ceiling(Work::Copy, 3.01e12, 1.98e9, 512.0),
        ],
    }
}

fn findings(bf16: &CellId, fp8: &CellId) -> Vec<Finding> {
    vec![
        Finding {
            kind: Kind::Fp8SlowerThanBf16,
            severity: Severity::High,
            sentence:
                "FP8 without compilation is 2.75 × slower than BF16: 61 % of its step is quantise, transpose and amax"
                    .into(),
            evidence: vec![
                "38.1 k against 104.9 k tokens/s".into(),
                "quantise 310 ms, transpose 121 ms, amax 92 ms of 860 ms".into(),
            ],
            next_step: "Compare at compile = full, where fusion takes these ops away.".into(),
            command: String::new(),
            cells: vec![fp8.clone(), bf16.clone()],
        },
        Finding {
            kind: Kind::ClaimRefuted,
            severity: Severity::Medium,
            sentence: "“compiled FP8 is 1.7 times compiled BF16” is refuted: 1.11 × (1.10…1.12)".into(),
            evidence: vec!["at dim 1024 the bound is 1.50 ×: attention and loss stay in bf16".into()],
            next_step: "Measure 8b-slice, where GEMMs are 82 % of the step.".into(),
            command: format!("stepwatch explain 20261128T101441Z-cb5a95 '{fp8}' '{bf16}'"),
            cells: vec![fp8.clone(), bf16.clone()],
        },
        Finding {
            kind: Kind::PowerCapped,
            severity: Severity::Low,
            sentence: "The GPU ran at its power cap in 11 of 14 cells".into(),
            evidence: vec!["SM clock 1.41…1.75 GHz of 1.98 GHz at 700 W".into()],
            next_step: String::new(),
            command: String::new(),
            cells: Vec::new(),
        },
    ]
}

fn waived(state: WaiverState, cell: &str, what: &str) -> JudgedWaiver {
    let expires = if state == WaiverState::Expired { "2026-11-01" } else { "2026-12-31" };
    JudgedWaiver {
        waiver: Waiver {
            cell: cell.into(),
            cells: Vec::new(),
            metric: "tokens_per_second".into(),
            limit: 0.04,
            owner: "kim".into(),
            expires: expires.into(),
            reason: "cuBLAS 13.0.2".into(),
        },
        state,
        sentence: format!("tokens_per_second of {cell}: {what}"),
    }
}

/// A step of the first cell, a drift of the second and the third alone, as the runs before say.
#[must_use]
pub fn latest_changes((run, ..): &Inputs) -> Vec<LatestChange> {
    let shapes = [(Some(Shape::Step), -0.038), (Some(Shape::Drift), 0.021), (None, -0.11)];
    let change = |(cell, (shape, effect)): (&stepwatch_record::Cell, (Option<Shape>, f64))| LatestChange {
        cell: cell.id.clone(),
        metric: "tokens_per_second".into(),
        shape,
        run: "20261103T030000Z-1a2b".into(),
        started: "2026-11-03T03:00:00Z".into(),
        between: ["20261102T030000Z-0f0f".into(), "20261104T030000Z-3c4d".into()],
        effect,
        runs: 21,
        shared: shape == Some(Shape::Drift),
    };
    run.manifest.cells.iter().zip(shapes).map(change).collect()
}

fn conclusion() -> Conclusion {
    Conclusion {
        run: "20261123T171503Z-7f3a".into(),
        reference: Reference {
            runs: vec!["20261122T171411Z-11c0".into(), "20261121T171502Z-9d2e".into()],
            origin: "accepted baseline".into(),
            differences: vec!["commit: 1ceb153 → 8d75325c3".into(), "cublasLt: 13.0.1 → 13.0.2".into()],
        },
        headline: "1 of 14 cells regressed, by code: 454m/fp8-delayed/cudnn/full is 2.3 % slower (1.9…2.7 %)".into(),
        changes: Vec::new(),
        claims: Vec::new(),
        findings: Vec::new(),
        exit_code: 5,
        method: vec![
            "The round (one worker process) is the unit: its steps share clocks, memory layout and luck.".into(),
            "t interval on the log of round values, the spread pooled over cells.".into(),
            "Family-wise: at most 1 % chance of any false red in the whole run.".into(),
        ],
        waterfalls: Vec::new(),
        gains: Vec::new(),
        bounds: Vec::new(),
        waivers: Vec::new(),
        annotations: Vec::new(),
        latest_changes: None,
    }
}
