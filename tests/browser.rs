//! The report in a real browser: headless Chromium opens it from disk, a script drives what a reader does, and the page asks the
//! network for nothing. `ci/check` installs Chromium where it is missing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it cannot go on")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use stepwatch_tests::{only_run, said, stepwatch};

const SCENARIO: &str = r#"
[scenario]
name    = "browser"
title   = "A <script>alert(1)</script> & \"quoted\" title ☃"
backend = "cpu"

[[matrix]]
workload = "echo"
size     = [1, 2]
kind     = ["a<b>", "c&d"]

[[matrix]]
model     = "tiny"
precision = ["fp32", "bf16"]
compile   = ["none", "full"]

[step]
batch_size = 1
seq_len    = 16

[workloads.echo]
command = ["sh", "./worker.sh", "{size}", "{kind}"]
axes    = { size = [1, 2], kind = ["a<b>", "c&d"] }
metrics.rate = { regex = 'rate: (\S+)', unit = "1/s", better = "higher" }

[measure]
rounds  = 2
warmup  = 1
samples = 3

[policy]
gate = ["rate"]
"#;

/// Prints rates a little above 1000, scaled.
fn worker(folder: &Path, factor: &str) {
    let script = format!("awk -v r=$STEPWATCH_ROUND 'BEGIN {{ print \"rate:\", 1000 * {factor} * (1 + r / 100000) }}'");
    std::fs::write(folder.join("worker.sh"), script).unwrap();
}

/// A run that is slower than its baseline, with profiles and 20 nights before it.
fn report(folder: &Path) -> PathBuf {
    std::fs::write(folder.join("browser.toml"), SCENARIO).unwrap();
    worker(folder, "1");
    let output = stepwatch(folder, &["run", "browser.toml", "--out", "first"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let first = std::fs::read_dir(folder.join("first/browser")).unwrap().next().unwrap().unwrap().path();
    let first_name = first.to_str().unwrap();
    let output = stepwatch(folder, &["baseline", "accept", first_name, "--reason", "first"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let summary = std::fs::read_to_string(first.join("summary.json")).unwrap();
    let id = first.file_name().unwrap().to_str().unwrap();
    for night in 0..20 {
        let name = format!("night-{night:02}");
        let place = folder.join("old").join(&name);
        std::fs::create_dir_all(&place).unwrap();
        let mut of_night: serde_json::Value = serde_json::from_str(&summary.replace(id, &name)).unwrap();
        of_night["started"] = format!("2025-01-{:02}T00:00:00Z", night + 1).into();
        std::fs::write(place.join("summary.json"), of_night.to_string()).unwrap();
    }
    worker(folder, "0.9");
    let output = stepwatch(folder, &["run", "browser.toml", "--profile"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    let run = only_run(folder, "browser");
    let output = stepwatch(folder, &["report", run.to_str().unwrap(), "--history", "old"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    run.join("report.html")
}

/// Starts the browser on a page.
fn chromium(scratch: &Path, page: &Path, arguments: &[&str]) -> Output {
    Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=4000"])
        .args(arguments)
        .arg(format!("--user-data-dir={}", scratch.join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap_or_else(|error| panic!("chromium could not be started ({error}): ci/check installs it"))
}

/// What the page said on the console. Its messages carry a mark; the browser's own chatter does not.
fn complaints(output: &Output) -> Vec<String> {
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect()
}

/// The page after its scripts ran.
fn dom(scratch: &Path, page: &Path) -> String {
    let output = chromium(scratch, page, &["--dump-dom"]);
    assert_eq!(complaints(&output), Vec::<String>::new());
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(dom.contains("</html>"), "no page: {}", said(&output));
    dom
}

/// What a reader does, step by step; what it found wrong stands in `#verdict`.
const READER: &str = include_str!("reader.js");

/// What the reader found in a window so wide.
fn read(scratch: &Path, report: &Path, width: u32) -> String {
    let page = scratch.join("read.html");
    let source = std::fs::read_to_string(report).unwrap();
    let (body, end) = source.rsplit_once("</body>").unwrap();
    std::fs::write(&page, format!("{body}<pre id=\"verdict\"></pre><script>{READER}</script></body>{end}")).unwrap();
    let output = chromium(scratch, &page, &["--dump-dom", &format!("--window-size={width},900")]);
    assert_eq!(complaints(&output), Vec::<String>::new());
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = dom.split("<pre id=\"verdict\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    found.unwrap_or_else(|| panic!("the reader left nothing: {}", said(&output))).to_owned()
}

#[test]
fn a_reader_finds_what_the_report_promises_and_hostile_names_stay_text() {
    let scratch = tempfile::tempdir().unwrap();
    let report = report(scratch.path());

    let dom = dom(scratch.path(), &report);
    assert!(!dom.contains("<script>alert(1)"), "the title became markup");
    assert!(dom.contains("&lt;script&gt;alert(1)"), "the title is not shown");
    assert!(dom.contains("a&lt;b&gt;"), "an axis value is not shown as text");
    let source = std::fs::read_to_string(&report).unwrap();
    for request in ["src=\"http", "href=\"http", "url(http", "@import", "<link", "fetch(", "XMLHttpRequest"] {
        assert!(!source.contains(request), "the report would ask the network: {request}");
    }

    assert_eq!(read(scratch.path(), &report, 1280), "all 13 steps hold");
    assert_eq!(read(scratch.path(), &report, 500), "all 13 steps hold");

    let pdf = scratch.path().join("report.pdf");
    let output = chromium(scratch.path(), &report, &[&format!("--print-to-pdf={}", pdf.display())]);
    let printed =
        std::fs::read(&pdf).unwrap_or_else(|error| panic!("nothing was printed ({error}): {}", said(&output)));
    assert!(printed.starts_with(b"%PDF") && printed.len() > 20_000, "{} bytes were printed", printed.len());
}

#[test]
fn without_scripts_every_figure_and_section_is_there() {
    let scratch = tempfile::tempdir().unwrap();
    let report = report(scratch.path());
    // The same page without its scripts: what a reader sees who has them off.
    let source = std::fs::read_to_string(&report).unwrap();
    let mut bare = String::new();
    for (index, part) in source.split("<script").enumerate() {
        bare.push_str(if index == 0 { part } else { part.split_once("</script>").unwrap().1 });
    }
    let page = scratch.path().join("bare.html");
    std::fs::write(&page, bare).unwrap();
    let dom = dom(scratch.path(), &page);
    for section in ["matrix", "changes", "why", "waterfalls", "ladder", "trends", "cells", "provenance"] {
        assert!(dom.contains(&format!("<section id=\"{section}\"")), "{section} is not there");
    }
    assert!(dom.contains("class=\"matrix\"") && dom.contains("▼"), "the matrix is empty");
    assert!(!dom.contains("<button type=\"button\">Copy"), "a button that does nothing is shown");
}
