//! Findings on what NVML saw of the GPU around and during the rounds: processes of others, and errors of its own.

use stepwatch_record::CellId;
use stepwatch_record::finding::{Finding, Kind, Severity};
use stepwatch_record::machine::GpuWatch;
use stepwatch_record::run::{RoundRecord, Run};

use crate::wording::{count, number};

/// Rounds during which somebody else was on the GPU.
pub(super) fn foreign_process(run: &Run) -> Option<Finding> {
    let (cells, evidence, rounds) = lines(run, |watch| {
        let (before, after) = (watch.before.other_processes.unwrap_or(0), watch.after.other_processes.unwrap_or(0));
        let meanwhile = watch.other_processes_meanwhile;
        let used = watch.before.memory_used_bytes.filter(|_| before > 0);
        let used = used.map(|bytes| format!("; {} GiB in use before", number(bytes as f64 / f64::from(1 << 30))));
        (before.max(after).max(meanwhile) > 0).then(|| {
            format!(
                "other processes: {before} before, {meanwhile} meanwhile, {after} after{}",
                used.unwrap_or_default()
            )
        })
    });
    (rounds > 0).then(|| Finding {
        kind: Kind::ForeignProcess,
        severity: Severity::High,
        sentence: format!(
            "other processes used the GPU during {} of {}: their speed is not the cells' own",
            count(rounds, "round"),
            count(cells.len(), "cell")
        ),
        evidence,
        next_step:
            "end what else runs there (`nvidia-smi`, `stepwatch doctor`), or choose another GPU with `--device`, and \
                    measure again"
                .to_owned(),
        command: String::new(),
        cells,
    })
}

/// Workers during which the GPU reported uncorrected memory errors, or the driver an Xid.
pub(super) fn errors(run: &Run) -> Option<Finding> {
    let (cells, evidence, rounds) = lines(run, |watch| {
        let mut said = Vec::new();
        if let Some(xid @ [_, ..]) = watch.xid.as_deref() {
            let codes: Vec<String> = xid.iter().map(ToString::to_string).collect();
            said.push(format!("Xid {}", codes.join(", ")));
        }
        if let (Some(before), Some(after)) = (watch.before.ecc_uncorrected, watch.after.ecc_uncorrected)
            && after > before
        {
            said.push(count(usize::try_from(after - before).unwrap_or(usize::MAX), "uncorrected memory error"));
        }
        (!said.is_empty()).then(|| said.join(" and "))
    });
    (rounds > 0).then(|| Finding {
        kind: Kind::GpuErrors,
        severity: Severity::High,
        sentence: format!(
            "the GPU reported errors of its own during {} of {}: neither speed nor numbers can be trusted there",
            count(rounds, "worker"),
            count(cells.len(), "cell")
        ),
        evidence,
        next_step:
            "look the Xid up in NVIDIA's list and the errors in `nvidia-smi -q -d ECC`, and take the GPU out of \
                    service until it was reset"
                .to_owned(),
        command: String::new(),
        cells,
    })
}

/// One line for each worker of which `what` has something to say, with the cells and the number of those workers.
fn lines(run: &Run, what: impl Fn(&GpuWatch) -> Option<String>) -> (Vec<CellId>, Vec<String>, usize) {
    /// More of them say nothing new.
    const MOST: usize = 12;
    let records = run.prepared.iter().chain(run.rounds.iter().map(|round| &round.record));
    let (mut cells, mut evidence, mut found): (Vec<CellId>, Vec<String>, usize) = Default::default();
    for record in records {
        let Some(text) = record.gpu.as_ref().and_then(&what) else { continue };
        found += 1;
        if found <= MOST {
            evidence.push(format!("{}, {}: {text}", record.cell, which(record)));
        }
        if !cells.contains(&record.cell) {
            cells.push(record.cell.clone());
        }
    }
    if found > MOST {
        evidence.push(format!("and {} more", found - MOST));
    }
    (cells, evidence, found)
}

fn which(record: &RoundRecord) -> String {
    record.round.map_or_else(|| "prepare".to_owned(), |round| format!("round {}", round + 1))
}
