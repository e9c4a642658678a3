//! What the nights of a machine are like: the synthetic families that the judgement is held against. Logs of speeds come out;
//! nothing here knows how they are judged.

use crate::random::Random;

/// Cells of the matrix.
pub(crate) const CELLS: usize = 100;
/// Rounds of every cell in every night.
pub(crate) const ROUNDS: usize = 5;
/// Steps of a round, where the noise of steps is what a family is about.
const STEPS: f64 = 30.0;
/// Standard deviation of the log of one canary reading that has nothing to do with the machine's state.
const CANARY_SD: f64 = 0.003;

/// How nights, rounds and cells scatter.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Rounds are independent, with this standard deviation of the log.
    Gaussian(f64),
    /// Each cell's level wanders from night to night, AR(1) with 0.5 and sd 1 %; rounds add 0.5 %.
    WanderingCells,
    /// One level of all cells wanders from night to night, AR(1) with 0.5 and sd 1 %; rounds add 0.5 %.
    WanderingMachine,
    /// A fifth of the processes run at clocks 3 % lower; rounds add 0.25 %.
    TwoClocks,
    /// Student's t with 3 degrees of freedom, scaled to sd 1 %.
    HeavyTails,
    /// The machine is 3 % slower on 30 % of the nights; rounds add 0.5 %.
    SlowNights,
    /// The same, and each cell follows the machine by its own share of 30 to 100 %.
    UnlikeCells,
    /// The room drifts by 0.1 % a night, and every night the chip warms by 1 % over its rounds; rounds add 0.5 %.
    Temperature,
    /// Steps within a process scatter, each cell in its own way; processes by 0.25 %.
    Steps(Mixture),
}

/// What steps scatter by, and nights besides, where that is what a family is about. The canary sees none of it.
#[derive(Clone, Copy)]
pub(crate) struct Mixture {
    /// Quantiles over the cells of the standard deviation of one step: from 0..1 to the log.
    steps: fn(f64) -> f64,
    /// Standard deviation of each cell's own level from night to night, given the cell's number.
    own_nights: fn(usize) -> f64,
    /// Standard deviation of the level of all cells from night to night.
    nights: f64,
}

/// 0.3 to 30 %, evenly by the log; nights are alike.
const STEPS_0_3_TO_30: Mixture = Mixture { steps: |p| 0.003 * 100.0_f64.powf(p), own_nights: |_| 0.0, nights: 0.0 };

/// One family with its name for tables and for choosing it.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// Every family, in the order of the tables.
pub(crate) const FAMILIES: [Family; 12] = [
    Family { name: "gaussian-0.25%", kind: Kind::Gaussian(0.0025) },
    Family { name: "gaussian-0.5%", kind: Kind::Gaussian(0.005) },
    Family { name: "gaussian-1%", kind: Kind::Gaussian(0.01) },
    Family { name: "gaussian-2%", kind: Kind::Gaussian(0.02) },
    Family { name: "ar1-cells", kind: Kind::WanderingCells },
    Family { name: "ar1-machine", kind: Kind::WanderingMachine },
    Family { name: "two-clocks", kind: Kind::TwoClocks },
    Family { name: "heavy-tails", kind: Kind::HeavyTails },
    Family { name: "slow-nights", kind: Kind::SlowNights },
    Family { name: "unlike-cells", kind: Kind::UnlikeCells },
    Family { name: "temperature", kind: Kind::Temperature },
    Family { name: "step-noise", kind: Kind::Steps(STEPS_0_3_TO_30) },
];

/// Other mixtures of cells than `step-noise`, which say whether what holds for it holds for others; run where asked for only.
pub(crate) const MIXTURES: [Family; 6] = [
    Family { name: "mixture-equal", kind: Kind::Steps(Mixture { steps: |_| 0.05, ..STEPS_0_3_TO_30 }) },
    Family {
        name: "mixture-two-groups",
        kind: Kind::Steps(Mixture { steps: |p| if p < 0.5 { 0.005 } else { 0.2 }, ..STEPS_0_3_TO_30 }),
    },
    Family {
        name: "mixture-wide",
        kind: Kind::Steps(Mixture { steps: |p| 0.001 * 500.0_f64.powf(p), ..STEPS_0_3_TO_30 }),
    },
    Family { name: "mixture-own-nights", kind: Kind::Steps(Mixture { own_nights: |_| 0.005, ..STEPS_0_3_TO_30 }) },
    Family {
        name: "mixture-some-nights",
        kind: Kind::Steps(Mixture { own_nights: |cell| if cell % 10 == 0 { 0.01 } else { 0.0 }, ..STEPS_0_3_TO_30 }),
    },
    Family { name: "mixture-nights", kind: Kind::Steps(Mixture { nights: 0.005, ..STEPS_0_3_TO_30 }) },
];

/// One night: logs of the speeds and of the canary by cell and round.
pub(crate) struct Night {
    /// `speed[cell][round]`, 0 where nothing disturbs.
    pub(crate) speed: Vec<[f64; ROUNDS]>,
    /// `canary[cell][round]`, likewise.
    pub(crate) canary: Vec<[f64; ROUNDS]>,
}

/// A machine and its code over consecutive nights.
pub(crate) struct World {
    kind: Kind,
    random: Random,
    /// Level of each cell, and in the last place that of the machine.
    levels: Vec<f64>,
    /// Standard deviation of one step of each cell.
    step_sd: Vec<f64>,
}

impl World {
    /// A world in its stationary state.
    pub(crate) fn new(kind: Kind, seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let steps = if let Kind::Steps(mixture) = kind { mixture.steps } else { STEPS_0_3_TO_30.steps };
        let step_sd = (0..CELLS).map(|_| steps(random.uniform())).collect();
        let levels = (0..=CELLS).map(|_| 0.01 * random.normal()).collect();
        Self { kind, random, levels, step_sd }
    }

    /// The next night of unchanged code.
    pub(crate) fn night(&mut self) -> Night {
        match self.kind {
            Kind::WanderingCells | Kind::WanderingMachine => {
                let innovation = 0.01 * 0.75_f64.sqrt();
                self.levels.iter_mut().for_each(|level| *level = 0.5 * *level + innovation * self.random.normal());
            }
            Kind::Temperature => self.levels[CELLS] += 0.001 * self.random.normal(),
            Kind::Steps(mixture) => self.renew_levels(mixture),
            _ => {}
        }
        // What the whole machine does tonight, and so the canary too.
        let tonight = match self.kind {
            Kind::WanderingMachine | Kind::Temperature => self.levels[CELLS],
            Kind::SlowNights | Kind::UnlikeCells if self.random.uniform() < 0.3 => -0.03,
            _ => 0.0,
        };
        let mut night = Night { speed: vec![[0.0; ROUNDS]; CELLS], canary: vec![[0.0; ROUNDS]; CELLS] };
        for cell in 0..CELLS {
            for round in 0..ROUNDS {
                let machine = tonight + self.machine(round);
                night.canary[cell][round] = machine + CANARY_SD * self.random.normal();
                night.speed[cell][round] = self.follows(cell) * machine + self.own(cell);
            }
        }
        night
    }

    /// Levels that nothing ties to those of the night before; no draw where nights are alike.
    fn renew_levels(&mut self, mixture: Mixture) {
        for cell in 0..CELLS {
            let sd = (mixture.own_nights)(cell);
            self.levels[cell] = if sd > 0.0 { sd * self.random.normal() } else { 0.0 };
        }
        self.levels[CELLS] = if mixture.nights > 0.0 { mixture.nights * self.random.normal() } else { 0.0 };
    }

    /// What the machine does in one round beyond the night's level.
    fn machine(&mut self, round: usize) -> f64 {
        match self.kind {
            Kind::TwoClocks if self.random.uniform() < 0.2 => -0.03,
            Kind::Temperature => -0.01 * round as f64 / (ROUNDS - 1) as f64,
            _ => 0.0,
        }
    }

    /// Which part of a slowdown of the machine one cell suffers.
    fn follows(&self, cell: usize) -> f64 {
        if matches!(self.kind, Kind::UnlikeCells) { 0.3 + 0.7 * cell as f64 / (CELLS - 1) as f64 } else { 1.0 }
    }

    /// What the process of one cell does in one round, which the canary does not see.
    fn own(&mut self, cell: usize) -> f64 {
        let normal = self.random.normal();
        match self.kind {
            Kind::Gaussian(sd) => sd * normal,
            Kind::WanderingCells => self.levels[cell] + 0.005 * normal,
            Kind::TwoClocks => 0.0025 * normal,
            // t(3) has variance 3.
            Kind::HeavyTails => {
                let chi2: f64 = (0..3).map(|_| self.random.normal().powi(2)).sum();
                0.01 / 3.0_f64.sqrt() * normal / (chi2 / 3.0).sqrt()
            }
            Kind::WanderingMachine | Kind::SlowNights | Kind::UnlikeCells | Kind::Temperature => 0.005 * normal,
            Kind::Steps(_) => {
                let level = self.levels[cell] + self.levels[CELLS];
                level + 0.0025 * normal + self.step_sd[cell] / STEPS.sqrt() * self.random.normal()
            }
        }
    }
}
