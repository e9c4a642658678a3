//! How long `report --history` takes for a year of a large sweep, from the run folder to the file, and how long a browser takes to
//! open that: 300 cells, 365 nights of `summary.json`. The goals are two seconds, five megabytes and one second. Prints; `HISTORY_CELLS`, `HISTORY_NIGHTS` and `HISTORY_FOLDER`
//! (kept, and used again) change what is measured.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and stops where it cannot go on")]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use stepwatch::store::{self, RunWriter};
use stepwatch_record::figure::Summary;
use stepwatch_reports::example;
use stepwatch_verdict::figures::summarise;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let (cells, nights) = (number("HISTORY_CELLS", 300), number("HISTORY_NIGHTS", 365));
    let scratch = tempfile::tempdir().unwrap();
    let named = std::env::var_os("HISTORY_FOLDER").map(std::path::PathBuf::from);
    let folder = named.unwrap_or_else(|| scratch.path().to_owned());
    let run = folder.join("runs/sized/20261123T171503Z-7f3a");
    if !run.is_dir() {
        store(&folder, cells, nights);
    }
    let summary = std::fs::metadata(run.join("summary.json")).unwrap().len();
    println!("{cells} cells, {nights} nights, a summary of {:.2} MB", summary as f64 / 1e6);
    for _ in 0..5 {
        let output = folder.join("report.html");
        let began = Instant::now();
        let status = Command::new(env!("CARGO_BIN_EXE_stepwatch"))
            .args(["report", "20261123T171503Z-7f3a", "--history", "runs/sized", "-o", "report.html"])
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        let bytes = std::fs::metadata(output).unwrap().len();
        println!("made in {:.2} s, {:.2} MB", began.elapsed().as_secs_f64(), bytes as f64 / 1e6);
    }
    for _ in 0..3 {
        println!("{}", opened(&folder));
    }
}

/// Times of a headless browser, in the page's own clock from the start of its navigation: when its scripts had run and it was laid
/// out, and how long a filter of its cells takes after that.
fn opened(folder: &Path) -> String {
    const CLOCK: &str = "<pre id=took></pre><script>(function () {\
        document.body.offsetHeight; var ready = performance.now();\
        var form = document.getElementById('filter'); form.q.value = 'fp8 full'; form.oninput();\
        document.body.offsetHeight; var filtered = performance.now();\
        document.getElementById('took').textContent = 'usable after ' + ready.toFixed(0) + ' ms, cells filtered in ' +\
        (filtered - ready).toFixed(0) + ' ms'; })();</script></body>";
    let page = std::fs::read_to_string(folder.join("report.html")).unwrap();
    let timed = folder.join("timed.html");
    std::fs::write(&timed, page.replace("</body>", CLOCK)).unwrap();
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("file://{}", std::path::absolute(&timed).unwrap().display()))
        .output();
    let Ok(output) = output else { return "no chromium: not opened".to_owned() };
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let took = dom.split("<pre id=\"took\">").nth(1).and_then(|rest| rest.split('<').next());
    took.unwrap_or("the page did not say").to_owned()
}

/// Stores a run as a sweep does, and the summaries of the nights before it.
fn store(folder: &Path, cells: usize, nights: usize) {
    let inputs = example::sized(cells, 5, 30);
    let history = example::nights(&inputs, nights);
    let (run, ..) = inputs;
    let mut writer = RunWriter::create(&folder.join("runs/sized").join(&run.manifest.id), &run.manifest).unwrap();
    for plan in &run.plans {
        writer.store_plan(plan).unwrap();
    }
    for profile in &run.profiles {
        writer.store_profile(profile).unwrap();
    }
    for round in &run.rounds {
        writer.append(round.record.clone(), &round.samples).unwrap();
    }
    let summary = summarise(&run);
    store::write_json(&writer.folder().join("summary.json"), &summary).unwrap();
    for (index, night) in history.nights.iter().enumerate() {
        let mut of_night = Summary { run: night.run.clone(), started: night.started.clone(), ..summary.clone() };
        for (cell, trend) in of_night.cells.iter_mut().zip(&history.trends) {
            let Some(value) = trend.values[index] else {
                cell.figures.clear();
                continue;
            };
            for figure in &mut cell.figures {
                let factor = value.point / trend.values[0].map_or(value.point, |value| value.point);
                let estimate = &mut figure.estimate;
                for number in [&mut estimate.point, &mut estimate.low, &mut estimate.high] {
                    *number *= factor;
                }
            }
        }
        let path = folder.join("runs/sized").join(&night.run);
        std::fs::create_dir_all(&path).unwrap();
        store::write_json(&path.join("summary.json"), &of_night).unwrap();
    }
}
