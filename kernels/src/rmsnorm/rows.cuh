// The rows of a block: how they come in several ahead, how the warps of a row agree, and how results leave: stored, their
// maximum taken, cast as stored and transposed. Compiled with what `fused.cu` says.
#pragma once
#include "cast.cuh"
#include "element.cuh"
#include "reduce.cuh"
#include "scale.cuh"

static constexpr int WARPS = 8, THREADS = 32 * WARPS;
static constexpr int ROW_WARPS = DIM <= 1024 ? 1 : DIM <= 2048 ? 2 : DIM <= 4096 ? 4 : 8;
static constexpr int GROUPS = WARPS / ROW_WARPS;  // rows at once
static constexpr int SPAN = 256 * ROW_WARPS;      // columns of one pack of 8 in every lane of a row
static constexpr int PACKS = (DIM + SPAN - 1) / SPAN;
static constexpr int INPUTS = (BACKWARD ? 2 : 1) + ADD;
static constexpr int WORDS = DIM / 4;       // of a row of the tile
static constexpr int PARTS = TILE / 16;     // 16-byte parts of a column of the tile
static constexpr int ACROSS = 32 / PARTS;   // words of a row that a warp turns at once
// A tile's words are stored at their number XOR a multiple of this, so that the parts of a column lie in different banks.
static constexpr int SWIZZLE = WORDS % 32 == 0 ? ACROSS : 0;

static_assert(DIM % 8 == 0 && PACKS <= 4, "a thread holds at most 4 packs of a row");
static_assert(!TRANSPOSED || (DIM % (4 * ACROSS) == 0 && TILE % 16 == 0 && TILE % GROUPS == 0), "a tile is turned whole");

// Where a thread stands in its row.
struct Place {
    int lane, warp, member, group;

    __device__ __forceinline__ Place()
        : lane(threadIdx.x & 31), warp(threadIdx.x >> 5), member(warp % ROW_WARPS), group(warp / ROW_WARPS) {}
    __device__ __forceinline__ int column(int k) const { return k * SPAN + (member * 32 + lane) * 8; }
    __device__ __forceinline__ bool holds(int k) const { return (k + 1) * SPAN <= DIM || column(k) < DIM; }
};

// Eight bf16 values.
struct alignas(16) Eight {
    unsigned words[4];
};

// Rows on their way into shared memory; a thread sees its own columns only.
struct Ring {
    Eight* slots;
    float* numbers;  // one of each row
    int stage;

    __device__ __forceinline__ explicit Ring(void* memory)
        : slots(static_cast<Eight*>(memory) + threadIdx.x),
          numbers(reinterpret_cast<float*>(static_cast<Eight*>(memory) + STAGES * INPUTS * PACKS * THREADS) + threadIdx.x),
          stage(0) {}
    __device__ __forceinline__ Eight* slot(int input, int k) const {
        return slots + ((stage * INPUTS + input) * PACKS + k) * THREADS;
    }
    __device__ __forceinline__ void copy(int input, const bf16* row, const Place& place) const {
#pragma unroll
        for (int k = 0; k < PACKS; ++k) {
            if (place.holds(k)) {
                const unsigned to = (unsigned)__cvta_generic_to_shared(slot(input, k));
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(row + place.column(k)) : "memory");
            }
        }
    }
    __device__ __forceinline__ void copy_number(const float* from) const {
        const unsigned to = (unsigned)__cvta_generic_to_shared(numbers + stage * THREADS);
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
    }
    __device__ __forceinline__ float number() const { return numbers[stage * THREADS]; }
    static __device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
    // The oldest row has arrived.
    static __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory"); }
    __device__ __forceinline__ void read(int input, const Place& place, Eight (&out)[PACKS]) const {
#pragma unroll
        for (int k = 0; k < PACKS; ++k) out[k] = place.holds(k) ? *slot(input, k) : Eight{};
    }
    __device__ __forceinline__ void advance() { stage = stage + 1 == STAGES ? 0 : stage + 1; }
};

// What the warps of a row tell each other. One barrier a call, of these warps only: the halves are used in turn.
template <typename T>
struct Exchange {
    T (*scratch)[WARPS];
    int turn;

    template <typename Op>
    __device__ __forceinline__ T reduce(T x, const Place& place) {
        __syncwarp();  // work before it is not moved behind it, where it would hold its registers longer
        x = warp_reduce<Op>(x);
        if constexpr (ROW_WARPS == 1) return x;
        turn ^= 1;
        if (place.lane == 0) scratch[turn][place.warp] = x;
        asm volatile("bar.sync %0, %1;" ::"r"(place.group + 1), "n"(ROW_WARPS * 32) : "memory");
        const T* all = scratch[turn] + place.group * ROW_WARPS;
        x = all[0];
#pragma unroll
        for (int other = 1; other < ROW_WARPS; ++other) x = Op::of(x, all[other]);
        return x;
    }
};

// Where the result goes. Pointers of what nobody reads are null.
struct Outputs {
    bf16* result;
    float* scale;  // given or made here
    FORMAT *q, *qt;
    float least, largest;  // a maximum counts as at least `least`; the largest value of the format
    int power_of_two;
};

// The result of one row: stored, its maximum taken, cast.
static __device__ __forceinline__ void put(
    const Eight (&result)[PACKS], int row, int in_chunk, const Place& place, const Outputs& out, float given, unsigned* tile,
    Exchange<unsigned>& maxima, unsigned& largest) {
    const long long offset = (long long)row * DIM;
    if (out.result) {
#pragma unroll
        for (int k = 0; k < PACKS; ++k) {
            if (place.holds(k)) *reinterpret_cast<Eight*>(out.result + offset + place.column(k)) = result[k];
        }
    }
    unsigned of_pack[PACKS] = {};  // pairs; columns beyond the row are zeros
    if (MAXIMUM || CAST > 1) {
#pragma unroll
        for (int k = 0; k < PACKS; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) of_pack[k] = larger_pair(of_pack[k], magnitudes(result[k].words[i]));
        }
    }
    if (MAXIMUM) {
#pragma unroll
        for (int k = 0; k < PACKS; ++k) largest = larger_pair(largest, of_pack[k]);
    }
    if (CAST == 0) return;
    float inverse[PACKS];
    if (CAST == 1) {
#pragma unroll
        for (int k = 0; k < PACKS; ++k) inverse[k] = given;
    } else if (CAST == 2) {
        unsigned pair = 0;
#pragma unroll
        for (int k = 0; k < PACKS; ++k) pair = larger_pair(pair, of_pack[k]);
        const float amax = __uint_as_float(maxima.reduce<Max>(larger_of_pair(pair), place));
        const float scale = scale_of(amax, out.least, out.largest, out.power_of_two != 0);
        if (place.lane == 0 && place.member == 0) out.scale[row] = scale;
        const float one = 1.0f / scale;
#pragma unroll
        for (int k = 0; k < PACKS; ++k) inverse[k] = one;
    } else {
        // Half a warp holds 128 columns.
#pragma unroll
        for (int k = 0; k < PACKS; ++k) {
            unsigned amax = larger_of_pair(of_pack[k]);
#pragma unroll
            for (int step = 8; step > 0; step >>= 1) amax = max(amax, __shfl_xor_sync(0xffffffffu, amax, step));
            const float scale = scale_of(__uint_as_float(amax), out.least, out.largest, out.power_of_two != 0);
            if ((place.lane & 15) == 0 && place.holds(k)) {
                out.scale[(long long)row * ((DIM + 127) / 128) + place.column(k) / 128] = scale;
            }
            inverse[k] = 1.0f / scale;
        }
    }
#pragma unroll
    for (int k = 0; k < PACKS; ++k) {
        if (!place.holds(k)) continue;
        const unsigned(&words)[4] = result[k].words;
        const float by = inverse[k];
        uint2 bytes;
        bytes.x = word_from_floats<FORMAT>(low_float(words[0]) * by, high_float(words[0]) * by, low_float(words[1]) * by, high_float(words[1]) * by);
        bytes.y = word_from_floats<FORMAT>(low_float(words[2]) * by, high_float(words[2]) * by, low_float(words[3]) * by, high_float(words[3]) * by);
        if (out.q) *reinterpret_cast<uint2*>(out.q + offset + place.column(k)) = bytes;
        if (TRANSPOSED) {
            const int word = (place.column(k) / 4) ^ ((in_chunk / 16) * SWIZZLE);
            *reinterpret_cast<uint2*>(tile + in_chunk * WORDS + word) = bytes;
        }
    }
}

// The tile's rows, from `row0` to before `last`, as columns of the transposed tensor of `rows` columns. All of them are
// multiples of 16.
static __device__ __forceinline__ void put_transposed(const unsigned* tile, FORMAT* qt, int rows, int row0, int last) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, part = lane % PARTS, across = lane / PARTS;
    if (row0 + part * 16 >= last) return;
    for (int base = warp * ACROSS; base < WORDS; base += WARPS * ACROSS) {
        const unsigned* from = tile + part * 16 * WORDS + ((base + across) ^ (part * SWIZZLE));
        unsigned columns[4][4];
#pragma unroll
        for (int four = 0; four < 4; ++four) {
            const unsigned a = from[(four * 4) * WORDS], b = from[(four * 4 + 1) * WORDS];
            const unsigned c = from[(four * 4 + 2) * WORDS], d = from[(four * 4 + 3) * WORDS];
            const unsigned ab = __byte_perm(a, b, 0x5140), AB = __byte_perm(a, b, 0x7362);
            const unsigned cd = __byte_perm(c, d, 0x5140), CD = __byte_perm(c, d, 0x7362);
            columns[0][four] = __byte_perm(ab, cd, 0x5410);
            columns[1][four] = __byte_perm(ab, cd, 0x7632);
            columns[2][four] = __byte_perm(AB, CD, 0x5410);
            columns[3][four] = __byte_perm(AB, CD, 0x7632);
        }
        FORMAT* to = qt + (long long)(base + across) * 4 * rows + row0 + part * 16;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const uint4 bytes = {columns[j][0], columns[j][1], columns[j][2], columns[j][3]};
            *reinterpret_cast<uint4*>(to + (long long)j * rows) = bytes;
        }
    }
}

// The rows of a thread's group, in order. Rows are dealt out in chunks, one to each block in turn, so that all blocks together
// work on one stretch of the tensors at any time: tensors that lie 64 MiB apart are read 2.4 times as fast as by blocks that
// are far from each other. Within a chunk blocks begin at different rows, which showed no gain where it was measured alone.
struct Walk {
    int base, step, steps, stride, turn;

    __device__ __forceinline__ explicit Walk(int chunk)
        : base(blockIdx.x * chunk), step(0), steps(chunk / GROUPS), stride(gridDim.x * chunk), turn(blockIdx.x) {}
    // From the chunk's first; its number of steps is a power of two.
    __device__ __forceinline__ int in_chunk(const Place& place) const {
        return ((step + turn) & (steps - 1)) * GROUPS + place.group;
    }
    __device__ __forceinline__ void next() {
        if (++step < steps) return;
        step = 0;
        base += stride;
    }
};

// Calls `work(row, row in the chunk)` for the rows of a block, or `pass()` for those beyond the last, and turns each chunk when
// all its rows are there. All threads take part in every barrier.
template <typename Work, typename Pass>
static __device__ __forceinline__ void for_rows(
    int rows, int chunk, const Place& place, const unsigned* tile, FORMAT* qt, Work work, Pass pass) {
    Walk walk(chunk);
    while (walk.base < rows) {
        const int base = walk.base;
#pragma unroll 1
        for (; walk.base == base; walk.next()) {
            const int in_chunk = walk.in_chunk(place);
            if (base + in_chunk < rows) work(base + in_chunk, in_chunk);
            else pass();
        }
        if constexpr (TRANSPOSED) {
            __syncthreads();
            put_transposed(tile, qt, rows, base, min(base + chunk, rows));
            __syncthreads();
        }
    }
}
