//! The shape of the house as a test: which crate may use which, what stands at the top, how files open, and that the
//! dependencies are of allowed licences and not doubled.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it cannot go on")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use stepwatch_tests::root;

/// Which of our crates each of our crates may use, tests aside. Edges point down only.
const MAY_USE: [(&str, &[&str]); 6] = [
    ("stepwatch-record", &[]),
    ("stepwatch-kernels", &[]),
    ("stepwatch-verdict", &["stepwatch-record"]),
    ("stepwatch-reports", &["stepwatch-record"]),
    ("stepwatch-model", &["stepwatch-kernels"]),
    ("stepwatch", &["stepwatch-model", "stepwatch-record", "stepwatch-reports", "stepwatch-verdict"]),
];

/// What a dependency may be licensed under, as single SPDX ids.
const LICENCES: [&str; 12] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unlicense",
    "CC0-1.0",
    "Unicode-3.0",
    "MPL-2.0",
    "0BSD",
];

/// Crates that stand twice in the tree and why we cannot help it.
const DOUBLED: [(&str, &str); 4] = [
    ("syn", "macro crates are moving from version 2 to 3; it is not in the binary"),
    ("thiserror", "the NVML binding is still on version 1"),
    ("thiserror-impl", "the NVML binding is still on version 1"),
    ("libloading", "the NVML binding is still on version 0.8"),
];

fn metadata() -> Value {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--offline", "--all-features"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[test]
fn crates_use_only_what_is_below_them() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let ours = |name: &str| name == "stepwatch" || name.starts_with("stepwatch-");
    for (name, allowed) in MAY_USE {
        let package = packages.iter().find(|package| text(package, "name") == name).unwrap();
        let used: BTreeSet<&str> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"].is_null() && ours(text(dependency, "name")))
            .map(|dependency| text(dependency, "name"))
            .collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert!(used.is_subset(&allowed), "{name} uses {used:?}, and may use {allowed:?}");
    }
}

#[test]
fn the_top_of_the_house_holds_only_its_rooms() {
    let output = Command::new("git").args(["ls-files"]).current_dir(root()).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    let tops: BTreeSet<&str> = listing.lines().filter_map(|path| path.split('/').next()).collect();
    let rooms = ["harness", "scenarios", "kernels", "model", "reports", "ci", "tests"];
    for top in tops {
        let prose = top.ends_with(".md") || top.starts_with("LICENSE") || top.starts_with("Cargo.");
        let settings = top.starts_with('.') || ["clippy.toml", "rustfmt.toml", "rust-toolchain.toml"].contains(&top);
        assert!(rooms.contains(&top) || prose || settings, "`{top}` is no room of the house");
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") && !entry.file_name().to_string_lossy().starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| ["rs", "cu", "cuh"].iter().any(|known| extension == *known))
        {
            found.push(path);
        }
    }
}

#[test]
fn every_file_opens_by_saying_what_it_is_for() {
    let mut files = Vec::new();
    for room in ["harness", "kernels", "model", "reports", "tests"] {
        sources(&root().join(room), &mut files);
    }
    assert!(files.len() > 50, "the search found too few files: {}", files.len());
    let silent: Vec<&PathBuf> = files
        .iter()
        .filter(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let opening = if path.extension().is_some_and(|extension| extension == "rs") { "//!" } else { "//" };
            !text.starts_with(opening)
        })
        .collect();
    assert!(silent.is_empty(), "these files do not open with what they are for: {silent:#?}");
}

#[test]
fn names_that_say_nothing_are_not_used() {
    let mut files = Vec::new();
    for room in ["harness", "kernels", "model", "reports"] {
        sources(&root().join(room), &mut files);
    }
    for path in files {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            !["utils", "util", "helpers", "helper", "manager", "types", "errors", "common", "misc"]
                .contains(&stem.as_str()),
            "{} is named after nothing",
            path.display()
        );
    }
}

#[test]
fn dependencies_have_allowed_licences() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().unwrap() {
        let licence = text(package, "license").replace('/', " OR ");
        // An expression passes if one of its alternatives consists of allowed licences.
        let allowed = licence.trim_matches(['(', ')']).split(" OR ").any(|alternative| {
            alternative.split(" AND ").all(|one| LICENCES.contains(&one.trim_matches(['(', ')', ' '])))
        });
        assert!(allowed, "{} is licensed `{licence}`", text(package, "name"));
    }
}

#[test]
fn no_dependency_stands_twice_in_what_we_ship() {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["tree", "--offline", "-p", "stepwatch", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listing = String::from_utf8(output.stdout).unwrap();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in listing.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            versions.entry(name).or_default().insert(version);
        }
    }
    assert!(versions.len() > 20, "the tree was not read: {listing}");
    let doubled: BTreeMap<&&str, &BTreeSet<&str>> = versions
        .iter()
        .filter(|(name, found)| found.len() > 1 && !DOUBLED.iter().any(|(known, _)| known == *name))
        .collect();
    assert!(doubled.is_empty(), "these crates are built twice: {doubled:#?}");
}
