//! A policy replayed over a stored history: every night judged against the nights before it, as it stands and with slowdowns
//! put in whose place and size are known. Says how often the policy would have cried, what it would have found, and when.
//!
//! A night that ends red is no reference for later ones, as nobody would accept it, until [`LASTING`] nights in a row did: then
//! the level is taken for answered.

use stepwatch_record::comparison::Verdict;
use stepwatch_record::figure::Summary;
use stepwatch_record::machine::Build;
use stepwatch_record::run::{Asked, Better, Metric, Policy, Run, RunManifest};
use stepwatch_record::version::CURRENT;
use stepwatch_record::{CellId, End};

use crate::compare::Comparison;
use crate::compatible;
use crate::history::history;
use crate::stats;
use crate::wording::is_speed;

/// So many red nights in a row are a level that somebody answered.
pub const LASTING: usize = 3;
/// A slowdown that was put in is looked for on so many nights in a row.
pub const HORIZON: usize = 7;
/// Fewest nights before a night that is judged: two show how nights differ.
pub const FEWEST: usize = 2;

/// What is put in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Injection {
    /// By how much a cell becomes worse, as a share: 0.02 is 2 % fewer tokens a second.
    pub share: f64,
    /// How many times, each in one cell from one night on.
    pub trials: usize,
    /// Chooses cells and nights.
    pub seed: u64,
}

/// A red cell of the history as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// Which night, by its place in the history.
    pub night: usize,
    /// Which cell.
    pub cell: CellId,
    /// Which metric.
    pub metric: String,
    /// By how much, relative.
    pub effect: f64,
    /// Whether it lasted: red for [`LASTING`] nights in a row, or at a lasting change that the whole history shows. Then it was
    /// right.
    pub lasting: bool,
}

/// What became of the slowdowns that were put in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detection {
    /// How many were put in.
    pub trials: usize,
    /// Of each the first night, from 1, on which it was found; `None` within [`HORIZON`] nights.
    pub delays: Vec<Option<usize>>,
    /// How many could not be found on their first night by the comparison's own account (blind).
    pub blind: usize,
}

impl Detection {
    /// How many were found by so many nights.
    #[must_use]
    pub fn found_by(&self, nights: usize) -> usize {
        self.delays.iter().filter(|delay| delay.is_some_and(|delay| delay <= nights)).count()
    }

    /// Nights until one was found, in the middle of those found.
    #[must_use]
    pub fn median_delay(&self) -> Option<f64> {
        stats::median(&self.delays.iter().flatten().map(|delay| *delay as f64).collect::<Vec<f64>>())
    }
}

/// What replaying a policy showed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backtest {
    /// Nights that were judged; the first ones have nothing before them.
    pub nights: usize,
    /// Gated cells and metrics judged over all of them.
    pub judged: usize,
    /// Of those, blind ones.
    pub blind: usize,
    /// Nights with any alarm.
    pub red_nights: usize,
    /// Every alarm, oldest first.
    pub alarms: Vec<Alarm>,
    /// What was put in and found.
    pub detection: Option<Detection>,
}

/// Replays `policy` over `nights`, oldest first; `metrics` are those of the runs.
#[must_use]
pub fn backtest(nights: &[Summary], policy: &Policy, metrics: &[Metric], injection: Option<Injection>) -> Backtest {
    let judge = Judge::new(policy, metrics);
    let mut result = Backtest::default();
    let mut references: Vec<Option<Vec<&Summary>>> = Vec::new();
    let (mut accepted, mut red): (Vec<&Summary>, Vec<&Summary>) = (Vec::new(), Vec::new());
    for (number, night) in nights.iter().enumerate() {
        let reference = judge.reference(night, &accepted);
        if reference.len() < FEWEST {
            references.push(None);
            accepted.push(night);
            continue;
        }
        let seen = judge.night(night, &reference);
        result.nights += 1;
        result.judged += seen.judged;
        result.blind += seen.blind;
        result.red_nights += usize::from(!seen.red.is_empty());
        result.alarms.extend(seen.red.iter().map(|(cell, metric, effect)| Alarm {
            night: number,
            cell: cell.clone(),
            metric: metric.clone(),
            effect: *effect,
            lasting: false,
        }));
        references.push(Some(reference));
        if seen.red.is_empty() {
            red.clear();
            accepted.push(night);
        } else {
            red.push(night);
            if red.len() >= LASTING {
                accepted.append(&mut red);
            }
        }
    }
    tell_lasting(nights, &mut result.alarms);
    result.detection = injection.map(|injection| judge.detect(nights, &references, &result.alarms, injection));
    result
}

/// Marks the alarms that lasted.
fn tell_lasting(nights: &[Summary], alarms: &mut [Alarm]) {
    let red: Vec<(usize, CellId, String)> =
        alarms.iter().map(|alarm| (alarm.night, alarm.cell.clone(), alarm.metric.clone())).collect();
    let in_a_row = |alarm: &Alarm| {
        let also = |night: &usize| red.iter().any(|r| r.0 == *night && r.1 == alarm.cell && r.2 == alarm.metric);
        let before = (0..alarm.night).rev().take_while(also).count();
        before + (alarm.night..nights.len()).take_while(also).count() >= LASTING
    };
    let mut known: Vec<((CellId, String), Vec<crate::history::Change>)> = Vec::new();
    for alarm in alarms {
        let key = (alarm.cell.clone(), alarm.metric.clone());
        let place = known.iter().position(|(found, _)| found == &key).unwrap_or_else(|| {
            let value = |night: &Summary| Some(night.cell(&key.0)?.figure(&key.1)?.estimate.point);
            let series: Vec<Option<f64>> = nights.iter().map(value).collect();
            known.push((key, history(&series).changes));
            known.len() - 1
        });
        let near = |change: &crate::history::Change| {
            (change.effect < 0.0) == (alarm.effect < 0.0)
                && (change.earliest..=change.latest + LASTING).contains(&alarm.night)
        };
        alarm.lasting = known[place].1.iter().any(near) || in_a_row(alarm);
    }
}

/// What one night showed.
#[derive(Default)]
struct Seen {
    judged: usize,
    blind: usize,
    /// Cells, metrics and effects of regressions.
    red: Vec<(CellId, String, f64)>,
}

/// Judges by [`Comparison`], as a run is: nothing of the method is written down a second time.
struct Judge {
    run: Run,
}

impl Judge {
    fn new(policy: &Policy, metrics: &[Metric]) -> Self {
        let gated = |metric: &&Metric| policy.gate.contains(&metric.name);
        let manifest = RunManifest {
            format: CURRENT,
            id: "replayed".to_owned(),
            scenario: String::new(),
            title: String::new(),
            scenario_hash: String::new(),
            scenario_file: String::new(),
            scenario_text: String::new(),
            started: String::new(),
            backend: String::new(),
            seed: 0,
            cells: Vec::new(),
            rounds: 0,
            samples: 0,
            // What informs turns no night red.
            metrics: metrics.iter().filter(gated).cloned().collect(),
            claims: Vec::new(),
            policy: policy.clone(),
            machines: Vec::new(),
            build: Build::default(),
            peaks: Vec::new(),
            notes: Vec::new(),
            command: Vec::new(),
            asked: Asked::default(),
        };
        let run = Run::planned(manifest);
        Self { run }
    }

    /// The newest of the accepted nights that may be compared with, newest first.
    fn reference<'night>(&self, night: &Summary, accepted: &[&'night Summary]) -> Vec<&'night Summary> {
        let policy = &self.run.manifest.policy;
        let fits = |that: &&&Summary| compatible::obstacles(night, that, &policy.reference_same).is_empty();
        accepted.iter().rev().filter(fits).take(policy.reference_runs.max(1) as usize).copied().collect()
    }

    fn night(&self, night: &Summary, reference: &[&Summary]) -> Seen {
        let given: Vec<Summary> = reference.iter().map(|summary| (*summary).clone()).collect();
        let mut seen = Seen::default();
        for change in Comparison::new(&self.run, night, &given).changes() {
            if change.gated && change.effect.is_some() {
                seen.judged += 1;
                seen.blind += usize::from(change.blind);
            }
            if change.gated && change.verdict == Verdict::Regressed {
                seen.red.push((change.cell, change.metric.name, change.effect.unwrap_or(0.0)));
            }
        }
        seen
    }

    /// Puts slowdowns into cells that were not red there by themselves, and looks for each on the nights that follow.
    fn detect(
        &self,
        nights: &[Summary],
        references: &[Option<Vec<&Summary>>],
        alarms: &[Alarm],
        injection: Injection,
    ) -> Detection {
        let mut detection = Detection::default();
        let Some(metric) = self.metric() else { return detection };
        let quiet = |night: usize, cell: &CellId| {
            !alarms
                .iter()
                .any(|a| &a.cell == cell && a.metric == metric.name && (night..night + HORIZON).contains(&a.night))
        };
        let places: Vec<(usize, &CellId)> = (0..nights.len())
            .filter(|night| references[*night].is_some() && night + HORIZON <= nights.len())
            .flat_map(|night| nights[night].cells.iter().map(move |cell| (night, cell)))
            .filter(|(night, cell)| {
                cell.figure(&metric.name).is_some() && cell.end == Some(End::Completed) && quiet(*night, &cell.cell.id)
            })
            .map(|(night, cell)| (night, &cell.cell.id))
            .collect();
        if places.is_empty() {
            return detection;
        }
        let mut random = injection.seed;
        for _ in 0..injection.trials {
            let (first, cell) = places[(next(&mut random) % places.len() as u64) as usize];
            // Red nights are not accepted: the reference stays what it was on the first of them.
            let Some(reference) = &references[first] else { continue };
            let red = |night: usize| {
                let worse = slowed(&nights[night], cell, metric, injection.share);
                self.night(&worse, reference).red.iter().any(|(id, name, _)| id == cell && name == &metric.name)
            };
            detection.trials += 1;
            detection.blind += usize::from(self.is_blind(&nights[first], reference, cell, metric));
            detection.delays.push((0..HORIZON).find(|delay| red(first + delay)).map(|delay| delay + 1));
        }
        detection
    }

    fn is_blind(&self, night: &Summary, reference: &[&Summary], cell: &CellId, metric: &Metric) -> bool {
        let given: Vec<Summary> = reference.iter().map(|summary| (*summary).clone()).collect();
        let changes = Comparison::new(&self.run, night, &given).changes();
        changes.iter().any(|change| &change.cell == cell && change.metric.name == metric.name && change.blind)
    }

    /// What becomes worse: the first gated speed, else the first gated metric.
    fn metric(&self) -> Option<&Metric> {
        let metrics = &self.run.manifest.metrics;
        metrics.iter().find(|metric| is_speed(metric)).or(metrics.first())
    }
}

/// A night with one cell's metric worse by `share` in every round.
fn slowed(night: &Summary, cell: &CellId, metric: &Metric, share: f64) -> Summary {
    let mut night = night.clone();
    let factor = match metric.better {
        Better::Higher => 1.0 - share,
        Better::Lower => 1.0 + share,
    };
    for figures in night.cells.iter_mut().filter(|figures| &figures.cell.id == cell) {
        for figure in figures.figures.iter_mut().filter(|figure| figure.metric.name == metric.name) {
            figure.estimate.point *= factor;
            figure.estimate.rounds.iter_mut().for_each(|value| *value *= factor);
        }
    }
    night
}

/// The next number of `SplitMix64` (Steele, Lea and Flood 2014): the same places from the same seed on every machine.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
