//! A run judged and shown: what it is compared with, its figures, what was concluded, and the files that hold both.
//!
//! The one place where records, verdict and reports meet. It computes nothing itself.

use std::path::{Path, PathBuf};

use stepwatch_record::comparison::Conclusion;
use stepwatch_record::figure::Summary;
use stepwatch_record::run::Run;
use stepwatch_record::trend::{History, LatestChange};
use stepwatch_reports::view::View;
use stepwatch_verdict::compare::Comparison;
use stepwatch_verdict::compatible::obstacles;
use stepwatch_verdict::history::latest;
use stepwatch_verdict::looks::{self, Doubt};
use stepwatch_verdict::pairs::{self, Sides};

use crate::commands::{self, CommandError};
use crate::exit::Exit;
use crate::scenario::known::KnownFiles;
use crate::store::{self, CONCLUSION, REPORT, SUMMARY, StoreError};
use crate::{baseline, before};

/// What a run is compared with.
#[derive(Debug, Clone)]
pub enum Against {
    /// Nothing: its own figures and claims only.
    Nothing,
    /// The accepted runs of its scenario in this folder, if there are any.
    Accepted(PathBuf),
    /// One run that the user named.
    Named {
        /// As the user named it.
        name: String,
        /// Its folder.
        folder: PathBuf,
    },
}

/// A run with all that was concluded of it.
#[derive(Debug)]
pub struct Judgement {
    /// The run.
    pub run: Run,
    /// Its figures.
    pub summary: Summary,
    /// The runs that it was to be compared with, newest first; which of them may be, the conclusion says.
    pub reference: Vec<Summary>,
    /// The two sides of a run that `--against` made, judged by pairs; it is compared with no other run then.
    pub sides: Option<Sides>,
    /// What was concluded.
    pub conclusion: Conclusion,
}

impl Judgement {
    /// Judges a run; `known` is what lies beside the accepted runs.
    ///
    /// # Errors
    /// When what it is to be compared with cannot be read, or it is a part of a sweep, which is judged once merged.
    pub fn new(run: Run, against: &Against, known: &KnownFiles) -> Result<Self, CommandError> {
        if let Some(shard) = run.manifest.asked.shard {
            return Err(CommandError::usage(format!(
                "{} is part {} of {} of a sweep and is not judged alone: bring the parts together with `stepwatch merge`",
                run.manifest.id, shard.index, shard.of
            )));
        }
        let paired = matches!(against, Against::Accepted(_));
        // Compared with another run, or with nothing, only its own side is of that kind.
        let run = if paired { run } else { pairs::own_side(run) };
        let summary = stepwatch_verdict::figures::summarise(&run);
        let (findings, known) = (run.manifest.asked.findings.clone(), known.of_run(&run.manifest));
        if let Some(conclusion) = stepwatch_verdict::conclude_sides(&run, &summary, findings.clone(), &known) {
            let sides = pairs::sides(&run, &summary);
            return Ok(Self { run, summary, reference: Vec::new(), sides, conclusion });
        }
        let (reference, origin) = reference(&run, &summary, against)?;
        let conclusion = stepwatch_verdict::conclude(&run, &summary, &reference, &origin, findings, &known);
        Ok(Self { run, summary, reference, sides: None, conclusion })
    }

    /// Judges a stored run again. What the runs before it show is what was told when it ended; of a run of which nothing is
    /// stored, what those beside its folder show now.
    ///
    /// # Errors
    /// As [`Self::new`], and when the run cannot be read.
    pub fn again(folder: &Path, against: &Against, known: &KnownFiles) -> Result<Self, CommandError> {
        let judgement = Self::new(commands::load(folder)?, against, known)?;
        Ok(match before::told(&judgement.run.manifest, folder) {
            Some(told) => judgement.with_latest(told),
            None => judgement.searched(folder),
        })
    }

    /// The same with what the runs beside its folder show: what is told, and kept, when a run ends.
    #[must_use]
    pub fn searched(self, folder: &Path) -> Self {
        let found = before::beside(&self.run.manifest, &self.summary, folder);
        self.with_latest(found)
    }

    /// The same with what these nights show.
    #[must_use]
    pub fn over(self, history: &History) -> Self {
        self.with_latest(latest(history))
    }

    fn with_latest(mut self, found: Vec<LatestChange>) -> Self {
        self.conclusion.latest_changes = Some(found);
        self
    }

    /// The nights of its scenario in and below a folder, up to the run.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn nights(&self, folder: &Path, known: &KnownFiles) -> Result<History, CommandError> {
        before::in_folder(&self.run.manifest, &self.summary, folder, known)
    }

    /// The comparison that the verdicts come from.
    #[must_use]
    pub fn comparison(&self) -> Comparison<'_> {
        match &self.sides {
            Some(sides) => Comparison::of_sides(&self.run, sides),
            None => Comparison::new(&self.run, &self.summary, &self.reference),
        }
    }

    /// What is in doubt and could be settled by extra rounds, the most valuable first.
    #[must_use]
    pub fn doubts(&self) -> Vec<Doubt> {
        looks::doubts(&self.comparison(), &self.conclusion.changes, &self.conclusion.claims)
    }

    /// What the reports are made from.
    #[must_use]
    pub fn view(&self) -> View {
        View::new(&self.run, &self.summary, &self.conclusion)
    }

    /// How a command that judged this run exits.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::from_code(self.conclusion.exit_code)
    }

    /// The HTML report; with the nights before it where they were asked for, and then with what those show instead of what
    /// was told when the run ended.
    ///
    /// # Errors
    /// When it cannot be made, which no input makes it do.
    pub fn html(&self, history: Option<&History>) -> Result<String, CommandError> {
        let view = match history {
            Some(history) => {
                let conclusion = Conclusion { latest_changes: Some(latest(history)), ..self.conclusion.clone() };
                View::new(&self.run, &self.summary, &conclusion).with_history(history, &self.run, &conclusion)
            }
            None => self.view(),
        };
        stepwatch_reports::html::render(&view).map_err(unrendered)
    }

    /// Stores figures, conclusion and report in the run's folder; says where the report is.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn store(&self, folder: &Path, history: Option<&History>) -> Result<PathBuf, CommandError> {
        let stored = || -> Result<(), StoreError> {
            store::write_json(&folder.join(SUMMARY), &self.summary)?;
            store::write_json(&folder.join(CONCLUSION), &self.conclusion)
        };
        stored().map_err(unwritable)?;
        let report = folder.join(REPORT);
        store::write_whole(&report, self.html(history)?.as_bytes()).map_err(unwritable)?;
        Ok(report)
    }
}

/// What was measured is safe, and what was asked for on top of it could not be stored.
#[must_use]
pub fn unwritable(error: StoreError) -> CommandError {
    CommandError::new(Exit::CellsFailed, error)
}

/// A report that cannot be made of what we concluded ourselves is our fault.
#[must_use]
pub fn unrendered(error: stepwatch_reports::ReportError) -> CommandError {
    CommandError::new(Exit::Bug, format!("the report cannot be made: {error}"))
}

fn reference(run: &Run, summary: &Summary, against: &Against) -> Result<(Vec<Summary>, String), CommandError> {
    let manifest = &run.manifest;
    match against {
        Against::Nothing => Ok((Vec::new(), String::new())),
        Against::Accepted(folder) => {
            let policy = &manifest.policy;
            let fits = |that: &Summary| obstacles(summary, that, &policy.reference_same).is_empty();
            let accepted = baseline::reference(folder, &manifest.scenario, policy.reference_runs, &manifest.id, fits);
            let accepted = accepted.map_err(CommandError::usage)?;
            Ok((accepted.into_iter().map(|accepted| accepted.summary).collect(), "accepted baseline".to_owned()))
        }
        Against::Named { name, folder } => {
            let other = pairs::own_side(store::load(folder).map_err(CommandError::usage)?);
            Ok((vec![stepwatch_verdict::figures::summarise(&other)], name.clone()))
        }
    }
}
