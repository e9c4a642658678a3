// Sums of squares in fp64, in two stages of fixed order, and the factor that clips.
#include "element.cuh"
#include "reduce.cuh"

// Each block writes one partial sum; the grid is fixed by the size, not by the chip.
template <typename T>
static __device__ __forceinline__ void sum_squares(const T* g, double* partial, long long n) {
    __shared__ double scratch[32];
    double sum = 0.0;
    const long long stride = (long long)gridDim.x * blockDim.x * 8;
    for (long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 8; i < n; i += stride) {
        if (i + 8 <= n) {
            float values[8];
            load<T, 8>(g + i, values);
#pragma unroll
            for (int j = 0; j < 8; ++j) sum += (double)values[j] * (double)values[j];
        } else {
            for (long long j = i; j < n; ++j) sum += (double)to_float(g[j]) * (double)to_float(g[j]);
        }
    }
    sum = block_reduce<Sum>(sum, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256) sum_squares_bf16(const bf16* g, double* partial, long long n) {
    sum_squares<bf16>(g, partial, n);
}
extern "C" __global__ void __launch_bounds__(256) sum_squares_fp32(const float* g, double* partial, long long n) {
    sum_squares<float>(g, partial, n);
}

extern "C" __global__ void __launch_bounds__(256) sum_partials(const double* partial, float* sum, int count) {
    __shared__ double scratch[32];
    double total = 0.0;
    for (int i = threadIdx.x; i < count; i += 256) total += partial[i];
    total = block_reduce<Sum>(total, scratch);
    if (threadIdx.x == 0) sum[0] = (float)total;
}

// `sums` is a table of `count` addresses.
extern "C" __global__ void __launch_bounds__(256) clip_scale(
    const float* const* sums, float* norm, float* scale, int count, double max_norm) {
    __shared__ double scratch[32];
    double total = 0.0;
    for (int i = threadIdx.x; i < count; i += 256) total += (double)sums[i][0];
    total = block_reduce<Sum>(total, scratch);
    if (threadIdx.x == 0) {
        const double of_all = sqrt(total);
        norm[0] = (float)of_all;
        // A norm that is NaN must stop the run, not be clipped away: fmin(1, NaN) would be 1.
        const double factor = max_norm / (of_all + 1e-6);
        scale[0] = max_norm == 0.0 ? 1.0f : (float)(factor > 1.0 ? 1.0 : factor);
    }
}
