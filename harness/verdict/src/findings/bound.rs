//! What a refuted claim of speed would need at this size: of the first side's step, beside its bound at the chip's ceilings; and
//! where it is of FP8 over BF16, what the rest of the BF16 step leaves to gain.

use stepwatch_record::CellId;
use stepwatch_record::ceiling::CellBound;
use stepwatch_record::comparison::{JudgedClaim, JudgedPair};
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::run::{Claim, Run};

use crate::gains::{bound, product_share, share_needed, takes_head};
use crate::wording::{number, percent, ratio};

/// What is known of the two, in one line; `None` where neither is, or the claim is of something else.
pub(super) fn why(
    run: &Run,
    summary: &Summary,
    bounds: &[CellBound],
    claim: &JudgedClaim,
    pair: &JudgedPair,
) -> Option<String> {
    let made = run.manifest.claims.iter().find(|made| made.text == claim.text && made.metric == claim.metric)?;
    let known: Vec<String> =
        [at_ceilings(made, pair, bounds), of_twin(run, summary, made, pair)].into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join("; "))
}

/// The step that the claim would need of the first side, beside what its op list needs at the chip's ceilings.
fn at_ceilings(claim: &Claim, pair: &JudgedPair, bounds: &[CellBound]) -> Option<String> {
    let bound = bounds.iter().find(|bound| bound.cell == pair.of)?;
    let (step, ratio) = (bound.step_seconds?, pair.ratio?);
    let needed = match (claim.metric.as_str(), claim.at_least, claim.at_most) {
        ("tokens_per_second" | "tokens_per_second_per_device", Some(least), _) => step * ratio / least,
        ("step_seconds", _, Some(most)) => step * most / ratio,
        _ => return None,
    };
    let means = if needed < bound.seconds {
        "no program that does this op list can be so fast on this chip"
    } else if needed < bound.serial_seconds {
        "its parts, one after the other at the chip's ceilings, take longer: it would have to overlap them or do less"
    } else {
        "its parts at the chip's ceilings would leave room for it"
    };
    let ms = |seconds: f64| format!("{} ms", number(seconds * 1e3));
    Some(format!(
        "it would need steps of {} of {}, which takes {}; bound here {} ({}), serial estimate {}: {means}",
        ms(needed),
        pair.of,
        ms(step),
        ms(bound.seconds),
        bound.limit.word(),
        ms(bound.serial_seconds)
    ))
}

/// For a pair that claims at least so much of FP8 over its BF16 twin's speed, what that twin's profile leaves to gain.
fn of_twin(run: &Run, summary: &Summary, claim: &Claim, pair: &JudgedPair) -> Option<String> {
    let claimed = claim.at_least?;
    if !claim.metric.starts_with("tokens_per_second") || pair.ratio? >= claimed {
        return None;
    }
    let cell = |id: &CellId| summary.cell(id);
    let precision = |cell: &CellFigures| cell.cell.parameters.get("precision").map(ToString::to_string);
    let (of, over) = (cell(&pair.of)?, cell(&pair.over)?);
    if !precision(of)?.starts_with("fp8") || precision(over)? != "bf16" {
        return None;
    }
    let share = product_share(run, summary, &pair.over, takes_head(of))?;
    let needed = share_needed(claimed);
    let would = if needed > 1.0 {
        format!("no step can be {} × as fast, since FP8 products are at most twice as fast", number(claimed))
    } else {
        format!("{} × needs {} of the step in such products: a wider model has more", number(claimed), percent(needed))
    };
    Some(format!(
        "{}: {} of its step are products that FP8 can halve, so at most {} × can be gained, casts not counted; {would}",
        pair.over,
        percent(share),
        ratio(bound(share))
    ))
}
