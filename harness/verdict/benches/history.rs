//! How often [`history`] finds a change where there is none, where it places one that is there, which it misses, and how
//! long it takes. Prints the table of `METHOD.md`. Knows nothing of stored runs.

#![allow(clippy::print_stdout, missing_docs)]

use std::time::Instant;

use stepwatch_verdict::history::{CRITICAL, Shape, history};

const NIGHTS: usize = 365;
const SD: f64 = 0.01;

/// SplitMix64 (Steele, Lea and Flood, 2014), normal values by Box and Muller.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Noise between nights on the log scale.
#[derive(Clone, Copy)]
enum Noise {
    Gaussian,
    /// Each night keeps half of the last one's deviation.
    Ar1,
    /// Student's t with 3 degrees of freedom.
    HeavyTails,
    /// 3 % slower in 20 % of the nights.
    TwoState,
    /// 3 % slower in 30 % of the nights.
    SlowNights,
}

const NOISES: [(Noise, &str); 5] = [
    (Noise::Gaussian, "Gaussian, sd 1 %"),
    (Noise::Ar1, "AR(1) 0.5, sd 1 %"),
    (Noise::HeavyTails, "Student's t, 3 degrees of freedom, scale 1 %"),
    (Noise::TwoState, "two-state: 3 % slower in 20 % of nights, sd 0.5 %"),
    (Noise::SlowNights, "3 % slower in 30 % of nights, sd 1 %"),
];

fn series(random: &mut Random, noise: Noise, nights: usize, shift: impl Fn(usize) -> f64) -> Vec<Option<f64>> {
    let mut last = random.normal();
    (0..nights)
        .map(|night| {
            let z = random.normal();
            let deviation = match noise {
                Noise::Gaussian => SD * z,
                Noise::Ar1 => {
                    last = 0.5 * last + 0.75_f64.sqrt() * z;
                    SD * last
                }
                Noise::HeavyTails => {
                    let squares: f64 = (0..3).map(|_| random.normal().powi(2)).sum();
                    SD * z / (squares / 3.0).sqrt()
                }
                Noise::TwoState => 0.5 * SD * z - if random.uniform() < 0.2 { 0.03 } else { 0.0 },
                Noise::SlowNights => SD * z - if random.uniform() < 0.3 { 0.03 } else { 0.0 },
            };
            Some((deviation + shift(night)).exp())
        })
        .collect()
}

/// Upper end of the one-sided 95 % interval of a share (Wilson 1927).
fn upper(hits: usize, trials: usize) -> f64 {
    let (n, z) = (trials as f64, 1.644_853_6);
    let share = hits as f64 / n;
    (share + z * z / (2.0 * n) + z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt()) / (1.0 + z * z / n)
}

fn flat(trials: usize) {
    println!("\n| flat series: with any change (upper 95 % limit) | 30 nights | 60 | 120 | 365 | 730 |");
    println!("|---|---|---|---|---|---|");
    for (index, (noise, name)) in NOISES.into_iter().enumerate() {
        let shares = [30, 60, 120, NIGHTS, 2 * NIGHTS].map(|nights| {
            let mut random = Random(61_000 + index as u64);
            let flat = |_| history(&series(&mut random, noise, nights, |_| 0.0));
            let hits = (0..trials).map(flat).filter(|found| !found.changes.is_empty()).count();
            format!("{:.2} % ({:.2})", 100.0 * hits as f64 / trials as f64, 100.0 * upper(hits, trials))
        });
        println!("| {name} | {} |", shares.join(" | "));
    }
}

/// Steps in the middle of short series, where a step is a large part of all that is known of the noise.
fn short(trials: usize) {
    println!("\n| one step in the middle | of 30 nights | of 60 | of 120 |\n|---|---|---|---|");
    for (index, (noise, name)) in NOISES.into_iter().enumerate() {
        for percent in [2.0_f64, 3.0, 5.0] {
            let mut random = Random(66_000 + index as u64);
            let size = (percent / 100.0).ln_1p();
            let shares = [30, 60, 120].map(|nights| {
                let step = |night: usize| if night < nights / 2 { 0.0 } else { -size };
                let hits = (0..trials)
                    .filter(|_| !history(&series(&mut random, noise, nights, step)).changes.is_empty())
                    .count();
                format!("{:.1} %", 100.0 * hits as f64 / trials as f64)
            });
            println!("| {percent} %, {name} | {} |", shares.join(" | "));
        }
    }
}

fn steps(trials: usize) {
    println!(
        "\n| one step, anywhere from night 20 to 345 | found | found, and within ±1 night | range holds it | and another, where none is |"
    );
    println!("|---|---|---|---|---|");
    for (index, (noise, name)) in NOISES.into_iter().enumerate() {
        for percent in [1.0, 2.0, 3.0] {
            let mut random = Random(62_000 + index as u64);
            let (mut found, mut placed, mut held, mut more) = (0, 0, 0, 0);
            for _ in 0..trials {
                let at = 20 + (random.uniform() * 326.0) as usize;
                let size = (percent / 100.0_f64).ln_1p();
                let changes =
                    history(&series(&mut random, noise, NIGHTS, |n| if n < at { 0.0 } else { -size })).changes;
                let Some(nearest) = changes.iter().min_by_key(|change| change.night.abs_diff(at)) else { continue };
                found += 1;
                placed += usize::from(nearest.night.abs_diff(at) <= 1);
                more += usize::from(changes.len() > 1);
                held += usize::from((nearest.earliest..=nearest.latest).contains(&at));
            }
            let share = |hits: usize, of: usize| 100.0 * hits as f64 / of.max(1) as f64;
            println!(
                "| {percent} %, {name} | {:.1} % | {:.1} % | {:.1} % of found | {:.1} % |",
                share(found, trials),
                share(placed, trials),
                share(held, found),
                share(more, trials)
            );
        }
    }
}

fn delay(trials: usize) {
    println!(
        "\n| a step after 60 flat nights (Gaussian, sd 1 %), searched after | 3 nights | 5 | 7 | 10 |\n|---|---|---|---|---|"
    );
    for percent in [2.0_f64, 3.0, 5.0] {
        let mut random = Random(63_000);
        let shares = [3, 5, 7, 10].map(|after| {
            let size = (percent / 100.0).ln_1p();
            let step = |n: usize| if n < 60 { 0.0 } else { -size };
            let hits = (0..trials)
                .filter(|_| !history(&series(&mut random, Noise::Gaussian, 60 + after, step)).changes.is_empty())
                .count();
            format!("{:.0} %", 100.0 * hits as f64 / trials as f64)
        });
        println!("| {percent} % | {} |", shares.join(" | "));
    }
}

fn drifts(trials: usize) {
    let mut random = Random(64_000);
    let only_drift = (0..trials)
        .filter(|_| {
            let found = history(&series(&mut random, Noise::Gaussian, NIGHTS, |n| -0.05 * n as f64 / NIGHTS as f64));
            !found.changes.is_empty() && found.changes.iter().all(|change| change.shape == Shape::Drift)
        })
        .count();
    println!("\ndrift of 5 % over {NIGHTS} nights, sd 1 %: called drift and nothing else in {only_drift} of {trials}");
}

fn speed() {
    let mut random = Random(65_000);
    let cells: Vec<_> = (0..300)
        .map(|cell| series(&mut random, Noise::Gaussian, NIGHTS, |n| if n < cell { 0.0 } else { 0.03 }))
        .collect();
    let begun = Instant::now();
    let changes: usize = cells.iter().map(|cell| history(cell).changes.len()).sum();
    println!("\n300 cells of {NIGHTS} nights: {:.2} s, {changes} changes", begun.elapsed().as_secs_f64());
}

fn main() {
    let trials = std::env::var("TRIALS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    println!("critical value {CRITICAL} at {NIGHTS} nights, {trials} trials, seeds 61000 to 66004");
    flat(trials);
    steps(trials / 10);
    short(trials / 5);
    delay(trials / 5);
    drifts(trials / 10);
    speed();
}
