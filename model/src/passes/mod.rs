//! The passes: functions from step to step, one per file, listed here in the order in which they run, the list checked
//! between them.

pub mod fusion;
pub mod layout;
pub mod place;

use crate::check::{CheckError, check};
use crate::config::{Compile, Pass};
use crate::exec::Backend;
use crate::ir::Step;
use crate::plan::SkippedPass;

/// A step after its passes.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// The step.
    pub step: Step,
    /// The passes applied, in order.
    pub applied: Vec<Pass>,
    /// The passes asked for that this backend does not have.
    pub skipped: Vec<SkippedPass>,
}

/// Runs the passes that a configuration asks for, as far as the backend has them.
///
/// # Errors
/// The first illegal op, which is a bug in `build` or in the pass before it.
pub fn pipeline(step: Step, compile: &Compile, backend: Backend) -> Result<Compiled, CheckError> {
    check(&step)?;
    let mut compiled = Compiled { step, applied: Vec::new(), skipped: Vec::new() };
    for pass in asked_for(compile) {
        if let Some(reason) = backend.lacks(pass) {
            compiled.skipped.push(SkippedPass { name: pass.name().to_owned(), reason: reason.to_owned() });
            continue;
        }
        compiled.step = match pass {
            Pass::Layout => layout::layout(compiled.step),
            Pass::Fusion => fusion::fusion(compiled.step),
            Pass::Place => place::place(compiled.step),
            // What is left concerns how an executor runs the list, not the list.
            Pass::Search | Pass::Graph => compiled.step,
        };
        check(&compiled.step)?;
        compiled.applied.push(pass);
    }
    Ok(compiled)
}

/// The passes of a configuration, in running order.
#[must_use]
pub fn asked_for(compile: &Compile) -> Vec<Pass> {
    match compile {
        Compile::None => Vec::new(),
        Compile::Passes(passes) => passes.clone(),
        Compile::Full => Pass::ALL.to_vec(),
    }
}
