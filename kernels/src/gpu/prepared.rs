//! Work prepared once and enqueued every step: kernel launches with their arguments, fills and matrix products. Nothing here
//! allocates, waits or changes from step to step, so that a stream capture sees the same calls.
#![allow(unsafe_code)]

use std::ffi::c_void;

use cudarc::driver::{result, sys};

use super::source::Source;
use super::{Gpu, GpuError, Slice};
use crate::attention::cudnn;
use crate::gemm::cublaslt::Matmul;

/// Most arguments of a kernel.
const MOST_ARGUMENTS: usize = 16;

/// One kernel launch.
#[derive(Debug)]
pub(crate) struct Kernel {
    function: sys::CUfunction,
    name: String,
    grid: [u32; 3],
    block: u32,
    shared: u32,
    /// Argument bytes, each argument from a multiple of 8.
    words: Vec<u64>,
    /// Where each argument starts, in words.
    starts: Vec<usize>,
    /// A size that the launch cannot express.
    overflow: Option<usize>,
    /// Memory of its own that arguments point to.
    tables: Vec<Slice>,
}

impl Kernel {
    /// A kernel of a source by its name, one block of 256 threads until said otherwise.
    pub(crate) fn new(gpu: &Gpu, source: &'static Source, name: &str) -> Result<Self, GpuError> {
        Self::specialised(gpu, source, &[], name)
    }

    /// The same of a source that is compiled with some names defined.
    pub(crate) fn specialised(
        gpu: &Gpu,
        source: &'static Source,
        defines: &[String],
        name: &str,
    ) -> Result<Self, GpuError> {
        let function = gpu.function(source, defines, name)?;
        let name = name.to_owned();
        let (words, starts, tables) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { function, name, grid: [1; 3], block: 256, shared: 0, words, starts, overflow: None, tables })
    }

    pub(crate) fn block(mut self, threads: usize) -> Self {
        self.block = u32::try_from(threads).unwrap_or(u32::MAX);
        self
    }

    pub(crate) fn grid(mut self, x: usize, y: usize) -> Self {
        let dim = |value: usize, most: usize| if value <= most { u32::try_from(value).ok() } else { None };
        match (dim(x, 0x7fff_ffff), dim(y, 0xffff)) {
            (Some(x), Some(y)) => self.grid = [x, y, 1],
            (None, _) => self.overflow = Some(x),
            (_, None) => self.overflow = Some(y),
        }
        self
    }

    /// Dynamic shared memory, bytes.
    pub(crate) fn shared(mut self, bytes: usize) -> Self {
        self.shared = u32::try_from(bytes).unwrap_or(u32::MAX);
        self
    }

    fn word(mut self, word: u64) -> Self {
        self.starts.push(self.words.len());
        self.words.push(word);
        self
    }

    pub(crate) fn pointer(self, address: u64) -> Self {
        self.word(address)
    }

    /// The address of memory that the launch keeps.
    pub(crate) fn table(mut self, table: Slice) -> Self {
        let address = table.pointer();
        self.tables.push(table);
        self.word(address)
    }

    /// Keeps memory alive that a structure's addresses point to.
    pub(crate) fn holds(mut self, memory: Slice) -> Self {
        self.tables.push(memory);
        self
    }

    /// An `int` from a size.
    pub(crate) fn int(mut self, value: usize) -> Self {
        if i32::try_from(value).is_err() {
            self.overflow = Some(value);
        }
        self.word(value as u64)
    }

    /// A `long long` from a size.
    pub(crate) fn long(self, value: usize) -> Self {
        self.word(value as u64)
    }

    pub(crate) fn float(self, value: f32) -> Self {
        self.word(u64::from(value.to_bits()))
    }

    pub(crate) fn double(self, value: f64) -> Self {
        self.word(value.to_bits())
    }

    /// A structure by value, as its bytes.
    pub(crate) fn structure(mut self, bytes: &[u8]) -> Self {
        self.starts.push(self.words.len());
        let word = |chunk: &[u8]| chunk.iter().rev().fold(0_u64, |word, &byte| word << 8 | u64::from(byte));
        self.words.extend(bytes.chunks(8).map(word));
        self
    }

    /// The launch, if the chip can express it.
    pub(crate) fn ready(self) -> Result<Call, GpuError> {
        let unsupported = |what| Err(GpuError::Unsupported { op: self.name.clone(), what });
        if let Some(size) = self.overflow {
            return unsupported(format!("size {size} is more than one launch can take"));
        }
        if self.starts.len() > MOST_ARGUMENTS {
            return unsupported(format!("{} arguments, at most {MOST_ARGUMENTS}", self.starts.len()));
        }
        // Without asking there are 48 KiB, a kernel's static memory included.
        if self.shared > 32 * 1024 {
            use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST_SHARED;
            let bytes = i32::try_from(self.shared).unwrap_or(i32::MAX);
            // SAFETY: the function is loaded; its attribute only raises a limit.
            unsafe { result::function::set_function_attribute(self.function, MOST_SHARED, bytes) }.map_err(
                |error| GpuError::driver(format!("{} with {bytes} bytes of shared memory", self.name), error),
            )?;
        }
        Ok(Call::Kernel(self))
    }

    fn enqueue(&self, stream: sys::CUstream) -> Result<(), GpuError> {
        let mut arguments = [std::ptr::null_mut::<c_void>(); MOST_ARGUMENTS];
        for (argument, &start) in arguments.iter_mut().zip(&self.starts) {
            *argument = (&raw const self.words[start]).cast_mut().cast();
        }
        let [x, y, z] = self.grid;
        // SAFETY: the arguments were laid out by the op that knows the kernel's parameters, and the operands were checked
        // against its signature; the driver copies arguments before it returns and does not write them.
        unsafe {
            result::launch_kernel(
                self.function,
                (x, y, z),
                (self.block, 1, 1),
                self.shared,
                stream,
                &mut arguments[..self.starts.len()],
            )
        }
        .map_err(|error| GpuError::driver(format!("launch of {}", self.name), error))
    }
}

/// One call of the driver or of a library.
#[derive(Debug)]
pub(crate) enum Call {
    /// A kernel launch.
    Kernel(Kernel),
    /// Zeroes a range: `rows` times `width` bytes, `pitch` apart.
    Zero { pointer: u64, pitch: usize, width: usize, rows: usize },
    /// A matrix product.
    Matmul(Box<Matmul>),
    /// cuDNN's attention.
    Cudnn {
        launch: Box<cudnn::Launch>,
        /// Kept alive: the launch is bound to it.
        _scratch: Slice,
    },
}

impl Call {
    /// Zeroes a whole operand.
    pub(crate) const fn zero(pointer: u64, bytes: usize) -> Self {
        Self::Zero { pointer, pitch: bytes, width: bytes, rows: 1 }
    }

    fn enqueue(&self, stream: sys::CUstream) -> Result<(), GpuError> {
        match self {
            Self::Kernel(kernel) => kernel.enqueue(stream),
            Self::Matmul(matmul) => matmul.enqueue(stream),
            // SAFETY: operands and scratch were checked against their sizes and are kept alive by the prepared op, and the
            // stream is of the one context that a `Gpu` has.
            Self::Cudnn { launch, .. } => unsafe { launch.enqueue(stream) }.map_err(GpuError::from),
            &Self::Zero { pointer, pitch, width, rows } => {
                // SAFETY: the range lies in operands that the op checked against its signature.
                let status = unsafe {
                    if rows == 1 {
                        sys::cuMemsetD8Async(pointer, 0, width, stream)
                    } else {
                        sys::cuMemsetD2D8Async(pointer, pitch, 0, width, rows, stream)
                    }
                };
                status.result().map_err(|error| GpuError::driver("cuMemsetAsync", error))
            }
        }
    }
}

/// What one op does every step, with the memory it needs held alive.
#[derive(Debug)]
pub struct Prepared {
    calls: Vec<Call>,
    // What the calls' addresses point into.
    _memory: Vec<Slice>,
}

impl Prepared {
    pub(crate) const fn new(calls: Vec<Call>, memory: Vec<Slice>) -> Self {
        Self { calls, _memory: memory }
    }

    /// How many launches it is.
    #[must_use]
    pub const fn launches(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn enqueue(&self, stream: sys::CUstream) -> Result<(), GpuError> {
        self.calls.iter().try_for_each(|call| call.enqueue(stream))
    }
}
