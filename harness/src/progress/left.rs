//! How long a sweep still takes, by what its workers took so far: each kind by its own, each cell's rounds by that cell's. For the eye
//! alone.

use std::collections::HashMap;

use stepwatch_record::CellId;

/// A kind of worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `prepare` and ceilings.
    Prepare,
    /// A round of a cell.
    Round,
    /// A profile.
    Profile,
}

/// The workers of a sweep, those that ran and those that are to.
#[derive(Debug, Default)]
pub(super) struct TimeLeft {
    /// Still to run, by kind.
    left: [u64; 3],
    /// That ran, by kind, and the seconds they took.
    ran: [(u64, f64); 3],
    /// The cells, and how many rounds each is to have.
    cells: Vec<CellId>,
    rounds: u32,
    /// Of each cell that had any: how many rounds, and the least that one took. The first of a worker that stays compiles.
    had: HashMap<CellId, (u32, f64)>,
    /// What a round is guessed to take before there was one, seconds.
    guess: f64,
}

impl TimeLeft {
    /// Cells with the rounds that each is to have, and a guess of what one takes, seconds.
    pub(super) fn of(cells: Vec<CellId>, rounds: u32, guess: f64) -> Self {
        Self { cells, rounds, guess, ..Self::default() }
    }

    /// How many workers are to run now: `prepare`, rounds, profiles.
    pub(super) fn begin(&mut self, counts: &[u64; 3]) {
        self.left = *counts;
    }

    /// One ran.
    pub(super) fn ran(&mut self, kind: Kind, cell: &CellId, seconds: f64) {
        let at = kind as usize;
        self.left[at] = self.left[at].saturating_sub(1);
        self.ran[at].0 += 1;
        self.ran[at].1 += seconds;
        if kind == Kind::Round {
            let had = self.had.entry(cell.clone()).or_insert((0, f64::INFINITY));
            *had = (had.0 + 1, had.1.min(seconds));
        }
    }

    /// A round that need not run.
    pub(super) fn pass_over(&mut self) {
        self.left[Kind::Round as usize] = self.left[Kind::Round as usize].saturating_sub(1);
    }

    /// Seconds until all have run; `None` before anything did, and once nothing is left.
    pub(super) fn seconds(&self) -> Option<f64> {
        if self.left == [0; 3] || self.ran.iter().all(|(count, _)| *count == 0) {
            return None;
        }
        let prepare = self.mean(Kind::Prepare).unwrap_or(self.guess);
        let each = [prepare, self.round(), self.mean(Kind::Profile).unwrap_or(prepare)];
        Some(self.left.iter().zip(each).map(|(left, seconds)| *left as f64 * seconds).sum())
    }

    fn mean(&self, kind: Kind) -> Option<f64> {
        let (count, seconds) = self.ran[kind as usize];
        (count > 0).then(|| seconds / count as f64)
    }

    /// What a round that is left takes: each cell's least, of cells that had none the mean of the others', by how many are left of each.
    fn round(&self) -> f64 {
        let known = self.had.len() as f64;
        let others = if known > 0.0 { self.had.values().map(|had| had.1).sum::<f64>() / known } else { self.guess };
        let of = |cell: &CellId| {
            let (had, least) = self.had.get(cell).copied().unwrap_or((0, others));
            (f64::from(self.rounds.saturating_sub(had)), least)
        };
        let (left, seconds) =
            self.cells.iter().map(of).fold((0.0, 0.0), |(n, sum), (left, least)| (n + left, sum + left * least));
        // Extra rounds go beyond what was planned.
        if left > 0.0 { seconds / left } else { others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> CellId {
        CellId(name.to_owned())
    }

    #[test]
    fn slow_preparing_says_nothing_of_rounds_and_a_first_compile_nothing_of_the_next() {
        let mut time = TimeLeft::of(vec![id("a"), id("b")], 3, 5.0);
        time.begin(&[2, 6, 1]);
        assert_eq!(time.seconds(), None);
        time.ran(Kind::Prepare, &id("a"), 20.0);
        // One more like it, six guessed rounds, and a profile as long as preparing.
        assert_eq!(time.seconds(), Some(20.0 + 6.0 * 5.0 + 20.0));
        time.ran(Kind::Prepare, &id("b"), 10.0);
        time.ran(Kind::Round, &id("a"), 60.0);
        assert_eq!(time.seconds(), Some(5.0 * 60.0 + 15.0), "what b takes is not known yet");
        time.ran(Kind::Round, &id("b"), 2.0);
        time.ran(Kind::Round, &id("a"), 4.0);
        // One of a, two of b.
        assert_eq!(time.seconds(), Some(4.0 + 2.0 * 2.0 + 15.0));
        time.ran(Kind::Round, &id("b"), 2.0);
        time.ran(Kind::Round, &id("a"), 4.0);
        assert_eq!(time.seconds(), Some(2.0 + 15.0));
        time.pass_over();
        assert_eq!(time.seconds(), Some(15.0));
        time.ran(Kind::Round, &id("b"), 2.0);
        time.ran(Kind::Profile, &id("a"), 9.0);
        assert_eq!(time.seconds(), None, "nothing is left");
        // Extra rounds.
        time.begin(&[0, 2, 0]);
        assert_eq!(time.seconds(), Some(2.0 * 3.0));
    }
}
