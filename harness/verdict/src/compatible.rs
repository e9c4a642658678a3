//! Whether two runs may be compared at all, and what else differs between them.

use stepwatch_record::figure::Summary;
use stepwatch_record::machine::{Gpu, Machine};

/// What forbids comparing the two, one line each; empty if nothing does.
///
/// `same` is the policy's `reference.same`. The backend must always match. On the CPU the processor and its cores must
/// match too, and what speaks of GPUs is not asked. Scripted runs (`null`) have no machine to differ.
#[must_use]
pub fn obstacles(this: &Summary, that: &Summary, same: &[String]) -> Vec<String> {
    if this.backend != that.backend {
        return vec![format!("the backend differs: {}, in the reference {}", this.backend, that.backend)];
    }
    let asked: Vec<&str> = match this.backend.as_str() {
        "null" => vec![],
        "cpu" => {
            let own = same.iter().map(String::as_str).filter(|key| !ON_A_GPU.contains(key) && *key != "cpu");
            std::iter::once("cpu").chain(own).collect()
        }
        _ => same.iter().map(String::as_str).collect(),
    };
    asked.into_iter().filter_map(|key| obstacle(this, that, key)).collect()
}

/// What differs and does not forbid comparing: code, libraries, drivers, one line each.
#[must_use]
pub fn differences(this: &Summary, that: &Summary) -> Vec<String> {
    let mut lines = Vec::new();
    let mut differ = |what: &str, mine: String, theirs: String| {
        if mine != theirs {
            lines.push(format!("{what}: {}, in the reference {}", or_none(&mine), or_none(&theirs)));
        }
    };
    differ("stepwatch", this.build.version.clone(), that.build.version.clone());
    differ("binary", this.build.binary.clone(), that.build.binary.clone());
    differ("commit", commit(this), commit(that));
    differ("host", listed(this, |m| m.host.clone()), listed(that, |m| m.host.clone()));
    differ("operating system", listed(this, |m| m.os.clone()), listed(that, |m| m.os.clone()));
    for key in KEYS {
        differ(label(key), described(this, key), described(that, key));
    }
    lines
}

/// The keys of `reference.same`.
const KEYS: [&str; 6] = ["gpu", "driver", "power_limit", "libraries", "device", "cpu"];
/// Those that mean nothing where no GPU is used.
const ON_A_GPU: [&str; 4] = ["gpu", "driver", "power_limit", "device"];

fn obstacle(this: &Summary, that: &Summary, key: &str) -> Option<String> {
    if !KEYS.contains(&key) {
        return Some(format!("the policy asks for the same `{key}`, which is none of {}", KEYS.join(", ")));
    }
    let (mine, theirs) = (described(this, key), described(that, key));
    (mine != theirs)
        .then(|| format!("{} differs: {}, in the reference {}", label(key), or_none(&mine), or_none(&theirs)))
}

fn label(key: &str) -> &'static str {
    match key {
        "gpu" => "the GPU",
        "driver" => "the driver",
        "power_limit" => "the power limit",
        "libraries" => "a library",
        "device" => "the card",
        _ => "the processor",
    }
}

/// What a run says of one key, as text that is equal exactly if the key is the same.
fn described(summary: &Summary, key: &str) -> String {
    let of_gpus = |pick: fn(&Gpu) -> String| listed(summary, |m| sorted(m.gpus.iter().map(pick).collect(), " + "));
    match key {
        "gpu" => of_gpus(|gpu| gpu.name.clone()),
        "driver" => listed(summary, |m| m.driver.clone().unwrap_or_default()),
        // Whole watts: NVML reports milliwatts and some boards round-trip them inexactly.
        "power_limit" => of_gpus(|gpu| gpu.power_limit_w.map_or_else(String::new, |watts| format!("{watts:.0} W"))),
        "libraries" => listed(summary, |m| {
            let mut libraries: Vec<String> = m.libraries.iter().map(|l| format!("{} {}", l.name, l.version)).collect();
            libraries.sort();
            libraries.dedup();
            libraries.join(", ")
        }),
        "device" => of_gpus(|gpu| gpu.uuid.clone()),
        _ => listed(summary, |m| format!("{}, {} cores", m.cpu, m.cpu_cores)),
    }
}

/// One text over all machines of a run, independent of their order; equal machines are named once.
fn listed(summary: &Summary, pick: impl Fn(&Machine) -> String) -> String {
    let mut texts: Vec<String> = summary.machines.iter().map(pick).collect();
    texts.sort();
    texts.dedup();
    texts.join("; ")
}

fn sorted(mut texts: Vec<String>, separator: &str) -> String {
    texts.sort();
    texts.join(separator)
}

fn commit(summary: &Summary) -> String {
    let commit = summary.build.commit.clone().unwrap_or_default();
    if summary.build.dirty && !commit.is_empty() { format!("{commit} with uncommitted changes") } else { commit }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}
