// RMSNorm forward, one warp a row, and backward: input gradients one warp a row, weight gradients through partial sums
// per block that a second kernel adds in a fixed order.
#include "element.cuh"
#include "reduce.cuh"

// x, y (rows, dim), w (dim), rstd (rows)
template <typename T, int V>
static __device__ __forceinline__ void forward(
    const T* x, const T* w, T* y, float* rstd, int rows, int dim, float epsilon) {
    const int lane = threadIdx.x & 31;
    const int row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    if (row >= rows) return;
    x += (long long)row * dim;
    y += (long long)row * dim;
    float squares = 0.0f;
    for (int i = lane * V; i < dim; i += 32 * V) {
        float values[V];
        load<T, V>(x + i, values);
#pragma unroll
        for (int j = 0; j < V; ++j) squares += values[j] * values[j];
    }
    squares = warp_reduce<Sum>(squares);
    const float r = 1.0f / sqrtf(squares / (float)dim + epsilon);
    if (lane == 0) rstd[row] = r;
    for (int i = lane * V; i < dim; i += 32 * V) {
        float values[V], weights[V];
        load<T, V>(x + i, values);
        load<T, V>(w + i, weights);
#pragma unroll
        for (int j = 0; j < V; ++j) values[j] = values[j] * r * weights[j];
        store<T, V>(y + i, values);
    }
}

// Each block takes `rows_per_block` consecutive rows and writes one row of `partial`, (blocks, dim). Each warp sums into
// its own row of shared memory, whose columns belong to one lane each: nothing is shared until the end.
template <typename T, int V>
static __device__ __forceinline__ void backward(
    const T* x, const T* w, const float* rstd, const T* dy, T* dx, float* partial, int rows, int dim, int rows_per_block) {
    extern __shared__ float sums[];  // (warps, dim)
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    float* own = sums + warp * dim;
    for (int i = lane * V; i < dim; i += 32 * V) {
#pragma unroll
        for (int j = 0; j < V; ++j) own[i + j] = 0.0f;
    }
    const int first = blockIdx.x * rows_per_block;
    const int last = min(first + rows_per_block, rows);
    for (int row = first + warp; row < last; row += warps) {
        const T* xr = x + (long long)row * dim;
        const T* dyr = dy + (long long)row * dim;
        T* dxr = dx + (long long)row * dim;
        const float r = rstd[row];
        float dot = 0.0f;
        for (int i = lane * V; i < dim; i += 32 * V) {
            float values[V], weights[V], gradients[V];
            load<T, V>(xr + i, values);
            load<T, V>(w + i, weights);
            load<T, V>(dyr + i, gradients);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float normed = values[j] * r;
                dot += gradients[j] * weights[j] * normed;
                own[i + j] += gradients[j] * normed;
            }
        }
        const float mean = warp_reduce<Sum>(dot) / (float)dim;
        for (int i = lane * V; i < dim; i += 32 * V) {
            float values[V], weights[V], gradients[V];
            load<T, V>(xr + i, values);
            load<T, V>(w + i, weights);
            load<T, V>(dyr + i, gradients);
#pragma unroll
            for (int j = 0; j < V; ++j) values[j] = r * (gradients[j] * weights[j] - values[j] * r * mean);
            store<T, V>(dxr + i, values);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        float sum = 0.0f;
        for (int other = 0; other < warps; ++other) sum += sums[other * dim + i];
        partial[(long long)blockIdx.x * dim + i] = sum;
    }
}

// Adds the rows of `partial`, (count, dim), into dw: 32 columns a block, 8 rows at a time.
template <typename T>
static __device__ __forceinline__ void weight_gradient(const float* partial, T* dw, int count, int dim) {
    __shared__ float sums[8][33];
    const int column = blockIdx.x * 32 + (threadIdx.x & 31), group = threadIdx.x >> 5;
    float sum = 0.0f;
    if (column < dim) {
        for (int row = group; row < count; row += 8) sum += partial[(long long)row * dim + column];
    }
    sums[group][threadIdx.x & 31] = sum;
    __syncthreads();
    if (group == 0 && column < dim) {
        for (int other = 1; other < 8; ++other) sum += sums[other][threadIdx.x & 31];
        from_float(sum, dw[column]);
    }
}

#define RMSNORM(T, NAME, V) \
    extern "C" __global__ void rmsnorm_forward_##NAME##_v##V( \
        const T* x, const T* w, T* y, float* rstd, int rows, int dim, float epsilon) { \
        forward<T, V>(x, w, y, rstd, rows, dim, epsilon); \
    } \
    extern "C" __global__ void rmsnorm_backward_##NAME##_v##V( \
        const T* x, const T* w, const float* rstd, const T* dy, T* dx, float* partial, int rows, int dim, \
        int rows_per_block) { \
        backward<T, V>(x, w, rstd, dy, dx, partial, rows, dim, rows_per_block); \
    }

RMSNORM(bf16, bf16, 8)
RMSNORM(bf16, bf16, 1)
RMSNORM(float, fp32, 4)
RMSNORM(float, fp32, 1)

extern "C" __global__ void rmsnorm_weight_bf16(const float* partial, bf16* dw, int count, int dim) {
    weight_gradient<bf16>(partial, dw, count, dim);
}
extern "C" __global__ void rmsnorm_weight_fp32(const float* partial, float* dw, int count, int dim) {
    weight_gradient<float>(partial, dw, count, dim);
}
