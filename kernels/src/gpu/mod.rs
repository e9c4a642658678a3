//! The GPU: the only place that asks whether a driver is there and opens a context. Owns the context, one stream, the
//! loaded kernels and the cuBLASLt handle; everything that runs is enqueued here, in order, on that stream.
//!
//! It may not know what ops mean. Nothing here panics on a machine without a GPU: every entry says what is missing.
#![allow(unsafe_code)]

mod error;
pub mod fault;
mod gather;
mod graph;
pub mod launch;
pub mod library;
mod mailbox;
mod memory;
mod prepared;
pub mod probe;
pub mod source;
mod tensor_map;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::OnceLock;

use cudarc::driver::{result, sys};
use serde::{Deserialize, Serialize};

pub use error::GpuError;
pub use graph::{Graph, Marks};
pub use mailbox::{Inbox, Outbox};
pub use memory::Slice;
pub use prepared::Prepared;
pub(crate) use prepared::{Call, Kernel};
pub(crate) use tensor_map::TensorMap;

use crate::attention::Shape;
use crate::attention::cudnn::{self, Direction};
use crate::gemm::{Algorithm, cublaslt};
use crate::nvrtc;
use source::Source;

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its number among the visible devices.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Its UUID, as `GPU-…`, by which NVML knows it.
    pub uuid: String,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Memory, bytes.
    pub memory_bytes: usize,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Second-level cache, bytes.
    pub l2_bytes: usize,
    /// Shared memory that one block may ask for, bytes.
    pub shared_bytes_per_block: usize,
    /// Largest SM clock, Hz.
    pub sm_clock_hz: u64,
    /// CUDA version of the driver, (major, minor).
    pub driver_cuda: (i32, i32),
}

/// Loads the driver and initialises it, once a process.
pub(crate) fn driver() -> Result<(), GpuError> {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: opening the driver's library runs its initialisers, which is what it is for.
    if !*PRESENT.get_or_init(|| unsafe { sys::is_culib_present() }) {
        return Err(GpuError::NoDriver);
    }
    result::init().map_err(|error| GpuError::driver("cuInit", error))
}

/// The visible devices. Opens no context.
///
/// # Errors
/// If there is no driver, or it does not answer.
pub fn devices() -> Result<Vec<Facts>, GpuError> {
    driver()?;
    let count = result::device::get_count().map_err(|error| GpuError::driver("cuDeviceGetCount", error))?;
    (0..usize::try_from(count).unwrap_or_default()).map(facts).collect()
}

fn facts(ordinal: usize) -> Result<Facts, GpuError> {
    use sys::CUdevice_attribute_enum as Attribute;
    let failed = |call: &'static str| move |error| GpuError::driver(call, error);
    let device = result::device::get(i32::try_from(ordinal).unwrap_or(i32::MAX)).map_err(failed("cuDeviceGet"))?;
    // SAFETY: the device handle comes from the driver.
    let attribute =
        |attribute| unsafe { result::device::get_attribute(device, attribute).map_err(failed("cuDeviceGetAttribute")) };
    let size = |value: i32| usize::try_from(value).unwrap_or_default();
    let id = result::device::get_uuid(device).map_err(failed("cuDeviceGetUuid"))?;
    let hex: String = id.bytes.iter().map(|byte| format!("{:02x}", byte.cast_unsigned())).collect();
    let uuid = format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    let mut version = 0;
    // SAFETY: the pointer is to a live integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(failed("cuDriverGetVersion"))?;
    Ok(Facts {
        ordinal,
        name: result::device::get_name(device).map_err(failed("cuDeviceGetName"))?,
        uuid,
        multiprocessors: size(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?),
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }.map_err(failed("cuDeviceTotalMem"))?,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        l2_bytes: size(attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
        shared_bytes_per_block: size(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?),
        sm_clock_hz: u64::try_from(attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?).unwrap_or_default() * 1000,
        driver_cuda: (version / 1000, version % 1000 / 10),
    })
}

/// The device's primary context, held until the last thing that lives in it is gone.
#[derive(Debug)]
pub(crate) struct Context {
    device: sys::CUdevice,
    /// Bytes allocated here and not yet freed, and the most that these ever were.
    live_bytes: Cell<usize>,
    peak_bytes: Cell<usize>,
}

impl Context {
    fn took(&self, bytes: usize) {
        self.live_bytes.set(self.live_bytes.get() + bytes);
        self.peak_bytes.set(self.peak_bytes.get().max(self.live_bytes.get()));
    }

    fn gave_back(&self, bytes: usize) {
        self.live_bytes.set(self.live_bytes.get().saturating_sub(bytes));
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `Gpu::open`, released once here. A failure at the end of a process helps nobody.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// cuDNN's attention of one shape and direction, with the scratch memory that all its launches share.
#[derive(Debug)]
struct CudnnAttention {
    shape: Shape,
    direction: Direction,
    attention: Rc<cudnn::Attention>,
    scratch: Slice,
}

/// A source and what was defined for it.
type ModuleKey = (&'static str, Vec<String>);

/// One device, opened. It stays on the thread that opened it.
#[derive(Debug)]
pub struct Gpu {
    facts: Facts,
    stream: sys::CUstream,
    functions: RefCell<HashMap<(ModuleKey, String), sys::CUfunction>>,
    modules: RefCell<HashMap<ModuleKey, sys::CUmodule>>,
    compiled: RefCell<(usize, usize)>,
    blas: OnceCell<Rc<cublaslt::Handle>>,
    cudnn: OnceCell<Rc<cudnn::Handle>>,
    attention: RefCell<Vec<CudnnAttention>>,
    pins: RefCell<HashMap<String, Algorithm>>,
    context: Rc<Context>,
}

impl Gpu {
    /// Opens a device by its ordinal among the visible ones.
    ///
    /// # Errors
    /// If there is no driver, no such device, or it does not open.
    pub fn open(ordinal: usize) -> Result<Self, GpuError> {
        let failed = |call: &'static str| move |error| GpuError::driver(call, error);
        let found = devices()?;
        let count = found.len();
        let facts = found.into_iter().nth(ordinal).ok_or(GpuError::NoDevice { ordinal, found: count })?;
        let device = result::device::get(i32::try_from(ordinal).unwrap_or(i32::MAX)).map_err(failed("cuDeviceGet"))?;
        // SAFETY: the handle comes from the driver; what is retained is released when the last `Rc<Context>` drops.
        let context = unsafe {
            let raw = result::primary_ctx::retain(device).map_err(failed("cuDevicePrimaryCtxRetain"))?;
            let context = Rc::new(Context { device, live_bytes: Cell::new(0), peak_bytes: Cell::new(0) });
            result::ctx::set_current(raw).map_err(failed("cuCtxSetCurrent"))?;
            context
        };
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("cuStreamCreate"))?;
        Ok(Self {
            facts,
            stream,
            functions: RefCell::default(),
            modules: RefCell::default(),
            compiled: RefCell::default(),
            blas: OnceCell::new(),
            cudnn: OnceCell::new(),
            attention: RefCell::default(),
            pins: RefCell::default(),
            context,
        })
    }

    /// What the device says of itself.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Kernel sources compiled and taken from the disk since the device was opened.
    #[must_use]
    pub fn compiled(&self) -> (usize, usize) {
        *self.compiled.borrow()
    }

    /// Counts sources that were compiled for this device before they were asked for.
    pub fn compiled_ahead(&self, sources: usize) {
        self.compiled.borrow_mut().0 += sources;
    }

    /// The most memory that was allocated here at once, bytes: workspaces included, the driver's own and loaded kernels not.
    #[must_use]
    pub fn peak_bytes(&self) -> usize {
        self.context.peak_bytes.get()
    }

    /// Free and total memory, bytes; other processes' memory is in it, and what the driver has not yet taken back from them.
    ///
    /// # Errors
    /// If the driver does not answer.
    pub fn memory(&self) -> Result<(usize, usize), GpuError> {
        result::mem_get_info().map_err(|error| GpuError::driver("cuMemGetInfo", error))
    }

    /// Enqueues prepared work. Returns at once.
    ///
    /// # Errors
    /// If a launch is refused, or work before it has failed.
    pub fn enqueue(&self, prepared: &Prepared) -> Result<(), GpuError> {
        prepared.enqueue(self.stream)
    }

    /// Waits until everything enqueued is done.
    ///
    /// # Errors
    /// If something enqueued has failed.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(|error| GpuError::driver("cuStreamSynchronize", error))
    }

    pub(crate) const fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// A kernel of a source with some names defined, compiled and loaded when it is first asked for.
    pub(crate) fn function(
        &self,
        source: &'static Source,
        defines: &[String],
        name: &str,
    ) -> Result<sys::CUfunction, GpuError> {
        let key = ((source.name, defines.to_vec()), name.to_owned());
        if let Some(function) = self.functions.borrow().get(&key) {
            return Ok(*function);
        }
        let module = self.module(source, &key.0)?;
        let c_name = std::ffi::CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded and stays so as long as `self`.
        let function = unsafe { result::module::get_function(module, c_name) }
            .map_err(|error| GpuError::driver(format!("cuModuleGetFunction `{name}` of {}", source.name), error))?;
        self.functions.borrow_mut().insert(key, function);
        Ok(function)
    }

    fn module(&self, source: &'static Source, key: &ModuleKey) -> Result<sys::CUmodule, GpuError> {
        if let Some(module) = self.modules.borrow().get(key) {
            return Ok(*module);
        }
        let compiled = nvrtc::cubin(source, &key.1, &nvrtc::architecture(self.facts.capability))?;
        let mut counts = self.compiled.borrow_mut();
        if compiled.cached {
            counts.1 += 1
        } else {
            counts.0 += 1
        }
        // SAFETY: the image is a complete cubin; the driver copies it.
        let module = unsafe { result::module::load_data(compiled.cubin.as_ptr().cast()) }
            .map_err(|error| GpuError::driver(format!("cuModuleLoadData of {}", source.name), error))?;
        self.modules.borrow_mut().insert(key.clone(), module);
        Ok(module)
    }

    /// The cuBLASLt handle with its workspace, made when first asked for.
    pub(crate) fn blas(&self) -> Result<Rc<cublaslt::Handle>, GpuError> {
        if let Some(handle) = self.blas.get() {
            return Ok(Rc::clone(handle));
        }
        let handle = Rc::new(cublaslt::Handle::new(self)?);
        Ok(Rc::clone(self.blas.get_or_init(|| handle)))
    }

    /// Runs every product of these words that is prepared from now on by this algorithm: both from a
    /// [`Choice`](crate::gemm::search::Choice) of the same library's version.
    pub fn pin(&self, product: &str, algorithm: Algorithm) {
        self.pins.borrow_mut().insert(product.to_owned(), algorithm);
    }

    /// The algorithm that is pinned for a product.
    pub(crate) fn pinned(&self, product: &str) -> Option<Algorithm> {
        self.pins.borrow().get(product).copied()
    }

    /// cuDNN's attention of one shape with its scratch memory, compiled when first asked for.
    pub(crate) fn cudnn_attention(
        &self,
        shape: Shape,
        direction: Direction,
    ) -> Result<(Rc<cudnn::Attention>, Slice), GpuError> {
        let mut known = self.attention.borrow_mut();
        if let Some(found) = known.iter().find(|known| known.shape == shape && known.direction == direction) {
            return Ok((Rc::clone(&found.attention), found.scratch.clone()));
        }
        let handle = if let Some(handle) = self.cudnn.get() {
            Rc::clone(handle)
        } else {
            let library = Rc::new(cudnn::Library::load(&library::candidates(cudnn::FILE_NAME))?);
            let handle = cudnn::Handle::open(&library)?;
            Rc::clone(self.cudnn.get_or_init(|| handle))
        };
        let attention = Rc::new(cudnn::Attention::prepare(&handle, shape, direction)?);
        let scratch = self.allocate(attention.scratch_bytes())?;
        known.push(CudnnAttention { shape, direction, attention: Rc::clone(&attention), scratch: scratch.clone() });
        Ok((attention, scratch))
    }

    pub(crate) fn context(&self) -> &Rc<Context> {
        &self.context
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: stream and modules were made by `self`; prepared work that outlives it can no longer be enqueued, since
        // enqueueing needs a `Gpu`. Failures at the end help nobody.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for module in self.modules.borrow().values() {
                let _ = result::module::unload(*module);
            }
            let _ = result::stream::destroy(self.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_gpu_gets_an_error_that_says_what_to_do() {
        match Gpu::open(0) {
            Ok(gpu) => assert_eq!(gpu.facts().ordinal, 0),
            Err(GpuError::NoDriver) => assert_eq!(
                GpuError::NoDriver.to_string(),
                "no NVIDIA driver: libcuda.so.1 is not on the loader's path; install the driver, or run with `--backend cpu`"
            ),
            // A driver without a device, as in containers that were given none.
            Err(error) => assert!(matches!(error, GpuError::NoDevice { .. } | GpuError::Driver { .. }), "{error}"),
        }
        assert!(Gpu::open(usize::MAX).is_err());
    }
}
