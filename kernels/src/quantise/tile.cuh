// What becomes of a bf16 tensor in the launch that makes it: stored or not, its maximum, its cast to FP8 with a scale that is
// given or made here, row-major, transposed or both. `behind` is the whole kernel but for what makes the elements.
//
// A producer makes 8 neighbouring elements of one row at a time, in each of OUTPUTS tensors of `width` columns that lie side
// by side in one row of the result:
//
//     struct Producer {
//         static constexpr int OUTPUTS;
//         struct Raw { … };                                    // what it reads; all zeros make zeros
//         Raw load(int row, int col) const;                    // col is a multiple of 8, below the width
//         void make(const Raw&, int row, int col, uint4 (&made)[OUTPUTS]) const;  // rounded to bf16; see `packed`
//     };
//
// Whole warps call `make`, also for places outside, whose Raw is zero: it may shuffle among the 16 lanes of a half-warp,
// which hold 128 neighbouring columns of a row, and may read tables only where any row and column have an entry.
//
// Rows and width are multiples of 16.
#pragma once
#include "cast.cuh"
#include "element.cuh"
#include "reduce.cuh"
#include "scale.cuh"

// No cast.
struct none {};

// Who makes the scale of the cast: it is given, one for the tensor; or the launch, one per 1 × 128 block or row.
enum Scales { GIVEN, OF_BLOCKS, OF_ROWS };

// What a variant does; all but THREADS and PACKS as the parts say. PACKS: 8-element packs of a row that a thread holds where
// a block has a row each.
template <typename FORMAT_, bool RESULT_, bool ROW_MAJOR_, bool TRANSPOSED_, bool MAXIMUM_, int SCALES_, int THREADS_, int PACKS_>
struct Asked {
    using Format = FORMAT_;
    static constexpr bool STORED = RESULT_, ROW = ROW_MAJOR_, FLIPPED = TRANSPOSED_, AMAX = MAXIMUM_;
    static constexpr bool CASTS = ROW_MAJOR_ || TRANSPOSED_;
    static constexpr int BY = SCALES_, PER_BLOCK = THREADS_, HELD = PACKS_;
};

// Where it goes; null where the variant has no use for it.
struct Ends {
    bf16* result;       // (rows, cols)
    unsigned char* q;   // (rows, cols)
    unsigned char* qt;  // (cols, rows)
    float* scale;       // given: 1; made here: (rows, ⌈cols / 128⌉) or (rows)
    int rows, cols;
    float epsilon, largest;  // of scales that are made here
    int power_of_two, unused;
    Maximum maximum;
};

// 8 floats as bf16.
static __device__ __forceinline__ uint4 packed(const float (&x)[8]) {
    return uint4{pair_from_floats(x[0], x[1], bf16{}), pair_from_floats(x[2], x[3], bf16{}),
                 pair_from_floats(x[4], x[5], bf16{}), pair_from_floats(x[6], x[7], bf16{})};
}

static __device__ __forceinline__ void unpacked(const uint4& pack, float (&x)[8]) {
    const unsigned words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        x[2 * j] = low_float(words[j]);
        x[2 * j + 1] = high_float(words[j]);
    }
}

static __device__ __forceinline__ uint4 load_pack(const bf16* from) { return *reinterpret_cast<const uint4*>(from); }

// Tiles of 128 × 128, 256 threads: 16 across, each with 8 columns, and 16 down, each with 4 rows of both halves of the tile.
constexpr int TILE = 128, TILE_THREADS = 256;
using Flipped = TransposedTile<16, TILE / 4>;
// Tiles that lie side by side run at the same time: rows are read and written in stretches of so many tiles, and columns of
// the transposed tensor in as many as then run above each other.
constexpr int TILES_ABREAST = 32;

// Upper left corner of a block's tile.
static __device__ __forceinline__ void corner(int rows, int width, int& row, int& col) {
    const int down = (rows + TILE - 1) / TILE, across = (width + TILE - 1) / TILE;
    const int first = (int)blockIdx.x / (TILES_ABREAST * down) * TILES_ABREAST;
    const int abreast = min(TILES_ABREAST, across - first), within = (int)blockIdx.x - first * down;
    row = within / abreast * TILE;
    col = (first + within % abreast) * TILE;
}

// Writes the columns of a tile: 8 threads each, 16 bytes a thread.
static __device__ __forceinline__ void write_columns(
    const Flipped& flipped, unsigned char* qt, int rows, int cols, int row0, int col0) {
    const int chunk = threadIdx.x & 7, row = row0 + chunk * 16;
    if (row >= rows) return;
#pragma unroll
    for (int col = threadIdx.x >> 3; col < TILE; col += TILE_THREADS / 8) {
        if (col0 + col >= cols) break;
        *reinterpret_cast<uint4*>(qt + (long long)(col0 + col) * rows + row) = flipped.get(col, chunk);
    }
}

// Scales of 4 rows of a 1 × 128 block each, that a half-warp holds.
static __device__ __forceinline__ void block_scales(const uint4 (&made)[4], const Ends& ends, float (&scales)[4]) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
        const unsigned upper = larger_of_pair(magnitudes(made[2 * pair])), lower = larger_of_pair(magnitudes(made[2 * pair + 1]));
        unsigned both = upper >> 16 | lower;
#pragma unroll
        for (int step = 8; step > 0; step >>= 1) both = larger_pair(both, __shfl_xor_sync(0xffffffffu, both, step));
        const float amaxes[2] = {__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)};
#pragma unroll
        for (int r = 0; r < 2; ++r)
            scales[2 * pair + r] = scale_of(amaxes[r], ends.epsilon, ends.largest, ends.power_of_two != 0);
    }
}

// 4 rows × 8 columns of one output at (row, col) of the result, which are word `word` of columns in its transposed tile.
template <typename A>
static __device__ __forceinline__ void patch(
    const uint4 (&made)[4], bool inside, int row, int col, float given, const Ends& ends, unsigned& largest,
    Flipped& flipped, int across, int word) {
    const long long first = (long long)row * ends.cols + col;
    unsigned low[4], high[4];
    float scales[4];
    if constexpr (A::BY == OF_BLOCKS) {
        block_scales(made, ends, scales);
        if (inside && (threadIdx.x & 15) == 0) {
            const int blocks = (ends.cols + TILE - 1) / TILE;
#pragma unroll
            for (int r = 0; r < 4; ++r) ends.scale[(long long)(row + r) * blocks + col / TILE] = scales[r];
        }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        if constexpr (A::AMAX) largest = larger_pair(largest, magnitudes(made[r]));
        if (A::STORED && inside) *reinterpret_cast<uint4*>(ends.result + first + (long long)r * ends.cols) = made[r];
        if constexpr (A::CASTS) {
            const uint2 bytes = cast_pack<typename A::Format>(made[r], A::BY == OF_BLOCKS ? 1.0f / scales[r] : given);
            if (A::ROW && inside) *reinterpret_cast<uint2*>(ends.q + first + (long long)r * ends.cols) = bytes;
            low[r] = bytes.x;
            high[r] = bytes.y;
        }
    }
    if constexpr (A::FLIPPED) {
        unsigned columns[2][4];
        transpose_bytes(low[0], low[1], low[2], low[3], columns[0]);
        transpose_bytes(high[0], high[1], high[2], high[3], columns[1]);
#pragma unroll
        for (int j = 0; j < 8; ++j) flipped.put(across, j, word, columns[j / 4][j % 4]);
    }
}

// Nothing is made beside the result.
struct Nothing {
    static constexpr bool THERE = false;
};

// One tile of each output a block. What is made beside them of the same Raw, `Beside`, is (rows, width), only cast, with a scale
// that is given, and only transposed:
//
//     struct Beside {
//         static constexpr bool THERE = true;
//         using Format = …;
//         const float* scale;
//         unsigned char* qt;                       // (width, rows)
//         template <typename Raw> uint4 make(const Raw&) const;  // rounded to bf16
//     };
template <typename A, typename Producer, typename Beside = Nothing>
static __device__ __forceinline__ void behind_tiles(const Producer& producer, const Ends& ends, const Beside& beside = {}) {
    constexpr int OUTPUTS = Producer::OUTPUTS;
    constexpr int TURNED = (A::FLIPPED ? OUTPUTS : 0) + (Beside::THERE ? 1 : 0);
    __shared__ Flipped flipped[TURNED > 0 ? TURNED : 1];
    const int across = threadIdx.x & 15, down = threadIdx.x >> 4, width = ends.cols / OUTPUTS;
    int row0, col0;
    corner(ends.rows, width, row0, col0);
    const float given = A::CASTS && A::BY == GIVEN ? 1.0f / __ldg(ends.scale) : 0.0f;
    const int col = col0 + across * 8;
    unsigned largest = 0;
    float given_beside = 0.0f;
    if constexpr (Beside::THERE) given_beside = 1.0f / __ldg(beside.scale);
#pragma unroll 1
    for (int word = down; word < TILE / 4; word += TILE_THREADS / 16) {
        const int row = row0 + word * 4;
        const bool inside = row < ends.rows && col < width;
        typename Producer::Raw raw[4] = {};
        if (inside) {
#pragma unroll
            for (int r = 0; r < 4; ++r) raw[r] = producer.load(row + r, col);
        }
        if constexpr (Beside::THERE) {
            uint2 bytes[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) bytes[r] = cast_pack<typename Beside::Format>(beside.make(raw[r]), given_beside);
            flipped[TURNED - 1].put(across, word, bytes);
        }
        uint4 made[OUTPUTS][4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            uint4 of_row[OUTPUTS];
            producer.make(raw[r], row + r, col, of_row);
#pragma unroll
            for (int o = 0; o < OUTPUTS; ++o) made[o][r] = of_row[o];
        }
#pragma unroll
        for (int o = 0; o < OUTPUTS; ++o)
            patch<A>(made[o], inside, row, col + o * width, given, ends, largest, flipped[A::FLIPPED ? o : 0], across, word);
    }
    if constexpr (TURNED > 0) __syncthreads();
    if constexpr (A::FLIPPED) {
#pragma unroll
        for (int o = 0; o < OUTPUTS; ++o)
            write_columns(flipped[o], ends.qt + (long long)o * width * ends.rows, ends.rows, width, row0, col0);
    }
    if constexpr (Beside::THERE) write_columns(flipped[TURNED - 1], beside.qt, ends.rows, width, row0, col0);
    if constexpr (A::AMAX && Beside::THERE) {
        // Three tiles are all the shared memory there is without asking: theirs is used again.
        __syncthreads();
        finish(larger_of_pair(largest), ends.maximum, flipped[0].words);
    } else if constexpr (A::AMAX) {
        __shared__ unsigned scratch[32];
        finish(larger_of_pair(largest), ends.maximum, scratch);
    }
}

// One row a block, held in registers until its scale is known.
template <typename A, typename Producer>
static __device__ __forceinline__ void behind_rows(const Producer& producer, const Ends& ends) {
    constexpr int OUTPUTS = Producer::OUTPUTS;
    __shared__ unsigned scratch[32];
    const int row = blockIdx.x, width = ends.cols / OUTPUTS;
    typename Producer::Raw raw[A::HELD] = {};
#pragma unroll
    for (int k = 0; k < A::HELD; ++k) {
        const int col = (k * A::PER_BLOCK + threadIdx.x) * 8;
        if (col < width) raw[k] = producer.load(row, col);
    }
    uint4 made[A::HELD][OUTPUTS];
    unsigned largest = 0;
#pragma unroll
    for (int k = 0; k < A::HELD; ++k) {
        producer.make(raw[k], row, (k * A::PER_BLOCK + threadIdx.x) * 8, made[k]);
#pragma unroll
        for (int o = 0; o < OUTPUTS; ++o) largest = larger_pair(largest, magnitudes(made[k][o]));
    }
    const float amax = __uint_as_float(block_reduce<Max>(larger_of_pair(largest), scratch));
    const float scale = scale_of(amax, ends.epsilon, ends.largest, ends.power_of_two != 0), inverse = 1.0f / scale;
    if (threadIdx.x == 0) ends.scale[row] = scale;
#pragma unroll
    for (int k = 0; k < A::HELD; ++k) {
        const int col = (k * A::PER_BLOCK + threadIdx.x) * 8;
        if (col >= width) break;
#pragma unroll
        for (int o = 0; o < OUTPUTS; ++o) {
            const long long at = (long long)row * ends.cols + col + o * width;
            if (A::STORED) *reinterpret_cast<uint4*>(ends.result + at) = made[k][o];
            if (A::ROW) *reinterpret_cast<uint2*>(ends.q + at) = cast_pack<typename A::Format>(made[k][o], inverse);
        }
    }
}

// The whole kernel.
template <typename A, typename Producer>
static __device__ __forceinline__ void behind(const Producer& producer, const Ends& ends) {
    if constexpr (A::BY == OF_ROWS) behind_rows<A>(producer, ends);
    else behind_tiles<A>(producer, ends);
}

// The kernel of a producer in a source that is compiled for one purpose; see `tile.rs` for what is defined. RESIDENT: blocks
// of 256 threads that a multiprocessor should hold.
#define BEHIND(NAME, PRODUCER, RESIDENT) \
    extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT * 256 / THREADS) NAME(Ends ends, PRODUCER producer) { \
        behind<Asked<FORMAT, RESULT, ROW_MAJOR, TRANSPOSED, MAXIMUM, SCALES, THREADS, PACKS>>(producer, ends); \
    }
