//! When warm-up ends and when a round has enough, decided over a stream of step times.
//!
//! Pure: numbers in, decisions out. It may not know where the steps run. Every round of a cell takes exactly the same
//! number of samples, consecutive from the first step that counts; nothing about their values stops a round early.

use std::collections::BTreeMap;

use stepwatch_record::message::Samples;
use stepwatch_record::run::Sample;
use stepwatch_verdict::steady;

use crate::scenario::{Measure, Warmup};

/// What the parent does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Listen on.
    Continue,
    /// Tell the worker that steps from this one on count.
    MeasureFrom(u64),
    /// Tell the worker to stop: the round is full.
    Enough,
}

/// Why samples cannot be used, in words that complete "the worker …".
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplesError {
    /// Arrays of different lengths.
    #[error(
        "sent {count} values of `{name}` for {steps} steps: every array of a `samples` message has one value a step"
    )]
    Lengths {
        /// Which array.
        name: String,
        /// Its length.
        count: usize,
        /// The steps of the message.
        steps: usize,
    },
    /// A step is missing or came twice.
    #[error("sent samples from step {from} where step {expected} was next")]
    Gap {
        /// The step it sent.
        from: u64,
        /// The step that was next.
        expected: u64,
    },
    /// A step that took no time.
    #[error("said that step {step} took 0 ns")]
    ZeroTime {
        /// Which step.
        step: u64,
    },
    /// Time ran backwards.
    #[error("said that step {step} ended at {t_ns} ns, before the step ahead of it at {before} ns")]
    Backwards {
        /// Which step.
        step: u64,
        /// Its end.
        t_ns: u64,
        /// The end of the step before it.
        before: u64,
    },
    /// Another number of tokens in the middle of a round.
    #[error("changed from {before} to {now} tokens a step in the middle of a round")]
    Tokens {
        /// As said first.
        before: u64,
        /// As said now.
        now: u64,
    },
    /// Other figures than before.
    #[error("sent the figures {now} where it had sent {before}: every batch of a round has the same")]
    Names {
        /// As sent first.
        before: String,
        /// As sent now.
        now: String,
    },
    /// A figure that is no number one can compute with.
    #[error("sent {value} as `{name}` of step {step}: it must be a finite number above 0")]
    Metric {
        /// Which figure.
        name: String,
        /// Of which step.
        step: u64,
        /// Its value.
        value: f64,
    },
}

/// One round being measured.
pub struct Measurement {
    warmup: steady::Warmup,
    wanted: usize,
    tokens: Option<u64>,
    samples: Vec<Sample>,
    /// One value for each of `samples`.
    metrics: BTreeMap<String, Vec<f64>>,
}

/// What a round yielded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// All samples up to the last that counts, warm-up included.
    pub samples: Vec<Sample>,
    /// How many count.
    pub measured: u32,
    /// How many were warm-up; the steps that count follow them.
    pub warmup_steps: u64,
    /// Whether warm-up reached a steady state, or was a fixed number.
    pub steady: bool,
    /// Tokens of a step.
    pub tokens: u64,
    /// Further figures of the steps that count, by name.
    pub metrics: BTreeMap<String, Vec<f64>>,
}

impl Measurement {
    /// A round by the scenario's rules.
    #[must_use]
    pub fn new(measure: &Measure) -> Self {
        let steps = |steps: u64| usize::try_from(steps).unwrap_or(usize::MAX);
        let warmup = match measure.warmup {
            Warmup::Steady => steady::Warmup::new(steps(measure.max_warmup_steps)),
            Warmup::Steps(number) => steady::Warmup::fixed(steps(number)),
        };
        let wanted = steps(u64::from(measure.samples));
        Self { warmup, wanted, tokens: None, samples: Vec::new(), metrics: BTreeMap::new() }
    }

    /// Takes a batch of steps.
    ///
    /// # Errors
    /// [`SamplesError`] when the batch cannot be trusted; nothing of it is kept then.
    pub fn push(&mut self, batch: &Samples) -> Result<Decision, SamplesError> {
        self.check(batch)?;
        self.tokens = Some(batch.tokens);
        let known = self.warmup.first_counted();
        for index in 0..batch.gpu_ns.len() {
            // A worker runs ahead until it hears of the stop; those steps are no samples.
            if self.is_full() {
                break;
            }
            self.keep(batch, index);
        }
        Ok(match self.warmup.first_counted() {
            _ if self.is_full() => Decision::Enough,
            Some(first) if known.is_none() => Decision::MeasureFrom(first as u64),
            _ => Decision::Continue,
        })
    }

    /// How far the round is: steps of warm-up so far, samples so far.
    #[must_use]
    pub fn progress(&self) -> (u64, u32) {
        let measured = self.measured();
        let counted = u32::try_from(measured).unwrap_or(u32::MAX);
        (self.warmup.first_counted().unwrap_or(usize::MAX).min(self.samples.len()) as u64, counted)
    }

    /// What the round yielded so far.
    #[must_use]
    pub fn into_measured(mut self) -> Measured {
        let (warmup_steps, measured) = self.progress();
        let from = self.samples.len().min(usize::try_from(warmup_steps).unwrap_or(usize::MAX));
        let to = from + self.measured();
        self.samples.truncate(to);
        for sample in &mut self.samples[from..] {
            sample.measured = true;
        }
        let metrics = self.metrics.into_iter().map(|(name, values)| (name, values[from..to].to_vec())).collect();
        Measured {
            samples: self.samples,
            measured,
            warmup_steps,
            steady: self.warmup.steady().is_some(),
            tokens: self.tokens.unwrap_or(0),
            metrics,
        }
    }

    /// How many of the steps so far count, up to as many as are wanted.
    fn measured(&self) -> usize {
        let counted = self.warmup.first_counted().map_or(0, |first| self.samples.len().saturating_sub(first));
        counted.min(self.wanted)
    }

    fn is_full(&self) -> bool {
        self.warmup.first_counted().is_some() && self.measured() == self.wanted
    }

    fn keep(&mut self, batch: &Samples, index: usize) {
        self.samples.push(Sample {
            step: batch.from + index as u64,
            measured: false,
            t_ns: batch.t_ns[index],
            gpu_ns: batch.gpu_ns[index],
            cycles: batch.cycles.get(index).copied().unwrap_or(0),
            loss: batch.loss.get(index).copied().unwrap_or(f64::NAN),
            sm_clock_hz: f64::NAN,
            power_w: f64::NAN,
            temperature_c: f64::NAN,
            throttle: 0,
        });
        for (name, values) in &batch.metrics {
            self.metrics.entry(name.clone()).or_default().push(values[index]);
        }
        self.warmup.push(batch.gpu_ns[index]);
    }

    fn check(&self, batch: &Samples) -> Result<(), SamplesError> {
        let steps = batch.gpu_ns.len();
        let optional = [("cycles", batch.cycles.len()), ("loss", batch.loss.len())];
        let named = batch.metrics.iter().map(|(name, values)| (name.as_str(), values.len()));
        let lengths = [("t_ns", batch.t_ns.len())].into_iter();
        for (name, count) in lengths.chain(optional.into_iter().filter(|(_, count)| *count > 0)).chain(named) {
            if count != steps {
                return Err(SamplesError::Lengths { name: name.to_owned(), count, steps });
            }
        }
        let expected = self.samples.last().map_or(0, |sample| sample.step + 1);
        // Beyond a full round nothing is kept, so nothing is known of what is next.
        if !self.is_full() && batch.from != expected {
            return Err(SamplesError::Gap { from: batch.from, expected });
        }
        if !self.samples.is_empty() && !batch.metrics.keys().eq(self.metrics.keys()) {
            return Err(SamplesError::Names { before: names(&self.metrics), now: names(&batch.metrics) });
        }
        if let Some(before) = self.tokens.filter(|before| *before != batch.tokens) {
            return Err(SamplesError::Tokens { before, now: batch.tokens });
        }
        let mut before = self.samples.last().map_or(0, |sample| sample.t_ns);
        for (index, (&t_ns, &gpu_ns)) in batch.t_ns.iter().zip(&batch.gpu_ns).enumerate() {
            let step = batch.from + index as u64;
            if gpu_ns == 0 {
                return Err(SamplesError::ZeroTime { step });
            }
            if t_ns < before {
                return Err(SamplesError::Backwards { step, t_ns, before });
            }
            before = t_ns;
        }
        for (name, values) in &batch.metrics {
            if let Some((index, &value)) = values.iter().enumerate().find(|(_, v)| !(v.is_finite() && **v > 0.0)) {
                return Err(SamplesError::Metric { name: name.clone(), step: batch.from + index as u64, value });
            }
        }
        Ok(())
    }
}

fn names(metrics: &BTreeMap<String, Vec<f64>>) -> String {
    let names: Vec<String> = metrics.keys().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn measure(warmup: Warmup, samples: u32) -> Measure {
        Measure {
            rounds_min: 1,
            rounds_max: 1,
            warmup,
            samples,
            timeout: Duration::from_secs(1),
            max_warmup_steps: 100,
        }
    }

    fn batch(from: u64, gpu_ns: &[u64]) -> Samples {
        let t_ns = (0..gpu_ns.len() as u64).map(|index| (from + index + 1) * 1000).collect();
        Samples { from, t_ns, gpu_ns: gpu_ns.to_vec(), tokens: 8, ..Samples::default() }
    }

    #[test]
    fn a_fixed_warm_up_counts_from_its_step_and_stops_exactly_full() {
        let mut round = Measurement::new(&measure(Warmup::Steps(3), 4));
        assert_eq!(round.push(&batch(0, &[9, 9])), Ok(Decision::Continue));
        assert_eq!(round.push(&batch(2, &[9, 1, 1])), Ok(Decision::Continue));
        assert_eq!(round.progress(), (3, 2));
        assert_eq!(round.push(&batch(5, &[1, 1, 1, 1])), Ok(Decision::Enough));
        let yielded = round.into_measured();
        assert_eq!((yielded.warmup_steps, yielded.measured, yielded.samples.len()), (3, 4, 7));
        assert!(yielded.samples.iter().all(|sample| sample.measured == (sample.step >= 3)));
        assert!(yielded.steady);
    }

    #[test]
    fn batches_of_any_size_give_the_same_round() {
        let times: Vec<u64> = (0..80).map(|step| if step < 20 { 5000 - step * 200 } else { 1000 + step % 7 }).collect();
        let yielded = |size: usize| {
            let mut round = Measurement::new(&measure(Warmup::Steady, 10));
            for (number, chunk) in times.chunks(size).enumerate() {
                let from = (number * size) as u64;
                if round.push(&batch(from, chunk)).unwrap() == Decision::Enough {
                    break;
                }
            }
            round.into_measured().samples.iter().map(|s| (s.step, s.measured)).collect::<Vec<_>>()
        };
        let one = yielded(1);
        assert_eq!(one.iter().filter(|(_, measured)| *measured).count(), 10);
        for size in [2, 7, 16, 80] {
            assert_eq!(yielded(size), one, "batches of {size}");
        }
    }

    #[test]
    fn the_worker_is_told_once_from_where_steps_count() {
        let mut round = Measurement::new(&measure(Warmup::Steady, 20));
        let mut told = Vec::new();
        for step in 0..100 {
            match round.push(&batch(step, &[1000])).unwrap() {
                Decision::MeasureFrom(first) => told.push(first),
                Decision::Enough => break,
                Decision::Continue => {}
            }
        }
        let yielded = round.into_measured();
        assert_eq!(told, [yielded.warmup_steps]);
        assert_eq!((yielded.steady, yielded.measured), (true, 20));
        assert!(yielded.samples.iter().all(|sample| sample.measured == (sample.step >= yielded.warmup_steps)));
    }

    #[test]
    fn further_figures_are_those_of_the_steps_that_count() {
        let mut round = Measurement::new(&measure(Warmup::Steps(2), 2));
        let metrics = [("x".to_owned(), vec![1.0, 2.0, 3.0, 4.0, 5.0])].into();
        assert_eq!(round.push(&Samples { metrics, ..batch(0, &[5; 5]) }), Ok(Decision::Enough));
        assert_eq!(round.into_measured().metrics["x"], [3.0, 4.0]);
    }

    #[test]
    fn a_warm_up_that_never_settles_is_given_up_and_measured_all_the_same() {
        let mut round = Measurement::new(&measure(Warmup::Steady, 5));
        for step in 0..1000_u64 {
            // Every step is 3 % slower than the last: a trend has no steady state.
            let gpu_ns = (1000.0 * 1.03_f64.powi(i32::try_from(step).unwrap())) as u64;
            if round.push(&batch(step, &[gpu_ns])).unwrap() == Decision::Enough {
                break;
            }
        }
        let yielded = round.into_measured();
        assert_eq!((yielded.steady, yielded.measured), (false, 5));
        assert!(yielded.warmup_steps <= 101, "{}", yielded.warmup_steps);
    }

    #[test]
    fn what_cannot_be_trusted_is_refused_with_its_reason() {
        let good = batch(0, &[5, 5]);
        let cases = [
            (
                Samples { t_ns: vec![1], ..good.clone() },
                "sent 1 values of `t_ns` for 2 steps: every array of a `samples` message has one value a step",
            ),
            (
                Samples { loss: vec![1.0; 3], ..good.clone() },
                "sent 3 values of `loss` for 2 steps: every array of a `samples` message has one value a step",
            ),
            (Samples { from: 4, ..good.clone() }, "sent samples from step 4 where step 0 was next"),
            (Samples { gpu_ns: vec![5, 0], ..good.clone() }, "said that step 1 took 0 ns"),
            (
                Samples { t_ns: vec![9, 4], ..good.clone() },
                "said that step 1 ended at 4 ns, before the step ahead of it at 9 ns",
            ),
            (
                Samples { metrics: [("x".to_owned(), vec![1.0, -2.0])].into(), ..good.clone() },
                "sent -2 as `x` of step 1: it must be a finite number above 0",
            ),
        ];
        for (samples, message) in cases {
            let mut round = Measurement::new(&measure(Warmup::Steps(0), 4));
            assert_eq!(round.push(&samples).unwrap_err().to_string(), message);
            assert_eq!(round.progress(), (0, 0));
        }
        let mut round = Measurement::new(&measure(Warmup::Steps(0), 4));
        assert_eq!(round.push(&good), Ok(Decision::Continue));
        let other = Samples { metrics: [("x".to_owned(), vec![1.0])].into(), ..batch(2, &[5]) };
        assert_eq!(
            round.push(&other).unwrap_err().to_string(),
            "sent the figures `x` where it had sent none: every batch of a round has the same"
        );
        let other = Samples { tokens: 16, ..batch(2, &[5]) };
        assert_eq!(
            round.push(&other).unwrap_err().to_string(),
            "changed from 8 to 16 tokens a step in the middle of a round"
        );
    }
}
