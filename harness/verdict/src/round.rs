//! One round of one cell → one value per metric. The steps of a process are not independent of one another, so nothing
//! after this file counts steps as observations.

use stepwatch_record::message::Ready;
use stepwatch_record::run::{Round, RoundRecord, Sample};

use crate::stats;

/// The value of one metric in one round, with what lies behind it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RoundValue {
    /// The value, in the metric's unit; may be non-finite.
    pub(crate) value: f64,
    /// How many samples it came from.
    pub(crate) samples: u64,
    /// Standard deviation of the log of those samples, where each has a value of its own.
    pub(crate) step_sd_log: Option<f64>,
}

impl RoundValue {
    pub(crate) fn single(value: f64) -> Self {
        Self { value, samples: 1, step_sd_log: None }
    }

    fn over(value: f64, samples: &[f64]) -> Self {
        let step_sd_log = stats::logs(samples).and_then(|logs| stats::sd(&logs));
        Self { value, samples: samples.len() as u64, step_sd_log }
    }
}

/// The value of `metric` in a completed round; `None` where the round has no data for it.
///
/// A value that the workload itself reported under that name comes first. `ready` is what `prepare` said of the cell, used
/// where the round said nothing; `peak` is the peak of one device that `mfu` is a share of, FLOP/s.
pub(crate) fn value(metric: &str, round: &Round, ready: Option<&Ready>, peak: Option<f64>) -> Option<RoundValue> {
    let record = &round.record;
    if let Some(reported) = record.metrics.get(metric).filter(|values| !values.is_empty()) {
        return Some(RoundValue::over(stats::mean(reported)?, reported));
    }
    let counted: Vec<&Sample> = round.samples.iter().filter(|sample| sample.measured && sample.gpu_ns > 0).collect();
    let seconds: Vec<f64> = counted.iter().map(|sample| sample.gpu_ns as f64 * 1e-9).collect();
    let of_steps = |value: Option<f64>| Some(RoundValue::over(value?, &seconds));
    let said = |pick: fn(&Ready) -> Option<f64>| record.ready.as_ref().and_then(pick).or_else(|| ready.and_then(pick));
    match metric {
        "tokens_per_second" => of_steps(rate(record, &seconds)),
        "tokens_per_second_per_device" => of_steps(rate(record, &seconds).map(|rate| rate / devices(record, ready))),
        "model_flops_per_second" => {
            of_steps(rate(record, &seconds).and_then(|rate| Some(rate * said(|ready| ready.flops_per_token)?)))
        }
        "mfu" => of_steps(rate(record, &seconds).and_then(|rate| {
            let devices = devices(record, ready);
            Some(rate * said(|ready| ready.flops_per_token)? / (peak? * devices))
        })),
        "step_seconds" => of_steps(stats::mean(&seconds)),
        "step_seconds_low" => of_steps(stats::quantile(&seconds, 0.05)),
        "step_seconds_tail" => of_steps(stats::quantile(&seconds, 0.95)),
        "setup_seconds" => record.setup_seconds.map(RoundValue::single),
        "first_step_seconds" => record.ready.as_ref()?.first_step_seconds.map(RoundValue::single),
        "peak_memory_bytes" => {
            record.finished.as_ref()?.peak_memory_bytes.map(|bytes| RoundValue::single(bytes as f64))
        }
        "joules_per_token" => joules_per_token(record.tokens, &counted),
        "sm_clock_hz" => clock(&counted),
        "cycles_per_step" => {
            let cycles: Vec<f64> = counted.iter().filter(|s| s.cycles > 0).map(|s| s.cycles as f64).collect();
            Some(RoundValue::over(stats::mean(&cycles)?, &cycles))
        }
        "loss" => {
            let last = counted.iter().rev().map(|sample| sample.loss).find(|loss| !loss.is_nan());
            last.or(record.finished.as_ref()?.loss).map(RoundValue::single)
        }
        _ => None,
    }
}

/// Tokens over the mean step: what training gets.
fn rate(record: &RoundRecord, seconds: &[f64]) -> Option<f64> {
    (record.tokens > 0).then_some(record.tokens as f64 / stats::mean(seconds)?)
}

fn devices(record: &RoundRecord, ready: Option<&Ready>) -> f64 {
    let named = |ready: &Ready| (!ready.devices.is_empty()).then_some(ready.devices.len());
    record.ready.as_ref().and_then(named).or_else(|| ready.and_then(named)).unwrap_or(1) as f64
}

/// Energy of the samples whose power is known, over their tokens. Power is that of all the job's devices as sampled.
fn joules_per_token(tokens: u64, counted: &[&Sample]) -> Option<RoundValue> {
    let joules: Vec<f64> = counted
        .iter()
        .filter(|sample| sample.power_w.is_finite())
        .map(|sample| sample.power_w * sample.gpu_ns as f64 * 1e-9 / tokens as f64)
        .collect();
    (tokens > 0).then_some(RoundValue::over(stats::mean(&joules)?, &joules))
}

/// The clock as sampled; where it was not, what cycles and time of the steps say.
fn clock(counted: &[&Sample]) -> Option<RoundValue> {
    let mut clocks: Vec<f64> = counted.iter().map(|sample| sample.sm_clock_hz).filter(|hz| hz.is_finite()).collect();
    if clocks.is_empty() {
        let from_cycles = |sample: &&&Sample| sample.cycles > 0;
        clocks = counted.iter().filter(from_cycles).map(|s| s.cycles as f64 / (s.gpu_ns as f64 * 1e-9)).collect();
    }
    Some(RoundValue::over(stats::mean(&clocks)?, &clocks))
}
