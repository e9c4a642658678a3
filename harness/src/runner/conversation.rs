//! What a worker that speaks the protocol said, and what to answer: a state machine over its lines.
//!
//! Pure: lines in, replies and an account out. It may not know about processes or time. A line that is no message is kept
//! for the user; a message that breaks the protocol ends the worker, with one sentence that says how.

use stepwatch_record::ceiling::Ceilings;
use stepwatch_record::message::{Canary, Finished, FromWorker, Mode, Ready, ToWorker};
use stepwatch_record::plan::{Plan, Verification};
use stepwatch_record::profile::OpClass;
use stepwatch_record::run::End;
use stepwatch_record::version::PROTOCOL;

use super::output::Tail;
use crate::measure::{Decision, Measured, Measurement};

/// What the runner does after a line.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Listen on.
    Listen,
    /// Send this and listen on.
    Send(ToWorker),
    /// The worker closed by itself or said why it cannot go on: let it end.
    Over,
    /// The worker broke the protocol: end it.
    Broken,
}

/// Everything a worker said.
#[derive(Debug, Default)]
pub struct Said {
    /// Set up.
    pub ready: Option<Ready>,
    /// The plan it settled.
    pub plan: Option<Plan>,
    /// What it checked.
    pub verification: Option<Verification>,
    /// The canary's readings, in order.
    pub canaries: Vec<Canary>,
    /// Its profile.
    pub ops: Vec<OpClass>,
    /// What its device sustains.
    pub ceilings: Option<Ceilings>,
    /// How it closed.
    pub finished: Option<Finished>,
    /// An end that its own words ask for, or that breaking the protocol earned it.
    pub end: Option<End>,
}

/// One conversation with a worker.
pub struct Conversation {
    mode: Mode,
    /// What it said so far.
    pub said: Said,
    measurement: Option<Measurement>,
    wanted: u32,
    stopped: bool,
}

const TYPES: [&str; 10] =
    ["ready", "verified", "planned", "canary", "samples", "ops", "ceilings", "finished", "skipped", "failed"];

impl Conversation {
    /// A worker started to settle a plan, to profile or to find ceilings.
    #[must_use]
    pub fn without_samples(mode: Mode) -> Self {
        Self { mode, said: Said::default(), measurement: None, wanted: 0, stopped: false }
    }

    /// A worker started for a round of so many samples.
    #[must_use]
    pub fn measuring(measurement: Measurement, wanted: u32) -> Self {
        Self { mode: Mode::Measure, said: Said::default(), measurement: Some(measurement), wanted, stopped: false }
    }

    /// How far the round is: steps of warm-up and samples so far.
    #[must_use]
    pub fn progress(&self) -> (u64, u32) {
        self.measurement.as_ref().map_or((0, 0), Measurement::progress)
    }

    /// Whether the worker finished a round that has all its samples.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.said.finished.is_some() && self.said.end.is_none() && self.progress().1 >= self.wanted
    }

    /// Takes one line of the worker's output.
    pub fn line(&mut self, line: &str, tail: &mut Tail) -> Next {
        let text = line.trim();
        if !text.starts_with('{') {
            tail.push(line);
            return Next::Listen;
        }
        match serde_json::from_str::<FromWorker>(text) {
            Ok(message) => self.message(message),
            Err(error) => self.unreadable(text, &error, tail),
        }
    }

    /// What the worker's own words come to, once its process ended: the end they ask for, if any, and what was measured.
    #[must_use]
    pub fn close(mut self) -> (Option<End>, Said, Measured) {
        let (warmup, measured) = self.progress();
        if self.said.end.is_none() && self.said.finished.is_some() {
            self.said.end = Some(self.verdict_of_finished(warmup, measured));
        }
        let measured = self.measurement.map(Measurement::into_measured).unwrap_or_default();
        (self.said.end.clone(), self.said, measured)
    }

    fn verdict_of_finished(&self, warmup: u64, measured: u32) -> End {
        if self.mode == Mode::Measure && measured < self.wanted {
            return failed(format!(
                "it finished by itself after {measured} of {} samples ({warmup} steps of warm-up): a worker runs until it \
                 is told to stop",
                self.wanted
            ));
        }
        if self.mode == Mode::Profile && self.said.ops.is_empty() {
            return failed("it finished without a profile".to_owned());
        }
        if self.mode == Mode::Ceilings && self.said.ceilings.is_none() {
            return failed("it finished without ceilings".to_owned());
        }
        if self.said.finished.as_ref().and_then(|finished| finished.loss).is_some_and(|loss| !loss.is_finite()) {
            return End::NumbersWrong { message: "the last loss is not finite".to_owned() };
        }
        End::Completed
    }

    fn message(&mut self, message: FromWorker) -> Next {
        match message {
            FromWorker::Ready(ready) => {
                if let Some(spoken) = ready.protocol.filter(|spoken| *spoken != PROTOCOL) {
                    return self.broken(format!(
                        "it speaks version {spoken} of the worker protocol, and this stepwatch speaks {PROTOCOL}: \
                         use a worker and a stepwatch of one age"
                    ));
                }
                self.said.ready = Some(ready);
                Next::Listen
            }
            FromWorker::Verified(verification) => {
                if !verification.ok {
                    let message = match verification.failures.as_slice() {
                        [] => format!("verification against {} failed", verification.against),
                        failures => failures.join("; "),
                    };
                    self.said.end = Some(End::NumbersWrong { message });
                }
                self.said.verification = Some(verification);
                Next::Listen
            }
            FromWorker::Planned(plan) => {
                self.said.plan = Some(plan);
                Next::Listen
            }
            FromWorker::Canary(canary) => {
                self.said.canaries.push(canary);
                Next::Listen
            }
            FromWorker::Ops { ops } => {
                self.said.ops = ops;
                Next::Listen
            }
            FromWorker::Ceilings { gpu, all } => {
                self.said.ceilings = Some(Ceilings { gpu, all, ..Ceilings::default() });
                Next::Listen
            }
            FromWorker::Samples(batch) => self.samples(&batch),
            FromWorker::Finished(finished) => {
                self.said.finished = Some(finished);
                Next::Over
            }
            FromWorker::Skipped { reason } => self.over(End::Skipped { reason }),
            FromWorker::Failed { kind, message } => self.over(match kind.as_str() {
                "out-of-memory" => End::OutOfMemory { message },
                "numbers-wrong" => End::NumbersWrong { message },
                "unsupported" => End::Skipped { reason: message },
                "failed" | "" => failed(message),
                _ => failed(format!("{kind}: {message}")),
            }),
        }
    }

    fn samples(&mut self, batch: &stepwatch_record::message::Samples) -> Next {
        let Some(measurement) = &mut self.measurement else {
            return self.broken("it sent samples where none were asked for".to_owned());
        };
        match measurement.push(batch) {
            Err(error) => self.broken(format!("it {error}")),
            Ok(Decision::Continue) => Next::Listen,
            Ok(Decision::MeasureFrom(from_step)) => Next::Send(ToWorker::Measure { from_step }),
            Ok(Decision::Enough) if self.stopped => Next::Listen,
            Ok(Decision::Enough) => {
                self.stopped = true;
                Next::Send(ToWorker::Stop)
            }
        }
    }

    /// A line that starts like a message and cannot be read as one.
    fn unreadable(&mut self, text: &str, error: &serde_json::Error, tail: &mut Tail) -> Next {
        tail.push(text);
        let spoken = serde_json::from_str::<serde_json::Value>(text).ok();
        let kind = spoken.as_ref().and_then(|value| value.get("type")).and_then(|kind| kind.as_str());
        if let Some(kind) = kind.filter(|kind| TYPES.contains(kind)) {
            return self.broken(format!("it sent a `{kind}` message that cannot be read: {error}"));
        }
        // Python writes a loss that is not finite as `NaN`, which is no JSON.
        if spoken.is_none() && text.contains("\"type\"") && (text.contains("NaN") || text.contains("Infinity")) {
            let message = "it sent a figure that is not finite (NaN or Infinity)".to_owned();
            self.said.end = Some(End::NumbersWrong { message });
            return Next::Broken;
        }
        // Messages of a later version, and a user's own JSON, are output like any other.
        Next::Listen
    }

    fn over(&mut self, end: End) -> Next {
        self.said.end = Some(end);
        Next::Over
    }

    fn broken(&mut self, message: String) -> Next {
        self.said.end = Some(failed(message));
        Next::Broken
    }
}

fn failed(message: String) -> End {
    End::Failed { message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Measure, Warmup};
    use std::time::Duration;

    fn round(samples: u32) -> Conversation {
        let measure = Measure {
            rounds_min: 1,
            rounds_max: 1,
            warmup: Warmup::Steps(1),
            samples,
            timeout: Duration::from_secs(1),
            max_warmup_steps: 10,
        };
        Conversation::measuring(Measurement::new(&measure), samples)
    }

    fn hear(conversation: &mut Conversation, lines: &[&str]) -> (Vec<Next>, Tail) {
        let mut tail = Tail::default();
        (lines.iter().map(|line| conversation.line(line, &mut tail)).collect(), tail)
    }

    #[test]
    fn a_round_is_stopped_when_full_and_completes() {
        let mut conversation = round(2);
        let (next, tail) = hear(
            &mut conversation,
            &[
                "loading…",
                r#"{"type":"ready","protocol":1,"device":"cpu"}"#,
                r#"{"type":"samples","from":0,"t_ns":[1,2],"gpu_ns":[5,5],"tokens":8}"#,
                r#"{"type":"samples","from":2,"t_ns":[3,4],"gpu_ns":[5,5],"tokens":8}"#,
                r#"{"type":"samples","from":4,"t_ns":[5],"gpu_ns":[5],"tokens":8}"#,
                r#"{"type":"finished","steps":6}"#,
            ],
        );
        use Next::{Listen, Over, Send};
        assert_eq!(next, [Listen, Listen, Listen, Send(ToWorker::Stop), Listen, Over]);
        assert_eq!(tail.into_lines(), ["loading…"]);
        let (end, said, measured) = conversation.close();
        assert_eq!(end, Some(End::Completed));
        assert_eq!(said.ready.unwrap().device.as_deref(), Some("cpu"));
        assert_eq!((measured.warmup_steps, measured.measured, measured.tokens), (1, 2, 8));
    }

    #[test]
    fn a_worker_asked_for_ceilings_says_them() {
        let line = r#"{"type":"ceilings","gpu":"GPU-1","all":[{"work":"fp8-product","per_second":1.2e15,"seconds":2.0,"from_ns":5,"to_ns":9}]}"#;
        let mut conversation = Conversation::without_samples(Mode::Ceilings);
        hear(&mut conversation, &[line, r#"{"type":"finished","steps":0}"#]);
        let (end, said, _) = conversation.close();
        assert_eq!(end, Some(End::Completed));
        let ceilings = said.ceilings.unwrap();
        assert_eq!(
            (ceilings.gpu.as_str(), ceilings.all[0].per_second, ceilings.all[0].power_w),
            ("GPU-1", 1.2e15, None)
        );
        let mut silent = Conversation::without_samples(Mode::Ceilings);
        hear(&mut silent, &[r#"{"type":"finished","steps":0}"#]);
        assert_eq!(silent.close().0, Some(failed("it finished without ceilings".to_owned())));
    }

    #[test]
    fn every_bad_worker_earns_one_clear_sentence() {
        let cases: [(&[&str], &str, &str); 12] = [
            (
                &[r#"{"type":"ready","protocol":7}"#],
                "failed",
                "it speaks version 7 of the worker protocol, and this stepwatch speaks 1: use a worker and a stepwatch of one age",
            ),
            (
                &[r#"{"type":"samples","from":0,"t_ns":[1],"gpu_ns":[5,5],"tokens":8}"#],
                "failed",
                "it sent 1 values of `t_ns` for 2 steps: every array of a `samples` message has one value a step",
            ),
            (
                &[r#"{"type":"samples","from":0,"t_ns":[1],"gpu_ns":[-5],"tokens":8}"#],
                "failed",
                "it sent a `samples` message that cannot be read: invalid value: integer `-5`, expected u64",
            ),
            (
                &[r#"{"type":"samples","from":0,"t_ns":[1],"gpu_ns":[0],"tokens":8}"#],
                "failed",
                "it said that step 0 took 0 ns",
            ),
            (
                &[r#"{"type":"samples","from":0,"t_ns":[1],"gpu_ns":[5],"loss":[NaN],"tokens":8}"#],
                "numbers-wrong",
                "it sent a figure that is not finite (NaN or Infinity)",
            ),
            (
                &[r#"{"type":"finished","steps":3}"#],
                "failed",
                "it finished by itself after 0 of 2 samples (0 steps of warm-up): a worker runs until it is told to stop",
            ),
            (&[r#"{"type":"failed","kind":"out-of-memory","message":"2 GB short"}"#], "out-of-memory", "2 GB short"),
            (&[r#"{"type":"failed","kind":"numbers-wrong","message":"loss"}"#], "numbers-wrong", "loss"),
            (&[r#"{"type":"failed","kind":"unsupported","message":"no cuDNN"}"#], "skipped", "no cuDNN"),
            (&[r#"{"type":"failed","kind":"oops","message":"x"}"#], "failed", "oops: x"),
            (&[r#"{"type":"skipped","reason":"no GPU"}"#], "skipped", "no GPU"),
            (
                &[
                    r#"{"type":"verified","ok":false,"worst_sqnr_db":3.0,"against":"fp32","loss":1.0,"grad_norm":1.0,"failures":["wte: 3 dB"]}"#,
                ],
                "numbers-wrong",
                "wte: 3 dB",
            ),
        ];
        for (lines, word, reason) in cases {
            let mut conversation = round(2);
            hear(&mut conversation, lines);
            let (end, ..) = conversation.close();
            let end = end.unwrap_or_else(|| panic!("{lines:?} has no end"));
            assert_eq!(end.word(), word, "{lines:?}");
            assert!(end.reason().starts_with(reason), "{lines:?}: {}", end.reason());
        }
    }

    #[test]
    fn garbage_half_json_and_unknown_messages_are_kept_and_end_nothing() {
        let mut conversation = round(2);
        let lines = ["{\"type\":\"sam", "{}", "[1,2]", r#"{"type":"heartbeat"}"#, "\u{fffd}\u{fffd}"];
        let (next, tail) = hear(&mut conversation, &lines);
        assert!(next.iter().all(|next| *next == Next::Listen), "{next:?}");
        assert_eq!(tail.into_lines(), lines);
        assert_eq!(conversation.close().0, None);
    }
}
