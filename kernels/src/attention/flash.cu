// Tiled attention in fp32 arithmetic on the CUDA cores, for any dtype and any head width up to 256: the plain form, right
// everywhere and fast nowhere. Tiles are 32 queries × 32 keys, blocks 256 threads. Gradients of keys and values, and of
// queries, are two kernels that each own what they write: nothing is added atomically, so results repeat.
#include "element.cuh"
#include "reduce.cuh"

static constexpr int TILE = 32;

struct Heads {
    int seq, heads, head_dim;
    float scale;

    __device__ __forceinline__ int width() const { return heads * head_dim; }
};

// Rows `from`.. of one head as floats, (32, head_dim + 1) in shared memory; 0 past the end of the sequence.
template <typename T>
static __device__ __forceinline__ void fetch(float* tile, const T* base, int stride, int from, Heads h) {
    for (int i = threadIdx.x; i < TILE * h.head_dim; i += 256) {
        const int row = i / h.head_dim, col = i % h.head_dim;
        tile[row * (h.head_dim + 1) + col] = from + row < h.seq ? to_float(base[(long long)(from + row) * stride + col]) : 0.0f;
    }
}

template <typename T>
static __device__ __forceinline__ void put(const float* tile, T* base, int stride, int from, Heads h) {
    for (int i = threadIdx.x; i < TILE * h.head_dim; i += 256) {
        const int row = i / h.head_dim, col = i % h.head_dim;
        if (from + row < h.seq) from_float(tile[row * (h.head_dim + 1) + col], base[(long long)(from + row) * stride + col]);
    }
}

static __device__ __forceinline__ float dot(const float* a, const float* b, int n) {
    float sum = 0.0f;
#pragma unroll 8
    for (int i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

// out[row, col] += Σ over l of pairs(row, l) · values[l, col], with pairs read at row_step and l_step.
static __device__ __forceinline__ void accumulate(
    float* out, const float* pairs, int row_step, int l_step, const float* values, Heads h) {
    for (int i = threadIdx.x; i < TILE * h.head_dim; i += 256) {
        const int row = i / h.head_dim, col = i % h.head_dim;
        float sum = 0.0f;
#pragma unroll 8
        for (int l = 0; l < TILE; ++l) sum += pairs[row * row_step + l * l_step] * values[l * (h.head_dim + 1) + col];
        out[row * (h.head_dim + 1) + col] += sum;
    }
}

// Grid: (query tiles, B·H).
template <typename T>
static __device__ __forceinline__ void forward(const T* qkv, T* context, float* lse, Heads h) {
    extern __shared__ float memory[];
    const int pitch = h.head_dim + 1, packed = 3 * h.width();
    float *q = memory, *k = q + TILE * pitch, *v = k + TILE * pitch, *out = v + TILE * pitch, *p = out + TILE * pitch;
    __shared__ float largest[TILE], sum[TILE], shrink[TILE];
    const int from = blockIdx.x * TILE, batch = blockIdx.y / h.heads, head = blockIdx.y % h.heads;
    const T* base = qkv + (long long)batch * h.seq * packed + head * h.head_dim;
    fetch(q, base, packed, from, h);
    for (int i = threadIdx.x; i < TILE * pitch; i += 256) out[i] = 0.0f;
    if (threadIdx.x < TILE) {
        largest[threadIdx.x] = -INFINITY;
        sum[threadIdx.x] = 0.0f;
    }
    for (int start = 0; start <= from; start += TILE) {
        __syncthreads();
        fetch(k, base + h.width(), packed, start, h);
        fetch(v, base + 2 * h.width(), packed, start, h);
        __syncthreads();
        // One warp takes 4 queries, one lane a key.
        const int lane = threadIdx.x & 31;
        for (int row = threadIdx.x >> 5; row < TILE; row += 8) {
            const bool seen = start + lane <= from + row && start + lane < h.seq;
            const float score = seen ? dot(q + row * pitch, k + lane * pitch, h.head_dim) * h.scale : -INFINITY;
            const float now = fmaxf(largest[row], warp_reduce<Max>(score));
            const float e = seen ? expf(score - now) : 0.0f;
            const float add = warp_reduce<Sum>(e);
            p[row * (TILE + 1) + lane] = rounded<T>(e);
            __syncwarp();
            if (lane == 0) {
                shrink[row] = expf(largest[row] - now);
                sum[row] = sum[row] * shrink[row] + add;
                largest[row] = now;
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < TILE * h.head_dim; i += 256)
            out[i / h.head_dim * pitch + i % h.head_dim] *= shrink[i / h.head_dim];
        accumulate(out, p, TILE + 1, 1, v, h);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * h.head_dim; i += 256)
        out[i / h.head_dim * pitch + i % h.head_dim] /= sum[i / h.head_dim];
    if (threadIdx.x < TILE && from + threadIdx.x < h.seq)
        lse[(long long)blockIdx.y * h.seq + from + threadIdx.x] = largest[threadIdx.x] + logf(sum[threadIdx.x]);
    __syncthreads();
    put(out, context + (long long)batch * h.seq * h.width() + head * h.head_dim, h.width(), from, h);
}

// delta[b, h, s] = context · dcontext over one head. One warp a query; grid covers B·H·S.
template <typename T>
static __device__ __forceinline__ void delta_of(const T* context, const T* dcontext, float* delta, int batch, Heads h) {
    const int lane = threadIdx.x & 31;
    const long long index = (long long)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    if (index >= (long long)batch * h.heads * h.seq) return;
    const long long s = index % h.seq, head = index / h.seq % h.heads, b = index / h.seq / h.heads;
    const long long at = (b * h.seq + s) * h.width() + head * h.head_dim;
    float sum = 0.0f;
    for (int i = lane; i < h.head_dim; i += 32) sum += to_float(context[at + i]) * to_float(dcontext[at + i]);
    sum = warp_reduce<Sum>(sum);
    if (lane == 0) delta[index] = sum;
}

// P and dS of one pair of tiles, rounded to T as the products see them, (32 queries, 33).
template <typename T>
static __device__ __forceinline__ void pairs(
    float* p, float* ds, const float* q, const float* k, const float* v, const float* dout, const float* lse,
    const float* delta, int from, int start, Heads h) {
    const int lane = threadIdx.x & 31, pitch = h.head_dim + 1;
    for (int row = threadIdx.x >> 5; row < TILE; row += 8) {
        const int query = from + row;
        const bool seen = start + lane <= query && query < h.seq;
        float e = 0.0f, gradient = 0.0f;
        if (seen) {
            e = expf(dot(q + row * pitch, k + lane * pitch, h.head_dim) * h.scale - lse[query]);
            gradient = e * (dot(dout + row * pitch, v + lane * pitch, h.head_dim) - delta[query]) * h.scale;
        }
        p[row * (TILE + 1) + lane] = rounded<T>(e);
        ds[row * (TILE + 1) + lane] = rounded<T>(gradient);
    }
}

// Keys and values of one tile: OF_KEYS = true, and the grid's x counts key tiles; else queries.
template <typename T, bool OF_KEYS>
static __device__ __forceinline__ void backward(
    const T* qkv, const T* dcontext, const float* lse, const float* delta, T* dqkv, Heads h) {
    extern __shared__ float memory[];
    const int pitch = h.head_dim + 1, packed = 3 * h.width(), size = TILE * pitch;
    float *q = memory, *k = q + size, *v = k + size, *dout = v + size, *first = dout + size, *second = first + size;
    float* p = OF_KEYS ? second + size : second;
    float* ds = p + TILE * (TILE + 1);
    const int own = blockIdx.x * TILE, batch = blockIdx.y / h.heads, head = blockIdx.y % h.heads;
    const T* base = qkv + (long long)batch * h.seq * packed + head * h.head_dim;
    const T* dbase = dcontext + (long long)batch * h.seq * h.width() + head * h.head_dim;
    T* out = dqkv + (long long)batch * h.seq * packed + head * h.head_dim;
    lse += (long long)blockIdx.y * h.seq;
    delta += (long long)blockIdx.y * h.seq;
    for (int i = threadIdx.x; i < (OF_KEYS ? 2 : 1) * size; i += 256) first[i] = 0.0f;
    if (OF_KEYS) {
        fetch(k, base + h.width(), packed, own, h);
        fetch(v, base + 2 * h.width(), packed, own, h);
    } else {
        fetch(q, base, packed, own, h);
        fetch(dout, dbase, h.width(), own, h);
    }
    const int begin = OF_KEYS ? own : 0, end = OF_KEYS ? h.seq : own + 1;
    for (int other = begin; other < end; other += TILE) {
        __syncthreads();
        if (OF_KEYS) {
            fetch(q, base, packed, other, h);
            fetch(dout, dbase, h.width(), other, h);
        } else {
            fetch(k, base + h.width(), packed, other, h);
            fetch(v, base + 2 * h.width(), packed, other, h);
        }
        __syncthreads();
        pairs<T>(p, ds, q, k, v, dout, lse, delta, OF_KEYS ? other : own, OF_KEYS ? own : other, h);
        __syncthreads();
        if (OF_KEYS) {
            accumulate(first, ds, 1, TILE + 1, q, h);      // dK += dSᵀ · Q
            accumulate(second, p, 1, TILE + 1, dout, h);   // dV += Pᵀ · dO
        } else {
            accumulate(first, ds, TILE + 1, 1, k, h);      // dQ += dS · K
        }
    }
    __syncthreads();
    if (OF_KEYS) {
        put(first, out + h.width(), packed, own, h);
        put(second, out + 2 * h.width(), packed, own, h);
    } else {
        put(first, out, packed, own, h);
    }
}

#define FLASH(T, NAME) \
    extern "C" __global__ void __launch_bounds__(256) flash_forward_##NAME(const T* qkv, T* context, float* lse, Heads h) { \
        forward<T>(qkv, context, lse, h); \
    } \
    extern "C" __global__ void __launch_bounds__(256) flash_delta_##NAME( \
        const T* context, const T* dcontext, float* delta, int batch, Heads h) { \
        delta_of<T>(context, dcontext, delta, batch, h); \
    } \
    extern "C" __global__ void __launch_bounds__(256) flash_backward_keys_##NAME( \
        const T* qkv, const T* dcontext, const float* lse, const float* delta, T* dqkv, Heads h) { \
        backward<T, true>(qkv, dcontext, lse, delta, dqkv, h); \
    } \
    extern "C" __global__ void __launch_bounds__(256) flash_backward_queries_##NAME( \
        const T* qkv, const T* dcontext, const float* lse, const float* delta, T* dqkv, Heads h) { \
        backward<T, false>(qkv, dcontext, lse, delta, dqkv, h); \
    }

FLASH(bf16, bf16)
FLASH(float, fp32)
