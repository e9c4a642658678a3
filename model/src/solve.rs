//! Dims for a wanted parameter count: the nearest shapes that keep what makes the model it should be like.
//!
//! Arithmetic only; which shape trains better is not asked.

use std::fmt;

use serde::Serialize;

use crate::config::Dims;
use crate::count::count;

/// A model near the wanted size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proposal {
    /// Its dims.
    pub dims: Dims,
    /// Its parameters, unpadded.
    pub parameters: u64,
    /// How far they are from the target: +0.01 is one per cent more.
    pub deviation: f64,
    /// What it keeps of the model it is like, and what it gives up.
    pub kept: Kept,
}

/// What a proposal keeps of the model it is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// Layers, head dim and the ratio of ffn to dim: only the width differs.
    Everything,
    /// Layers and head dim; ffn is one step of its multiple off the ratio.
    LayersAndHeads,
    /// Width, heads and ratio; the number of layers differs.
    Width,
}

impl Kept {
    /// What giving something up costs in the ranking, as a share of the target: layers are kept before the size is met
    /// to the last per cent.
    const fn penalty(self) -> f64 {
        match self {
            Self::Everything => 0.0,
            Self::LayersAndHeads => 0.01,
            Self::Width => 0.02,
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Everything => "same layers, head dim and ffn ratio",
            Self::LayersAndHeads => "same layers and head dim, ffn off the ratio",
            Self::Width => "same width, heads and ffn, other layers",
        })
    }
}

/// How many proposals a search makes.
pub const PROPOSALS: usize = 3;

/// Widths beyond this are not searched.
const MAX_DIM: usize = 1 << 16;

/// The nearest models to `target_parameters` that are like `like`, best first, at most [`PROPOSALS`].
///
/// Widths are whole heads and multiples of 64 (128 where `like` has them and a head is as wide); ffn is a multiple of the
/// largest of 256, 128 and 64 that divides `like.ffn`: sizes whose GEMM tiles come out even. `like` must pass
/// [`Dims::check`].
#[must_use]
pub fn search(target_parameters: u64, like: &Dims) -> Vec<Proposal> {
    let mut proposals: Vec<Proposal> = widths(like)
        .into_iter()
        .chain(depths(target_parameters, like))
        .map(|(dims, kept)| {
            let parameters = count(&dims).total;
            let deviation = parameters as f64 / target_parameters.max(1) as f64 - 1.0;
            Proposal { dims, parameters, deviation, kept }
        })
        .collect();
    let score = |proposal: &Proposal| proposal.deviation.abs() + proposal.kept.penalty();
    proposals.sort_by(|one, two| score(one).total_cmp(&score(two)).then(one.kept.cmp(&two.kept)));
    let mut best: Vec<Proposal> = Vec::new();
    for proposal in proposals {
        if best.len() < PROPOSALS && best.iter().all(|other| other.dims != proposal.dims) {
            best.push(proposal);
        }
    }
    best
}

/// Candidates with the layers kept: every width, with ffn by the ratio and one step beside it.
fn widths(like: &Dims) -> Vec<(Dims, Kept)> {
    let head_dim = like.head_dim();
    let step = least_common_multiple(head_dim, 64.min(like.dim));
    let multiple = ffn_multiple(like.ffn);
    let mut found = Vec::new();
    for dim in (step..=MAX_DIM.max(step)).step_by(step) {
        let exact = (dim as f64 * like.ffn as f64 / like.dim as f64 / multiple as f64).round() as usize * multiple;
        let dims = Dims { dim, heads: dim / head_dim, ffn: exact.max(multiple), ..*like };
        found.push((dims, Kept::Everything));
        found.push((Dims { ffn: dims.ffn + multiple, ..dims }, Kept::LayersAndHeads));
        if dims.ffn > multiple {
            found.push((Dims { ffn: dims.ffn - multiple, ..dims }, Kept::LayersAndHeads));
        }
    }
    found
}

/// Candidates with the width kept: the two depths around the target.
fn depths(target_parameters: u64, like: &Dims) -> Vec<(Dims, Kept)> {
    let total = count(&Dims { layers: 1, ..*like }).total;
    let block = count(&Dims { layers: 2, ..*like }).total - total;
    let layers = 1 + (target_parameters.saturating_sub(total) / block).min(1 << 20) as usize;
    [layers, layers + 1].map(|layers| (Dims { layers, ..*like }, Kept::Width)).to_vec()
}

/// The largest of 256, 128 and 64 that divides ffn; what divides it at all otherwise.
fn ffn_multiple(ffn: usize) -> usize {
    [256, 128, 64, 16].into_iter().find(|multiple| ffn.is_multiple_of(*multiple)).unwrap_or(1)
}

fn least_common_multiple(one: usize, two: usize) -> usize {
    let (mut a, mut b) = (one, two);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    one / a * two
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PRESETS, preset};

    #[test]
    fn a_350m_like_454m_is_896_wide() {
        let found = search(350_000_000, &preset("454m").unwrap());
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].dims, preset("350m").unwrap());
        assert_eq!((found[0].parameters, found[0].kept), (353_355_520, Kept::Everything));
        assert!((found[0].deviation - 0.009_587).abs() < 1e-6);
        for proposal in &found {
            assert!(proposal.deviation.abs() < 0.05, "{proposal:?}");
            assert_eq!(proposal.dims.check(), Ok(()));
            assert_eq!(proposal.dims.head_dim(), 64);
            assert_eq!(proposal.parameters, count(&proposal.dims).total);
        }
        assert!(found.iter().any(|proposal| proposal.kept == Kept::Width && proposal.dims.layers == 18), "{found:?}");
    }

    #[test]
    fn a_preset_is_its_own_nearest() {
        for (name, dims) in PRESETS {
            let found = search(count(&dims).total, &dims);
            assert_eq!((found[0].dims, found[0].deviation), (dims, 0.0), "{name}");
        }
    }

    #[test]
    fn absurd_targets_still_get_legal_dims() {
        for target in [0, 1, u64::MAX] {
            for (name, dims) in PRESETS {
                let found = search(target, &dims);
                assert_eq!(found.len(), 3);
                assert!(found.iter().all(|proposal| proposal.dims.check().is_ok()), "{name} {target}: {found:?}");
            }
        }
    }
}
