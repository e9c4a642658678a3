// Gradients of tiled attention in bf16 for Hopper: warpgroup products, bulk copies, warps that only fetch, that only write and
// that only finish. A block owns 128 keys and goes through the queries that see them, from the diagonal on; its gradients of keys
// and values stay in registers, and its part of every query's gradient is added in global memory, in fp32. Source of the
// schedule: Shah et al. 2024 (FlashAttention-3).
//
// Blocks add to a tile of queries as they come, to sums that were zeroed, or in a fixed order: the last block that sees it first,
// which stores instead. Then results repeat bit for bit, and nothing needs zeroing. As blocks are taken in that order, the one
// that is waited for is always at work.
//
// The sums are a ring of some heads, small enough for the second-level cache. A warp of every block, whatever the block is at,
// takes parts of the sums in the order of heads, waits until all blocks have added, writes them as bf16 and leaves zeroes. Only
// then the head that has the same place in the ring is added to. Nobody waits in a circle: who adds waits for earlier heads of
// keys alone (the ring holds all heads that share), or in a fixed order for earlier blocks, and those were taken before.
//
// Where query heads share keys and values, a block goes through the queries of all of them.
//
// Long because its warps play four parts of one protocol of barriers, which is read together or not at all.
#include "hopper.cuh"
#include "reduce.cuh"

static constexpr float LOG2E = 1.4426950408889634f;

static constexpr int KEYS = 128;
static constexpr int STAGES = 2;
static constexpr int GROUPS = 2;

// Of a part's sums: no more turns, they are written as bf16 and another head may use their place.
static constexpr int FINISHED = -1;

// What a block is made of: one warpgroup that fetches, writes and finishes, and two that compute 64 keys each.
template <int D>
struct Layout {
    static constexpr int QUERIES = D == 64 ? 128 : 64;
    static constexpr int PANELS = D / 64;
    static constexpr unsigned KEY_BYTES = KEYS * D * 2, QUERY_BYTES = QUERIES * D * 2;
    // Keys and values of this many blocks at once.
    static constexpr int BLOCKS = D == 64 ? 2 : 1;
    // Of the queries of one tile, log-sum-exps and then deltas.
    static constexpr unsigned ROW_BYTES = 2 * QUERIES * 4;
    static constexpr unsigned PAIR_BYTES = KEYS * QUERIES * 2;
    // A group's part of a tile's gradient: 64 × 64 in fp32. Zeroes are written from a quarter as many.
    static constexpr unsigned PART_BYTES = 64 * 64 * 4, ZERO_BYTES = PART_BYTES / 4;
    // From the first 1024-byte boundary.
    static constexpr unsigned VALUES_AT = BLOCKS * KEY_BYTES, QUERIES_AT = 2 * VALUES_AT;
    static constexpr unsigned GRADIENTS_AT = QUERIES_AT + STAGES * QUERY_BYTES, PAIRS_AT = GRADIENTS_AT + STAGES * QUERY_BYTES;
    static constexpr unsigned PARTS_AT = PAIRS_AT + PAIR_BYTES, ROWS_AT = PARTS_AT + GROUPS * PART_BYTES;
    static constexpr unsigned SUMMED_AT = ROWS_AT + STAGES * ROW_BYTES, ZEROES_AT = SUMMED_AT + PART_BYTES;
    static constexpr unsigned BARRIERS_AT = ZEROES_AT + ZERO_BYTES;
};

// tiles: of one head's queries; blocks: of its keys; ring: tiles that there are sums for, of whole heads.
struct Work {
    int seq, heads, kv_heads, problems, tiles, blocks, causal, ring;  // problems: B·Hkv
    float scale;

    // The last block that sees a tile of a head.
    template <int QUERIES>
    __device__ __forceinline__ int last(int tile) const {
        return causal ? tile / (KEYS / QUERIES) : blocks - 1;
    }

    // Where the sums of a part lie in the ring.
    __device__ __forceinline__ float* part(float* sums, int tile, int group) const {
        return sums + (long long)(tile % ring * GROUPS + group) * (64 * 64);
    }
};

// head: of keys; sharing: the heads of queries that read it; first: the first tile of queries that sees the block.
struct Place {
    int batch, head, sharing, block, first;

    // The head of queries number i that shares, among all of the batch.
    __device__ __forceinline__ long long queries(int i, const Work& w) const {
        return (long long)batch * w.heads + head * sharing + i;
    }
};

template <int D, bool ORDERED>
static __device__ __forceinline__ Place place_of(int index, const Work& w) {
    const int problem = index / w.blocks, turn = index % w.blocks;
    Place p;
    p.block = ORDERED ? w.blocks - 1 - turn : turn;
    p.first = w.causal ? p.block * (KEYS / Layout<D>::QUERIES) : 0;
    p.batch = problem / w.kv_heads;
    p.head = problem % w.kv_heads;
    p.sharing = w.heads / w.kv_heads;
    return p;
}

static __device__ __forceinline__ float exp2_fast(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// full: what was fetched is there; empty: nobody reads it any more. Parts are the two groups' gradients of queries.
template <int BLOCKS>
struct Barriers {
    unsigned base;
    __device__ __forceinline__ unsigned block_full(int i) const { return base + 8 * i; }
    __device__ __forceinline__ unsigned block_empty(int i) const { return base + 8 * (BLOCKS + i); }
    __device__ __forceinline__ unsigned query_full(int i) const { return base + 8 * (2 * BLOCKS + i); }
    __device__ __forceinline__ unsigned query_empty(int i) const { return base + 8 * (2 * BLOCKS + STAGES + i); }
    __device__ __forceinline__ unsigned gradient_full(int i) const { return base + 8 * (2 * BLOCKS + 2 * STAGES + i); }
    __device__ __forceinline__ unsigned gradient_empty(int i) const { return base + 8 * (2 * BLOCKS + 3 * STAGES + i); }
    __device__ __forceinline__ unsigned part_full(int i) const { return base + 8 * (2 * BLOCKS + 4 * STAGES + i); }
    __device__ __forceinline__ unsigned part_empty(int i) const { return base + 8 * (2 * BLOCKS + 4 * STAGES + GROUPS + i); }
    __device__ __forceinline__ unsigned summed_full() const { return base + 8 * (2 * BLOCKS + 4 * STAGES + 2 * GROUPS); }
    static constexpr unsigned BYTES = 8 * (2 * BLOCKS + 4 * STAGES + 2 * GROUPS + 1);
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

// The one thread that fetches. Takes blocks off `next` until none are left; -1 tells the others so. Behind the blocks taken
// stands how many tiles of queries see each.
template <int D, bool ORDERED>
static __device__ __forceinline__ void fetch(const TensorMap* qkv, const TensorMap* dcontext, const float* rows, int* next,
    const Work& w, unsigned memory, int* taken, Barriers<Layout<D>::BLOCKS> bars) {
    using L = Layout<D>;
    const int total = w.problems * w.blocks;
    Ring ring;
    for (int turn = 0;; ++turn) {
        const int buffer = turn % L::BLOCKS;
        barrier_wait(bars.block_empty(buffer), (turn / L::BLOCKS & 1) ^ 1);
        const int index = atomicAdd(next, 1);
        taken[buffer] = index < total ? index : -1;
        if (index >= total) {
            barrier_arrive(bars.block_full(buffer));
            return;
        }
        const Place p = place_of<D, ORDERED>(index, w);
        taken[L::BLOCKS + buffer] = w.tiles - p.first;
        const int key_column = (w.heads + p.head) * D;
        const auto copy_tile = [&](unsigned to, const TensorMap* map, int from_column, int from, int count, unsigned barrier) {
#pragma unroll
            for (int panel = 0; panel < L::PANELS; ++panel)
                for (int part = 0; part < count; part += 64)
                    copy_in(to + (panel * count + part) * 128, map, from_column + panel * 64, from + part, p.batch, barrier);
        };
        barrier_expect(bars.block_full(buffer), 2 * L::KEY_BYTES);
        copy_tile(memory + buffer * L::KEY_BYTES, qkv, key_column, p.block * KEYS, KEYS, bars.block_full(buffer));
        copy_tile(memory + L::VALUES_AT + buffer * L::KEY_BYTES, qkv, key_column + w.kv_heads * D, p.block * KEYS, KEYS,
                  bars.block_full(buffer));
        // One loop over the tiles of all heads that share: rows of one head lie behind those of the one before.
        const int first = (int)p.queries(0, w) * w.tiles;
        for (int at = first + p.first, column = p.head * p.sharing * D, end = first + w.tiles;;) {
            const int from = (at - end + w.tiles) * L::QUERIES;
            barrier_wait(bars.query_empty(ring.stage), ring.parity ^ 1);
            barrier_expect(bars.query_full(ring.stage), L::QUERY_BYTES + L::ROW_BYTES);
            copy_tile(memory + L::QUERIES_AT + ring.stage * L::QUERY_BYTES, qkv, column, from, L::QUERIES,
                      bars.query_full(ring.stage));
            copy_bytes_in(memory + L::ROWS_AT + ring.stage * L::ROW_BYTES, rows + (long long)at * (2 * L::QUERIES), L::ROW_BYTES,
                          bars.query_full(ring.stage));
            barrier_wait(bars.gradient_empty(ring.stage), ring.parity ^ 1);
            barrier_expect(bars.gradient_full(ring.stage), L::QUERY_BYTES);
            copy_tile(memory + L::GRADIENTS_AT + ring.stage * L::QUERY_BYTES, dcontext, column, from, L::QUERIES,
                      bars.gradient_full(ring.stage));
            ring.advance();
            if (++at < end) continue;
            column += D;
            if (column == (p.head + 1) * p.sharing * D) break;
            at += p.first;
            end += w.tiles;
        }
    }
}

// Waits until this many blocks have added to a part, or until it is FINISHED, so that the copy engine may touch its sums. `nap`:
// between two looks, ns.
static __device__ __forceinline__ void wait_turn(const int* turns, int turn, unsigned nap) {
    for (int found;;) {
        asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(found) : "l"(turns) : "memory");
        if (found == turn) break;
        if (nap > 0) __nanosleep(nap);
    }
    // What was acquired is ordinary memory's, what follows is the copy engine's: PTX ISA, "Async proxy".
    asm volatile("fence.proxy.async;" ::: "memory");
}

// Tells of a part that is written when all but the last UNDER_WAY of this thread's copies out are. No fence: completion has one
// (PTX ISA, "Async proxy").
template <int UNDER_WAY>
static __device__ __forceinline__ void tell(int* turns, int& untold) {
    if (untold < 0) return;
    copy_out_written<UNDER_WAY>();
    asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(turns + untold) : "memory");
    untold = -1;
}

// The one thread that adds a group's parts of the queries' gradients. `sums` are (ring, groups, 64 · 64), elements in the order
// in which threads hold them; `turns` (B·H, tiles, groups) count the blocks that have added.
//
// As blocks come, a part is told of one part later: by then it is written, and the next one on its way. At a block's end it is
// told of at once: what a block keeps to itself while it waits for earlier heads of keys is then of its own head of keys.
template <int D, bool ORDERED>
static __device__ __forceinline__ void write(
    float* sums, int* turns, const Work& w, unsigned memory, const int* taken, Barriers<Layout<D>::BLOCKS> bars, int group) {
    using L = Layout<D>;
    const unsigned part = memory + L::PARTS_AT + group * L::PART_BYTES;
    unsigned parity = 0;
    int untold = -1;
    for (int turn = 0;; ++turn) {
        const int buffer = turn % L::BLOCKS;
        barrier_wait(bars.block_full(buffer), turn / L::BLOCKS & 1);
        const int index = taken[buffer];
        barrier_arrive(bars.block_empty(buffer));
        if (index < 0) return;
        const Place p = place_of<D, ORDERED>(index, w);
        const int first = (int)p.queries(0, w) * w.tiles;
        for (int tile = first + p.first, end = first + w.tiles;; parity ^= 1) {
            const int at = tile * GROUPS + group;
            float* sum = w.part(sums, tile, group);
            // Blocks that add first.
            const int before = w.last<L::QUERIES>(tile - end + w.tiles) - p.block;
            if (ORDERED && before > 0) wait_turn(turns + at, before, 0);
            else if (tile >= w.ring) wait_turn(turns + at - w.ring * GROUPS, FINISHED, 100);
            barrier_wait(bars.part_full(group), parity);
            if (ORDERED && before == 0) copy_bytes_out(sum, part, L::PART_BYTES);
            else add_floats_out(sum, part, L::PART_BYTES);
            copy_out_commit();
            copy_out_read();
            barrier_arrive(bars.part_empty(group));
            if (ORDERED) {
                untold = at;
                tell<0>(turns, untold);
            } else {
                tell<1>(turns, untold);
                untold = at;
            }
            if (++tile < end) continue;
            if (end == first + p.sharing * w.tiles) break;
            tile += p.first;
            end += w.tiles;
        }
        parity ^= 1;
        tell<0>(turns, untold);
    }
    // Copies that still read shared memory are over: every one was waited for.
}

// Eight columns of a row in one store; pair i of four stands at i ^ `swapped` % 4.
static __device__ __forceinline__ void store_swapped(bf16* to, const unsigned (&pairs)[4], int swapped) {
    const bool one = swapped & 1, two = swapped & 2;
    const unsigned a = one ? pairs[1] : pairs[0], b = one ? pairs[0] : pairs[1];
    const unsigned c = one ? pairs[3] : pairs[2], d = one ? pairs[2] : pairs[3];
    *reinterpret_cast<uint4*>(to) = make_uint4(two ? c : a, two ? d : b, two ? a : c, two ? b : d);
}

// The warp that finishes: sums of the queries' gradients to bf16. Takes parts off `next` until none are left, and goes through a
// part in eight steps of 8 rows: 8 columns of two rows a lane.
template <int D, bool ORDERED>
static __device__ __forceinline__ void finish(
    float* sums, int* turns, int* next, bf16* dqkv, const Work& w, unsigned memory, unsigned full) {
    using L = Layout<D>;
    const int lane = threadIdx.x & 31, packed = (w.heads + 2 * w.kv_heads) * D;
    const unsigned zeroes = memory + L::ZEROES_AT;
    if (!ORDERED) {
#pragma unroll 1
        for (unsigned at = zeroes + lane * 16; at < zeroes + L::ZERO_BYTES; at += 512)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory");
        fence_async();
        __syncwarp();
    }
    // Eight lanes that read at once have 4 vectors of each of two rows, all in different banks.
    const int v = (lane & 3) + (lane >> 1 & 4), low = (lane >> 2 & 1) + (lane >> 4) * 2;
    for (unsigned parity = 0;; parity ^= 1) {
        int at = lane == 0 ? atomicAdd(next, 1) : 0;
        at = __shfl_sync(0xffffffffu, at, 0);
        const int tile = at / GROUPS, group = at % GROUPS, problem = tile / w.tiles, of_head = tile - problem * w.tiles;
        if (problem / w.heads * w.kv_heads >= w.problems) return;
        float* sum = w.part(sums, tile, group);
        if (lane == 0) {
            wait_turn(turns + at, w.last<L::QUERIES>(of_head) + 1, 200);
            barrier_expect(full, L::PART_BYTES);
            copy_bytes_in(memory + L::SUMMED_AT, sum, L::PART_BYTES, full);
        }
        // No lane may sleep at the barrier while the first still has to start what it waits for.
        __syncwarp();
        barrier_wait(full, parity);
        if (!ORDERED && lane == 0) {
            for (int i = 0; i < 4; ++i) copy_bytes_out(sum + i * (L::ZERO_BYTES / 4), zeroes, L::ZERO_BYTES);
            copy_out_commit();
        }
        const int query = of_head * L::QUERIES + (D == 64 ? group * 64 : 0) + low;
        bf16* to = dqkv + ((long long)(problem / w.heads) * w.seq + query) * packed + problem % w.heads * D +
                   (D == 64 ? 0 : group * 64) + v * 8;
        unsigned from = memory + L::SUMMED_AT + v * 2048 + low * 64 + (v & 3) * 16;
#pragma unroll 1
        for (int k = 0, left = w.seq - query; k < 8; ++k) {
            unsigned a[4], b[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float x[4];
                asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                             : "r"(from ^ i * 16));
                a[i] = pair_from_floats(x[0] * w.scale, x[1] * w.scale, bf16{});
                b[i] = pair_from_floats(x[2] * w.scale, x[3] * w.scale, bf16{});
            }
            if (left > 0) store_swapped(to, a, v);
            if (left > 8) store_swapped(to + 8 * packed, b, v);
            // From the upper to the lower four of 8 rows, and on to the next 16.
            const int rows = k & 1 ? 12 : 4;
            from += 256;
            to += rows * packed;
            left -= rows;
        }
        __syncwarp();
        if (lane == 0) {
            // Completion has the fence from the copy engine's zeroes to this store.
            if (!ORDERED) copy_out_written<0>();
            asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(turns + at), "r"(FINISHED) : "memory");
        }
    }
}

// Starts out (64 keys × queries) = keys · queriesᵀ, or values · gradientsᵀ.
template <int D>
static __device__ __forceinline__ void start_pairs(float (&out)[Layout<D>::QUERIES / 2], unsigned keys, unsigned queries) {
    const unsigned long long a = descriptor(keys), b = descriptor(queries);
    products_begin();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        // 16 columns are 32 bytes of a row; the next 64 are in the next panel.
        const int in_a = (k / 4) * (KEYS * 128) + (k % 4) * 32, in_b = (k / 4) * (Layout<D>::QUERIES * 128) + (k % 4) * 32;
        if (k == 0) multiply<false, 0, 0>(out, a, b);
        else multiply<true, 0, 0>(out, a + (in_a >> 4), b + (in_b >> 4));
    }
    products_commit();
}

// Starts out (64 keys × D) += pairs · queries, or pairs · gradients.
template <int D>
static __device__ __forceinline__ void start_own(
    float (&out)[D / 2], const unsigned (&pairs)[Layout<D>::QUERIES / 4], unsigned queries) {
    const unsigned long long b = descriptor_transposed(queries, Layout<D>::QUERIES * 128);
    products_begin();
#pragma unroll
    for (int k = 0; k < Layout<D>::QUERIES / 16; ++k) multiply<true, 1>(out, pairs + 4 * k, b + (k * 2048 >> 4));
    products_commit();
}

// Starts out (64 queries × 64 columns) = pairs (keys × 64 queries) transposed · keys (keys × 64 columns).
static __device__ __forceinline__ void start_part(float (&out)[32], unsigned pairs, unsigned keys) {
    const unsigned long long a = descriptor_transposed(pairs, KEYS * 128), b = descriptor_transposed(keys, KEYS * 128);
    products_begin();
    multiply<false, 1, 1>(out, a, b);
#pragma unroll
    for (int k = 1; k < KEYS / 16; ++k) multiply<true, 1, 1>(out, a + (k * 2048 >> 4), b + (k * 2048 >> 4));
    products_commit();
}

// What one of the warpgroups that compute knows: 64 keys of every block.
template <int D>
struct Group {
    using L = Layout<D>;
    unsigned memory, keys, values;
    Barriers<L::BLOCKS> bars;
    int group, lane, warp, thread;
    float to_log2;
    Ring ring;
    unsigned part_parity;
    float dk[D / 2], dv[D / 2], pairs[L::QUERIES / 2], dpairs[L::QUERIES / 2];

    __device__ __forceinline__ void leave(unsigned barrier) const {
        __syncwarp();
        if (lane == 0) barrier_arrive(barrier);
    }

    // Starts the scores of the tile that the ring is at.
    __device__ __forceinline__ void start() {
        barrier_wait(bars.query_full(ring.stage), ring.parity);
        start_pairs<D>(pairs, keys + group * 64 * 128, memory + L::QUERIES_AT + ring.stage * L::QUERY_BYTES);
    }

    // To probabilities, and their gradients beside them. `ahead`: how far the group's first key lies behind the first query.
    __device__ __forceinline__ void soften(int ahead) {
        barrier_wait(bars.gradient_full(ring.stage), ring.parity);
        start_pairs<D>(dpairs, values + group * 64 * 128, memory + L::GRADIENTS_AT + ring.stage * L::QUERY_BYTES);
        products_wait<1>();
        settle(pairs);
        const unsigned rows = memory + L::ROWS_AT + ring.stage * L::ROW_BYTES + (lane & 3) * 8;
#pragma unroll
        for (int n = 0; n < L::QUERIES / 8; ++n) {
            float of[2];
            asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(of[0]), "=f"(of[1]) : "r"(rows + n * 32));
#pragma unroll
            for (int i = 0; i < 4; ++i) pairs[4 * n + i] = exp2_fast(pairs[4 * n + i] * to_log2 - of[i & 1]);
        }
        if (ahead + 63 > 0) {
            const int key = ahead + warp * 16 + (lane >> 2) - 2 * (lane & 3);
#pragma unroll
            for (int i = 0; i < L::QUERIES / 2; ++i)
                if (key + (i >> 1 & 1) * 8 > (i >> 2) * 8 + (i & 1)) pairs[i] = 0.0f;
        }
        products_wait<0>();
        settle(dpairs);
    }

    // One tile of queries, whose probabilities and their gradients are there; makes the next tile's if there is one. No
    // product is under way where the loop turns: the compiler would order them all.
    template <bool MORE>
    __device__ __forceinline__ void step(int ahead) {
        const Ring now = ring;
        const unsigned queries = memory + L::QUERIES_AT + now.stage * L::QUERY_BYTES;
        const unsigned gradients = memory + L::GRADIENTS_AT + now.stage * L::QUERY_BYTES;
        const unsigned rows = memory + L::ROWS_AT + now.stage * L::ROW_BYTES + (lane & 3) * 8;
        float part[32];
        unsigned p[L::QUERIES / 4], d[L::QUERIES / 4];
#pragma unroll
        for (int n = 0; n < L::QUERIES / 8; ++n) {
            float of[2];
            asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(of[0]), "=f"(of[1]) : "r"(rows + L::QUERIES * 4 + n * 32));
#pragma unroll
            for (int i = 0; i < 4; ++i) dpairs[4 * n + i] = pairs[4 * n + i] * (dpairs[4 * n + i] - of[i & 1]);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                p[2 * n + i] = pair_from_floats(pairs[4 * n + 2 * i], pairs[4 * n + 2 * i + 1], bf16{});
                d[2 * n + i] = pair_from_floats(dpairs[4 * n + 2 * i], dpairs[4 * n + 2 * i + 1], bf16{});
            }
        }
        start_own<D>(dv, p, gradients);
        // The other group no longer reads the tile before.
        named_sync(2 + group, 256);
        const unsigned line = group * 64 + warp * 16 + (lane & 15), to = memory + L::PAIRS_AT + line * 128;
#pragma unroll
        for (int k = 0; k < L::QUERIES / 16; ++k) {
            const unsigned chunk = 2 * (k & 3) + (lane >> 4);
            store_matrices(to + (k / 4) * (KEYS * 128) + ((chunk ^ (line & 7)) << 4), d + 4 * k);
        }
        fence_async();
        named_sync(1, 256);
        // The probabilities' registers are free before others are needed: at D = 128 those of the part, else the next scores'.
        const auto own_done = [&] {
            settle(dv);
            leave(bars.gradient_empty(now.stage));
        };
        if (D == 128) {
            products_wait<0>();
            own_done();
        }
        if (D == 64) start_part(part, memory + L::PAIRS_AT + group * (KEYS * 128), keys);
        else start_part(part, memory + L::PAIRS_AT, keys + group * (KEYS * 128));
        start_own<D>(dk, d, queries);
        if (D == 64) {
            products_wait<2>();
            own_done();
        }
        ring.advance();
        if (MORE) start();
        products_wait<MORE ? 2 : 1>();
        settle(part);
        named_arrive(2 + (1 - group), 256);
        barrier_wait(bars.part_empty(group), part_parity ^ 1);
        part_parity ^= 1;
        const unsigned out = memory + L::PARTS_AT + group * L::PART_BYTES + thread * 16;
#pragma unroll
        for (int v = 0; v < 8; ++v)
            asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(out + v * 2048), "f"(part[4 * v]),
                         "f"(part[4 * v + 1]), "f"(part[4 * v + 2]), "f"(part[4 * v + 3]) : "memory");
        fence_async();
        leave(bars.part_full(group));
        products_wait<MORE ? 1 : 0>();
        settle(dk);
        leave(bars.query_empty(now.stage));
        if (MORE) soften(ahead);
    }
};

// Writes a thread's two rows of a group's 64 keys, times `factor`.
template <int D>
static __device__ __forceinline__ void put(const float (&values)[D / 2], bf16* base, int stride, int row, int seq, float factor) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < D / 2; i += 2) {
        const int at = row + (i >> 1 & 1) * 8;
        if (at < seq)
            *reinterpret_cast<unsigned*>(base + (long long)at * stride + (i >> 2) * 8 + 2 * (lane & 3)) =
                pair_from_floats(values[i] * factor, values[i + 1] * factor, bf16{});
    }
}

template <int D, bool ORDERED>
static __device__ __forceinline__ void compute(
    bf16* dqkv, const Work& w, unsigned memory, const int* taken, Barriers<Layout<D>::BLOCKS> bars, int group) {
    using L = Layout<D>;
    Group<D> g;
    g.memory = memory;
    g.bars = bars;
    g.group = group;
    g.thread = threadIdx.x & 127;
    g.lane = threadIdx.x & 31;
    g.warp = g.thread >> 5;
    g.to_log2 = w.scale * LOG2E;
    g.part_parity = 0;
    const int packed = (w.heads + 2 * w.kv_heads) * D;
    named_arrive(2 + (1 - group), 256);
    for (int turn = 0;; ++turn) {
        const int buffer = turn % L::BLOCKS;
        barrier_wait(bars.block_full(buffer), turn / L::BLOCKS & 1);
        const int index = taken[buffer];
        if (index < 0) break;
        g.keys = memory + buffer * L::KEY_BYTES;
        g.values = g.keys + L::VALUES_AT;
#pragma unroll
        for (int i = 0; i < D / 2; ++i) g.dk[i] = g.dv[i] = 0.0f;
        g.start();
        // How far the group's first key lies behind a tile's first query: without the mask, always before it.
        // Kept is only how many tiles are left, the rest made again from shared memory: registers are what this loop lacks.
        const volatile int* of = taken + buffer;
        g.soften(w.causal ? group * 64 : -64);
        for (int left = w.heads / w.kv_heads * of[L::BLOCKS] - 1; left > 0; --left) {
            const int tiles = of[L::BLOCKS], done = tiles - 1 - (left + tiles - 1) % tiles;
            g.template step<true>(w.causal ? group * 64 - done * L::QUERIES : -64);
        }
        g.template step<false>(0);
        const Place p = place_of<D, ORDERED>(*of, w);
        g.leave(bars.block_empty(buffer));
        const int row = p.block * KEYS + group * 64 + g.warp * 16 + (g.lane >> 2);
        bf16* base = dqkv + (long long)p.batch * w.seq * packed + (w.heads + p.head) * D;
        put<D>(g.dk, base, packed, row, w.seq, w.scale);
        put<D>(g.dv, base + w.kv_heads * D, packed, row, w.seq, 1.0f);
    }
    named_sync(2 + group, 256);
}

// Grid: as many blocks as multiprocessors. Made before: `rows`, and zeroes in `next` (of blocks, of parts to finish), in `turns`
// and, if they are added to as blocks come, in `sums`.
template <int D, bool ORDERED>
static __device__ __forceinline__ void backward(const TensorMap* qkv, const TensorMap* dcontext, const float* rows, float* sums,
    int* turns, int* next, bf16* dqkv, const Work& w) {
    using L = Layout<D>;
    extern __shared__ __align__(1024) unsigned char raw[];
    const unsigned memory = (shared_of(raw) + 1023) & ~1023u;
    const Barriers<L::BLOCKS> bars{memory + L::BARRIERS_AT};
    int* taken = reinterpret_cast<int*>(raw + (memory - shared_of(raw)) + L::BARRIERS_AT + bars.BYTES);
    if (threadIdx.x == 0) {
        for (int i = 0; i < L::BLOCKS; ++i) {
            barrier_init(bars.block_full(i), 1);
            barrier_init(bars.block_empty(i), 5 * GROUPS);
        }
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(bars.query_full(i), 1);
            barrier_init(bars.gradient_full(i), 1);
            barrier_init(bars.query_empty(i), 4 * GROUPS);
            barrier_init(bars.gradient_empty(i), 4 * GROUPS);
        }
        for (int i = 0; i < GROUPS; ++i) {
            barrier_init(bars.part_full(i), 4);
            barrier_init(bars.part_empty(i), 1);
        }
        barrier_init(bars.summed_full(), 1);
        barrier_init_fence();
    }
    __syncthreads();
    const int group = threadIdx.x / 128;
    if (group == GROUPS) {
        registers_down<24>();
        const int warp = (threadIdx.x & 127) >> 5;
        if (warp > GROUPS) {
            finish<D, ORDERED>(sums, turns, next + 1, dqkv, w, memory, bars.summed_full());
        } else if ((threadIdx.x & 31) == 0) {
            if (warp == 0) fetch<D, ORDERED>(qkv, dcontext, rows, next, w, memory, taken, bars);
            else write<D, ORDERED>(sums, turns, w, memory, taken, bars, warp - 1);
        }
    } else {
        registers_up<240>();
        compute<D, ORDERED>(dqkv, w, memory, taken, bars, group);
    }
}

// Before: log-sum-exps to base 2 and delta = Σ dO ∘ O of every query, in tiles as they are fetched; behind the sequence's end
// infinity and 0, so that probabilities become 0. Zeroes the counters, and the sums that blocks add to as they come: with the
// last heads, to be in the cache still when the first are added to. Grid: (tiles, B·H), 256 threads.
template <int D, bool ORDERED>
static __device__ __forceinline__ void prepare(const bf16* context, const bf16* dcontext, const float* lse, float* rows,
    float* sums, int* turns, int* next, const Work& w) {
    constexpr int QUERIES = Layout<D>::QUERIES, LANES = D / 8;
    const int problem = blockIdx.y, tile = blockIdx.x, batch = problem / w.heads, head = problem % w.heads;
    const long long at = (long long)problem * w.tiles + tile;
    float* out = rows + at * (2 * QUERIES);
    if (threadIdx.x < GROUPS) turns[at * GROUPS + threadIdx.x] = 0;
    if (threadIdx.x < 2 && at == 0) next[threadIdx.x] = 0;
    if (!ORDERED && at + w.ring >= (long long)gridDim.y * w.tiles) {
        constexpr int VECTORS = GROUPS * Layout<D>::PART_BYTES / 16;
        float4* zeroed = reinterpret_cast<float4*>(w.part(sums, (int)at, 0));
#pragma unroll
        for (int i = threadIdx.x; i < VECTORS; i += 256) zeroed[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    const int lane = threadIdx.x % LANES;
#pragma unroll
    for (int row = threadIdx.x / LANES; row < QUERIES; row += 256 / LANES) {
        const int query = tile * QUERIES + row;
        const bool inside = query < w.seq;
        float sum = 0.0f;
        if (inside) {
            const long long from = ((long long)batch * w.seq + query) * (w.heads * D) + head * D + lane * 8;
            const uint4 a = *reinterpret_cast<const uint4*>(context + from), b = *reinterpret_cast<const uint4*>(dcontext + from);
            const unsigned x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                sum += __uint_as_float(x[i] << 16) * __uint_as_float(y[i] << 16);
                sum += __uint_as_float(x[i] & 0xffff0000u) * __uint_as_float(y[i] & 0xffff0000u);
            }
        }
#pragma unroll
        for (int step = 1; step < LANES; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane == 0) {
            out[row] = inside ? lse[(long long)problem * w.seq + query] * LOG2E : INFINITY;
            out[QUERIES + row] = sum;
        }
    }
}

#define FLASH(D, ORDER, ORDERED) \
    extern "C" __global__ void __launch_bounds__(256) flash_hopper_prepare_##ORDER##_##D(const bf16* context, \
        const bf16* dcontext, const float* lse, float* rows, float* sums, int* turns, int* next, Work w) { \
        prepare<D, ORDERED>(context, dcontext, lse, rows, sums, turns, next, w); \
    } \
    extern "C" __global__ void __launch_bounds__(128 * (GROUPS + 1), 1) flash_hopper_backward_##ORDER##_##D( \
        const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap dcontext, const float* rows, float* sums, \
        int* turns, int* next, bf16* dqkv, Work w) { \
        backward<D, ORDERED>(&qkv, &dcontext, rows, sums, turns, next, dqkv, w); \
    }

FLASH(64, any, false)
FLASH(64, fixed, true)
FLASH(128, any, false)
FLASH(128, fixed, true)
