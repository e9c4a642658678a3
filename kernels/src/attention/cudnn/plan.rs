//! From an operation graph to something that runs: what cuDNN's heuristics offer for a device, the first of it that
//! compiles, and its execution on a stream. It may not know what the graph computes.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::rc::Rc;

use cudarc::driver::sys::CUstream;

use super::CudnnError;
use super::descriptor::{Descriptor, HandlePointer, Heuristic, Kind, Knob, Memory, Name};
use super::graph::{ALIGNMENT, Graph, Source};
use super::library::{Library, Raw};

/// More than an engine has: `CUDNN_KNOB_TYPE_COUNTS` is 44 in cuDNN 9.19.
const MOST_KNOBS: usize = 64;

/// cuDNN at work on the device whose context was current when it was opened. It stays on that thread.
#[derive(Debug)]
pub struct Handle {
    library: Rc<Library>,
    raw: Raw,
    device: Descriptor,
}

impl Handle {
    /// Opens cuDNN on the current context's device.
    ///
    /// # Errors
    /// If no context is current, or cuDNN does not support the device or its driver.
    pub fn open(library: &Rc<Library>) -> Result<Rc<Self>, CudnnError> {
        let mut raw = ptr::null_mut();
        // SAFETY: cuDNN writes the new handle to the live pointer.
        library.checked("cudnnCreate", unsafe { (library.functions.create)(&raw mut raw) })?;
        let device = Descriptor::new(library, Kind::DeviceProperties, |device| {
            device.set(Name::DevicePropertiesHandle, &[HandlePointer(raw)])
        });
        match device {
            Ok(device) => Ok(Rc::new(Self { library: Rc::clone(library), raw, device })),
            Err(error) => {
                // SAFETY: made above, used by nothing.
                unsafe { (library.functions.destroy)(raw) };
                Err(error)
            }
        }
    }

    /// The library it is of.
    #[must_use]
    pub const fn library(&self) -> &Rc<Library> {
        &self.library
    }

    pub(super) const fn device(&self) -> &Descriptor {
        &self.device
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made in `open`, destroyed once here; whatever runs through it holds an `Rc` of it.
        unsafe { (self.library.functions.destroy)(self.raw) };
    }
}

/// Which of cuDNN's engines runs a graph, and how: what a plan records.
///
/// Whether an engine repeats itself bitwise is not said: cuDNN 9.19 has a note for it that it does not set on the backward
/// engines of an H100, whose dQ differs from run to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// The engine's number within the graph's pattern.
    pub index: i64,
    /// Its settings: (`cudnnBackendKnobType_t`, value).
    pub knobs: Vec<(i32, i64)>,
}

impl Engine {
    fn of(config: &Descriptor) -> Result<Self, CudnnError> {
        let engine = config.inners(Name::ConfigEngine, Kind::Engine, 1)?;
        let engine = engine.first().ok_or(CudnnError::Unsupported { reason: "an engine without a number".into() })?;
        let choices = config.inners(Name::ConfigKnobChoices, Kind::KnobChoice, MOST_KNOBS)?;
        let knobs = choices
            .iter()
            .map(|choice| Ok((choice.get_one(Name::KnobType, Knob(0))?.0, choice.get_one(Name::KnobValue, 0_i64)?)));
        Ok(Self { index: engine.get_one(Name::EngineIndex, 0_i64)?, knobs: knobs.collect::<Result<_, CudnnError>>()? })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine {}", self.index)?;
        for (at, (knob, value)) in self.knobs.iter().enumerate() {
            write!(f, "{}k{knob}={value}", if at == 0 { " " } else { "," })?;
        }
        Ok(())
    }
}

/// A graph compiled for a device.
#[derive(Debug)]
pub(super) struct Plan {
    plan: Descriptor,
    engine: Engine,
    bindings: Vec<(i64, Source)>,
    /// Scratch of the graph's own tensors, bytes; cuDNN's workspace comes after it.
    scratch: usize,
    workspace: usize,
}

impl Plan {
    /// The plans that heuristics offer, best first, at most `most` of them.
    pub(super) fn offered(device: &Descriptor, graph: &Graph, most: usize) -> Result<Vec<Self>, CudnnError> {
        let operations = graph.finish()?;
        let (mut plans, mut rejections) = (Vec::new(), Vec::new());
        for mode in [Heuristic::A, Heuristic::Fallback] {
            let configs = match configurations(device, &operations, mode) {
                Ok(configs) => configs,
                Err(error) => {
                    rejections.push(error);
                    continue;
                }
            };
            for config in configs {
                if plans.len() == most {
                    return Ok(plans);
                }
                match Self::compile(device, graph, &config) {
                    Ok(plan) => plans.push(plan),
                    Err(error) => rejections.push(error),
                }
            }
        }
        if plans.is_empty() { Err(reason(rejections)) } else { Ok(plans) }
    }

    fn compile(device: &Descriptor, graph: &Graph, config: &Descriptor) -> Result<Self, CudnnError> {
        let plan = Descriptor::new(device.library(), Kind::ExecutionPlan, |plan| {
            plan.set_inner(Name::PlanEngineConfig, config)?;
            plan.set_inner(Name::PlanDeviceProperties, device)
        })?;
        let workspace = plan.get_one(Name::PlanWorkspaceSize, 0_i64)?;
        Ok(Self {
            engine: Engine::of(config)?,
            plan,
            bindings: graph.bindings().to_vec(),
            scratch: graph.scratch(),
            workspace: usize::try_from(workspace).unwrap_or_default(),
        })
    }

    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) const fn scratch_bytes(&self) -> usize {
        self.scratch + self.workspace
    }
}

/// Why there is no plan: what broke, if something did, else what is not supported.
fn reason(rejections: Vec<CudnnError>) -> CudnnError {
    let mut reasons: Vec<String> = Vec::new();
    for rejection in rejections {
        if !rejection.is_unsupported() {
            return rejection;
        }
        let text = rejection.to_string();
        if !reasons.contains(&text) {
            reasons.push(text);
        }
    }
    // An engine that needs libnvrtc does not offer itself where cuDNN cannot load it.
    let nothing = || "no engine offers itself; is the toolkit's libnvrtc where the loader looks?".into();
    CudnnError::Unsupported { reason: if reasons.is_empty() { nothing() } else { reasons.join("; ") } }
}

fn configurations(
    device: &Descriptor,
    operations: &Descriptor,
    mode: Heuristic,
) -> Result<Vec<Descriptor>, CudnnError> {
    let heuristic = Descriptor::new(device.library(), Kind::EngineHeuristic, |heuristic| {
        heuristic.set_inner(Name::HeuristicOperationGraph, operations)?;
        heuristic.set(Name::HeuristicMode, &[mode])?;
        heuristic.set_inner(Name::HeuristicDeviceProperties, device)
    })?;
    let count = heuristic.count_inners(Name::HeuristicResults)?;
    heuristic.inners(Name::HeuristicResults, Kind::EngineConfig, count)
}

/// A plan with its memory: what is enqueued step after step.
#[derive(Debug)]
pub struct Launch {
    handle: Rc<Handle>,
    plan: Rc<Plan>,
    pack: Descriptor,
    // cuDNN reads the scalars through the pack at every execution.
    _scalars: Box<[f32]>,
}

impl Launch {
    pub(super) fn new(
        handle: &Rc<Handle>,
        plan: &Rc<Plan>,
        operand: impl Fn(&str) -> u64,
        scratch: u64,
    ) -> Result<Self, CudnnError> {
        let scalars: Box<[f32]> = plan
            .bindings
            .iter()
            .filter_map(|(_, source)| if let Source::Scalar(value) = source { Some(*value) } else { None })
            .collect();
        let mut scalar = scalars.iter();
        let (mut ids, mut pointers) = (Vec::new(), Vec::new());
        for &(id, source) in &plan.bindings {
            let address = |name: &'static str, start: u64, offset: u64| {
                let address = start + offset;
                if start == 0 || !address.is_multiple_of(ALIGNMENT) {
                    return Err(CudnnError::Address { name, address });
                }
                Ok(ptr::with_exposed_provenance_mut::<c_void>(usize::try_from(address).unwrap_or_default()))
            };
            pointers.push(Memory(match source {
                Source::Operand(name, offset) => address(name, operand(name), offset)?,
                Source::Scratch(offset) => address("scratch", scratch, offset)?,
                Source::Scalar(_) => {
                    scalar.next().map_or(ptr::null_mut(), |value| ptr::from_ref(value).cast_mut().cast())
                }
            }));
            ids.push(id);
        }
        let workspace = usize::try_from(scratch).unwrap_or_default() + plan.scratch;
        let pack = Descriptor::new(handle.library(), Kind::VariantPack, |pack| {
            pack.set(Name::PackIds, &ids)?;
            pack.set(Name::PackPointers, &pointers)?;
            pack.set(Name::PackWorkspace, &[Memory(ptr::with_exposed_provenance_mut(workspace))])
        })?;
        Ok(Self { handle: Rc::clone(handle), plan: Rc::clone(plan), pack, _scalars: scalars })
    }

    /// Enqueues it. Returns at once; may be called while the stream is captured.
    ///
    /// # Safety
    /// The operands and the scratch memory it was bound to are device memory of the sizes of the op's signature and of
    /// `scratch_bytes`, alive until the stream is done with them, and, if captured, as long as the graph is replayed.
    /// The stream is of the handle's context.
    ///
    /// # Errors
    /// If cuDNN refuses, or work before it has failed.
    pub unsafe fn enqueue(&self, stream: CUstream) -> Result<(), CudnnError> {
        let (library, handle) = (self.handle.library(), self.handle.raw);
        // SAFETY: handle, plan and pack are live; streams of the driver and of the run-time API are the same.
        unsafe {
            library.checked("cudnnSetStream", (library.functions.set_stream)(handle, stream.cast()))?;
            let status = (library.functions.execute)(handle, self.plan.plan.raw(), self.pack.raw());
            library.checked("cudnnBackendExecute", status)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_broke_is_told_before_what_is_not_supported() {
        let call = |status| CudnnError::Call {
            call: "cudnnBackendFinalize",
            status,
            name: format!("S{status}"),
            detail: "why".into(),
        };
        let found = reason(vec![call(3000), call(3000), call(3001)]).to_string();
        let each = |status| format!("cudnnBackendFinalize: S{status} ({status}): why");
        assert_eq!(found, format!("cuDNN runs no such attention: {}; {}", each(3000), each(3001)));
        assert_eq!(reason(vec![call(3000), call(5001), call(4001)]), call(5001));
        let nothing = reason(Vec::new());
        assert!(nothing.is_unsupported() && nothing.to_string().contains("libnvrtc"), "{nothing}");
    }
}
