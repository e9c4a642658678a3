// Sums of squares in fp64, in two stages of fixed order, and the factor that clips.
#include "gradient.cuh"

// Each block writes the partial sum of one stretch.
template <typename T>
static __device__ __forceinline__ void sum_squares(const T* g, double* partial, long long n, int length) {
    __shared__ double scratch[32];
    const double sum = sum_of_stretch(g, (long long)blockIdx.x * length, length, n, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256) sum_squares_bf16(
    const bf16* g, double* partial, long long n, int length) {
    sum_squares<bf16>(g, partial, n, length);
}
extern "C" __global__ void __launch_bounds__(256) sum_squares_fp32(
    const float* g, double* partial, long long n, int length) {
    sum_squares<float>(g, partial, n, length);
}

extern "C" __global__ void __launch_bounds__(256) sum_partials(const double* partial, float* sum, int count) {
    __shared__ double scratch[32];
    const double total = sum_of_partials(partial, count, scratch);
    if (threadIdx.x == 0) sum[0] = (float)total;
}

// `sums` is a table of `count` addresses.
extern "C" __global__ void __launch_bounds__(256) clip_scale(
    const float* const* sums, float* norm, float* scale, int count, double max_norm) {
    __shared__ double scratch[32];
    double total = 0.0;
    for (int i = threadIdx.x; i < count; i += 256) total += (double)sums[i][0];
    total = block_reduce<Sum>(total, scratch);
    if (threadIdx.x == 0) clip(total, max_norm, norm, scale);
}
