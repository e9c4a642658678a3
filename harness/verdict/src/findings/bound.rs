//! Why a claim on FP8 over BF16 is refuted: what the rest of the BF16 step leaves to gain, and what the claim would need.

use stepwatch_record::CellId;
use stepwatch_record::comparison::{JudgedClaim, JudgedPair};
use stepwatch_record::figure::{CellFigures, Summary};
use stepwatch_record::run::Run;

use crate::gains::{bound, product_share, share_needed, takes_head};
use crate::wording::{number, percent};

/// One sentence for a refuted pair that claims at least so much of FP8 over its BF16 twin's speed; `None` without a profile
/// of that twin, or where the claim is of something else.
pub(super) fn why(run: &Run, summary: &Summary, claim: &JudgedClaim, pair: &JudgedPair) -> Option<String> {
    let claimed = run.manifest.claims.iter().find(|c| c.text == claim.text && c.metric == claim.metric)?.at_least?;
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
        number(bound(share))
    ))
}
