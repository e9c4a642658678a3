//! The finding that the machine itself changed while it was measured: the canary does the same work in every round of every
//! cell and build, so a difference between its earlier and its later readings is no cell's and no code's.

use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::message::Canary;
use stepwatch_record::run::{End, RoundRecord, Run};

use crate::stats;
use crate::wording::{count, percent, percent_range};

/// Rounds that each half of the run needs: with fewer its noise is not known.
const ROUNDS: usize = 3;

/// One of the canary's rates, in time order, as logs.
struct Series {
    name: &'static str,
    values: Vec<f64>,
}

/// How much a rate changed from the earlier half of the rounds to the later, with its interval; as a share.
struct Drift {
    name: &'static str,
    point: f64,
    low: f64,
    high: f64,
    noise: f64,
}

/// Rates of the canary that changed by more than their own noise and by more than the policy's margin, and power limits that
/// were changed.
pub(super) fn machine_drift(run: &Run) -> Option<Finding> {
    let mut records: Vec<&RoundRecord> = run.rounds.iter().map(|round| &round.record).collect();
    records.retain(|record| record.end == End::Completed);
    // RFC 3339 in UTC sorts by time.
    records.sort_by(|a, b| a.started.cmp(&b.started));
    let policy = &run.manifest.policy;
    let series = [
        Series { name: "product", values: series(&records, |canary| canary.flops_per_second) },
        Series { name: "copy", values: series(&records, |canary| canary.bytes_per_second) },
    ];
    let confidence = 1.0 - policy.false_alarms.clamp(1e-9, 0.5) / series.len() as f64;
    let drifted: Vec<Drift> = series
        .iter()
        .filter_map(|series| drift(series, confidence))
        .filter(|drift| (drift.low > 0.0 || drift.high < 0.0) && drift.point.abs() > policy.margin)
        .collect();
    let limits = power_limits(&records);
    let worst = drifted.iter().max_by(|a, b| a.point.abs().total_cmp(&b.point.abs()));
    let sentence = match (worst, &limits) {
        (Some(worst), _) => format!(
            "the machine became {} {} while it was measured: the canary's {} changed, whose work never does",
            percent(worst.point.abs()),
            if worst.point < 0.0 { "slower" } else { "faster" },
            worst.name
        ),
        (None, Some(_)) => "the GPU's power limit was changed while it was measured".to_owned(),
        (None, None) => return None,
    };
    let mut evidence: Vec<String> = drifted.iter().map(|drift| line(drift, records.len())).collect();
    evidence.extend(limits);
    Some(Finding {
        kind: Kind::MachineDrift,
        severity: Severity::Medium,
        sentence,
        evidence,
        next_step:
            "rounds are interleaved, so cells of this run still compare; before comparing with other runs, see to what \
                    changed (clock, temperature and power beside the samples) and measure again"
                .to_owned(),
        command: String::new(),
        cells: Vec::new(),
    })
}

/// One value a round: the mean over its readings of how far each lies, as a log, from the usual of its place in the round. A
/// reading after the steps is taken on a warmer chip than the one before them, which is no drift.
fn series(records: &[&RoundRecord], rate: impl Fn(&Canary) -> f64) -> Vec<f64> {
    let places = records.iter().map(|record| record.canaries.len()).max().unwrap_or(0);
    let log = |record: &RoundRecord, place: usize| {
        record.canaries.get(place).map(|canary| rate(canary).ln()).filter(|log| log.is_finite())
    };
    let usual: Vec<f64> = (0..places)
        .map(|place| {
            let all: Vec<f64> = records.iter().filter_map(|record| log(record, place)).collect();
            stats::median(&all).unwrap_or(0.0)
        })
        .collect();
    records
        .iter()
        .filter_map(|record| {
            let off: Vec<f64> =
                usual.iter().enumerate().filter_map(|(place, usual)| Some(log(record, place)? - usual)).collect();
            stats::mean(&off)
        })
        .collect()
}

/// The later half against the earlier, by Welch's t interval: each half has its own noise.
fn drift(series: &Series, confidence: f64) -> Option<Drift> {
    let (early, late) = series.values.split_at(series.values.len() / 2);
    if early.len() < ROUNDS {
        return None;
    }
    let variance_of_mean = |half: &[f64]| stats::sd(half).map(|sd| sd * sd / half.len() as f64);
    let parts =
        [(variance_of_mean(early)?, early.len() as f64 - 1.0), (variance_of_mean(late)?, late.len() as f64 - 1.0)];
    let point = stats::mean(late)? - stats::mean(early)?;
    let error = (parts[0].0 + parts[1].0).sqrt();
    // Without any noise the difference is exact.
    let (low, high) = match stats::welch_df(&parts) {
        Some(df) => stats::interval(point, error, df, confidence)?,
        None => (point, point),
    };
    let noise = ((stats::sd(early)?.powi(2) + stats::sd(late)?.powi(2)) / 2.0).sqrt();
    let share = f64::exp_m1;
    Some(Drift { name: series.name, point: share(point), low: share(low), high: share(high), noise })
}

fn line(drift: &Drift, rounds: usize) -> String {
    let slower = drift.point < 0.0;
    let (low, high) = if slower { (-drift.high, -drift.low) } else { (drift.low, drift.high) };
    format!(
        "canary's {}: {} {} in the later half of {} ({}); from round to round it differs by {}",
        drift.name,
        percent(drift.point.abs()),
        if slower { "slower" } else { "faster" },
        count(rounds, "round"),
        percent_range(low, high),
        percent(drift.noise)
    )
}

/// The lowest and the highest power limit that was enforced, if they differ by more than rounding.
fn power_limits(records: &[&RoundRecord]) -> Option<String> {
    let ends = records.iter().filter_map(|record| record.gpu.as_ref()).flat_map(|gpu| [&gpu.before, &gpu.after]);
    let limits: Vec<f64> = ends.filter_map(|state| state.power_limit_w).collect();
    let (low, high) = (limits.iter().copied().reduce(f64::min)?, limits.iter().copied().reduce(f64::max)?);
    (high - low >= 1.0).then(|| format!("power limit: between {low:.0} and {high:.0} W"))
}
