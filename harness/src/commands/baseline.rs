//! `stepwatch baseline`: which runs are the reference of a scenario, and why.

use std::fmt::Write;

use super::{CommandError, Places, emit, say};
use crate::exit::Exit;
use crate::judgement::{Against, Judgement, unwritable};
use crate::scenario::known::KnownFiles;
use crate::{baseline, machine, store};

/// Accepts, revokes or lists the runs that a scenario is compared with.
#[derive(Debug, clap::Args)]
pub struct Baseline {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Makes a run one of the references of its scenario.
    Accept(Change),
    /// Takes a run back; its file and both reasons are kept.
    Revoke(Change),
    /// Lists the accepted runs.
    List(List),
}

#[derive(Debug, clap::Args)]
struct Change {
    /// The run: a folder, an id, `latest` or `prev`.
    run: String,
    /// Why; kept with the baseline.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only this scenario.
    scenario: Option<String>,
    #[command(flatten)]
    places: Places,
}

/// Does it.
///
/// # Errors
/// When the run is not fit to be a reference, or files cannot be read or written.
pub fn run(args: &Baseline) -> Result<Exit, CommandError> {
    match &args.action {
        Action::Accept(change) => accept(change),
        Action::Revoke(change) => revoke(change),
        Action::List(list) => show(list),
    }
}

fn accept(args: &Change) -> Result<Exit, CommandError> {
    let reason = reason(args)?;
    let folder = store::find(&args.run, &args.places.out).map_err(CommandError::usage)?;
    let judgement = Judgement::new(super::load(&folder)?, &Against::Nothing, &KnownFiles::default())?;
    let (run, summary) = (judgement.run, judgement.summary);
    // A reference with holes would turn every later comparison of those cells into "new".
    let holes: Vec<&str> = run
        .manifest
        .cells
        .iter()
        .filter(|cell| run.cell_end(&cell.id).is_none())
        .map(|cell| cell.id.0.as_str())
        .collect();
    if let [first, ..] = holes.as_slice() {
        return Err(CommandError::usage(format!(
            "{} is not complete: {} of its cells lack rounds, such as {first}; finish it with `stepwatch run --resume {}`",
            run.manifest.id,
            holes.len(),
            folder.display()
        )));
    }
    if summary.cells.iter().all(|cell| cell.rounds == 0) {
        return Err(CommandError::usage(format!("{} measured nothing: no cell of it completed", run.manifest.id)));
    }
    let failed = summary.cells.iter().filter(|cell| cell.rounds == 0).count();
    if failed > 0 {
        say(format_args!("note: {failed} of its cells did not complete and will not be compared"));
    }
    let path =
        baseline::accept(&args.places.baselines, summary, run.plans, reason, machine::now()).map_err(unwritable)?;
    emit(&format!("{}\n", path.display()))?;
    Ok(Exit::Good)
}

fn revoke(args: &Change) -> Result<Exit, CommandError> {
    let reason = reason(args)?;
    let folder = &args.places.baselines;
    // The run's own folder may be gone: the id is looked for among what was accepted first.
    let scenarios = baseline::scenarios(folder);
    for scenario in &scenarios {
        if baseline::revoke(folder, scenario, &args.run, reason, machine::now()).map_err(CommandError::usage)? {
            say(format_args!("revoked {} of {scenario}", args.run));
            return Ok(Exit::Good);
        }
    }
    let found = store::find(&args.run, &args.places.out).map_err(CommandError::usage)?;
    let manifest = store::load_manifest(&found).map_err(CommandError::usage)?;
    let revoked = baseline::revoke(folder, &manifest.scenario, &manifest.id, reason, machine::now());
    if !revoked.map_err(CommandError::usage)? {
        return Err(CommandError::usage(format!("{} is not an accepted run of {}", manifest.id, manifest.scenario)));
    }
    say(format_args!("revoked {} of {}", manifest.id, manifest.scenario));
    Ok(Exit::Good)
}

fn show(args: &List) -> Result<Exit, CommandError> {
    let folder = &args.places.baselines;
    let scenarios = args.scenario.clone().map_or_else(|| baseline::scenarios(folder), |name| vec![name]);
    let mut text = String::new();
    for scenario in scenarios {
        for accepted in baseline::all(folder, &scenario).map_err(CommandError::usage)? {
            let state = match &accepted.revoked {
                Some(revoked) => format!("revoked {}: {}", revoked.at, super::one_line(&revoked.reason)),
                None => "stands".to_owned(),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{scenario}\t{}\taccepted {}: {}\t{state}",
                accepted.summary.run,
                accepted.accepted,
                super::one_line(&accepted.reason)
            );
        }
    }
    if text.is_empty() {
        say(format_args!("no run is accepted in {}", folder.display()));
    }
    emit(&text)?;
    Ok(Exit::Good)
}

fn reason(args: &Change) -> Result<&str, CommandError> {
    let reason = args.reason.trim();
    if reason.is_empty() {
        return Err(CommandError::usage("--reason is empty: say why, for whoever asks later"));
    }
    Ok(reason)
}
