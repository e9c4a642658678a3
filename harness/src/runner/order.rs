//! In which order the cells of each round run: a fresh permutation per round, from the run's seed.
//!
//! Interleaving spreads a drift of the machine over all cells instead of giving it to the last one, and a new order per
//! round keeps a cell from always following the same neighbour.

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and three mixes; its whole state is the seed, so a stored seed
/// repeats the order on any machine and version.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A stream that belongs to a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, each equally likely: draws that would favour low numbers are thrown away.
    pub const fn below(&mut self, bound: u64) -> u64 {
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let draw = self.next();
            if draw < limit {
                return draw % bound;
            }
        }
    }
}

/// The order of `cells` cells in one round: Fisher–Yates over a stream of its own, so that resuming or adding rounds
/// changes no other round's order.
#[must_use]
pub fn permutation(seed: u64, round: u32, cells: usize) -> Vec<usize> {
    let mut stream =
        SplitMix64::new(SplitMix64::new(seed ^ u64::from(round).wrapping_mul(0xd605_1f75_45f9_1ad5)).next());
    let mut order: Vec<usize> = (0..cells).collect();
    for last in (1..cells).rev() {
        let pick = usize::try_from(stream.below(last as u64 + 1)).unwrap_or(last);
        order.swap(last, pick);
    }
    order
}

/// Keeps the order within groups apart from the order of the groups.
const WITHIN: u64 = 0x6a09_e667_f3bc_c909;

/// One round in which groups of cells stay together: the groups in a fresh order, and the members of each.
#[must_use]
pub fn grouped(seed: u64, round: u32, groups: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let members = |group: usize| -> Vec<usize> {
        let own = SplitMix64::new(seed ^ WITHIN ^ (group as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).next();
        permutation(own, round, groups[group].len()).into_iter().map(|member| groups[group][member]).collect()
    };
    permutation(seed, round, groups.len()).into_iter().map(members).collect()
}

/// [`grouped`], one cell behind the other.
#[must_use]
pub fn of_groups(seed: u64, round: u32, groups: &[Vec<usize>]) -> Vec<usize> {
    grouped(seed, round, groups).into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        let mut stream = SplitMix64::new(1_234_567);
        let draws: Vec<u64> = (0..3).map(|_| stream.next()).collect();
        assert_eq!(draws, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn every_round_is_a_permutation_and_rounds_differ() {
        let rounds: Vec<Vec<usize>> = (0..4).map(|round| permutation(7, round, 20)).collect();
        for order in &rounds {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..20).collect::<Vec<_>>());
        }
        assert_ne!(rounds[0], rounds[1]);
        assert_ne!(permutation(8, 0, 20), rounds[0]);
        assert_eq!(permutation(7, 0, 20), rounds[0]);
    }

    #[test]
    fn groups_stay_together_and_either_member_may_be_first() {
        let groups: Vec<Vec<usize>> = (0..6).map(|own| vec![own, own + 6]).collect();
        let mut own_first = [0_u32; 6];
        for round in 0..400 {
            let order = of_groups(3, round, &groups);
            for pair in order.chunks(2) {
                assert_eq!(pair[0] % 6, pair[1] % 6, "{order:?}");
                own_first[pair[0] % 6] += u32::from(pair[0] < 6);
            }
        }
        // 200 expected each, standard deviation 10.
        assert!(own_first.iter().all(|&count| (160..240).contains(&count)), "{own_first:?}");
        // Cells of their own run in the order that they always had.
        let single: Vec<Vec<usize>> = (0..20).map(|cell| vec![cell]).collect();
        assert_eq!(of_groups(7, 2, &single), permutation(7, 2, 20));
    }

    #[test]
    fn every_place_is_about_equally_likely() {
        let mut first = [0_u32; 5];
        for round in 0..5000 {
            first[permutation(1, round, 5)[0]] += 1;
        }
        // 1000 expected each, standard deviation 28.
        assert!(first.iter().all(|&count| (860..1140).contains(&count)), "{first:?}");
    }
}
