//! What work a cell did, whatever its speed: parameters, FLOPs, and the losses of equal seeds and tokens.

use stepwatch_record::CellId;
use stepwatch_record::figure::Work;
use stepwatch_record::run::{Round, Run};

use crate::wording::number;

/// The loss after so many updates is compared too: a step that skips its optimiser has the right first loss.
const LATER_STEP: u64 = 20;
/// Relative difference of the first losses that rounding explains: bf16 gives 1e-4, FP8 recipes up to 1e-3.
const FIRST_LOSS: f64 = 0.01;
/// The same after [`LATER_STEP`] updates, each of which carries roundings on.
const LATER_LOSS: f64 = 0.02;

/// What the first round that said something of its work showed of it; what a worker does not tell is absent.
pub(crate) fn of(run: &Run, cell: &CellId) -> Option<Work> {
    let round = run.rounds.iter().find(|round| &round.record.cell == cell && round.record.ready.is_some())?;
    let ready = round.record.ready.as_ref()?;
    Some(Work {
        seed: run.manifest.seed,
        #[expect(clippy::cast_precision_loss, reason = "models have far fewer than 2^53 parameters")]
        parameters: ready.parameters_count.map(|count| count as f64),
        flops_per_token: ready.flops_per_token,
        first_loss: ready.loss.filter(|loss| loss.is_finite()),
        later_loss: loss_after(round, LATER_STEP),
    })
}

/// What differs between two cells that should do the same work, one line each; losses of unlike seeds are not compared.
pub(crate) fn differences(one: &Work, two: &Work) -> Vec<String> {
    let later = format!("loss after {LATER_STEP} updates");
    let seeded = |loss: Option<f64>| loss.filter(|_| one.seed == two.seed);
    let figures = [
        ("parameters", one.parameters, two.parameters, 0.0),
        ("FLOPs a token", one.flops_per_token, two.flops_per_token, 1e-3),
        ("loss of the first step", seeded(one.first_loss), two.first_loss, FIRST_LOSS),
        (later.as_str(), seeded(one.later_loss), two.later_loss, LATER_LOSS),
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

/// The loss after so many updates. Samples count from 0 after the first step: sample i saw i + 1 updates.
fn loss_after(round: &Round, updates: u64) -> Option<f64> {
    let sample = round.samples.iter().find(|sample| sample.step + 1 == updates)?;
    sample.loss.is_finite().then_some(sample.loss)
}
