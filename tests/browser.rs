//! The report in a real browser: headless Chromium opens it from disk, its script runs without an error, and it asks the
//! network for nothing. `ci/check` installs Chromium where it is missing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it cannot go on")]

use std::path::Path;
use std::process::Command;

use stepwatch_tests::{only_run, said, stepwatch};

const SCENARIO: &str = r#"
[scenario]
name  = "browser"
title = "A <script>alert(1)</script> & \"quoted\" title ☃"

[[matrix]]
workload = "echo"
size     = [1, 2]
kind     = ["a<b>", "c&d"]

[workloads.echo]
command = ["sh", "-c", "for i in 1 2 3 4 5; do echo rate: {size}00$i; done", "{kind}"]
axes    = { size = [1, 2], kind = ["a<b>", "c&d"] }
metrics.rate = { regex = 'rate: (\d+)', unit = "1/s", better = "higher" }

[measure]
rounds = { min = 2, max = 2 }

[policy]
gate = ["rate"]
"#;

/// Opens a file and gives back the page as the browser sees it after its script ran, and what the browser logged.
fn open(page: &Path, scratch: &Path) -> (String, String) {
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=2000"])
        .arg(format!("--user-data-dir={}", scratch.join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap_or_else(|error| panic!("chromium could not be started ({error}): ci/check installs it"));
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_report_opens_without_errors_and_hostile_names_stay_text() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("browser.toml"), SCENARIO).unwrap();
    let output = stepwatch(scratch.path(), &["run", "browser.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report = only_run(scratch.path(), "browser").join("report.html");

    let (dom, log) = open(&report, scratch.path());
    assert!(dom.contains("</html>"), "no page: {dom}\n{log}");
    // Console messages of the page carry its file name; the browser's own chatter does not.
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert!(!dom.contains("<script>alert(1)"), "the title became markup");
    assert!(dom.contains("&lt;script&gt;alert(1)"), "the title is not shown");
    assert!(dom.contains("a&lt;b&gt;"), "an axis value is not shown as text");

    let source = std::fs::read_to_string(&report).unwrap();
    for request in ["src=\"http", "href=\"http", "url(http", "@import", "<link", "fetch(", "XMLHttpRequest"] {
        assert!(!source.contains(request), "the report would ask the network: {request}");
    }
}
