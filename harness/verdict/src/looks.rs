//! Extra rounds where the doubt is (`--budget`): which cells are in doubt, how often each may be looked at, and what each look costs
//! of the error budget.
//!
//! A cell is looked at after its planned rounds and then at fixed numbers of rounds up to `rounds.max`, four looks at the most.
//! The looks share the cell's part of the error budget (Bonferroni over looks; an alpha-spending function in the sense of Lan and
//! DeMets 1983 that spends half at the first look and the rest equally): whatever decides whether a cell is looked at again, the
//! chance that any of its looks is wrong is at most the sum of their parts. Boundaries of group-sequential designs (Pocock 1977,
//! O'Brien and Fleming 1979) would gain little at such small levels, and ask for a known variance.

use stepwatch_record::CellId;
use stepwatch_record::comparison::{Change, ClaimVerdict, JudgedClaim, Verdict};
use stepwatch_record::name::Names;
use stepwatch_record::run::{Better, Run, RunManifest};

use crate::claims::OPPOSITE;
use crate::compare::Comparison;
use crate::explain::rounds_to_see;
use crate::wording::{count, percent};

/// Looks after the first, at the most.
const EXTRA_LOOKS: u32 = 3;
/// What the first look has of the error budget: most cells are decided by it.
const FIRST_SHARE: f64 = 0.5;

/// The looks that a run's cells may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looks {
    first: u32,
    last: u32,
}

impl Looks {
    /// The looks of a run; `None` if it has no budget, and each cell one look.
    #[must_use]
    pub fn of(manifest: &RunManifest) -> Option<Self> {
        let budget = manifest.asked.budget.as_ref()?;
        Some(Self { first: manifest.rounds, last: budget.rounds_max.max(manifest.rounds) })
    }

    fn step(self) -> u32 {
        (self.last - self.first).div_ceil(EXTRA_LOOKS).max(1)
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> u32 {
        1 + (self.last - self.first).div_ceil(self.step())
    }

    /// The rounds of look number `look`, from 1.
    #[must_use]
    pub fn rounds(self, look: u32) -> u32 {
        self.first.saturating_add((look.max(1) - 1).saturating_mul(self.step())).min(self.last)
    }

    /// The look that so many rounds are judged by: between two looks, the later one.
    #[must_use]
    pub fn at(self, rounds: u32) -> u32 {
        (1..self.count()).find(|look| self.rounds(*look) >= rounds).unwrap_or_else(|| self.count())
    }

    /// What a look has of a comparison's part of the error budget; over all looks 1.
    #[must_use]
    pub fn share(self, look: u32) -> f64 {
        match self.count() {
            1 => 1.0,
            _ if look <= 1 => FIRST_SHARE,
            count => (1.0 - FIRST_SHARE) / f64::from(count - 1),
        }
    }

    /// What a look at a pair of cells of one run has, whose rounds may grow one without the other: the look of the cell that has
    /// more rounds may come about as often as the other has looks.
    #[must_use]
    pub fn share_of_pair(self, one: u32, other: u32) -> f64 {
        let look = self.at(one.max(other));
        self.share(look) / f64::from(look)
    }
}

/// Cells that extra rounds are to be spent on together.
#[derive(Debug, Clone, PartialEq)]
pub struct Doubt {
    /// The cells; both sides where rounds are judged in pairs or a claim speaks of two.
    pub cells: Vec<CellId>,
    /// The rounds that each is to have at its next look.
    pub target: u32,
    /// What is in doubt, in words.
    pub why: String,
}

/// How doubts are ranked: the class, then how many rounds are missing.
type Rank = (u8, u32);

/// What is in doubt after a look and could be settled by rounds, the most valuable first: what looks like a regression, then what
/// is undecided or blind, by how few rounds would do; what is better than the reference last.
///
/// A cell that has had its last look is in doubt no more.
#[must_use]
pub fn doubts(comparison: &Comparison<'_>, changes: &[Change], claims: &[JudgedClaim]) -> Vec<Doubt> {
    let Some(looks) = Looks::of(&comparison.run.manifest) else { return Vec::new() };
    let of_changes = changes.iter().filter(|change| change.gated).filter_map(|change| {
        let (rank, why) = doubt(comparison, change)?;
        let mut cells = vec![change.cell.clone()];
        let other = comparison.run.manifest.asked.against.as_ref().and_then(|against| against.other(&change.cell));
        cells.extend(other.filter(|_| comparison.paired).cloned());
        Some((rank, cells, why))
    });
    let of_claims = claims.iter().flat_map(|claim| {
        let undecided = claim.pairs.iter().filter(|pair| {
            let settled = pair.verdict != ClaimVerdict::Undecided || pair.low.is_none();
            // Only where the interval holds both: what differs in more than rounds can tell is not settled by them.
            !settled && pair.why.ends_with(OPPOSITE)
        });
        undecided.map(|pair| ((1, looks.step()), vec![pair.of.clone(), pair.over.clone()], claim.text.clone()))
    });
    let mut ranked: Vec<(Rank, Vec<CellId>, String)> = of_changes.chain(of_claims).collect();
    ranked.sort_by_key(|(rank, ..)| *rank);
    let mut doubts: Vec<Doubt> = Vec::new();
    for (_, cells, why) in ranked {
        let rounds = cells.iter().map(|cell| rounds_of(comparison, cell)).min().unwrap_or(looks.last);
        let known = doubts.iter().any(|known| cells.iter().all(|cell| known.cells.contains(cell)));
        if rounds < looks.last && !known {
            // Rounds between two looks complete the one that they were begun for.
            let look = looks.at(rounds);
            let target = if rounds < looks.rounds(look) { looks.rounds(look) } else { looks.rounds(look + 1) };
            doubts.push(Doubt { cells, target, why });
        }
    }
    doubts
}

/// Whether rounds would settle a change, and how it is ranked.
fn doubt(comparison: &Comparison<'_>, change: &Change) -> Option<(Rank, String)> {
    let policy = &comparison.run.manifest.policy;
    let (effect, low, high) = (change.effect?, change.low?, change.high?);
    let (worse, reach) = match change.metric.better {
        Better::Higher => (-effect, (-high, -low)),
        Better::Lower => (effect, (low, high)),
    };
    // An interval wholly beyond the margin leaves no doubt that the change matters.
    let clear = reach.0 >= policy.margin || reach.1 <= -policy.margin;
    let suspicious = worse >= policy.margin;
    let too_wide = change.verdict == Verdict::Undecided && change.reason == "interval-too-wide";
    let borderline = match change.verdict {
        Verdict::Regressed | Verdict::KnownRegressed | Verdict::Improved => !clear,
        _ => false,
    };
    let sees = || {
        let place = comparison.summary.cells.iter().position(|figures| figures.cell.id == change.cell)?;
        let effect = comparison.effects(&change.metric.name).into_iter().nth(place)??;
        rounds_to_see(&effect, change.metric.better, policy, change.confidence?)
    };
    let (needed, why) = match () {
        () if too_wide => (change.rounds_to_decide?, format!("{} is undecided", change.metric.name)),
        () if borderline => (0, format!("{} is {} near the margin", change.metric.name, change.verdict.word())),
        () if change.blind => (sees()?, format!("{} is blind to {}", change.metric.name, percent(policy.detect))),
        () => return None,
    };
    let class = match () {
        () if suspicious => 0,
        () if change.verdict == Verdict::Improved => 2,
        () => 1,
    };
    Some(((class, needed.saturating_sub(rounds_of(comparison, &change.cell))), why))
}

/// How many rounds a cell has.
fn rounds_of(comparison: &Comparison<'_>, cell: &CellId) -> u32 {
    comparison.summary.cell(cell).map_or_else(|| recorded(comparison.run, cell), |figures| figures.rounds)
}

/// How many rounds of a cell have a record.
fn recorded(run: &Run, cell: &CellId) -> u32 {
    run.rounds.iter().filter(|round| &round.record.cell == cell).count() as u32
}

/// The extra rounds of a run, and the wall time that they took, seconds.
#[must_use]
pub fn spent(run: &Run) -> (u32, f64) {
    let extra =
        run.rounds.iter().filter(|round| round.record.round.is_some_and(|number| number >= run.manifest.rounds));
    extra.fold((0, 0.0), |(rounds, seconds), round| (rounds + 1, seconds + round.record.wall_seconds))
}

/// What a budget did, in words; `None` for a run without one.
#[must_use]
pub fn told(run: &Run) -> Option<String> {
    let budget = run.manifest.asked.budget.as_ref()?;
    let (rounds, seconds) = spent(run);
    if rounds == 0 {
        return Some(format!("Budget of {}: no extra round was run.", span(budget.seconds)));
    }
    let (planned, names) = (run.manifest.rounds, Names::of(&run.manifest.cells));
    let cells: Vec<String> = run
        .manifest
        .cells
        .iter()
        .map(|cell| (names.get(&cell.id), recorded(run, &cell.id)))
        .filter(|(_, rounds)| *rounds > planned)
        .map(|(cell, rounds)| format!("{cell} {rounds}"))
        .collect();
    let more = cells.len().saturating_sub(MOST_NAMED);
    let named = cells.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "Budget: {} in {} of {}, on {} of {}, which had {planned} and have now: {named}{more}.",
        count(rounds as usize, "extra round"),
        span(seconds),
        span(budget.seconds),
        cells.len(),
        count(run.manifest.cells.len(), "cell"),
    ))
}

/// A time as a person says it: `12 s`, `4.5 min`.
fn span(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.1} min", seconds / 60.0) }
}

/// So many cells are named in a sentence.
const MOST_NAMED: usize = 8;

/// How the looks were paid for, for a reader of the method.
pub(crate) fn method(run: &Run) -> Vec<String> {
    let Some(looks) = Looks::of(&run.manifest) else { return Vec::new() };
    let rounds: Vec<String> = (1..=looks.count()).map(|look| looks.rounds(look).to_string()).collect();
    let paid = format!(
        "A cell in doubt was looked at again, up to {}, at {} rounds. The looks share its part of the error budget, {} of it the \
         first and {} each later one, so that it holds however often a cell was looked at.",
        count(looks.count() as usize, "look"),
        rounds.join(", "),
        percent(looks.share(1)),
        percent(looks.share(2))
    );
    told(run).into_iter().chain([paid]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_few_fixed_and_share_one_budget() {
        for (first, last, expected) in [
            (5, 15, vec![5, 9, 13, 15]),
            (5, 8, vec![5, 6, 7, 8]),
            (5, 7, vec![5, 6, 7]),
            (3, 3, vec![3]),
            (10, 100, vec![10, 40, 70, 100]),
        ] {
            let looks = Looks { first, last };
            let rounds: Vec<u32> = (1..=looks.count()).map(|look| looks.rounds(look)).collect();
            assert_eq!(rounds, expected);
            let shares: f64 = (1..=looks.count()).map(|look| looks.share(look)).sum();
            assert!((shares - 1.0).abs() < 1e-12, "{shares}");
            for (index, rounds) in rounds.iter().enumerate() {
                assert_eq!(looks.at(*rounds), index as u32 + 1);
            }
        }
        let looks = Looks { first: 5, last: 15 };
        assert_eq!([1, 6, 9, 10, 14, 99].map(|rounds| looks.at(rounds)), [1, 2, 2, 3, 4, 4]);
    }
}
