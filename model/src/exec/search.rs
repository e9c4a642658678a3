//! The `search` pass: every distinct matrix product of a list, timed and verified by the kernels crate, what was chosen kept
//! on disk so that cells that share products, and the ceilings of every run, do not search again. It may not know how a product is timed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stepwatch_kernels::gemm::search::{Choice, METHOD, search};
use stepwatch_kernels::gemm::{Algorithm, Gemm, cublaslt};
use stepwatch_kernels::gpu::{Facts, Gpu, GpuError};
use stepwatch_kernels::nvrtc::cache_folder;
use stepwatch_kernels::op::Op;

use crate::ir::Step;

/// What a plan pins for one product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pinned {
    /// What was chosen.
    #[serde(flatten)]
    pub choice: Choice,
    /// What the product does in the step, such as `gate-up forward`.
    pub labels: Vec<String>,
    /// Whether an earlier search had chosen it.
    #[serde(default)]
    pub from_disk: bool,
}

/// A choice on disk, with all that it depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    product: String,
    chip: String,
    /// Of the search that chose; the first one did not say.
    #[serde(default)]
    method: u32,
    choice: Choice,
}

/// The distinct products of a list with what they do, fusions' parts included; what runs once before the first step runs by
/// the same algorithms where it has the same products.
#[must_use]
pub fn products(step: &Step) -> BTreeMap<String, (Gemm, Vec<String>)> {
    let mut found: BTreeMap<String, (Gemm, Vec<String>)> = BTreeMap::new();
    for node in &step.ops {
        let gemms: Vec<&Gemm> = match &node.op {
            Op::Gemm(gemm) => vec![gemm],
            Op::Fused(fused) => {
                let parts = fused.parts.iter();
                parts.filter_map(|part| if let Op::Gemm(gemm) = &part.op { Some(gemm) } else { None }).collect()
            }
            _ => Vec::new(),
        };
        for gemm in gemms {
            let entry = found.entry(gemm.product()).or_insert_with(|| (gemm.clone(), Vec::new()));
            if !entry.1.contains(&node.label) {
                entry.1.push(node.label.clone());
            }
        }
    }
    found
}

/// Finds an algorithm for every product of a list on the first visible GPU, by product.
///
/// # Errors
/// What the GPU, its driver, its libraries or its memory lack, or a product that no algorithm computes right.
pub fn search_all(step: &Step) -> Result<BTreeMap<String, Pinned>, GpuError> {
    let gpu = Gpu::open(0)?;
    let mut pinned = BTreeMap::new();
    for (product, (gemm, labels)) in products(step) {
        if let Some((choice, from_disk)) = choose(&gpu, &gemm)? {
            pinned.insert(product, Pinned { choice, labels, from_disk });
        }
    }
    Ok(pinned)
}

/// What was chosen for a product on this GPU, from the disk or by a search now, and whether from the disk; `None` where there is
/// nothing to choose.
///
/// # Errors
/// As [`search_all`].
pub fn choose(gpu: &Gpu, gemm: &Gemm) -> Result<Option<(Choice, bool)>, GpuError> {
    let (product, chip, library) = (gemm.product(), chip(gpu.facts()), cublaslt::version()?);
    let path = cache_folder().map(|folder| entry_path(&folder.join("algorithms"), &product, &chip, library));
    if let Some(choice) = path.as_deref().and_then(|path| read(path, &product, &chip, library)) {
        return Ok(Some((choice, true)));
    }
    let Some(choice) = search(gpu, gemm)? else { return Ok(None) };
    if let Some(path) = path {
        // A cache that cannot be written costs time at the next search and nothing else.
        let _ = write(&path, &Entry { product, chip, method: METHOD, choice: choice.clone() });
    }
    Ok(Some((choice, false)))
}

/// The algorithms of a plan by product.
///
/// # Errors
/// What cannot be pinned here, and why: another version of the library, or a plan that something else wrote.
pub fn algorithms(plan: &BTreeMap<String, serde_json::Value>) -> Result<Vec<(String, Algorithm)>, String> {
    if plan.is_empty() {
        return Ok(Vec::new());
    }
    let library = cublaslt::version().map_err(|error| error.to_string())?;
    let one = |(product, value): (&String, &serde_json::Value)| {
        let pinned: Pinned = serde_json::from_value(value.clone()).map_err(|error| {
            format!("the plan's algorithm for {product} cannot be read ({error}): prepare the cell again")
        })?;
        if pinned.choice.library != library {
            return Err(format!(
                "the plan's algorithms are of cuBLASLt {}, and cuBLASLt {library} is loaded here, which numbers them anew: prepare the cell again",
                pinned.choice.library
            ));
        }
        Ok((product.clone(), pinned.choice.algorithm))
    };
    plan.iter().map(one).collect()
}

/// What decides how fast algorithms are, in words.
fn chip(facts: &Facts) -> String {
    format!("{}, {} multiprocessors", facts.name, facts.multiprocessors)
}

fn entry_path(folder: &Path, product: &str, chip: &str, library: usize) -> PathBuf {
    let digest = Sha256::digest(format!("{product}\n{chip}\n{library}\n{METHOD}").as_bytes());
    let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    folder.join(format!("{name}.json"))
}

/// An entry's choice; `None` if it is missing, cut short or of something else.
fn read(path: &Path, product: &str, chip: &str, library: usize) -> Option<Choice> {
    let entry: Entry = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let Entry { product: of, chip: on, method, choice } = entry;
    (of == product && on == chip && method == METHOD && choice.library == library).then_some(choice)
}

/// Written aside and renamed: nobody reads half an entry.
fn write(path: &Path, entry: &Entry) -> std::io::Result<()> {
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let aside = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&aside, serde_json::to_vec(entry)?)?;
    std::fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use crate::build::build;
    use crate::config::{Attention, StepConfig, preset};

    fn choice() -> Choice {
        Choice {
            algorithm: Algorithm::try_from("0".repeat(128)).unwrap(),
            settings: "algorithm 1".to_owned(),
            library: 130_100,
            ns: 2.5,
            first_ns: Some(3.0),
            candidates: 7,
            offered: true,
            dropped: vec!["tile 3: wrong".to_owned()],
        }
    }

    #[test]
    fn products_of_a_step_are_listed_once_with_all_they_do() {
        let config = StepConfig {
            precision: Precision::Fp8Tensorwise,
            attention: Attention::Flash,
            ..StepConfig::example(preset("454m").unwrap(), 16, 2048)
        };
        let found = products(&build(&config));
        // Four linears in three roles, and three of the classifier.
        assert_eq!(found.len(), 15, "{:?}", found.keys());
        let forward = &found["32768×8192×1024 e4m3 tensor · e4m3 tensor → bf16, fast accumulation"];
        assert_eq!(forward.1.len(), 1, "{:?}", forward.1);
    }

    #[test]
    fn a_choice_comes_back_from_disk_for_the_same_product_chip_library_and_search_only() {
        let folder = std::env::temp_dir().join(format!("stepwatch-algorithms-{}", std::process::id()));
        let path = entry_path(&folder, "1×2×3", "chip", 130_100);
        assert_eq!(read(&path, "1×2×3", "chip", 130_100), None);
        let entry = |method| Entry { product: "1×2×3".into(), chip: "chip".into(), method, choice: choice() };
        write(&path, &entry(METHOD - 1)).unwrap();
        assert_eq!(read(&path, "1×2×3", "chip", 130_100), None, "of another search");
        write(&path, &entry(METHOD)).unwrap();
        assert_eq!(read(&path, "1×2×3", "chip", 130_100), Some(choice()));
        for (product, chip, library) in [("1×2×4", "chip", 130_100), ("1×2×3", "other", 130_100), ("1×2×3", "chip", 1)]
        {
            assert_eq!(read(&path, product, chip, library), None);
            assert_ne!(entry_path(&folder, product, chip, library), path);
        }
        std::fs::write(&path, "{").unwrap();
        assert_eq!(read(&path, "1×2×3", "chip", 130_100), None, "cut short");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_plan_keeps_what_was_chosen_and_refuses_what_it_does_not_know() {
        let pinned = Pinned { choice: choice(), labels: vec!["qkv forward".into()], from_disk: false };
        let value = serde_json::to_value(&pinned).unwrap();
        assert_eq!(value["first_ns"], 3.0);
        assert_eq!(serde_json::from_value::<Pinned>(value).unwrap(), pinned);
        assert_eq!(algorithms(&BTreeMap::new()), Ok(Vec::new()));
        assert!(algorithms(&BTreeMap::from([("x".to_owned(), serde_json::json!({"algorithm": "12"}))])).is_err());
    }
}
