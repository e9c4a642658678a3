//! One cell of a matrix: its parameters and the id that stays the same when axes are added or reordered.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The value of one parameter of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other finite number.
    Float(f64),
    /// Everything else, as written.
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
        }
    }
}

impl From<&str> for Scalar {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Scalar {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<i64> for Scalar {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Scalar {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for Scalar {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// The parameters of a cell by name, sorted, so that two equal sets have one written form.
pub type Parameters = BTreeMap<String, Scalar>;

/// The workload that is Stepwatch's own training step; every other is a command that the scenario names.
pub const BUILTIN: &str = "builtin";

/// The stable name of a cell: a readable part and a hash, such as `454m/fp8-delayed/cudnn/full~a1b2c3d4`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CellId(pub String);

impl CellId {
    /// Makes the id from the parts a person reads and the identity that tells cells apart.
    ///
    /// `identity` holds the non-default parameters, the model by its resolved dims and the workload by name; nothing
    /// that names the backend, the device, how it is measured or a title. The hash is the first 32 bits of SHA-256
    /// over the canonical JSON of `identity`. Characters that would not be safe in a file name become `-` in the
    /// readable part, so an id never holds a path.
    #[must_use]
    pub fn new(readable: &[&str], identity: &Parameters) -> Self {
        let parts: Vec<String> = readable.iter().filter(|text| !text.is_empty()).map(|text| safe(text)).collect();
        let canonical: Vec<String> =
            identity.iter().map(|(name, value)| format!("{}:{}", quoted(name), canonical(value))).collect();
        let digest = Sha256::digest(format!("{{{}}}", canonical.join(",")).as_bytes());
        let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Self(format!("{}~{hash}", parts.join("/")))
    }

    /// The readable part, before the `~`.
    #[must_use]
    pub fn readable(&self) -> &str {
        self.0.split('~').next().unwrap_or(&self.0)
    }

    /// The id as one path component: `/` becomes `,`; no other character of an id needs escaping.
    #[must_use]
    pub fn file_stem(&self) -> String {
        self.0.replace('/', ",")
    }
}

/// A text as the readable part of an id shows it.
pub(crate) fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() || "-_+.=".contains(c) { c } else { '-' }).collect()
}

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// One written form per value: `1.0` and `1` are the same number, text is quoted.
fn canonical(value: &Scalar) -> String {
    match value {
        Scalar::Bool(value) => value.to_string(),
        Scalar::Integer(value) => value.to_string(),
        Scalar::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => format!("{value:.0}"),
        Scalar::Float(value) => format!("{value:e}"),
        Scalar::Text(value) => quoted(value),
    }
}

/// A cell as planned: who it is, what runs it, with which settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Its stable name.
    pub id: CellId,
    /// `builtin`, or the name of one of the scenario's `[workloads.*]`.
    pub workload: String,
    /// Every parameter with defaults applied.
    pub parameters: Parameters,
    /// The axes this cell was given a value on, in the order of the file: what a table pivots over.
    #[serde(default)]
    pub axes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pairs: &[(&str, Scalar)]) -> Parameters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn the_id_is_pinned_and_independent_of_order() {
        let one = identity(&[("model", "dim=64".into()), ("precision", "bf16".into())]);
        let two = identity(&[("precision", "bf16".into()), ("model", "dim=64".into())]);
        let id = CellId::new(&["tiny", "bf16"], &one);
        assert_eq!(id, CellId::new(&["tiny", "bf16"], &two));
        // Pinned: a change of this value breaks every stored baseline.
        assert_eq!(id.0, "tiny/bf16~4aeb2be2");
    }

    #[test]
    fn equal_numbers_have_one_hash_and_text_is_not_a_number() {
        let id = |value: Scalar| CellId::new(&["x"], &identity(&[("clip", value)]));
        assert_eq!(id(1_i64.into()), id(1.0.into()));
        assert_ne!(id(1_i64.into()), id("1".into()));
        assert_ne!(id(1.0.into()), id(1.5.into()));
    }

    #[test]
    fn hostile_names_stay_one_harmless_path_component() {
        let id = CellId::new(&["../../etc", "<script>", "a\0b"], &Parameters::new());
        assert!(id.readable().chars().all(|c| c.is_alphanumeric() || "-_+.=/".contains(c)), "{id}");
        assert!(!id.file_stem().contains('/'));
    }
}
