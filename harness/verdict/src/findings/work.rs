//! Whether two workloads that a claim compares did the same work: parameters, FLOPs, and the losses of equal seeds and tokens.

use stepwatch_record::CellId;
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::run::{Claim, Round, Run};

use crate::wording::number;

/// The loss after so many updates is compared too: a step that skips its optimiser has the right first loss.
const LATER_STEP: u64 = 20;
/// Relative difference of the first losses that rounding explains: bf16 gives 1e-4, FP8 recipes up to 1e-3.
const FIRST_LOSS: f64 = 0.01;
/// The same after [`LATER_STEP`] updates, each of which carries roundings on.
const LATER_LOSS: f64 = 0.02;

/// One finding per claim whose pairs of different workloads did different work.
pub(super) fn unequal_work(run: &Run) -> Vec<Finding> {
    run.manifest.claims.iter().filter_map(|claim| of_claim(run, claim)).collect()
}

fn of_claim(run: &Run, claim: &Claim) -> Option<Finding> {
    let mut evidence = Vec::new();
    let mut cells = Vec::new();
    for pair in &claim.pairs {
        if !meant_equal(run, &pair.of, &pair.over) {
            continue;
        }
        let (Some(of), Some(over)) = (Work::of(run, &pair.of), Work::of(run, &pair.over)) else { continue };
        let differences = of.differences(&over);
        if !differences.is_empty() {
            evidence.push(format!("{} against {}: {}", pair.of, pair.over, differences.join("; ")));
            cells.extend([pair.of.clone(), pair.over.clone()]);
        }
    }
    (!evidence.is_empty()).then(|| Finding {
        kind: Kind::UnequalComparison,
        severity: Severity::High,
        sentence: format!("“{}” compares workloads that did not do the same work", claim.text),
        evidence,
        next_step: "make model, tokens, weights and optimiser of both the same before their speeds are compared"
            .to_owned(),
        cells,
    })
}

/// Whether two cells are the same step by two workloads: what is named otherwise on purpose is no fault.
fn meant_equal(run: &Run, of: &CellId, over: &CellId) -> bool {
    let find = |id: &CellId| run.manifest.cells.iter().find(|cell| &cell.id == id);
    let (Some(of), Some(over)) = (find(of), find(over)) else { return false };
    let same = |name: &str| of.parameters.get(name) == over.parameters.get(name);
    of.workload != over.workload && ["model", "batch_size", "seq_len"].into_iter().all(same)
}

/// What a cell's rounds show of its work; what a worker does not tell is not compared.
#[derive(Debug, Default)]
struct Work {
    parameters: Option<f64>,
    flops_per_token: Option<f64>,
    first_loss: Option<f64>,
    later_loss: Option<f64>,
}

impl Work {
    fn of(run: &Run, cell: &CellId) -> Option<Self> {
        let round = run.rounds.iter().find(|round| &round.record.cell == cell && round.record.ready.is_some())?;
        let ready = round.record.ready.as_ref()?;
        Some(Self {
            #[expect(clippy::cast_precision_loss, reason = "models have far fewer than 2^53 parameters")]
            parameters: ready.parameters_count.map(|count| count as f64),
            flops_per_token: ready.flops_per_token,
            first_loss: ready.loss,
            later_loss: loss_after(round, LATER_STEP),
        })
    }

    fn differences(&self, other: &Self) -> Vec<String> {
        let later = format!("loss after {LATER_STEP} updates");
        let figures = [
            ("parameters", self.parameters, other.parameters, 0.0),
            ("FLOPs a token", self.flops_per_token, other.flops_per_token, 1e-3),
            ("loss of the first step", self.first_loss, other.first_loss, FIRST_LOSS),
            (later.as_str(), self.later_loss, other.later_loss, LATER_LOSS),
        ];
        figures
            .into_iter()
            .filter_map(|(what, one, two, tolerance)| {
                let (one, two) = (one?, two?);
                let differs = (one - two).abs() > tolerance * one.abs().max(two.abs());
                differs.then(|| format!("{what} {} against {}", number(one), number(two)))
            })
            .collect()
    }
}

/// The loss after so many updates. Samples count from 0 after the first step: sample i saw i + 1 updates.
fn loss_after(round: &Round, updates: u64) -> Option<f64> {
    let sample = round.samples.iter().find(|sample| sample.step + 1 == updates)?;
    sample.loss.is_finite().then_some(sample.loss)
}
