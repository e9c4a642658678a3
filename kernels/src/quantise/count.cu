// How many values of a cast saturate and how many vanish: run where numbers are checked, never in a step.
#include "element.cuh"

struct Tiling {
    int rows, cols;
    int row_shift, row_stride, col_shift, col_stride;

    __device__ __forceinline__ int scale(int row, int col) const {
        return (row >> row_shift) * row_stride + (col >> col_shift) * col_stride;
    }
};

// counts: values beyond `beyond` once scaled, values that are not zero and whose code is. Zeroed before.
template <typename T, typename Q>
static __device__ __forceinline__ void count_losses(
    const T* x, const float* scale, float beyond, unsigned long long* counts, Tiling tiling) {
    __shared__ unsigned long long over, under;
    if (threadIdx.x == 0) over = under = 0;
    __syncthreads();
    const long long n = (long long)tiling.rows * tiling.cols, stride = (long long)gridDim.x * blockDim.x;
    unsigned long long saturated = 0, vanished = 0;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        const int row = (int)(i / tiling.cols), col = (int)(i % tiling.cols);
        const float value = to_float(x[i]);
        const float scaled = value * (1.0f / scale[tiling.scale(row, col)]);
        Q code;
        from_float(scaled, code);
        saturated += fabsf(scaled) > beyond;
        vanished += value != 0.0f && (code.bits & 0x7f) == 0;
    }
    atomicAdd(&over, saturated);
    atomicAdd(&under, vanished);
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicAdd(&counts[0], over);
        atomicAdd(&counts[1], under);
    }
}

#define COUNT(T, T_NAME, Q) \
    extern "C" __global__ void __launch_bounds__(256) count_losses_##T_NAME##_##Q( \
        const T* x, const float* scale, float beyond, unsigned long long* counts, Tiling t) { \
        count_losses<T, Q>(x, scale, beyond, counts, t); \
    }

COUNT(bf16, bf16, e4m3)
COUNT(bf16, bf16, e5m2)
COUNT(float, fp32, e4m3)
COUNT(float, fp32, e5m2)
