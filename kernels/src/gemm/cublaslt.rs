//! Matrix products through cuBLASLt: descriptors, algorithm and scales fixed when prepared, replayed every step.
//!
//! Ours are row-major, `D[m, n] = A · Bᵀ`; cuBLASLt's are column-major. A row-major matrix is its transpose in column-major
//! order, so that what is asked for is `Dᵀ[n, m] = B · Aᵀ`: our B is its A, our A is its B, and so are their scales. It may
//! not know roles or recipes. Long because every call of the library, with its descriptors, is made here and nowhere else.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::rc::Rc;

use cudarc::cublaslt::{result, result::CublasError, sys};
use cudarc::driver;

use super::algorithm::Algorithm;
use crate::dtype::Dtype;
use crate::gpu::library::Library;
use crate::gpu::{Gpu, GpuError, Slice};
use crate::precision::Granularity;

/// Workspace for split sums, bytes: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Most algorithms that a search asks for.
const MOST_CANDIDATES: usize = 32;

/// The library's handle and its workspace.
#[derive(Debug)]
pub(crate) struct Handle {
    handle: sys::cublasLtHandle_t,
    workspace: Slice,
}

impl Handle {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        Library::CublasLt.load()?;
        let workspace = gpu.allocate(WORKSPACE)?;
        let handle = result::create_handle().map_err(|error| blas("cublasLtCreate", "the handle", error))?;
        Ok(Self { handle, workspace })
    }

    /// What products use while they run.
    pub(super) const fn workspace(&self) -> &Slice {
        &self.workspace
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created once in `new`, destroyed once here, after every product that holds it.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// Version of the library, as it counts them (130100 is 13.1.0).
///
/// # Errors
/// If the library is not found.
pub fn version() -> Result<usize, GpuError> {
    Library::CublasLt.load()?;
    // SAFETY: the library was shown to be present; the call takes nothing.
    Ok(unsafe { sys::cublasLtGetVersion() })
}

/// Scales of an operand, laid out as cuBLASLt reads them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scales {
    pub(crate) pointer: u64,
    pub(crate) granularity: Granularity,
}

/// One matrix of a product, row-major.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor {
    pub(crate) pointer: u64,
    pub(crate) dtype: Dtype,
    /// Elements from one stored row to the next.
    pub(crate) stride: usize,
    /// Stored with the dimension summed over along rows.
    pub(crate) transposed: bool,
    /// Elements from one product of a batch to the next.
    pub(crate) batch_stride: usize,
    pub(crate) scaling: Option<Scales>,
}

/// `D = A · Bᵀ (+ C)`, `batch` times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Problem {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) batch: usize,
    pub(crate) a: Factor,
    pub(crate) b: Factor,
    /// Address of C, laid out as D.
    pub(crate) c: Option<u64>,
    pub(crate) d: Factor,
    pub(crate) fast_accumulation: bool,
}

impl Problem {
    /// All that decides which algorithms can run it, in words, the addresses but for their alignment left out: equal words
    /// are one product. `ᵀ` marks an operand stored with the dimension summed over along rows.
    pub(crate) fn product(&self) -> String {
        use std::fmt::Write;
        let Self { m, n, k, batch, a, b, d, .. } = self;
        let operand = |factor: &Factor| {
            let scaling = factor.scaling.map(|scales| match scales.granularity {
                Granularity::Tensor => " tensor",
                Granularity::Row => " row",
                Granularity::Block1x128 => " 1x128",
                Granularity::Block128x128 => " 128x128",
            });
            format!("{}{}{}", factor.dtype, if factor.transposed { "ᵀ" } else { "" }, scaling.unwrap_or_default())
        };
        let mut words = format!("{m}×{n}×{k} {} · {} → {}", operand(a), operand(b), d.dtype);
        if self.fast_accumulation {
            words += ", fast accumulation";
        }
        if self.c.is_some() {
            words += ", accumulates";
        }
        if *batch > 1 {
            let _ = write!(words, ", {batch} times, {} {} {} apart", a.batch_stride, b.batch_stride, d.batch_stride);
        }
        for (name, factor, width) in [("a", a, k), ("b", b, k), ("d", d, n)] {
            let rows = if name == "b" { n } else { m };
            let dense = if factor.transposed { rows } else { width };
            if factor.stride != *dense {
                let _ = write!(words, ", {name} {} a row", factor.stride);
            }
        }
        let alignment = self.alignments().into_iter().map(|(_, alignment)| alignment).min().unwrap_or(MOST_ALIGNMENT);
        if alignment < MOST_ALIGNMENT {
            let _ = write!(words, ", aligned to {alignment}");
        }
        words
    }

    /// What every address of each of the library's operands is a multiple of, bytes; at most [`MOST_ALIGNMENT`].
    fn alignments(&self) -> [(sys::cublasLtMatmulPreferenceAttributes_t, u32); 4] {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let c = Factor { pointer: self.c.unwrap_or(self.d.pointer), ..self.d };
        let of = |factor: &Factor| {
            let stride = if self.batch > 1 { factor.batch_stride * factor.dtype.bytes() } else { 0 };
            1 << (factor.pointer | stride as u64 | u64::from(MOST_ALIGNMENT)).trailing_zeros()
        };
        [
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of(&self.b)),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of(&self.a)),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of(&c)),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, of(&self.d)),
        ]
    }
}

/// Alignment beyond which no algorithm asks, bytes.
const MOST_ALIGNMENT: u32 = 256;

/// A layout that is destroyed when dropped.
#[derive(Debug)]
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    /// `rows` × `cols` in column-major order.
    fn new(factor: &Factor, rows: usize, cols: usize, batch: usize) -> Result<Self, CublasError> {
        use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
        let stride = i64::try_from(factor.stride).unwrap_or(i64::MAX);
        let layout = Self(result::create_matrix_layout(data_type(factor.dtype), rows as u64, cols as u64, stride)?);
        if batch > 1 {
            let count = i32::try_from(batch).unwrap_or(i32::MAX);
            let offset = i64::try_from(factor.batch_stride).unwrap_or(i64::MAX);
            // SAFETY: the layout is live, and the values have the types that the attributes want.
            unsafe {
                let (bytes, value) = bytes_of(&count);
                result::set_matrix_layout_attribute(
                    layout.0,
                    Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                    value,
                    bytes,
                )?;
                let (bytes, value) = bytes_of(&offset);
                let attribute = Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
                result::set_matrix_layout_attribute(layout.0, attribute, value, bytes)?;
            }
        }
        Ok(layout)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// A description of the arithmetic that is destroyed when dropped.
#[derive(Debug)]
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<(), CublasError> {
        let (bytes, value) = bytes_of(value);
        // SAFETY: the description is live, and every caller passes the type that the attribute wants.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, value, bytes) }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// What the algorithm may assume and use; destroyed when dropped.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// A product ready to run.
#[derive(Debug)]
pub(crate) struct Matmul {
    problem: Problem,
    description: Description,
    a: Layout,
    b: Layout,
    d: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    handle: Rc<Handle>,
}

impl Matmul {
    /// Describes a product and takes the algorithm that is pinned for it; without one, the first that the library's heuristic
    /// offers, as eager frameworks do.
    pub(crate) fn new(gpu: &Gpu, problem: &Problem) -> Result<Self, GpuError> {
        let mut matmul = Self::described(gpu, problem)?;
        if let Some(algorithm) = gpu.pinned(&problem.product()) {
            matmul.take(algorithm)?;
        } else {
            let first = matmul.offered(1, None)?.into_iter().next();
            let nothing = CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
            let first = first.ok_or_else(|| blas("cublasLtMatmulAlgoGetHeuristic", &problem.product(), nothing))?;
            matmul.algorithm = first.raw();
        }
        Ok(matmul)
    }

    /// A product with one algorithm, which the library must accept for it.
    pub(super) fn with(gpu: &Gpu, problem: &Problem, algorithm: Algorithm) -> Result<Self, GpuError> {
        let mut matmul = Self::described(gpu, problem)?;
        matmul.take(algorithm)?;
        Ok(matmul)
    }

    /// What the library's heuristics offer for a product: the algorithm that it would take unasked, and those that a search may choose
    /// from, which leave out sums in place (their order changes from run to run) and sums rounded to the result's dtype.
    pub(super) fn candidates(gpu: &Gpu, problem: &Problem) -> Result<(Option<Algorithm>, Vec<Algorithm>), GpuError> {
        let matmul = Self::described(gpu, problem)?;
        let in_order = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        Ok((matmul.offered(1, None)?.into_iter().next(), matmul.offered(MOST_CANDIDATES, Some(in_order))?))
    }

    pub(super) const fn problem(&self) -> &Problem {
        &self.problem
    }

    /// A product without an algorithm.
    fn described(gpu: &Gpu, problem: &Problem) -> Result<Self, GpuError> {
        let handle = gpu.blas()?;
        let failed = |call| move |error| blas(call, &problem.product(), error);
        let description = describe(problem).map_err(failed("cublasLtMatmulDescCreate"))?;
        let Problem { m, n, k, batch, a, b, d, .. } = problem;
        let layout = |factor: &Factor, rows: usize, cols: usize| {
            // A row-major matrix of `rows` × `cols` is column-major `cols` × `rows`.
            let (rows, cols) = if factor.transposed { (rows, cols) } else { (cols, rows) };
            Layout::new(factor, rows, cols, *batch).map_err(failed("cublasLtMatrixLayoutCreate"))
        };
        let (a, b, d) = (layout(a, *m, *k)?, layout(b, *n, *k)?, layout(d, *m, *n)?);
        let algorithm = sys::cublasLtMatmulAlgo_t { data: [0; 8] };
        Ok(Self { problem: *problem, description, a, b, d, algorithm, handle })
    }

    /// Takes an algorithm if the library accepts it.
    fn take(&mut self, algorithm: Algorithm) -> Result<(), GpuError> {
        let raw = algorithm.raw();
        let mut found = MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();
        // SAFETY: handle and descriptors are live, C has the layout of D; the library reads the live 64 bytes and writes the
        // live result.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.handle.handle,
                self.description.0,
                self.b.0,
                self.a.0,
                self.d.0,
                self.d.0,
                &raw const raw,
                found.as_mut_ptr(),
            )
        };
        let failed = |error| blas("cublasLtMatmulAlgoCheck", &self.problem.product(), error);
        status.result().map_err(failed)?;
        // SAFETY: a success writes the result, all of whose fields are plain numbers.
        let found = unsafe { found.assume_init() };
        if found.workspaceSize > WORKSPACE {
            return Err(failed(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)));
        }
        self.algorithm = raw;
        Ok(())
    }

    /// At most so many algorithms, the library's favourite first; `reductions` are the schemes that split sums may use.
    fn offered(&self, most: usize, reductions: Option<u32>) -> Result<Vec<Algorithm>, GpuError> {
        let failed = |call| move |error| blas(call, &self.problem.product(), error);
        let preference = preference(&self.problem, reductions).map_err(failed("cublasLtMatmulPreferenceCreate"))?;
        let mut found = vec![MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed(); most];
        let mut count = 0;
        // SAFETY: every descriptor is live, C has the layout of D, and there is room for as many results as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle.handle,
                self.description.0,
                self.b.0,
                self.a.0,
                self.d.0,
                self.d.0,
                preference.0,
                i32::try_from(most).unwrap_or(i32::MAX),
                found.as_mut_ptr().cast(),
                &raw mut count,
            )
        };
        status.result().map_err(failed("cublasLtMatmulAlgoGetHeuristic"))?;
        found.truncate(usize::try_from(count).unwrap_or_default());
        // SAFETY: so many were written, all of whose fields are plain numbers.
        let found = found.into_iter().map(|result| unsafe { result.assume_init() });
        Ok(found.filter(|result| result.state.result().is_ok()).map(|result| Algorithm::of(&result.algo)).collect())
    }

    pub(crate) fn enqueue(&self, stream: driver::sys::CUstream) -> Result<(), GpuError> {
        let pointer = |address: u64| address as *const c_void;
        let (alpha, beta) = (1.0_f32, if self.problem.c.is_some() { 1.0_f32 } else { 0.0 });
        let d = self.problem.d.pointer;
        // SAFETY: descriptors, handle and workspace are live; the operands were checked against the op's signature and
        // are kept alive by the prepared op; alpha and beta are read before the call returns.
        unsafe {
            result::matmul(
                self.handle.handle,
                self.description.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                pointer(self.problem.b.pointer),
                self.b.0,
                pointer(self.problem.a.pointer),
                self.a.0,
                pointer(self.problem.c.unwrap_or(d)),
                self.d.0,
                d as *mut c_void,
                self.d.0,
                &raw const self.algorithm,
                self.handle.workspace.pointer() as *mut c_void,
                WORKSPACE,
                stream.cast(),
            )
        }
        .map_err(|error| blas("cublasLtMatmul", &self.problem.product(), error))
    }
}

/// fp32 sums, never TF32; scales and fast accumulation for FP8.
fn describe(problem: &Problem) -> Result<Description, CublasError> {
    use sys::cublasLtMatmulDescAttributes_t as Attribute;
    let float = sys::cudaDataType_t::CUDA_R_32F;
    let description = Description(result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, float)?);
    // `cublasOperation_t`: 0 as stored, 1 transposed.
    let operation = |transpose: bool| i32::from(transpose);
    description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &operation(!problem.b.transposed))?;
    description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &operation(problem.a.transposed))?;
    let sides = [
        (
            problem.b.scaling,
            Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
            Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE,
        ),
        (
            problem.a.scaling,
            Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
            Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE,
        ),
    ];
    for (scaling, pointer, mode) in sides {
        if let Some(scales) = scaling {
            description.set(pointer, &scales.pointer)?;
            if scales.granularity != Granularity::Tensor {
                // Libraries before 12.9 know no modes; tensor-wide is what they do unasked.
                description.set(mode, &scale_mode(scales.granularity))?;
            }
        }
    }
    // Other dtypes have no such choice, and the library refuses the question.
    if problem.fast_accumulation && problem.a.dtype.is_fp8() {
        description.set(Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &1_i8)?;
    }
    Ok(description)
}

/// Workspace, the alignment that every address of a batch has, and how split sums may be added.
fn preference(problem: &Problem, reductions: Option<u32>) -> Result<Preference, CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let preference = Preference(result::create_matmul_pref()?);
    let set = |attribute, bytes: usize, value: *const c_void| {
        // SAFETY: the preference is live, and each value has the type that its attribute wants.
        unsafe { result::set_matmul_pref_attribute(preference.0, attribute, value, bytes) }
    };
    let (bytes, value) = bytes_of(&WORKSPACE);
    set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, bytes, value)?;
    if let Some(schemes) = reductions {
        let (bytes, value) = bytes_of(&schemes);
        set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, bytes, value)?;
    }
    for (attribute, alignment) in problem.alignments() {
        let (bytes, value) = bytes_of(&alignment);
        set(attribute, bytes, value)?;
    }
    Ok(preference)
}

const fn bytes_of<T>(value: &T) -> (usize, *const c_void) {
    (size_of::<T>(), std::ptr::from_ref(value).cast())
}

const fn data_type(dtype: Dtype) -> sys::cudaDataType_t {
    match dtype {
        Dtype::F32 => sys::cudaDataType_t::CUDA_R_32F,
        Dtype::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        Dtype::E4m3 => sys::cudaDataType_t::CUDA_R_8F_E4M3,
        Dtype::E5m2 => sys::cudaDataType_t::CUDA_R_8F_E5M2,
        Dtype::I32 => sys::cudaDataType_t::CUDA_R_32I,
    }
}

const fn scale_mode(granularity: Granularity) -> sys::cublasLtMatmulMatrixScale_t {
    use sys::cublasLtMatmulMatrixScale_t as Mode;
    match granularity {
        Granularity::Tensor => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F,
        Granularity::Row => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F,
        Granularity::Block1x128 => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F,
        Granularity::Block128x128 => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F,
    }
}

fn blas(call: &'static str, what: &str, error: CublasError) -> GpuError {
    let status = match error.0 {
        sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED => {
            "CUBLAS_STATUS_NOT_SUPPORTED (FP8 needs compute capability 8.9, row scales 9.0 and cuBLASLt 12.9)"
                .to_owned()
        }
        other => format!("{other:?}"),
    };
    GpuError::Blas { call, what: what.to_owned(), status }
}
