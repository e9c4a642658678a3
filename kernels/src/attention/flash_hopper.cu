// Tiled attention in bf16 for Hopper, forward: warpgroup products, bulk tensor copies, and a warp that does nothing but fetch.
// Source of the schedule: Shah et al. 2024 (FlashAttention-3): one warpgroup's softmax runs under the others' products, and
// under its own product of the tile before.
#include "hopper.cuh"
#include "reduce.cuh"

static constexpr float LOG2E = 1.4426950408889634f;

// Keys of a tile, and tiles of keys (and of values) in shared memory at once.
static constexpr int KEYS = 128;
static constexpr int STAGES = 2;

// What a block is made of: one warpgroup that fetches, and GROUPS that compute 64 queries each.
template <int D>
struct Layout {
    static constexpr int GROUPS = D == 64 ? 3 : 2;
    static constexpr int QUERIES = 64 * GROUPS;
    static constexpr int PANELS = D / 64;
    static constexpr unsigned QUERY_BYTES = QUERIES * D * 2, KEY_BYTES = KEYS * D * 2;
    // Registers of a thread that fetches and of one that computes; they add up to what the block starts with.
    static constexpr int FETCHING = GROUPS == 3 ? 32 : 24, COMPUTING = GROUPS == 3 ? 160 : 240;
    // From the first 1024-byte boundary: queries twice, keys, values, barriers, the tiles taken.
    static constexpr unsigned KEYS_AT = 2 * QUERY_BYTES, VALUES_AT = KEYS_AT + STAGES * KEY_BYTES;
    static constexpr unsigned BARRIERS_AT = VALUES_AT + STAGES * KEY_BYTES;
};

// Order of work: `group` heads at a time, so that their keys and values stay in the second-level cache; within a group the
// longest rows first.
struct Work {
    int seq, heads, kv_heads, problems, group, tiles, causal;  // problems: B·H; tiles: of one head's queries
    float scale;
};

struct Place { int from, batch, head, problem; };

static __device__ __forceinline__ Place place_of(int index, int queries, const Work& w) {
    const int section = index / (w.group * w.tiles), within = index % (w.group * w.tiles);
    const int first = section * w.group, heads = min(w.group, w.problems - first);
    Place p;
    p.problem = first + within % heads;
    p.from = (w.tiles - 1 - within / heads) * queries;
    p.batch = p.problem / w.heads;
    p.head = p.problem % w.heads;
    return p;
}

// Tiles of keys that the queries of one place see.
static __device__ __forceinline__ int key_tiles(const Place& p, int queries, const Work& w) {
    return ((w.causal ? min(p.from + queries, w.seq) : w.seq) + KEYS - 1) / KEYS;
}

static __device__ __forceinline__ float exp2_fast(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// Barriers, by number: queries full and empty (2 each), then keys full, keys empty, values full, values empty (STAGES each).
struct Barriers {
    unsigned base;
    __device__ __forceinline__ unsigned query_full(int i) const { return base + 8 * i; }
    __device__ __forceinline__ unsigned query_empty(int i) const { return base + 8 * (2 + i); }
    __device__ __forceinline__ unsigned key_full(int i) const { return base + 8 * (4 + i); }
    __device__ __forceinline__ unsigned key_empty(int i) const { return base + 8 * (4 + STAGES + i); }
    __device__ __forceinline__ unsigned value_full(int i) const { return base + 8 * (4 + 2 * STAGES + i); }
    __device__ __forceinline__ unsigned value_empty(int i) const { return base + 8 * (4 + 3 * STAGES + i); }
    static constexpr unsigned BYTES = 8 * (4 + 4 * STAGES);
};

// Where in a ring of tiles: advances stage by stage, the parity changes at every turn.
struct Ring {
    int stage = 0;
    unsigned parity = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// The one thread that fetches. Takes tiles off `next` until none are left; -1 tells the others so.
template <int D>
static __device__ __forceinline__ void fetch(
    const TensorMap* qkv, int* next, const Work& w, unsigned memory, int* taken, Barriers bars) {
    using L = Layout<D>;
    const int total = w.problems * w.tiles;
    Ring ring;
    int index = atomicAdd(next, 1);
    for (int turn = 0;; ++turn) {
        const int buffer = turn & 1;
        barrier_wait(bars.query_empty(buffer), (turn >> 1 & 1) ^ 1);
        taken[buffer] = index < total ? index : -1;
        if (index >= total) {
            barrier_arrive(bars.query_full(buffer));
            return;
        }
        const Place p = place_of(index, L::QUERIES, w);
        const int column = p.head * D;
        // Heads lie one after the other in a packed row: of queries, keys, values.
        const int keys = (w.heads + p.head / (w.heads / w.kv_heads)) * D, values = keys + w.kv_heads * D;
        index = atomicAdd(next, 1);
        const auto fetch_tile = [&](unsigned to, int column, int from, unsigned barrier) {
            barrier_expect(barrier, L::KEY_BYTES);
#pragma unroll
            for (int panel = 0; panel < L::PANELS; ++panel)
#pragma unroll
                for (int half = 0; half < KEYS / 64; ++half)
                    copy_in(to + (panel * KEYS + half * 64) * 128, qkv, column + panel * 64, from + half * 64, p.batch, barrier);
        };
        for (int n = key_tiles(p, L::QUERIES, w) - 1, first = 1; n >= 0; --n, first = 0) {
            const unsigned offset = ring.stage * L::KEY_BYTES;
            barrier_wait(bars.key_empty(ring.stage), ring.parity ^ 1);
            fetch_tile(memory + L::KEYS_AT + offset, keys, n * KEYS, bars.key_full(ring.stage));
            if (first) {
                const unsigned to = memory + buffer * L::QUERY_BYTES;
                barrier_expect(bars.query_full(buffer), L::QUERY_BYTES);
#pragma unroll
                for (int panel = 0; panel < L::PANELS; ++panel)
#pragma unroll
                    for (int part = 0; part < L::GROUPS; ++part)
                        copy_in(to + (panel * L::QUERIES + part * 64) * 128, qkv, column + panel * 64,
                                p.from + part * 64, p.batch, bars.query_full(buffer));
            }
            barrier_wait(bars.value_empty(ring.stage), ring.parity ^ 1);
            fetch_tile(memory + L::VALUES_AT + offset, values, n * KEYS, bars.value_full(ring.stage));
            ring.advance();
        }
    }
}

// Starts scores = queries · keysᵀ.
template <int D>
static __device__ __forceinline__ void start_scores(float (&s)[64], unsigned queries, unsigned keys) {
    const unsigned long long a = descriptor(queries), b = descriptor(keys);
    products_begin();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        // 16 columns are 32 bytes of a row; the next 64 are in the next panel.
        const int in_a = (k / 4) * (Layout<D>::QUERIES * 128) + (k % 4) * 32, in_b = (k / 4) * (KEYS * 128) + (k % 4) * 32;
        if (k == 0) multiply<false, 0, 0>(s, a, b);
        else multiply<true, 0, 0>(s, a + (in_a >> 4), b + (in_b >> 4));
    }
    products_commit();
}

// Starts out += p · values.
template <int D>
static __device__ __forceinline__ void start_context(float (&out)[D / 2], const unsigned (&p)[32], unsigned values) {
    const unsigned long long b = descriptor_transposed(values, KEYS * 128);
    products_begin();
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) multiply<true, 1>(out, p + 4 * k, b + (k * 2048 >> 4));
    products_commit();
}

// Running maximum and sum of a thread's two rows; sums are of this thread's columns only.
struct Rows { float largest[2], sum[2]; };

// A maximum that rises by less, as a power of two, is left where it was: exponentials up to 256 are as exact in bf16 and in the
// fp32 sums as those up to 1, and the context need not shrink. Source: FlashAttention-4's rescaling.
static constexpr float LEAST_RISE = 8.0f;

// Scores to exponentials against the maximum; what the rows so far shrink by, and whether any of the warp's do.
template <bool FIRST>
static __device__ __forceinline__ bool soften(float (&s)[64], Rows& rows, float (&shrink)[2], float to_log2) {
    bool rises = false;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        float now[2] = {s[2 * i], s[2 * i + 1]};
#pragma unroll
        for (int n = 1; n < KEYS / 8; ++n) {
            now[0] = fmaxf(now[0], s[4 * n + 2 * i]);
            now[1] = fmaxf(now[1], s[4 * n + 2 * i + 1]);
        }
        float largest = fmaxf(now[0], now[1]);
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        if (!FIRST) {
            const bool stays = (largest - rows.largest[i]) * to_log2 <= LEAST_RISE;
            if (stays) largest = rows.largest[i];
            shrink[i] = stays ? 1.0f : exp2_fast((rows.largest[i] - largest) * to_log2);
            rises |= !stays;
        }
        rows.largest[i] = largest;
        const float offset = largest * to_log2;
        float add[2] = {0.0f, 0.0f};
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                float& x = s[4 * n + 2 * i + j];
                x = exp2_fast(x * to_log2 - offset);
                add[j] += x;
            }
        }
        rows.sum[i] = (FIRST ? 0.0f : rows.sum[i] * shrink[i]) + (add[0] + add[1]);
    }
    return !FIRST && __any_sync(0xffffffffu, rises);
}

static __device__ __forceinline__ void pack_all(unsigned (&p)[32], const float (&s)[64]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) p[i] = pair_from_floats(s[2 * i], s[2 * i + 1], bf16{});
}

// One of the warpgroups that compute: 64 queries of every tile. The order in which they start products is a round: a group
// starts when the one before has started its own, so that one's exponentials run under the others' products.
template <int D>
static __device__ __forceinline__ void compute(
    const TensorMap* context, float* lse, const Work& w, unsigned memory, const int* taken, Barriers bars, int group) {
    using L = Layout<D>;
    const int thread = threadIdx.x & 127, lane = threadIdx.x & 31, warp = thread >> 5;
    const int next_group = group + 1 == L::GROUPS ? 0 : group + 1;
    const float to_log2 = w.scale * LOG2E;
    const auto leave = [&](unsigned barrier) {
        __syncwarp();
        if (lane == 0) barrier_arrive(barrier);
    };
    Ring ring;
    int pending = -1;  // the buffer whose copy out is under way
    if (group == L::GROUPS - 1) named_arrive(1, 256);
    for (int turn = 0;; ++turn) {
        const int buffer = turn & 1;
        barrier_wait(bars.query_full(buffer), turn >> 1 & 1);
        const int index = taken[buffer];
        if (index < 0) break;
        const Place place = place_of(index, L::QUERIES, w);
        const int from = place.from + group * 64;
        const unsigned queries = memory + buffer * L::QUERY_BYTES + group * 64 * 128;
        int n = key_tiles(place, L::QUERIES, w) - 1;
        // Tiles that lie behind all of this group's queries: let go, and take part in the rounds.
        for (; w.causal && n > (from + 63) / KEYS; --n) {
            barrier_wait(bars.key_full(ring.stage), ring.parity);
            leave(bars.key_empty(ring.stage));
            barrier_wait(bars.value_full(ring.stage), ring.parity);
            leave(bars.value_empty(ring.stage));
            ring.advance();
            named_sync(1 + group, 256);
            named_arrive(1 + next_group, 256);
        }
        float s[64], out[D / 2], shrink[2];
        unsigned p[32];
        Rows rows;
        barrier_wait(bars.key_full(ring.stage), ring.parity);
        start_scores<D>(s, queries, memory + L::KEYS_AT + ring.stage * L::KEY_BYTES);
        if (pending >= 0 && thread == 0) {
            copy_out_read();
            barrier_arrive(bars.query_empty(pending));
        }
        products_wait<0>();
        settle(s);
        leave(bars.key_empty(ring.stage));
        // Of the one tile on the diagonal (or, behind the sequence's end, any) keys up to the query's own position: keys behind
        // the end come after every query that counts. Without the mask, of the last tile keys up to the end.
        const int row = from + warp * 16 + (lane >> 2);
        const int last[2] = {w.causal ? row : w.seq - 1, w.causal ? row + 8 : w.seq - 1};
#pragma unroll
        for (int i = 0; i < 64; ++i) {
            const int key = n * KEYS + (i >> 2) * 8 + 2 * (lane & 3) + (i & 1);
            if (key > last[i >> 1 & 1]) s[i] = -INFINITY;
        }
        soften<true>(s, rows, shrink, to_log2);
        pack_all(p, s);
#pragma unroll
        for (int i = 0; i < D / 2; ++i) out[i] = 0.0f;
        for (; n > 0; --n) {
            Ring before = ring;
            ring.advance();
            barrier_wait(bars.key_full(ring.stage), ring.parity);
            named_sync(1 + group, 256);
            start_scores<D>(s, queries, memory + L::KEYS_AT + ring.stage * L::KEY_BYTES);
            barrier_wait(bars.value_full(before.stage), before.parity);
            start_context<D>(out, p, memory + L::VALUES_AT + before.stage * L::KEY_BYTES);
            named_arrive(1 + next_group, 256);
            products_wait<1>();
            settle(s);
            leave(bars.key_empty(ring.stage));
            const bool rises = soften<false>(s, rows, shrink, to_log2);
            products_wait<0>();
            settle(out);
            leave(bars.value_empty(before.stage));
            pack_all(p, s);
            if (rises) {
#pragma unroll
                for (int i = 0; i < D / 2; ++i) out[i] *= shrink[i >> 1 & 1];
            }
        }
        barrier_wait(bars.value_full(ring.stage), ring.parity);
        start_context<D>(out, p, memory + L::VALUES_AT + ring.stage * L::KEY_BYTES);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            rows.sum[i] += __shfl_xor_sync(0xffffffffu, rows.sum[i], 1);
            rows.sum[i] += __shfl_xor_sync(0xffffffffu, rows.sum[i], 2);
            const int query = row + 8 * i;
            if ((lane & 3) == 0 && query < w.seq)
                lse[(long long)place.problem * w.seq + query] = rows.largest[i] * w.scale + logf(rows.sum[i]);
        }
        products_wait<0>();
        settle(out);
        leave(bars.value_empty(ring.stage));
        ring.advance();
        // The context takes the place of the group's queries, which nobody reads any more, and leaves from there.
        const float factor[2] = {1.0f / rows.sum[0], 1.0f / rows.sum[1]};
        named_sync(1 + L::GROUPS + group, 128);
#pragma unroll
        for (int i = 0; i < D / 2; i += 2) {
            const int chunk = i / 4, line = warp * 16 + (lane >> 2) + (i >> 1 & 1) * 8;
            const unsigned to = queries + (chunk / 8) * (L::QUERIES * 128) + line * 128 +
                                (((chunk & 7) ^ (line & 7)) << 4) + (lane & 3) * 4;
            const float f = factor[i >> 1 & 1];
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pair_from_floats(out[i] * f, out[i + 1] * f, bf16{})) : "memory");
        }
        fence_async();
        named_sync(1 + L::GROUPS + group, 128);
        if (thread == 0) {
            if (from < w.seq) {
#pragma unroll
                for (int panel = 0; panel < L::PANELS; ++panel)
                    copy_out(context, queries + panel * L::QUERIES * 128, place.head * D + panel * 64, from, place.batch);
            }
            copy_out_commit();
        }
        pending = buffer;
    }
    if (thread == 0) copy_out_read();
    // The round ends where it began: the last group has let the first go once more.
    if (group == 0) named_sync(1, 256);
}

// Grid: as many blocks as multiprocessors. Zeroed before: `next`.
template <int D>
static __device__ __forceinline__ void forward(
    const TensorMap* qkv, const TensorMap* context, float* lse, int* next, const Work& w) {
    using L = Layout<D>;
    extern __shared__ __align__(1024) unsigned char raw[];
    const unsigned memory = (shared_of(raw) + 1023) & ~1023u;
    int* taken = reinterpret_cast<int*>(raw + (memory - shared_of(raw)) + L::BARRIERS_AT + Barriers::BYTES);
    const Barriers bars{memory + L::BARRIERS_AT};
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) {
            barrier_init(bars.query_full(i), 1);
            barrier_init(bars.query_empty(i), L::GROUPS);
        }
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(bars.key_full(i), 1);
            barrier_init(bars.value_full(i), 1);
            barrier_init(bars.key_empty(i), 4 * L::GROUPS);
            barrier_init(bars.value_empty(i), 4 * L::GROUPS);
        }
        barrier_init_fence();
    }
    __syncthreads();
    const int group = threadIdx.x / 128;
    if (group == L::GROUPS) {
        registers_down<L::FETCHING>();
        if ((threadIdx.x & 127) == 0) fetch<D>(qkv, next, w, memory, taken, bars);
    } else {
        registers_up<L::COMPUTING>();
        compute<D>(context, lse, w, memory, taken, bars, group);
    }
}

#define FLASH(D) \
    extern "C" __global__ void __launch_bounds__(128 * (Layout<D>::GROUPS + 1), 1) flash_hopper_forward_##D( \
        const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap context, float* lse, int* next, Work w) { \
        forward<D>(&qkv, &context, lse, next, w); \
    }

FLASH(64)
FLASH(128)
