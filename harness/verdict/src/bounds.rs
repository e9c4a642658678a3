//! What a cell's step could take at the least on the chip that it ran on: its op list's work over the ceilings that the run measured.
//! A bound is no estimate: nothing reaches it, and nothing that does this list passes it.

use std::collections::BTreeMap;

use stepwatch_record::ceiling::{Ceilings, CellBound, ClassBound, Limit, Work};
use stepwatch_record::figure::Summary;
use stepwatch_record::plan::OpWork;
use stepwatch_record::run::Run;
use stepwatch_record::{Cell, CellId};

/// The bound of every cell that has a plan and whose GPU's ceilings are known.
#[must_use]
pub fn all(run: &Run, summary: &Summary) -> Vec<CellBound> {
    run.manifest.cells.iter().filter_map(|cell| of(run, summary, cell)).collect()
}

fn of(run: &Run, summary: &Summary, cell: &Cell) -> Option<CellBound> {
    let file = run.plans.iter().rfind(|file| file.cell == cell.id)?;
    let plan = file.plan.as_ref().filter(|plan| !plan.work.is_empty())?;
    let ceilings = ceilings_of(run, &cell.id)?;
    let rates = Rates::of(ceilings)?;
    let mut total = Seconds::default();
    let mut classes: BTreeMap<&str, f64> = BTreeMap::new();
    for work in &plan.work {
        let seconds = rates.seconds(work)?;
        *classes.entry(&work.class).or_default() += seconds.serial();
        total.add(&seconds);
    }
    let serial_seconds = classes.values().sum();
    let candidates = [
        (Limit::Compute, Some(total.compute())),
        (Limit::Bytes, Some(total.bytes)),
        (Limit::Energy, rates.energy_seconds(&total)),
    ];
    let known = candidates.iter().filter_map(|(limit, seconds)| Some((*limit, (*seconds)?)));
    let (limit, seconds) = known.max_by(|one, two| one.1.total_cmp(&two.1))?;
    Some(CellBound {
        cell: cell.id.clone(),
        seconds,
        limit,
        compute_seconds: total.compute(),
        bytes_seconds: total.bytes,
        energy_seconds: candidates[2].1,
        serial_seconds,
        step_seconds: summary.cell(&cell.id).and_then(|cell| Some(cell.figure("step_seconds")?.estimate.point)),
        classes: class_bounds(run, &cell.id, classes),
    })
}

/// The ceilings of the GPU that a cell's workers named; of the only GPU there is where they named none.
fn ceilings_of<'a>(run: &'a Run, cell: &CellId) -> Option<&'a Ceilings> {
    let rounds = run.rounds.iter().filter(|round| &round.record.cell == cell);
    let named = rounds.filter_map(|round| round.record.ready.as_ref()?.device_uuid.as_ref()).next_back();
    match (named, run.ceilings.as_slice()) {
        (Some(uuid), all) => all.iter().rfind(|ceilings| &ceilings.gpu == uuid),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

/// Seconds at the ceilings by what they go to.
#[derive(Debug, Clone, Copy, Default)]
struct Seconds {
    bf16: f64,
    fp8: f64,
    bytes: f64,
}

impl Seconds {
    /// Both formats share the tensor cores: one after the other.
    fn compute(&self) -> f64 {
        self.bf16 + self.fp8
    }

    fn serial(&self) -> f64 {
        self.compute().max(self.bytes)
    }

    fn add(&mut self, more: &Self) {
        *self = Self { bf16: self.bf16 + more.bf16, fp8: self.fp8 + more.fp8, bytes: self.bytes + more.bytes };
    }
}

/// The ceilings as this file uses them.
struct Rates<'a> {
    ceilings: &'a Ceilings,
    bf16: f64,
    bytes: f64,
}

impl<'a> Rates<'a> {
    fn of(ceilings: &'a Ceilings) -> Option<Self> {
        let rate = |work| Some(ceilings.of(work)?.per_second).filter(|rate| *rate > 0.0);
        Some(Self { ceilings, bf16: rate(Work::Bf16Product)?, bytes: rate(Work::Copy)? })
    }

    /// `None` for arithmetic without a ceiling: fp32, or FP8 where the device has none.
    fn seconds(&self, work: &OpWork) -> Option<Seconds> {
        let mut seconds = Seconds { bytes: work.bytes / self.bytes, ..Seconds::default() };
        match work.arithmetic.as_str() {
            _ if work.flops == 0.0 => {}
            "bf16" => seconds.bf16 = work.flops / self.bf16,
            "fp8" => {
                let fp8 = self.ceilings.of(Work::Fp8Product).map(|ceiling| ceiling.per_second);
                seconds.fp8 = work.flops / fp8.filter(|rate| *rate > 0.0)?;
            }
            _ => return None,
        }
        Some(seconds)
    }

    /// Joules over the power limit, both above idle, which a step pays for however long it takes: each kind of work at the power at
    /// which its ceiling was held.
    fn energy_seconds(&self, total: &Seconds) -> Option<f64> {
        let idle = self.ceilings.idle_w?;
        let above = |watts: f64| (watts - idle).max(0.0);
        let limit = Some(above(self.ceilings.power_limit_w?)).filter(|watts| *watts > 0.0)?;
        let joules = |seconds: f64, work| {
            if seconds == 0.0 { Some(0.0) } else { Some(seconds * above(self.ceilings.of(work)?.power_w?)) }
        };
        let parts = [(total.bf16, Work::Bf16Product), (total.fp8, Work::Fp8Product), (total.bytes, Work::Copy)];
        let joules: f64 = parts.into_iter().map(|(seconds, work)| joules(seconds, work)).sum::<Option<f64>>()?;
        Some(joules / limit)
    }
}

/// The classes beside their profile, the longest first; what only the profile has (gaps) has no least.
fn class_bounds(run: &Run, cell: &CellId, least: BTreeMap<&str, f64>) -> Vec<ClassBound> {
    let mut profiled: BTreeMap<&str, f64> = BTreeMap::new();
    if let Some(profile) = run.profiles.iter().rfind(|profile| &profile.cell == cell) {
        for op in &profile.ops {
            *profiled.entry(&op.class).or_default() += op.gpu_ns * 1e-9;
        }
    }
    let mut found: Vec<ClassBound> = least
        .into_iter()
        .map(|(class, least_seconds)| ClassBound {
            class: class.to_owned(),
            least_seconds,
            profiled_seconds: profiled.get(class).copied(),
        })
        .collect();
    found.sort_by(|one, two| two.least_seconds.total_cmp(&one.least_seconds));
    found
}
