// Rows of the embedding table, and the table's gradient in the order of the tokens: tokens are sorted by id with a
// counting sort whose ranks are counted, not raced for, and summed by segments of fixed length, so that sums repeat bit for
// bit and one frequent token does not keep the chip waiting.
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

// rank[t] = how many earlier tokens have the same id; counts[v] = how many tokens have id v; both zeroed before. Quadratic in the
// tokens, but one comparison each. Grid: (256 tokens each, stretches of the tokens before them).
extern "C" __global__ void __launch_bounds__(256) embedding_rank(const int* ids, int* rank, int* counts, int tokens) {
    __shared__ int tile[256];
    const int token = blockIdx.x * 256 + threadIdx.x;
    const int own = token < tokens ? ids[token] : -1;
    int earlier = 0;
    for (int from = blockIdx.y * 256; from <= (int)blockIdx.x * 256; from += gridDim.y * 256) {
        __syncthreads();
        tile[threadIdx.x] = from + threadIdx.x < tokens ? ids[from + threadIdx.x] : -2;
        __syncthreads();
        if (from < (int)blockIdx.x * 256) {
#pragma unroll 32
            for (int j = 0; j < 256; ++j) earlier += tile[j] == own;
        } else {
#pragma unroll 32
            for (int j = 0; j < 256; ++j) earlier += j < (int)threadIdx.x && tile[j] == own;
        }
    }
    if (token < tokens) {
        if (earlier != 0) atomicAdd(&rank[token], earlier);
        if (blockIdx.y == 0) atomicAdd(&counts[own], 1);
    }
}

// offsets[v] = where the tokens of id v begin in their order. Which id comes first is left to chance: no sum depends on it.
// `end` is zeroed before.
extern "C" __global__ void __launch_bounds__(256) embedding_offsets(
    const int* ids, const int* rank, const int* counts, int* offsets, int* end, int tokens) {
    const int token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token < tokens && rank[token] == 0) offsets[ids[token]] = atomicAdd(end, counts[ids[token]]);
}

extern "C" __global__ void embedding_place(const int* ids, const int* rank, const int* offsets, int* order, int tokens) {
    const int token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token < tokens) order[offsets[ids[token]] + rank[token]] = token;
}

// What the last kernel reads and keeps.
struct Sorted {
    const int *ids, *rank, *order, *offsets, *counts;
    float* partials;    // (2 · (tokens / segment + 1), dim)
    unsigned* arrived;  // (blocks of a row, vocab), zeroed before
    int segment, vocab, dim;
};

// Adds a row to the table's gradient.
template <typename T, int V>
static __device__ __forceinline__ void add(T* to, const float (&sum)[V]) {
    float old[V];
    load<T, V>(to, old);
#pragma unroll
    for (int j = 0; j < V; ++j) old[j] += sum[j];
    store<T, V>(to, old);
}

// The sum of `count` rows, eight under way at once, added in their order.
template <typename T, int V, typename Row>
static __device__ __forceinline__ void sum_rows(float (&sum)[V], int count, const Row& row) {
    for (int n = 0; n < count; n += 8) {
        Pack<T, V> rows[8];
#pragma unroll
        for (int r = 0; r < 8; ++r) {
            if (n + r < count) rows[r] = *reinterpret_cast<const Pack<T, V>*>(row(n + r));
        }
#pragma unroll
        for (int r = 0; r < 8; ++r) {
            if (n + r < count) {
#pragma unroll
                for (int j = 0; j < V; ++j) sum[j] += to_float(rows[r].values[j]);
            }
        }
    }
}

// An id's tokens fall into segments; the block of each segment's first token sums it, the others leave. The last segment of an
// id to be ready adds up all of them in their order. Grid: (tokens, packs of a row).
template <typename T, int V>
static __device__ __forceinline__ void backward(const Sorted& sorted, const T* dx, T* dtable) {
    const int token = blockIdx.x, rank = sorted.rank[token], dim = sorted.dim;
    if (rank % sorted.segment != 0) return;
    const int i = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    const int id = sorted.ids[token], count = sorted.counts[id], first = sorted.offsets[id] + rank;
    float sum[V] = {};
    if (i < dim) {
        sum_rows<T, V>(sum, min(count - rank, sorted.segment), [&](int n) {
            return dx + (long long)sorted.order[first + n] * dim + i;
        });
    }
    T* to = dtable + (long long)id * dim + i;
    if (count <= sorted.segment) {
        if (i < dim) add<T, V>(to, sum);
        return;
    }
    // A window of `segment` places holds at most one segment that begins an id of several, and one that does not.
    const auto place = [&](int rank) {
        const int window = (sorted.offsets[id] + rank) / sorted.segment;
        return sorted.partials + (long long)(2 * window + (rank != 0)) * dim + i;
    };
    if (i < dim) {
        float* partial = place(rank);
#pragma unroll
        for (int j = 0; j < V; ++j) partial[j] = sum[j];
    }
    __threadfence();
    __shared__ bool last;
    __syncthreads();
    const int segments = (count + sorted.segment - 1) / sorted.segment;
    if (threadIdx.x == 0) {
        last = atomicAdd(&sorted.arrived[blockIdx.y * sorted.vocab + id], 1u) == (unsigned)segments - 1u;
        __threadfence();
    }
    __syncthreads();
    if (!last || i >= dim) return;
    float total[V] = {};
#pragma unroll 4
    for (int n = 0; n < segments; ++n) {
        const float* partial = place(n * sorted.segment);
#pragma unroll
        for (int j = 0; j < V; ++j) total[j] += __ldcg(partial + j);
    }
    add<T, V>(to, total);
}

#define EMBEDDING_BACKWARD(T, NAME, V) \
    extern "C" __global__ void __launch_bounds__(128) embedding_backward_##NAME##_v##V( \
        Sorted sorted, const T* dx, T* dtable) { \
        backward<T, V>(sorted, dx, dtable); \
    }

EMBEDDING_BACKWARD(bf16, bf16, 8)
EMBEDDING_BACKWARD(bf16, bf16, 1)
EMBEDDING_BACKWARD(float, fp32, 4)
EMBEDDING_BACKWARD(float, fp32, 1)
