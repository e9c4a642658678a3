//! The null executor: scripted times and ends instead of work, so that everything around a step can be tested fast and
//! exactly. Hidden from users.
//!
//! The script is the JSON file named by [`SCRIPT_VARIABLE`]: `{"rules": [{"match": {"precision": "fp8-*"}, "step_ns": 2e6}]}`.
//! The first rule whose every `match` entry fits the cell (a trailing `*` fits any rest) is used; without a script, or
//! where none fits, times follow the cell's FLOPs with a little noise.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::StepConfig;
use crate::count;
use crate::random::Random;

/// Names the script.
pub const SCRIPT_VARIABLE: &str = "STEPWATCH_NULL_SCRIPT";

/// What the scripted times of one kind of cell look like.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Words of the cell that must fit: `precision`, `attention`, `compile`, `dims`, `batch_size`, `seq_len`, `recompute`.
    #[serde(rename = "match")]
    pub matches: BTreeMap<String, String>,
    /// Duration of a steady step, ns. Absent: by the cell's FLOPs.
    pub step_ns: Option<f64>,
    /// Exact durations of the first steps, ns, before the rest of the rule applies.
    pub first_ns: Vec<f64>,
    /// Steps that are slower at first.
    pub warmup_steps: u64,
    /// How much slower the first of them is; the rest decay to 1.
    pub warmup_factor: f64,
    /// Relative noise of single steps (normal, standard deviation).
    pub noise: f64,
    /// Relative noise of a whole process, drawn anew by each.
    pub process_noise: f64,
    /// Loss of every step, nats.
    pub loss: f64,
    /// What `peak_memory_bytes` says. Absent: by the cell.
    pub peak_memory_bytes: Option<u64>,
    /// What `prepare` says of the plan. Absent: by the cell.
    pub plan_hash: Option<String>,
    /// How it ends instead of running on.
    pub end: End,
    /// The step that ends so.
    pub end_at_step: u64,
    /// Whether steps take their time on the clock, too.
    pub sleep: bool,
}

/// How a scripted cell ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Runs as long as it is asked to.
    #[default]
    Well,
    /// Aborts the process.
    Crash,
    /// Never comes back.
    Hang,
    /// Reports too little memory.
    OutOfMemory,
    /// Reports that it cannot run here.
    Unsupported,
    /// Reports wrong numbers.
    NumbersWrong,
    /// Reports a failure.
    Failed,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            matches: BTreeMap::new(),
            step_ns: None,
            first_ns: Vec::new(),
            warmup_steps: 0,
            warmup_factor: 1.0,
            noise: 0.002,
            process_noise: 0.002,
            loss: 5.0,
            peak_memory_bytes: None,
            plan_hash: None,
            end: End::Well,
            end_at_step: 0,
            sleep: false,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    rules: Vec<Rule>,
}

/// A script that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("null script {path}: {why}")]
pub struct ScriptError {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}

/// The rule of a cell, from the script that the environment names.
///
/// # Errors
/// A script that cannot be read or says what is not known.
pub fn rule(config: &StepConfig) -> Result<Rule, ScriptError> {
    let Some(path) = std::env::var_os(SCRIPT_VARIABLE) else { return Ok(Rule::default()) };
    let error = |why: String| ScriptError { path: path.to_string_lossy().into_owned(), why };
    let text = std::fs::read_to_string(&path).map_err(|why| error(why.to_string()))?;
    choose(&text, config).map_err(|why| error(why.to_string()))
}

fn choose(text: &str, config: &StepConfig) -> Result<Rule, serde_json::Error> {
    let script: Script = serde_json::from_str(text)?;
    let words = words(config);
    let fits = |rule: &Rule| {
        rule.matches.iter().all(|(key, wanted)| {
            words.get(key.as_str()).is_some_and(|found| match wanted.strip_suffix('*') {
                Some(start) => found.starts_with(start),
                None => found == wanted,
            })
        })
    };
    Ok(script.rules.into_iter().find(fits).unwrap_or_default())
}

fn words(config: &StepConfig) -> BTreeMap<&'static str, String> {
    let attention = format!("{:?}", config.attention).to_lowercase();
    BTreeMap::from([
        ("precision", config.precision.name().to_owned()),
        ("attention", attention),
        ("compile", config.compile.to_string()),
        ("dims", config.dims.to_string()),
        ("batch_size", config.batch_size.to_string()),
        ("seq_len", config.seq_len.to_string()),
        ("recompute", config.recompute.to_string()),
    ])
}

/// Scripted steps.
#[derive(Debug, Clone)]
pub struct Null {
    rule: Rule,
    random: Random,
    /// Of a steady step of this process, ns.
    steady_ns: f64,
    step: u64,
}

/// FLOP/s of the device that the default times pretend.
const PRETENDED_FLOPS_PER_SECOND: f64 = 4e14;

impl Null {
    /// Steps of a cell; `process` tells processes apart.
    #[must_use]
    pub fn new(rule: Rule, config: &StepConfig, seed: u64, process: u64) -> Self {
        let by_flops = || {
            let count = count::step(config);
            let faster = if config.precision.is_fp8() { 1.25 } else { 1.0 };
            1e9 * count.flops_per_token * count.tokens as f64 / PRETENDED_FLOPS_PER_SECOND / faster
        };
        let process_factor = 1.0 + rule.process_noise * Random::new(seed, process).normal();
        let steady_ns = rule.step_ns.unwrap_or_else(by_flops) * process_factor;
        Self { random: Random::new(seed, process ^ (1 << 63)), rule, steady_ns, step: 0 }
    }

    /// The rule it runs by.
    #[must_use]
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Runs one step: its duration, ns; or the end that the script has for it.
    ///
    /// # Errors
    /// The scripted end, unless it is one that never returns.
    pub fn step(&mut self) -> Result<u64, End> {
        if self.rule.end != End::Well && self.step >= self.rule.end_at_step {
            match self.rule.end {
                End::Crash => std::process::abort(),
                End::Hang => loop {
                    std::thread::sleep(std::time::Duration::from_secs(3600));
                },
                end => return Err(end),
            }
        }
        let scripted = usize::try_from(self.step).ok().and_then(|step| self.rule.first_ns.get(step).copied());
        let ns = scripted.unwrap_or_else(|| {
            let left = self.rule.warmup_steps.saturating_sub(self.step) as f64 / self.rule.warmup_steps.max(1) as f64;
            let slower = 1.0 + (self.rule.warmup_factor - 1.0) * left;
            self.steady_ns * slower * (1.0 + self.rule.noise * self.random.normal())
        });
        self.step += 1;
        let ns = ns.max(1.0) as u64;
        if self.rule.sleep {
            std::thread::sleep(std::time::Duration::from_nanos(ns));
        }
        Ok(ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use crate::config::preset;

    fn config(precision: Precision) -> StepConfig {
        StepConfig { precision, ..StepConfig::example(preset("454m").unwrap(), 16, 2048) }
    }

    #[test]
    fn the_first_rule_that_fits_is_used() {
        let script = r#"{"rules": [
            {"match": {"precision": "fp8-*", "compile": "none"}, "step_ns": 3e6, "noise": 0, "process_noise": 0},
            {"match": {"precision": "bf16"}, "first_ns": [9, 8], "step_ns": 7, "noise": 0, "process_noise": 0},
            {"end": "out-of-memory", "end_at_step": 1}
        ]}"#;
        let mut fp8 =
            Null::new(choose(script, &config(Precision::Fp8Delayed)).unwrap(), &config(Precision::Fp8Delayed), 1, 2);
        assert_eq!([fp8.step(), fp8.step()], [Ok(3_000_000); 2]);
        let mut bf16 = Null::new(choose(script, &config(Precision::Bf16)).unwrap(), &config(Precision::Bf16), 1, 2);
        assert_eq!([bf16.step(), bf16.step(), bf16.step()], [Ok(9), Ok(8), Ok(7)]);
        let mut fp32 = Null::new(choose(script, &config(Precision::Fp32)).unwrap(), &config(Precision::Fp32), 1, 2);
        assert!(fp32.step().is_ok());
        assert_eq!(fp32.step(), Err(End::OutOfMemory));
        assert!(choose(r#"{"rules": [{"step": 1}]}"#, &config(Precision::Bf16)).is_err());
    }

    #[test]
    fn processes_differ_and_warm_up_decays() {
        let rule = Rule { step_ns: Some(1e6), noise: 0.0, process_noise: 0.01, ..Rule::default() };
        let first = |process| Null::new(rule.clone(), &config(Precision::Bf16), 1, process).step().unwrap();
        assert_ne!(first(1), first(2));
        assert_eq!(first(1), first(1));
        let rule = Rule { process_noise: 0.0, warmup_steps: 2, warmup_factor: 3.0, ..rule };
        let mut warm = Null::new(rule, &config(Precision::Bf16), 1, 1);
        assert_eq!([warm.step(), warm.step(), warm.step()], [Ok(3_000_000), Ok(2_000_000), Ok(1_000_000)]);
    }

    #[test]
    fn default_times_follow_the_flops() {
        let ns = Null::new(Rule::default(), &config(Precision::Bf16), 1, 1).step().unwrap() as f64;
        // 100.84 TFLOP (fewer for naive attention's backward) at 400 TFLOP/s.
        assert!((ns / 0.25e9 - 1.0).abs() < 0.05, "{ns}");
    }
}
