// The gradient norm's sums, 256 threads: of a stretch of fixed length, of a tensor's stretches, and of all tensors. The launches
// that make one each and the one that makes all share them: their results are equal bit by bit, on every chip.
#pragma once
#include "element.cuh"
#include "reduce.cuh"

// Σ g² of elements from `first` on, at most `length`; `scratch` holds one number per warp.
template <typename T>
static __device__ __forceinline__ double sum_of_stretch(
    const T* g, long long first, int length, long long n, double* scratch) {
    double sum = 0.0;
    const long long end = first + length < n ? first + length : n;
#pragma unroll 4
    for (long long i = first + threadIdx.x * 8; i < end; i += 256 * 8) {
        if (i + 8 <= end) {
            float values[8];
            load<T, 8>(g + i, values);
#pragma unroll
            for (int j = 0; j < 8; ++j) sum = __fma_rn((double)values[j], (double)values[j], sum);
        } else {
            for (long long j = i; j < end; ++j) sum = __fma_rn((double)to_float(g[j]), (double)to_float(g[j]), sum);
        }
    }
    return block_reduce<Sum>(sum, scratch);
}

// Numbers that other blocks of the same launch may have written: past the first-level cache.
static __device__ __forceinline__ double sum_of_partials(const double* partial, int count, double* scratch) {
    double total = 0.0;
    for (int i = threadIdx.x; i < count; i += 256) total += __ldcg(partial + i);
    return block_reduce<Sum>(total, scratch);
}

// Whether this block is the last of `blocks` to come here, for all its threads. What each wrote before is then visible. `done`
// is the launch's own, zero before and after it.
static __device__ __forceinline__ bool is_last(unsigned* done, int blocks) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(done, 1u) == (unsigned)blocks - 1u;
        if (last) *done = 0u;
        __threadfence();
    }
    __syncthreads();
    return last;
}

// Norm and factor, which may be null, from the sum over all tensors; one thread.
static __device__ __forceinline__ void clip(double total, double max_norm, float* norm, float* scale) {
    const double of_all = sqrt(total);
    norm[0] = (float)of_all;
    if (!scale) return;
    // A norm that is NaN must stop the run, not be clipped away: fmin(1, NaN) would be 1.
    const double factor = max_norm / (of_all + 1e-6);
    scale[0] = max_norm == 0.0 ? 1.0f : (float)(factor > 1.0 ? 1.0 : factor);
}
