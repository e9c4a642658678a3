// Rows of the embedding table, and the table's gradient in the order of the tokens: tokens are sorted by id with a
// counting sort whose ranks are counted, not raced for, so that sums repeat bit for bit.
#include "element.cuh"
#include "reduce.cuh"

// Copies rows of `packs` units of U. Grid: (tokens, packs of a row).
template <typename U>
static __device__ __forceinline__ void forward(const int* ids, const U* table, U* x, int packs) {
    const int i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= packs) return;
    const long long token = blockIdx.x;
    x[token * packs + i] = table[(long long)ids[token] * packs + i];
}

extern "C" __global__ void embedding_forward_16(const int* ids, const uint4* table, uint4* x, int packs) {
    forward<uint4>(ids, table, x, packs);
}
extern "C" __global__ void embedding_forward_4(const int* ids, const unsigned* table, unsigned* x, int packs) {
    forward<unsigned>(ids, table, x, packs);
}
extern "C" __global__ void embedding_forward_2(const int* ids, const unsigned short* table, unsigned short* x, int packs) {
    forward<unsigned short>(ids, table, x, packs);
}

// rank[t] = how many earlier tokens have the same id; counts[v] = how many tokens have id v (zeroed before). Quadratic in
// the tokens, but one comparison each: 0.1 ms for 32 k tokens.
extern "C" __global__ void __launch_bounds__(256) embedding_rank(const int* ids, int* rank, int* counts, int tokens) {
    __shared__ int tile[256];
    const int token = blockIdx.x * 256 + threadIdx.x;
    const int own = token < tokens ? ids[token] : -1;
    int earlier = 0;
    for (int from = 0; from <= (int)blockIdx.x * 256; from += 256) {
        __syncthreads();
        tile[threadIdx.x] = from + threadIdx.x < tokens ? ids[from + threadIdx.x] : -2;
        __syncthreads();
        const int seen = min(token - from, 256);
#pragma unroll 8
        for (int j = 0; j < 256; ++j) earlier += j < seen && tile[j] == own;
    }
    if (token < tokens) {
        rank[token] = earlier;
        atomicAdd(&counts[own], 1);
    }
}

// offsets = exclusive prefix sum of counts, (vocab). One block.
extern "C" __global__ void __launch_bounds__(1024) embedding_offsets(const int* counts, int* offsets, int vocab) {
    __shared__ int sums[1024];
    const int each = (vocab + 1023) / 1024, first = threadIdx.x * each, last = min(first + each, vocab);
    int sum = 0;
    for (int i = first; i < last; ++i) sum += counts[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 1; step < 1024; step <<= 1) {
        const int add = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
        __syncthreads();
        sums[threadIdx.x] += add;
        __syncthreads();
    }
    int offset = sums[threadIdx.x] - sum;
    for (int i = first; i < last; ++i) {
        offsets[i] = offset;
        offset += counts[i];
    }
}

extern "C" __global__ void embedding_place(const int* ids, const int* rank, const int* offsets, int* order, int tokens) {
    const int token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token < tokens) order[offsets[ids[token]] + rank[token]] = token;
}

// The block of the first token of each id sums all of that id's rows; the others leave. Grid: (tokens, packs of a row).
template <typename T, int V>
static __device__ __forceinline__ void backward(
    const int* ids, const int* rank, const int* order, const int* offsets, const int* counts, const T* dx, T* dtable,
    int dim) {
    const int token = blockIdx.x;
    if (rank[token] != 0) return;
    const int i = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (i >= dim) return;
    const int id = ids[token], first = offsets[id], count = counts[id];
    float sum[V] = {};
    // Eight rows under way at once; they are added in their order.
    for (int n = 0; n < count; n += 8) {
        Pack<T, V> rows[8];
#pragma unroll
        for (int r = 0; r < 8; ++r) {
            if (n + r < count)
                rows[r] = *reinterpret_cast<const Pack<T, V>*>(dx + (long long)order[first + n + r] * dim + i);
        }
#pragma unroll
        for (int r = 0; r < 8; ++r) {
            if (n + r < count) {
#pragma unroll
                for (int j = 0; j < V; ++j) sum[j] += to_float(rows[r].values[j]);
            }
        }
    }
    float old[V];
    load<T, V>(dtable + (long long)id * dim + i, old);
#pragma unroll
    for (int j = 0; j < V; ++j) old[j] += sum[j];
    store<T, V>(dtable + (long long)id * dim + i, old);
}

#define EMBEDDING_BACKWARD(T, NAME, V) \
    extern "C" __global__ void embedding_backward_##NAME##_v##V( \
        const int* ids, const int* rank, const int* order, const int* offsets, const int* counts, const T* dx, \
        T* dtable, int dim) { \
        backward<T, V>(ids, rank, order, offsets, counts, dx, dtable, dim); \
    }

EMBEDDING_BACKWARD(bf16, bf16, 8)
EMBEDDING_BACKWARD(bf16, bf16, 1)
EMBEDDING_BACKWARD(float, fp32, 4)
EMBEDDING_BACKWARD(float, fp32, 1)
