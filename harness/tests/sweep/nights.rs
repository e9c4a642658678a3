//! `report --history`: the runs before a run as trends, from their summaries alone; what `run` and every twin of it say of them; and `--open`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::stage::{Stage, Told, wait_for};

const SCENARIO: &str = r#"
[scenario]
name = "nights"

[[matrix]]
workload = "script"
kind = ["a", "b"]

[workloads.script]
command = ["sh", "./worker.sh", "{kind}"]
axes = { kind = ["a", "b"] }
metrics.tokens_per_second = { regex = 'tokens/sec: (\S+)', unit = "1/s", better = "higher" }

[measure]
rounds = 2
timeout = "60s"

[policy]
gate = ["tokens_per_second"]
"#;

const ANNOTATIONS: &str = r#"
[[annotation]]
date = 2025-01-21
text = "a <b>new</b> driver"

[[annotation]]
date = 2024-12-01
text = "long before"
"#;

const HEADING: &str = "What the runs before show";
/// What is said of kind a by the first run.
const SINCE: &str = "since night-20 (2025-01-11), 21 runs";

/// A run, and 40 nights before it in which kind a was a third faster until the 20th.
fn stage() -> (Stage, String) {
    let script = "awk -v r=$STEPWATCH_ROUND 'BEGIN { print \"tokens/sec:\", 1000 * (1 + r / 10000) }'";
    let stage = Stage::new(&[("s.toml", SCENARIO), ("worker.sh", script)]);
    stage.run(&["run", "s.toml"]).exits(0);
    let run = stepwatch::store::newest_first(&stage.path("runs"), None)[0].folder.clone();
    fs::create_dir_all(stage.path("baselines")).unwrap();
    fs::write(stage.path("baselines/annotations.toml"), ANNOTATIONS).unwrap();
    let summary: Value = serde_json::from_str(&fs::read_to_string(run.join("summary.json")).unwrap()).unwrap();
    for night in 0..40 {
        let name = format!("night-{night:02}");
        let mut of_night = summary.clone();
        of_night["run"] = name.clone().into();
        of_night["started"] = format!("2025-01-{:02}T{:02}:00:00Z", 1 + night / 2, 12 * (night % 2)).into();
        for cell in of_night["cells"].as_array_mut().unwrap() {
            let level = if cell["cell"]["parameters"]["kind"] == "a" && night < 20 { 1333.0 } else { 1000.0 };
            let point = level * (1.0 + f64::from(night * 7 % 5) / 1000.0);
            let estimate = &mut cell["figures"][0]["estimate"];
            estimate["point"] = point.into();
            estimate["low"] = (point - 1.0).into();
            estimate["high"] = (point + 1.0).into();
        }
        write(&stage.path("old").join(name), &of_night);
    }
    // Another scenario's run, and a run that is damaged.
    let mut other = summary;
    other["scenario"] = "other".into();
    write(&stage.path("old/deeper/other"), &other);
    fs::create_dir_all(stage.path("old/damaged")).unwrap();
    fs::write(stage.path("old/damaged/summary.json"), "{").unwrap();
    (stage, run.display().to_string())
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn write(folder: &Path, summary: &Value) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("summary.json"), summary.to_string()).unwrap();
}

#[test]
fn the_nights_before_a_run_are_in_its_report() {
    let (stage, run) = stage();
    let report = |output: &str| stage.run(&["report", &run, "--history", "old", "-o", output]).exits(0);
    let told = report("one.html");
    assert!(told.stderr.contains("old/damaged/summary.json") && told.stderr.contains("left out"), "{}", told.stderr);
    let page = fs::read_to_string(stage.path("one.html")).unwrap();
    for text in
        ["41 nights, 2 trends: 1 with a lasting change for the worse", "night-20", "a &lt;b&gt;new&lt;/b&gt; driver"]
    {
        assert!(page.contains(text), "{text} is not in the page");
    }
    assert!(!page.contains("long before"), "an annotation from before the first night is shown");
    report("two.html");
    assert!(page == fs::read_to_string(stage.path("two.html")).unwrap(), "two reports of one run differ");
    // Runs that came later change nothing.
    let summary = fs::read_to_string(stage.path("old/night-39/summary.json")).unwrap();
    let later = summary.replace("night-39", "later").replace("2025-01-20T", "2099-01-01T");
    write(&stage.path("old/later"), &serde_json::from_str(&later).unwrap());
    report("three.html");
    assert!(page == fs::read_to_string(stage.path("three.html")).unwrap(), "a later run is in the report");
}

#[test]
fn compare_says_since_when_a_level_has_changed() {
    let (stage, run) = stage();
    let compare = |more: &[&str]| stage.run(&[&["compare", &run], more].concat()).exits(0).stdout;
    assert!(!compare(&[]).contains(HEADING), "a run without others before it");
    let named = ["--history", "old"];
    let text = compare(&named);
    let line = text.lines().skip_while(|line| *line != HEADING).nth(1).unwrap_or_default();
    assert!(line.contains("▼ worse  script/kind=a") && line.contains("since night-20 (2025-01-11), 21 runs"), "{text}");
    assert_eq!(text.matches(" since night-").count(), 1, "{text}");
    let markdown = compare(&[&named[..], &["--format", "markdown"]].concat());
    assert!(
        markdown.contains("### What the runs before show") && markdown.contains("| ▼ worse | `script/kind=a"),
        "{markdown}"
    );
    let told = |more: &[&str]| json(&compare(&[more, &["--format", "json"]].concat()));
    let change = &told(&named)["latest_changes"][0];
    assert_eq!((change["run"].as_str(), change["runs"].as_u64()), (Some("night-20"), Some(21)), "{change}");
    assert!((change["effect"].as_f64().unwrap() + 0.25).abs() < 0.002, "{change}");
    assert!(told(&[]).get("latest_changes").is_none());
    stage.run(&["compare", &run, "--history", "nowhere"]).exits(2);
}

/// Lays the 40 nights, and what lies among them, beside the run, under names from before it.
fn lay_beside(stage: &Stage, run: &str) {
    let beside = Path::new(run).parent().unwrap().to_owned();
    for night in fs::read_dir(stage.path("old")).unwrap() {
        let night = night.unwrap();
        let name = format!("20250101T000000Z-{}", night.file_name().display());
        fs::rename(night.path(), beside.join(name)).unwrap();
    }
}

#[test]
fn of_a_run_that_kept_nothing_the_runs_beside_it_are_searched() {
    let (stage, run) = stage();
    lay_beside(&stage, &run);
    let compare = || stage.run(&["compare", "latest"]).exits(0);
    assert!(!compare().stdout.contains(HEADING), "when it ended there was nothing to say");
    let path = Path::new(&run).join("conclusion.json");
    let mut conclusion = json(&fs::read_to_string(&path).unwrap());
    assert_eq!(conclusion.as_object_mut().unwrap().remove("latest_changes"), Some(serde_json::json!([])));
    for unknown in [&conclusion.to_string(), "{"] {
        fs::write(&path, unknown).unwrap();
        let told = compare();
        assert!(told.stdout.contains(SINCE), "{}", told.stdout);
        assert!(!told.stderr.contains("warning"), "what nobody named is passed over: {}", told.stderr);
    }
    // Of too many bytes the newest are read: here too few for a search.
    let kept = stepwatch::nights::beside(Path::new(&run), &["tokens_per_second".into()], 20_000);
    assert!(kept.len() < 40 && kept.last().unwrap().night.run == "night-39", "{} runs", kept.len());
}

#[test]
fn a_run_says_what_the_runs_before_it_show_and_so_does_every_twin_of_it() {
    let (stage, first) = stage();
    lay_beside(&stage, &first);
    // A damaged run lies among them; so does the first run, which makes this one the 42nd.
    let told = stage.run(&["run", "s.toml"]).exits(0);
    let since = "since night-20 (2025-01-11), 22 runs";
    let line = told.stdout.lines().skip_while(|line| *line != HEADING).nth(1).unwrap_or_default();
    assert!(line.contains("▼ worse  script/kind=a") && line.contains(since), "{}", told.stdout);
    assert!(!told.stderr.contains("warning"), "{}", told.stderr);
    let run = stepwatch::store::newest_first(&stage.path("runs"), None)[0].folder.clone();
    assert_ne!(run.display().to_string(), first);
    let read = |name: &str| fs::read_to_string(run.join(name)).unwrap();
    let (page, conclusion) = (read("report.html"), read("conclusion.json"));
    assert!(page.contains(&format!("<h2>{HEADING}</h2>")) && page.contains(since), "the page");
    let kept = &json(&conclusion)["latest_changes"];
    assert_eq!((kept.as_array().unwrap().len(), &kept[0]["run"]), (1, &"night-20".into()), "{kept}");

    // Whatever becomes of the runs before it, what was told stands.
    let beside = run.parent().unwrap();
    for entry in fs::read_dir(beside).unwrap().map(|entry| entry.unwrap().path()) {
        if entry != run {
            fs::remove_dir_all(entry).unwrap();
        }
    }
    let twin = |command: &str, format: &str| stage.run(&[command, "latest", "--format", format]).exits(0).stdout;
    assert!(twin("compare", "text").contains(since));
    let markdown = twin("compare", "markdown");
    assert!(markdown.contains(&format!("### {HEADING}")) && markdown.contains(since), "{markdown}");
    let junit = twin("compare", "junit");
    assert!(junit.contains("<system-out>what the runs before show: ▼ worse: tokens_per_second −2"), "{junit}");
    assert!(junit.contains(since) && !junit.contains("<failure") && !junit.contains("<error"), "{junit}");
    for command in ["compare", "export"] {
        let change = &json(&twin(command, "json"))["latest_changes"][0];
        assert_eq!((&change["effect"], &change["runs"]), (&kept[0]["effect"], &22.into()), "{command}: {change}");
    }
    let csv = twin("export", "csv");
    assert!(csv.lines().next().unwrap().contains("tokens_per_second.lasting_since"), "{csv}");
    assert_eq!(csv.matches(",night-20,").count(), 1, "{csv}");
    stage.run(&["report", "latest"]).exits(0);
    assert!(read("report.html") == page && read("conclusion.json") == conclusion, "a report made later says otherwise");
}

#[test]
fn a_run_takes_the_nights_before_it_from_a_folder_that_is_named() {
    let (stage, _) = stage();
    let told = stage.run(&["run", "s.toml", "--history", "old"]).exits(0);
    assert!(told.stdout.contains(SINCE), "{}", told.stdout);
    let run = stepwatch::store::newest_first(&stage.path("runs"), None)[0].folder.clone();
    assert!(
        fs::read_to_string(run.join("report.html")).unwrap().contains("41 nights, 2 trends"),
        "no trends are drawn"
    );
    // Without the folder a twin says what was told.
    assert!(stage.run(&["compare", "latest"]).exits(0).stdout.contains(SINCE));
    let before = stepwatch::store::newest_first(&stage.path("runs"), None).len();
    let told = stage.run(&["run", "s.toml", "--history", "nowhere"]).exits(2);
    assert!(told.stderr.contains("nowhere is no folder of runs"), "{}", told.stderr);
    assert_eq!(stepwatch::store::newest_first(&stage.path("runs"), None).len(), before, "a typo costs no run");
}

#[test]
fn a_folder_without_runs_is_said_and_one_that_is_not_there_is_refused() {
    let (stage, run) = stage();
    fs::create_dir_all(stage.path("empty")).unwrap();
    let told = stage.run(&["report", &run, "--history", "empty"]).exits(0);
    assert!(told.stderr.contains("empty holds no earlier run of nights"), "{}", told.stderr);
    let told = stage.run(&["report", &run, "--history", "nowhere"]).exits(2);
    assert!(told.stderr.contains("nowhere cannot be read"), "{}", told.stderr);
}

#[cfg(unix)]
#[test]
fn open_hands_the_report_to_the_browser_that_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let (stage, run) = stage();
    let browser = stage.path("browser.sh");
    fs::write(&browser, "#!/bin/sh\necho \"$1\" > \"$(dirname \"$0\")/opened.part\"\nmv \"$(dirname \"$0\")/opened.part\" \"$(dirname \"$0\")/opened\"\n").unwrap();
    fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).unwrap();
    let browser = browser.display().to_string();
    let output = stage.command(&["report", &run, "--open"]).env("BROWSER", &browser).output().unwrap();
    Told::of(output).exits(0);
    let path = wait_for("the browser", || fs::read_to_string(stage.path("opened")).ok());
    assert!(path.trim().ends_with("report.html") && Path::new(path.trim()).is_file(), "{path}");
}
