//! Matrix products through cuBLASLt: descriptors, algorithm and scales fixed when prepared, replayed every step.
//!
//! Ours are row-major, `D[m, n] = A · Bᵀ`; cuBLASLt's are column-major. A row-major matrix is its transpose in column-major
//! order, so that what is asked for is `Dᵀ[n, m] = B · Aᵀ`: our B is its A, our A is its B, and so are their scales. It may
//! not know roles or recipes.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::rc::Rc;

use cudarc::cublaslt::{result, result::CublasError, sys};
use cudarc::driver;

use crate::dtype::Dtype;
use crate::gpu::library::Library;
use crate::gpu::{Gpu, GpuError, Slice};
use crate::precision::Granularity;

/// Workspace for split sums, bytes: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

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
    fn describe(&self) -> String {
        let Self { m, n, k, batch, a, b, d, .. } = self;
        let scaling = a.scaling.map(|s| format!(" {:?}", s.granularity)).unwrap_or_default();
        format!("{m}×{n}×{k} {}·{}→{}{scaling} ×{batch}", a.dtype, b.dtype, d.dtype)
    }
}

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
    /// Describes a product and takes the first algorithm that the library's heuristic offers, as eager frameworks do.
    pub(crate) fn new(gpu: &Gpu, problem: &Problem) -> Result<Self, GpuError> {
        let handle = gpu.blas()?;
        let failed = |call| move |error| blas(call, &problem.describe(), error);
        let description = describe(problem).map_err(failed("cublasLtMatmulDescCreate"))?;
        let Problem { m, n, k, batch, a, b, d, .. } = problem;
        let layout = |factor: &Factor, rows: usize, cols: usize| {
            // A row-major matrix of `rows` × `cols` is column-major `cols` × `rows`.
            let (rows, cols) = if factor.transposed { (rows, cols) } else { (cols, rows) };
            Layout::new(factor, rows, cols, *batch).map_err(failed("cublasLtMatrixLayoutCreate"))
        };
        let (a_layout, b_layout, d_layout) = (layout(a, *m, *k)?, layout(b, *n, *k)?, layout(d, *m, *n)?);
        let preference = preference(problem).map_err(failed("cublasLtMatmulPreferenceCreate"))?;
        // SAFETY: every descriptor is live; C has the layout of D.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                handle.handle,
                description.0,
                b_layout.0,
                a_layout.0,
                d_layout.0,
                d_layout.0,
                preference.0,
            )
        };
        let algorithm = found.map_err(failed("cublasLtMatmulAlgoGetHeuristic"))?.algo;
        Ok(Self { problem: *problem, description, a: a_layout, b: b_layout, d: d_layout, algorithm, handle })
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
        .map_err(|error| blas("cublasLtMatmul", &self.problem.describe(), error))
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

/// Workspace, and the alignment that every address of a batch has.
fn preference(problem: &Problem) -> Result<Preference, CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let preference = Preference(result::create_matmul_pref()?);
    let set = |attribute, bytes: usize, value: *const c_void| {
        // SAFETY: the preference is live, and each value has the type that its attribute wants.
        unsafe { result::set_matmul_pref_attribute(preference.0, attribute, value, bytes) }
    };
    let (bytes, value) = bytes_of(&WORKSPACE);
    set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, bytes, value)?;
    let c = Factor { pointer: problem.c.unwrap_or(problem.d.pointer), ..problem.d };
    for (attribute, factor) in [
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &problem.b),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &problem.a),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &problem.d),
    ] {
        let stride = if problem.batch > 1 { factor.batch_stride * factor.dtype.bytes() } else { 0 };
        let alignment: u32 = 1 << (factor.pointer | stride as u64).trailing_zeros().min(8);
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
