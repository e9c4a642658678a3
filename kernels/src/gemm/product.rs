//! Dense products on the CPU through the `gemm` crate: the one place that hands it pointers.
#![allow(unsafe_code)]

use gemm::Parallelism;

use crate::real::Real;

/// A matrix operand: `rows` × `k`, k contiguous, or the transpose of that in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a, R> {
    pub(crate) values: &'a [R],
    pub(crate) transposed: bool,
}

/// `out[m, n] = Σ over k of a[m, k] · b[n, k]`, on all threads or on this one.
pub(crate) fn multiply<R: Real>(
    out: &mut [R],
    (m, n, k): (usize, usize, usize),
    a: Matrix<'_, R>,
    b: Matrix<'_, R>,
    parallel: bool,
) {
    assert_eq!((out.len(), a.values.len(), b.values.len()), (m * n, m * k, n * k), "operands fill their shapes");
    if m == 0 || n == 0 {
        return;
    }
    let stride = |value: usize| isize::try_from(value).unwrap_or(isize::MAX);
    let (a_row, a_col) = if a.transposed { (1, stride(m)) } else { (stride(k), 1) };
    let (b_row, b_col) = if b.transposed { (1, stride(n)) } else { (stride(k), 1) };
    // The crate threads only what is worth it; below this a product is quicker on one thread.
    let threads = if parallel && m * n * k > 1 << 16 { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: the lengths were checked against the shapes above, the strides address exactly those elements, `out` is
    // borrowed mutably and so overlaps neither operand, and `R` is `f32` or `f64`, which the crate knows.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride(n),
            false,
            a.values.as_ptr(),
            a_col,
            a_row,
            b.values.as_ptr(),
            b_row,
            b_col,
            R::zero(),
            R::one(),
            false,
            false,
            false,
            threads,
        );
    }
}
