//! How often unchanged code is called slower and slower code is found, on synthetic nights of known truth.
//!
//! `cargo bench -p stepwatch-verdict --bench error_rates -- [CELL_NIGHTS] [OPTION=VALUE…] [FAMILY…]`: cell-nights a family (100,000
//! unless given; the published figures took 1,000,000) and parts of the families' names, or `detection`; `mixture` runs mixtures of
//! cells that are in no table of families. Seeds are fixed: a night has its own, so the figures do not depend on the number of
//! threads.
//!
//! | option | unless given | what |
//! |---|---|---|
//! | `seed=N` | 20261124 | the first seed |
//! | `reference=N` | 10 | nights in the reference |
//! | `false_alarms=SHARE` | 0.01 | the policy's chance of any false red in a run |
//!
//! `detection` judges by many policies, or by the one that `reference` and `false_alarms` give.
#![expect(clippy::print_stdout, reason = "the tables are what this program is for")]

mod families;
mod judge;
#[path = "../../src/tests/random.rs"]
mod random;

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use statrs::distribution::{ChiSquared, ContinuousCDF};
use stepwatch_record::comparison::Verdict;
use stepwatch_record::figure::Summary;

use families::{CELLS, FAMILIES, Family, Kind, MIXTURES, ROUNDS, World};
use judge::{Counts, Judge, summary};

/// The first seed unless another is asked for; night number k of a family has this plus k, times a large odd number.
const SEED: u64 = 20_261_124;
/// Nights in the reference, unless a table says otherwise.
const REFERENCE: usize = 10;
/// A slowdown is looked for on so many nights in a row.
const NIGHTS: usize = 3;
/// Slower code is looked for in at most so many series of nights.
const MOST_SERIES: u64 = 4_000;
/// The smallest change that matters, in all tables.
const MARGIN: f64 = 0.005;
/// The default policy's chance of any false red in a run.
const FALSE_ALARMS: f64 = 0.01;
/// What `name=VALUE` may be said of; the head of this file says what.
const OPTIONS: [&str; 3] = ["seed", "reference", "false_alarms"];

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let number = |argument: &String| argument.replace('_', "").parse::<u64>().ok();
    // `cargo test --benches` runs this too, without `--bench`: then only that it runs at all is of interest.
    let benched = std::env::args().any(|argument| argument == "--bench");
    let cell_nights = arguments.iter().find_map(number).unwrap_or(if benched { 100_000 } else { 200 });
    known(&arguments)?;
    let first = option(&arguments, OPTIONS[0])?.unwrap_or(SEED);
    let reference_nights: usize = option(&arguments, OPTIONS[1])?.unwrap_or(REFERENCE);
    let false_alarms: f64 = option(&arguments, OPTIONS[2])?.unwrap_or(FALSE_ALARMS);
    let names = |argument: &&String| number(argument).is_none() && !argument.contains('=');
    let chosen: Vec<&String> = arguments.iter().filter(names).collect();
    let named = |name: &str| chosen.iter().any(|part| name.contains(part.as_str()));
    let wanted = |name: &str| chosen.is_empty() || named(name);
    let nights = (cell_nights / CELLS as u64).max(1);

    println!("{}; {}; first seed {first}", date(), machine());
    println!(
        "{CELLS} cells, {ROUNDS} rounds, reference of {reference_nights} nights, margin {MARGIN}, false_alarms {false_alarms}"
    );
    println!(
        "\n| family | cell-nights | false `regressed` per 10,000 (95 % upper limit) | false `improved` per 10,000 | nights with any false red | 99 % intervals that hold | `unchanged` | blind |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let judge = Judge::new(MARGIN, false_alarms);
    let families = FAMILIES.iter().filter(|family| wanted(family.name));
    for family in families.chain(MIXTURES.iter().filter(|mixture| named(mixture.name))) {
        let start = Instant::now();
        let counts = unchanged(&judge, family, reference_nights, nights, first);
        println!("{}", row(family.name, &counts));
        eprint_seconds(family.name, start);
    }
    if wanted("detection") {
        let asked = arguments.iter().any(|argument| OPTIONS[1..].iter().any(|name| argument.starts_with(name)));
        let policies = |windows: &[usize]| -> Vec<(usize, f64)> {
            if asked {
                return vec![(reference_nights, false_alarms)];
            }
            windows.iter().flat_map(|n| [0.005, FALSE_ALARMS, 0.02, 0.05].map(|share| (*n, share))).collect()
        };
        detection(nights.min(MOST_SERIES), first, policies);
    }
    Ok(())
}

/// The value of `name=VALUE` among the arguments; an error where it is none of its kind, since a figure of something else than
/// was asked for would be believed.
fn option<T: FromStr>(arguments: &[String], name: &str) -> Result<Option<T>, String> {
    let Some(value) = arguments.iter().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('=')) else {
        return Ok(None);
    };
    value.parse().map(Some).map_err(|_| format!("{name}={value}: {value} is no value of this option"))
}

/// An error where an argument with `=` is none of [`OPTIONS`].
fn known(arguments: &[String]) -> Result<(), String> {
    let name = |argument: &str| argument.split_once('=').map(|(name, _)| name.to_owned());
    let unknown = arguments.iter().filter_map(|argument| name(argument)).find(|name| !OPTIONS.contains(&name.as_str()));
    unknown.map_or(Ok(()), |name| Err(format!("{name}: no such option; known are {}", OPTIONS.join(", "))))
}

/// Time is no result, so it does not stand in the tables.
#[expect(clippy::print_stderr, reason = "progress")]
fn eprint_seconds(name: &str, start: Instant) {
    eprintln!("{name}: {:.1} s", start.elapsed().as_secs_f64());
}

/// Judges `nights` independent nights of unchanged code, each against the `reference_nights` before it.
fn unchanged(judge: &Judge, family: &Family, reference_nights: usize, nights: u64, first: u64) -> Counts {
    let counts = in_parallel(nights, |night| {
        let mut world = World::new(family.kind, seed(first + night));
        let reference = reference(&mut world, reference_nights);
        judge.night(&summary(&world.night()), &reference)
    });
    let mut sum = Counts::default();
    counts.iter().for_each(|counts| sum.add(counts));
    sum
}

/// The stored nights of a reference, newest first.
fn reference(world: &mut World, nights: usize) -> Vec<Summary> {
    let mut nights: Vec<Summary> = (0..nights).map(|_| summary(&world.night())).collect();
    nights.reverse();
    nights
}

/// How often a lasting slowdown of one cell of the matrix is found, by each of the policies (nights in the
/// reference and `false_alarms`) for the windows of nights that a slowdown is looked for with; a night that is red is not accepted, so the
/// reference stays as it is.
fn detection(series: u64, first: u64, policies: impl Fn(&[usize]) -> Vec<(usize, f64)>) {
    println!(
        "\n| slowdown of one cell | spread | nights in the reference | `false_alarms` | series | found on night 1 | by night {NIGHTS} |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (slower, sd, windows) in [(0.02, 0.01, &[REFERENCE, 20, 30, 50][..]), (0.01, 0.0025, &[REFERENCE])] {
        for (nights, false_alarms) in policies(windows) {
            let judge = Judge::new(MARGIN, false_alarms);
            let found = in_parallel(series, |number| first_red(&judge, nights, sd, slower, seed(first + number)));
            let by = |night: usize| {
                let found = found.iter().filter(|found| found.is_some_and(|first| first <= night)).count();
                100.0 * found as f64 / series as f64
            };
            println!(
                "| {} % | {} % | {nights} | {false_alarms} | {series} | {:.1} % | {:.1} % |",
                100.0 * slower,
                100.0 * sd,
                by(1),
                by(NIGHTS)
            );
        }
    }
}

/// The first night, from 1, on which the slower cell is called so.
fn first_red(judge: &Judge, nights: usize, sd: f64, slower: f64, seed: u64) -> Option<usize> {
    let mut world = World::new(Kind::Gaussian(sd), seed);
    let reference = reference(&mut world, nights);
    (1..=NIGHTS).find(|_| {
        let mut night = world.night();
        night.speed[0].iter_mut().for_each(|log| *log -= slower.ln_1p());
        judge.verdicts(&summary(&night), &reference).0[0].0 == Verdict::Regressed
    })
}

/// The seed of one night. The factor is not the generator's own increment, which would make every night the one before it,
/// shifted by a single draw.
fn seed(night: u64) -> u64 {
    night.wrapping_mul(0xd1b5_4a32_d192_ed03)
}

/// Calls `work` for 0..count on every core; results in no particular order.
fn in_parallel<T: Send>(count: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return done;
            }
            done.push(work(number));
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(share)).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

fn row(name: &str, counts: &Counts) -> String {
    let (nights, cells) = (counts.nights as f64, counts.cells as f64);
    let share = |part: u64, whole: f64| 100.0 * part as f64 / whole;
    format!(
        "| {name} | {cells} | {:.2} ({:.2}) | {:.2} | {:.2} % | {:.2} % | {:.1} % | {:.1} % |",
        1e4 * counts.regressed as f64 / cells,
        1e4 * upper_limit(counts),
        1e4 * counts.improved as f64 / cells,
        share(counts.red_nights, nights),
        share(counts.covered, cells),
        share(counts.unchanged, cells),
        share(counts.blind, cells),
    )
}

/// One-sided 95 % upper limit of the rate of false reds a cell: the exact one of a Poisson count, or the normal one from the
/// scatter between nights where the cells of a night turn red together.
fn upper_limit(counts: &Counts) -> f64 {
    let (nights, cells) = (counts.nights as f64, counts.cells as f64);
    let poisson =
        ChiSquared::new(2.0 * (counts.regressed as f64 + 1.0)).map_or(f64::NAN, |d| d.inverse_cdf(0.95)) / 2.0;
    let mean = counts.regressed as f64 / nights;
    let variance = (counts.regressed_squared as f64 / nights - mean * mean).max(0.0);
    let clustered = counts.regressed as f64 + 1.645 * (variance * nights).sqrt();
    poisson.max(clustered) / cells
}

/// The processor and its cores.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} cores", named.unwrap_or("processor unknown"))
}

/// Today in UTC, from the days since 1970 (Hinnant, chrono-compatible low-level date algorithms, `civil_from_days`).
fn date() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    format!("{}-{month:02}-{day:02}", era * 400 + year_of_era + u64::from(month <= 2))
}
