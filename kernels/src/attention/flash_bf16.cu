// Tiled attention in bf16 on the tensor cores (mma.m16n8k16, fp32 sums), for heads of 64 and 128. Tiles are 64 queries × 64
// keys, blocks four warps of 16 rows. Source: Dao 2023 (FlashAttention-2). Gradients of keys and values, and of queries, are
// two kernels that each own what they write, at the price of two more products: nothing is added atomically, so results
// repeat bit for bit.
#include "element.cuh"
#include "reduce.cuh"

static constexpr int TILE = 64;
static constexpr float LOG2E = 1.4426950408889634f;

struct Heads {
    int seq, heads, head_dim;
    float scale;
};

// Where 8 elements lie in a tile of D columns in shared memory: chunks of 16 bytes are exchanged by row, so that eight rows of
// one column lie in different banks.
template <int D>
static __device__ __forceinline__ int at(int row, int chunk) {
    return row * D + ((chunk ^ (row & 7)) << 3);
}

static __device__ __forceinline__ unsigned shared_address(const void* p) {
    return (unsigned)__cvta_generic_to_shared(p);
}

// Starts the copy of 64 rows; rows past the end of the sequence become 0.
template <int D>
static __device__ __forceinline__ void fetch(bf16* tile, const bf16* base, int stride, int from, int seq) {
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int j = 0; j < TILE * CHUNKS / 128; ++j) {
        const int i = threadIdx.x + 128 * j, row = i / CHUNKS, chunk = i % CHUNKS;
        const bool inside = from + row < seq;
        const bf16* source = base + (long long)(inside ? from + row : 0) * stride + chunk * 8;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(tile + at<D>(row, chunk))),
                     "l"(source), "r"(inside ? 16 : 0));
    }
}

static __device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;"); }

// Waits until at most N of the committed groups are under way.
template <int N>
static __device__ __forceinline__ void arrived() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N));
}

static __device__ __forceinline__ void matrices(unsigned (&r)[4], const bf16* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)));
}

static __device__ __forceinline__ void matrices_transposed(unsigned (&r)[4], const bf16* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)));
}

static __device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ unsigned pack(float low, float high) {
    unsigned out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

static __device__ __forceinline__ float exp2_fast(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// out (16 × 8·N) = rows of `a` from `row` · rows of `b` from `col`, summed over D.
template <int D, int N>
static __device__ __forceinline__ void product(float (&out)[N][4], const bf16* a, int row, const bf16* b, int col) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int n = 0; n < N; ++n) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        unsigned x[4];
        matrices(x, a + at<D>(row + (lane & 15), 2 * k + (lane >> 4)));
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            unsigned y[4];
            matrices(y, b + at<D>(col + 8 * n + (lane & 7) + ((lane >> 4) << 3), 2 * k + ((lane >> 3) & 1)));
            mma(out[n], x, y[0], y[1]);
            mma(out[n + 1], x, y[2], y[3]);
        }
    }
}

// out (16 × D) += pairs (16 × 8·N, rounded to bf16) · rows of `b` from `row`.
template <int D, int N>
static __device__ __forceinline__ void accumulate(float (&out)[D / 8][4], const float (&pairs)[N][4], const bf16* b, int row) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        const unsigned x[4] = {pack(pairs[k][0], pairs[k][1]), pack(pairs[k][2], pairs[k][3]),
                               pack(pairs[k + 1][0], pairs[k + 1][1]), pack(pairs[k + 1][2], pairs[k + 1][3])};
#pragma unroll
        for (int d = 0; d < D / 8; d += 2) {
            unsigned y[4];
            matrices_transposed(y, b + at<D>(row + 8 * k + (lane & 15), d + (lane >> 4)));
            mma(out[d], x, y[0], y[1]);
            mma(out[d + 1], x, y[2], y[3]);
        }
    }
}

// Writes the warp's 16 rows, each times its factor; rows past the end of the sequence are left out.
template <int D>
static __device__ __forceinline__ void put(
    const float (&values)[D / 8][4], bf16* base, int stride, int row, int seq, float factor0, float factor1) {
    const int lane = threadIdx.x & 31, first = row + (lane >> 2);
#pragma unroll
    for (int d = 0; d < D / 8; ++d) {
        const int col = 8 * d + 2 * (lane & 3);
        if (first < seq)
            *reinterpret_cast<unsigned*>(base + (long long)first * stride + col) = pack(values[d][0] * factor0, values[d][1] * factor0);
        if (first + 8 < seq)
            *reinterpret_cast<unsigned*>(base + (long long)(first + 8) * stride + col) = pack(values[d][2] * factor1, values[d][3] * factor1);
    }
}

// Grid: (query tiles, B·H); the longest rows first.
template <int D>
static __device__ __forceinline__ void forward(const bf16* qkv, bf16* context, float* lse, Heads h) {
    extern __shared__ __align__(128) bf16 memory[];
    bf16 *q = memory, *keys = q + TILE * D, *values = keys + 2 * TILE * D;
    const int tile = gridDim.x - 1 - blockIdx.x, from = tile * TILE;
    const int batch = blockIdx.y / h.heads, head = blockIdx.y % h.heads;
    const int width = h.heads * D, packed = 3 * width;
    const bf16* base = qkv + (long long)batch * h.seq * packed + head * D;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    fetch<D>(q, base, packed, from, h.seq);
    fetch<D>(keys, base + width, packed, 0, h.seq);
    fetch<D>(values, base + 2 * width, packed, 0, h.seq);
    commit();
    const float to_log2 = h.scale * LOG2E;
    float out[D / 8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    for (int t = 0; t <= tile; ++t) {
        const bf16 *k = keys + (t & 1) * TILE * D, *v = values + (t & 1) * TILE * D;
        if (t < tile) {
            fetch<D>(keys + ((t + 1) & 1) * TILE * D, base + width, packed, (t + 1) * TILE, h.seq);
            fetch<D>(values + ((t + 1) & 1) * TILE * D, base + 2 * width, packed, (t + 1) * TILE, h.seq);
            commit();
            arrived<1>();
        } else {
            arrived<0>();
        }
        __syncthreads();
        float s[8][4];
        product<D, 8>(s, q, warp * 16, k, 0);
        if (t == tile) {
            // On the diagonal: keys up to the query's own position. Keys past the end come after every query that counts.
            const int row = warp * 16 + (lane >> 2);
#pragma unroll
            for (int n = 0; n < 8; ++n) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int col = 8 * n + 2 * (lane & 3) + (j & 1);
                    if (col > row + (j >> 1) * 8) s[n][j] = -INFINITY;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float now = largest[i];
#pragma unroll
            for (int n = 0; n < 8; ++n) now = fmaxf(now, fmaxf(s[n][2 * i], s[n][2 * i + 1]));
            now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
            now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
            const float shrink = exp2_fast((largest[i] - now) * to_log2), offset = now * to_log2;
            largest[i] = now;
            float add = 0.0f;
#pragma unroll
            for (int n = 0; n < 8; ++n) {
#pragma unroll
                for (int j = 2 * i; j < 2 * i + 2; ++j) {
                    s[n][j] = exp2_fast(s[n][j] * to_log2 - offset);
                    add += s[n][j];
                }
            }
            sum[i] = sum[i] * shrink + add;
#pragma unroll
            for (int d = 0; d < D / 8; ++d) {
                out[d][2 * i] *= shrink;
                out[d][2 * i + 1] *= shrink;
            }
        }
        accumulate<D, 8>(out, s, v, 0);
        __syncthreads();
    }
    const int row = from + warp * 16;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
        const int query = row + (lane >> 2) + 8 * i;
        if ((lane & 3) == 0 && query < h.seq)
            lse[(long long)blockIdx.y * h.seq + query] = largest[i] * h.scale + logf(sum[i]);
    }
    put<D>(out, context + (long long)batch * h.seq * width + head * D, width, row, h.seq, 1.0f / sum[0], 1.0f / sum[1]);
}

// Keys and values of one tile. Products are transposed, keys along rows, so that probabilities are already the left operand of
// what follows; N is how many packs of 8 queries are held at once. Grid: (key tiles, B·H).
template <int D, int N>
static __device__ __forceinline__ void backward_keys(
    const bf16* qkv, const bf16* dcontext, const float* lse, const float* delta, bf16* dqkv, Heads h) {
    extern __shared__ __align__(128) bf16 memory[];
    constexpr int SIZE = TILE * D;
    bf16 *k = memory, *v = k + SIZE, *queries = v + SIZE, *gradients = queries + 2 * SIZE;
    float* rows = reinterpret_cast<float*>(gradients + 2 * SIZE);  // (2 buffers, lse and delta, 64)
    const int own = blockIdx.x * TILE, tiles = (h.seq + TILE - 1) / TILE;
    const int batch = blockIdx.y / h.heads, head = blockIdx.y % h.heads;
    const int width = h.heads * D, packed = 3 * width;
    const bf16* base = qkv + (long long)batch * h.seq * packed + head * D;
    const bf16* dbase = dcontext + (long long)batch * h.seq * width + head * D;
    bf16* out = dqkv + (long long)batch * h.seq * packed + head * D;
    const float* statistics = (threadIdx.x < TILE ? lse : delta) + (long long)blockIdx.y * h.seq;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const auto fetch_queries = [&](int t) {
        const int buffer = t & 1, from = t * TILE, query = from + (threadIdx.x & (TILE - 1));
        fetch<D>(queries + buffer * SIZE, base, packed, from, h.seq);
        fetch<D>(gradients + buffer * SIZE, dbase, width, from, h.seq);
        rows[buffer * 2 * TILE + threadIdx.x] = query < h.seq ? statistics[query] : 0.0f;
    };
    fetch<D>(k, base + width, packed, own, h.seq);
    fetch<D>(v, base + 2 * width, packed, own, h.seq);
    fetch_queries(blockIdx.x);
    commit();
    const float to_log2 = h.scale * LOG2E;
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    for (int t = blockIdx.x; t < tiles; ++t) {
        if (t + 1 < tiles) {
            fetch_queries(t + 1);
            commit();
            arrived<1>();
        } else {
            arrived<0>();
        }
        __syncthreads();
        const bf16 *q = queries + (t & 1) * SIZE, *dout = gradients + (t & 1) * SIZE;
        const float *of_lse = rows + (t & 1) * 2 * TILE, *of_delta = of_lse + TILE;
        const bool edge = t == (int)blockIdx.x || (t + 1) * TILE > h.seq;
        const int key = own + warp * 16 + (lane >> 2);
#pragma unroll
        for (int part = 0; part < 8 / N; ++part) {
            float p[N][4], ds[N][4];
            product<D, N>(p, k, warp * 16, q, part * N * 8);
            product<D, N>(ds, v, warp * 16, dout, part * N * 8);
#pragma unroll
            for (int n = 0; n < N; ++n) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int col = (part * N + n) * 8 + 2 * (lane & 3) + (j & 1), query = t * TILE + col;
                    float e = exp2_fast(p[n][j] * to_log2 - of_lse[col] * LOG2E);
                    if (edge && (key + (j >> 1) * 8 > query || query >= h.seq)) e = 0.0f;
                    p[n][j] = e;
                    ds[n][j] = e * (ds[n][j] - of_delta[col]) * h.scale;
                }
            }
            accumulate<D, N>(dv, p, dout, part * N * 8);
            accumulate<D, N>(dk, ds, q, part * N * 8);
        }
        __syncthreads();
    }
    put<D>(dk, out + width, packed, own + warp * 16, h.seq, 1.0f, 1.0f);
    put<D>(dv, out + 2 * width, packed, own + warp * 16, h.seq, 1.0f, 1.0f);
}

// Queries of one tile. Grid: (query tiles, B·H); the longest rows first.
template <int D, int N>
static __device__ __forceinline__ void backward_queries(
    const bf16* qkv, const bf16* dcontext, const float* lse, const float* delta, bf16* dqkv, Heads h) {
    extern __shared__ __align__(128) bf16 memory[];
    constexpr int SIZE = TILE * D;
    bf16 *q = memory, *dout = q + SIZE, *keys = dout + SIZE, *values = keys + 2 * SIZE;
    const int tile = gridDim.x - 1 - blockIdx.x, own = tile * TILE;
    const int batch = blockIdx.y / h.heads, head = blockIdx.y % h.heads;
    const int width = h.heads * D, packed = 3 * width;
    const bf16* base = qkv + (long long)batch * h.seq * packed + head * D;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = own + warp * 16 + (lane >> 2);
    fetch<D>(q, base, packed, own, h.seq);
    fetch<D>(dout, dcontext + (long long)batch * h.seq * width + head * D, width, own, h.seq);
    fetch<D>(keys, base + width, packed, 0, h.seq);
    fetch<D>(values, base + 2 * width, packed, 0, h.seq);
    commit();
    float of_lse[2], of_delta[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const bool inside = row + 8 * i < h.seq;
        const long long index = (long long)blockIdx.y * h.seq + row + 8 * i;
        of_lse[i] = inside ? lse[index] * LOG2E : 0.0f;
        of_delta[i] = inside ? delta[index] : 0.0f;
    }
    const float to_log2 = h.scale * LOG2E;
    float dq[D / 8][4] = {};
    for (int t = 0; t <= tile; ++t) {
        const bf16 *k = keys + (t & 1) * SIZE, *v = values + (t & 1) * SIZE;
        if (t < tile) {
            fetch<D>(keys + ((t + 1) & 1) * SIZE, base + width, packed, (t + 1) * TILE, h.seq);
            fetch<D>(values + ((t + 1) & 1) * SIZE, base + 2 * width, packed, (t + 1) * TILE, h.seq);
            commit();
            arrived<1>();
        } else {
            arrived<0>();
        }
        __syncthreads();
#pragma unroll
        for (int part = 0; part < 8 / N; ++part) {
            float s[N][4], ds[N][4];
            product<D, N>(s, q, warp * 16, k, part * N * 8);
            product<D, N>(ds, dout, warp * 16, v, part * N * 8);
#pragma unroll
            for (int n = 0; n < N; ++n) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int i = j >> 1, key = t * TILE + (part * N + n) * 8 + 2 * (lane & 3) + (j & 1);
                    float e = exp2_fast(s[n][j] * to_log2 - of_lse[i]);
                    if (t == tile && (key > row + 8 * i || key >= h.seq)) e = 0.0f;
                    ds[n][j] = e * (ds[n][j] - of_delta[i]) * h.scale;
                }
            }
            accumulate<D, N>(dq, ds, k, part * N * 8);
        }
        __syncthreads();
    }
    put<D>(dq, dqkv + (long long)batch * h.seq * packed + head * D, packed, own + warp * 16, h.seq, 1.0f, 1.0f);
}

#define FLASH(D, N) \
    extern "C" __global__ void __launch_bounds__(128) flash_bf16_forward_##D( \
        const bf16* qkv, bf16* context, float* lse, Heads h) { \
        forward<D>(qkv, context, lse, h); \
    } \
    extern "C" __global__ void __launch_bounds__(128) flash_bf16_backward_keys_##D( \
        const bf16* qkv, const bf16* dcontext, const float* lse, const float* delta, bf16* dqkv, Heads h) { \
        backward_keys<D, N>(qkv, dcontext, lse, delta, dqkv, h); \
    } \
    extern "C" __global__ void __launch_bounds__(128) flash_bf16_backward_queries_##D( \
        const bf16* qkv, const bf16* dcontext, const float* lse, const float* delta, bf16* dqkv, Heads h) { \
        backward_queries<D, N>(qkv, dcontext, lse, delta, dqkv, h); \
    }

FLASH(64, 8)
FLASH(128, 4)
