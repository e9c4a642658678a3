//! How a run was judged, in a few lines for its reader. Each line says what was really done with this run.

use stepwatch_record::run::Run;

use crate::compare::Comparison;
use crate::compare::POWER;
use crate::figures::CONFIDENCE;
use crate::looks;
use crate::wording::{count, fine_percent, percent};

/// The method of a run's figures and comparison.
#[must_use]
pub fn method(run: &Run, comparison: &Comparison<'_>) -> Vec<String> {
    let policy = &run.manifest.policy;
    let mut lines = vec![
        "The observation is the round (one worker process), not the step: steps of one process are not independent. Each \
         round gives one value per metric; tokens per second are tokens over the mean measured step."
            .to_owned(),
        format!(
            "Estimates are geometric means over rounds with Student's t intervals on the log scale ({}).",
            percent(CONFIDENCE)
        ),
        "The spread between rounds is moderated over the cells (Smyth 2004): cells that scatter alike share one pooled \
         variance, cells that scatter unlike rely on their own, and a cell far noisier than the others stands alone; with \
         fewer than 10 cells none is taken to be quieter than the pooled variance."
            .to_owned(),
    ];
    let mut sources: Vec<&str> = run.manifest.peaks.iter().map(|peak| peak.source.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    if !sources.is_empty() {
        lines.push(format!(
            "mfu: model FLOPs a second (6·N + 6·L·d·S a token, causal attention, what is computed again not counted) over the \
             dense peak of the cell's own dtypes: {}.",
            sources.join("; ")
        ));
    }
    if !run.manifest.claims.is_empty() {
        let pairs: usize = run.manifest.claims.iter().map(|claim| claim.pairs.len()).sum();
        lines.push(format!(
            "Claims are judged by the interval of the ratio of two cells; the intervals of {} hold at once at {}.",
            count(pairs, "pair"),
            percent(1.0 - policy.false_alarms)
        ));
    }
    if comparison.usable.is_empty() {
        lines.extend(looks::method(run));
        lines.push(if comparison.given.is_empty() {
            "No reference: nothing was compared over time.".to_owned()
        } else {
            "No reference run may be compared with: nothing was judged over time.".to_owned()
        });
        return lines;
    }
    lines.push(if comparison.paired {
        "Two sides of one run, alternated round by round in random order: the observation is the pair of rounds, each value the \
         log ratio of its two rounds. What the machine does to both rounds of a pair is in no difference."
            .to_owned()
    } else if comparison.usable.len() == 1 {
        "One reference run: how runs of the same code differ from one another is not known and is in no interval, so a \
         difference between two nights of the machine can look like a change. Accept more runs to include it."
            .to_owned()
    } else {
        format!(
            "{} reference runs: how they differ among themselves, together and cell by cell, widens every interval.",
            comparison.usable.len()
        )
    });
    lines.extend(match comparison.canary_shift() {
        _ if comparison.paired => None,
        Some(shift) => Some(format!(
            "The canary, whose work never changes, is {} {} than in the reference runs: what it explains of a speed is taken \
             out before it is judged, and what is not known of how far it explains it widens the interval.",
            percent(shift.point.exp_m1().abs()),
            if shift.point < 0.0 { "slower" } else { "faster" }
        )),
        None => Some("No canary was compared: a slower machine and slower code look the same.".to_owned()),
    });
    lines.push(format!(
        "Intervals are adjusted for {} (Bonferroni, {} each, both ends together), so that the chance of any false regression in \
         the whole run is at most {}.",
        count(comparison.family(), "gated comparison"),
        fine_percent(comparison.confidence()),
        percent(policy.false_alarms)
    ));
    lines.extend(looks::method(run));
    lines.push(format!(
        "Regressed: the interval excludes no change and the estimate passes {}. Unchanged: the whole interval within ± {}. \
         Blind: a worsening of {} would be found with a probability under {}.",
        percent(policy.margin),
        percent(policy.equal_within),
        percent(policy.detect),
        percent(POWER)
    ));
    lines
}
