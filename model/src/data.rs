//! The tokens of a step: seeded Zipf draws, or windows of a file's bytes. The targets are the tokens that follow.
//!
//! The batch of a step depends on seed and step number alone, so a resumed run sees the same data.

use std::path::PathBuf;

use crate::config::{Data, StepConfig};
use crate::random::Random;

/// A batch: token ids and the token after each, both (T), T = batch_size · seq_len.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The tokens.
    pub ids: Vec<i32>,
    /// The token after each.
    pub targets: Vec<i32>,
}

/// Where tokens come from, opened.
#[derive(Debug, Clone)]
pub struct Source {
    kind: Kind,
    batch_size: usize,
    seq_len: usize,
    seed: u64,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Cumulative shares of the tokens, the last 1.
    Zipf(Vec<f64>),
    Bytes(Vec<u8>),
}

/// Data that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("data file {path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too short for a window.
    #[error("data file {path} has {bytes} bytes: seq_len {seq_len} needs at least {}", seq_len + 1)]
    TooShort {
        /// Which.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// Tokens of a sequence.
        seq_len: usize,
    },
}

impl Source {
    /// Opens the data of a configuration.
    ///
    /// # Errors
    /// A file that cannot be read or holds less than one window.
    pub fn open(config: &StepConfig, seed: u64) -> Result<Self, DataError> {
        let (batch_size, seq_len) = (config.batch_size, config.seq_len);
        let kind = match &config.data {
            Data::Zipf => Kind::Zipf(zipf(config.dims.vocab)),
            Data::File(path) => {
                let bytes =
                    std::fs::read(path).map_err(|source| DataError::Unreadable { path: path.clone(), source })?;
                if bytes.len() <= seq_len {
                    return Err(DataError::TooShort { path: path.clone(), bytes: bytes.len(), seq_len });
                }
                Kind::Bytes(bytes)
            }
        };
        Ok(Self { kind, batch_size, seq_len, seed })
    }

    /// The batch of one step.
    #[must_use]
    pub fn batch(&self, step: u64) -> Batch {
        // Weights draw from streams below 2^32, data from those above.
        let mut random = Random::new(self.seed, (1 << 32) + step);
        let mut batch = Batch { ids: Vec::new(), targets: Vec::new() };
        for _ in 0..self.batch_size {
            let window = self.window(&mut random);
            batch.ids.extend_from_slice(&window[..self.seq_len]);
            batch.targets.extend_from_slice(&window[1..]);
        }
        batch
    }

    /// S + 1 consecutive tokens.
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "token ids are below 2^24")]
    fn window(&self, random: &mut Random) -> Vec<i32> {
        match &self.kind {
            Kind::Zipf(shares) => (0..=self.seq_len)
                .map(|_| {
                    let draw = random.uniform();
                    shares.partition_point(|share| *share <= draw).min(shares.len() - 1) as i32
                })
                .collect(),
            Kind::Bytes(bytes) => {
                let start = random.below(bytes.len() - self.seq_len);
                bytes[start..=start + self.seq_len].iter().map(|byte| i32::from(*byte)).collect()
            }
        }
    }
}

/// Cumulative shares of a Zipf distribution with exponent 1 over `vocab` tokens.
fn zipf(vocab: usize) -> Vec<f64> {
    let total: f64 = (1..=vocab).map(|rank| 1.0 / rank as f64).sum();
    let mut sum = 0.0;
    (1..=vocab)
        .map(|rank| {
            sum += 1.0 / rank as f64 / total;
            sum
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::preset;

    #[test]
    fn targets_are_the_tokens_that_follow() {
        let file = std::env::temp_dir().join("stepwatch-model-data-test.txt");
        std::fs::write(&file, (0..=255).collect::<Vec<u8>>()).unwrap();
        let config =
            StepConfig { data: Data::File(file.clone()), ..StepConfig::example(preset("tiny").unwrap(), 3, 200) };
        let source = Source::open(&config, 1).unwrap();
        let batch = source.batch(0);
        assert_eq!(batch.ids.len(), 600);
        assert!(batch.ids.iter().zip(&batch.targets).all(|(id, target)| id + 1 == *target));
        assert_eq!(source.batch(0), batch);
        assert_ne!(source.batch(1), batch);
        // One window only: the whole file.
        let whole = Source::open(&StepConfig { seq_len: 255, ..config.clone() }, 1).unwrap();
        assert_eq!(whole.batch(5).ids[0], 0);
        let error = Source::open(&StepConfig { seq_len: 256, ..config }, 1).unwrap_err().to_string();
        assert_eq!(error, format!("data file {} has 256 bytes: seq_len 256 needs at least 257", file.display()));
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn zipf_draws_token_0_as_often_as_its_share() {
        let config = StepConfig::example(preset("tiny").unwrap(), 16, 1024);
        let batch = Source::open(&config, 3).unwrap().batch(0);
        let share = batch.ids.iter().filter(|id| **id == 0).count() as f64 / batch.ids.len() as f64;
        // 1 / H(256) = 0.163
        assert!((share - 0.163).abs() < 0.01, "{share}");
        assert!(batch.ids.iter().chain(&batch.targets).all(|id| (0..256).contains(id)));
    }

    #[test]
    fn a_missing_file_is_named() {
        let data = Data::File("/nonexistent/corpus.txt".into());
        let config = StepConfig { data, ..StepConfig::example(preset("tiny").unwrap(), 1, 8) };
        assert!(Source::open(&config, 1).unwrap_err().to_string().starts_with("data file /nonexistent/corpus.txt: "));
    }
}
