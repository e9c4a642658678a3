// RMSNorm forward and backward. A row belongs to one warp, or to all warps of a block where it is wider: each thread holds
// 4 packs of it in registers, so that a row is read once. Weight gradients are summed in registers too, then through partial
// sums per block that a second kernel adds in a fixed order.
#include "element.cuh"
#include "reduce.cuh"

// Packs of a row that one thread holds.
static constexpr int HELD = 4;

// The part of a row that a thread holds: pack k starts at column(k).
template <int V>
struct Columns {
    int lane, member, warps;  // warps: how many share a row
    __device__ __forceinline__ int operator()(int k) const { return ((k * warps + member) * 32 + lane) * V; }
};

// Sums over the warps of a row. One barrier a call: the two halves of `scratch` are used in turn.
static __device__ __forceinline__ float row_sum(float x, int warps, int member, float (*scratch)[32], int& turn) {
    x = warp_reduce<Sum>(x);
    if (warps == 1) return x;
    turn ^= 1;
    if ((threadIdx.x & 31) == 0) scratch[turn][member] = x;
    __syncthreads();
    x = 0.0f;
    for (int other = 0; other < warps; ++other) x += scratch[turn][other];
    return x;
}

// x, y (rows, dim), w (dim), rstd (rows)
template <typename T, int V>
static __device__ __forceinline__ void forward(
    const T* x, const T* w, T* y, float* rstd, int rows, int dim, float epsilon, int warps) {
    __shared__ float scratch[2][32];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, turns = (blockDim.x >> 5) / warps;
    const Columns<V> column = {lane, warp % warps, warps};
    const int row = blockIdx.x * turns + warp / warps;
    if (row >= rows) return;  // whole rows leave: nobody waits at a barrier
    x += (long long)row * dim;
    y += (long long)row * dim;
    Pack<T, V> values[HELD], weights[HELD];
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        if (column(k) < dim) {
            values[k] = *reinterpret_cast<const Pack<T, V>*>(x + column(k));
            weights[k] = *reinterpret_cast<const Pack<T, V>*>(w + column(k));
        }
    }
    float squares = 0.0f;
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        if (column(k) < dim) {
#pragma unroll
            for (int j = 0; j < V; ++j) squares += to_float(values[k].values[j]) * to_float(values[k].values[j]);
        }
    }
    int turn = 0;
    squares = row_sum(squares, warps, column.member, scratch, turn);
    const float r = 1.0f / sqrtf(squares / (float)dim + epsilon);
    if (lane == 0 && column.member == 0) rstd[row] = r;
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        if (column(k) < dim) {
            float out[V];
#pragma unroll
            for (int j = 0; j < V; ++j) out[j] = to_float(values[k].values[j]) * r * to_float(weights[k].values[j]);
            store<T, V>(y + column(k), out);
        }
    }
}

// Each block takes `rows_per_block` consecutive rows and writes one row of `partial`, (blocks, dim).
template <typename T, int V>
static __device__ __forceinline__ void backward(
    const T* x, const T* w, const float* rstd, const T* dy, T* dx, float* partial, int rows, int dim, int rows_per_block,
    int warps) {
    extern __shared__ float sums[];  // (rows at once, dim), where there are several
    __shared__ float scratch[2][32];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, turns = (blockDim.x >> 5) / warps, mine = warp / warps;
    const Columns<V> column = {lane, warp % warps, warps};
    Pack<T, V> weights[HELD];
    float sum[HELD][V] = {};
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        if (column(k) < dim) weights[k] = *reinterpret_cast<const Pack<T, V>*>(w + column(k));
    }
    const int first = blockIdx.x * rows_per_block, last = min(first + rows_per_block, rows);
    int turn = 0;
    for (int row = first + mine; row < last; row += turns) {
        const long long offset = (long long)row * dim;
        Pack<T, V> values[HELD], gradients[HELD];
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            if (column(k) < dim) {
                values[k] = *reinterpret_cast<const Pack<T, V>*>(x + offset + column(k));
                gradients[k] = *reinterpret_cast<const Pack<T, V>*>(dy + offset + column(k));
            }
        }
        const float r = rstd[row];
        float dot = 0.0f;
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            if (column(k) < dim) {
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    const float normed = to_float(values[k].values[j]) * r, gradient = to_float(gradients[k].values[j]);
                    dot += gradient * to_float(weights[k].values[j]) * normed;
                    sum[k][j] += gradient * normed;
                }
            }
        }
        const float mean = row_sum(dot, warps, column.member, scratch, turn) / (float)dim;
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            if (column(k) < dim) {
                float out[V];
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    const float normed = to_float(values[k].values[j]) * r;
                    out[j] = r * (to_float(gradients[k].values[j]) * to_float(weights[k].values[j]) - normed * mean);
                }
                store<T, V>(dx + offset + column(k), out);
            }
        }
    }
    float* out = turns == 1 ? partial + (long long)blockIdx.x * dim : sums + mine * dim;
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        if (column(k) < dim) store<float, V>(out + column(k), sum[k]);
    }
    if (turns == 1) return;
    __syncthreads();
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        float total = 0.0f;
        for (int other = 0; other < turns; ++other) total += sums[other * dim + i];
        partial[(long long)blockIdx.x * dim + i] = total;
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
        const T* x, const T* w, T* y, float* rstd, int rows, int dim, float epsilon, int warps) { \
        forward<T, V>(x, w, y, rstd, rows, dim, epsilon, warps); \
    } \
    extern "C" __global__ void rmsnorm_backward_##NAME##_v##V( \
        const T* x, const T* w, const float* rstd, const T* dy, T* dx, float* partial, int rows, int dim, \
        int rows_per_block, int warps) { \
        backward<T, V>(x, w, rstd, dy, dx, partial, rows, dim, rows_per_block, warps); \
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
