//! The two sides of the check of gradients: the cut cell as it runs, and its emulations on the CPU, which it is held to.

use std::thread::ScopedJoinHandle;

use super::first_step::{Watching, first_step_on_gpu, gradients_only, listed, run};
use super::fp32_twin;
use super::ops::OpChecks;
use super::outcome::Outcome;
use super::tolerance::OtherRoundings;
use crate::Precision;
use crate::config::{Attention, StepConfig};
use crate::exec::Backend;
use crate::plan::memory_bytes;
use crate::session::{SessionError, check_memory};

/// The cut cell on the CPU, which is what its gradients are held to.
pub(super) struct Emulations {
    /// The fp32 list.
    pub(super) twin: Outcome,
    /// The recipe's uncompiled list.
    pub(super) plain: Outcome,
    /// The recipe's uncompiled list with other roundings; fp32 has none that could be other.
    pub(super) other: Option<Outcome>,
}

impl Emulations {
    /// Side by side where memory allows: much of each is done by one thread.
    pub(super) fn of(cell: &StepConfig, seed: u64) -> Result<Self, SessionError> {
        let config = on_cpu(cell);
        let gradients = |config: &StepConfig, roundings| {
            let (config, step) = gradients_only(config)?;
            run(&config, step, seed, Watching { ops: None, roundings })
        };
        let fp32 = || gradients(&fp32_twin(&config), None);
        if config.precision == Precision::Fp32 {
            let twin = fp32()?;
            return Ok(Self { plain: twin.clone(), twin, other: None });
        }
        let plain = || gradients(&config, None);
        let other = || gradients(&config, Some(OtherRoundings::new(seed)));
        // fp32 takes the most of the three.
        let together = 3 * memory_bytes(&gradients_only(&fp32_twin(&config))?.1);
        let (twin, plain, other) = if check_memory(together).is_ok() {
            std::thread::scope(|scope| {
                let (plain, other) = (scope.spawn(plain), scope.spawn(other));
                (fp32(), joined(plain), joined(other))
            })
        } else {
            (fp32(), plain(), other())
        };
        Ok(Self { twin: twin?, plain: plain?, other: Some(other?) })
    }
}

/// What a thread came to; its panic goes on in this one.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The cell as the CPU runs it, whose tiled attention means what cuDNN's does.
fn on_cpu(cell: &StepConfig) -> StepConfig {
    let attention = if cell.attention == Attention::Cudnn { Attention::Flash } else { cell.attention };
    StepConfig { attention, ..cell.clone() }
}

/// The step that is checked, cut.
pub(super) struct Checked {
    pub(super) own: Outcome,
    /// Roundings that passes declared to have removed.
    pub(super) removed_roundings: usize,
    /// Its products, attention and casts; CPU only.
    pub(super) ops: Option<OpChecks>,
}

impl Checked {
    pub(super) fn of(cell: &StepConfig, backend: Backend, seed: u64) -> Result<Self, SessionError> {
        if backend == Backend::Cuda {
            return Ok(Self { own: first_step_on_gpu(cell, seed)?, removed_roundings: 0, ops: None });
        }
        let config = on_cpu(cell);
        let step = listed(&config, &config.compile, Backend::Cpu)?;
        let removed_roundings = step.removed_roundings.len();
        let mut ops = OpChecks::new(&step, seed);
        let own = run(&config, step, seed, Watching { ops: Some(&mut ops), roundings: None })?;
        Ok(Self { own, removed_roundings, ops: Some(ops) })
    }
}
