//! Findings from claims: refuted ones, and those whose two sides were not equal in all else.

use stepwatch_record::ceiling::CellBound;
use stepwatch_record::comparison::{ClaimVerdict, JudgedClaim, JudgedPair};
use stepwatch_record::figure::Summary;
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::run::Run;

use crate::wording::{count, ratio, ratio_of, ratio_range};

/// One finding per refuted claim and one per claim with unequal pairs.
pub(super) fn findings(run: &Run, summary: &Summary, claims: &[JudgedClaim], bounds: &[CellBound]) -> Vec<Finding> {
    claims.iter().flat_map(|claim| [refuted(run, summary, claim, bounds), unequal(claim)]).flatten().collect()
}

fn refuted(run: &Run, summary: &Summary, claim: &JudgedClaim, bounds: &[CellBound]) -> Option<Finding> {
    let pairs: Vec<&JudgedPair> = claim.pairs.iter().filter(|pair| pair.verdict == ClaimVerdict::Refuted).collect();
    let ratios: Vec<f64> = pairs.iter().filter_map(|pair| pair.ratio).collect();
    let (low, high) =
        ratios.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), ratio| (low.min(*ratio), high.max(*ratio)));
    (!pairs.is_empty()).then(|| Finding {
        kind: Kind::ClaimRefuted,
        severity: if claim.gate { Severity::High } else { Severity::Medium },
        sentence: if pairs.len() == 1 {
            format!("“{}” does not hold here: measured {} ×, claimed {}", claim.text, ratio(low), claim.asserts)
        } else {
            format!(
                "“{}” does not hold here: measured {} × over {}, claimed {}",
                claim.text,
                ratio_range(low, high),
                count(pairs.len(), "pair"),
                claim.asserts
            )
        },
        evidence: pairs
            .iter()
            .flat_map(|pair| [Some(line(claim, pair)), super::bound::why(run, summary, bounds, claim, pair)])
            .flatten()
            .collect(),
        next_step: "see where the time goes".to_owned(),
        command: super::explain(run, &pairs[0].of, &pairs[0].over),
        cells: cells(&pairs),
    })
}

fn unequal(claim: &JudgedClaim) -> Option<Finding> {
    let pairs: Vec<&JudgedPair> =
        claim.pairs.iter().filter(|pair| pair.why.starts_with(crate::claims::UNEQUAL)).collect();
    (!pairs.is_empty()).then(|| Finding {
        kind: Kind::UnequalComparison,
        severity: Severity::High,
        sentence: format!("“{}” compares cells that differ in more than it names", claim.text),
        evidence: pairs.iter().map(|pair| format!("{} over {}: {}", pair.of, pair.over, pair.why)).collect(),
        next_step: "measure a twin that is equal in all else, or name the difference in the claim".to_owned(),
        command: String::new(),
        cells: cells(&pairs),
    })
}

fn line(claim: &JudgedClaim, pair: &JudgedPair) -> String {
    let measured = ratio_of(pair).map_or_else(String::new, |ratio| format!("measured {ratio}; "));
    format!("{} over {}, {}: {measured}{}", pair.of, pair.over, claim.metric, pair.why)
}

fn cells(pairs: &[&JudgedPair]) -> Vec<stepwatch_record::CellId> {
    pairs.iter().flat_map(|pair| [pair.of.clone(), pair.over.clone()]).collect()
}
