// Casts through tiles, read once: with maxima taken for later steps, with scales made in the same launch, as stored and
// transposed.
//
// Defined when compiled: FORMAT, the FP8 type; ROW_MAJOR and TRANSPOSED, which layouts are written; KIND, one of
//   GIVEN          the tensor's scale was there before; its maximum is taken for a later step
//   CURRENT        the tensor's scale is made from its maximum, which was there before
//   BLOCKS         a scale per block of 128 × 128
//   COLUMN_BLOCKS  a scale per 128 rows of a column
//   COLUMNS        a scale per column
#include "cast.cuh"
#include "scale.cuh"

enum Kind { GIVEN, CURRENT, BLOCKS, COLUMN_BLOCKS, COLUMNS };

// 256 threads: ACROSS with 8 columns each, and DOWN with 4 rows each, twice. Tiles are 128 × 128; where a scale waits for
// its whole column they are 256 × 64, so that fewer blocks wait for each other.
#ifndef TILE_ACROSS
#define TILE_ACROSS (KIND == COLUMNS ? 8 : 16)
#endif
constexpr int ACROSS = TILE_ACROSS, DOWN = 256 / ACROSS, WORDS = 2 * DOWN;
constexpr int TILE_ROWS = 8 * DOWN, TILE_COLS = 8 * ACROSS, WARPS = 8;

// The launch's own memory where a scale waits for its column, zero before the first launch. Blocks take tickets, so that
// those of a panel (TILE_COLS columns) have all started before a later panel's do; the top bit of `tickets` says which half
// of `cells` and `arrived` this launch uses, the other half is zeroed for the next.
struct Panels {
    unsigned* tickets;
    unsigned* cells;    // 2 × padded columns: the largest magnitude
    unsigned* arrived;  // 2 × panels: tiles whose maxima are in
    int row_tiles;
    int panels;
    int takes_maxima;  // whether this launch takes maxima, and whether it casts: both, where a panel's tiles fit the chip
    int casts;
};

static __device__ __forceinline__ unsigned acquire(const unsigned* from) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}

// The largest magnitude of each of the tile's columns, as bits of floats, into `peaks`; ends with everybody seeing them.
static __device__ __forceinline__ void column_peaks(
    unsigned (&pairs)[4], unsigned (*partial)[TILE_COLS / 2], unsigned* peaks) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int word = 0; word < 4; ++word) {
#pragma unroll
        for (int step = ACROSS; step < 32; step <<= 1)
            pairs[word] = larger_pair(pairs[word], __shfl_xor_sync(0xffffffffu, pairs[word], step));
        if (lane < ACROSS) partial[warp][lane * 4 + word] = pairs[word];
    }
    __syncthreads();
    if (threadIdx.x < TILE_COLS) {
        unsigned pair = 0;
#pragma unroll
        for (int other = 0; other < WARPS; ++other) pair = larger_pair(pair, partial[other][threadIdx.x >> 1]);
        peaks[threadIdx.x] = (threadIdx.x & 1) ? pair & 0xffff0000u : pair << 16;
    }
    __syncthreads();
}

// x and q: rows × cols, qt: cols × rows, both multiples of 16. The scale of a block or column of 128 is number
// row block * row_stride + column (block) * col_stride. `scale` is read where it was given and written elsewhere; `amax` is read
// where it is current, and else written if it is there.
extern "C" __global__ void __launch_bounds__(256, 4) cast_tiles(
    const bf16* x, FORMAT* q, FORMAT* qt, float* scale, float* amax, int rows, int cols, int row_stride, int col_stride,
    float epsilon, float largest, int power_of_two, Maximum maximum, Panels panels) {
    __shared__ TransposedTile<ACROSS, TRANSPOSED ? WORDS : 4> tile;
    __shared__ unsigned partial[WARPS][TILE_COLS / 2];
    __shared__ unsigned peaks[TILE_COLS];
    __shared__ float inverses[TILE_COLS];
    __shared__ unsigned scratch[32];

    int tile_row = blockIdx.y, tile_col = blockIdx.x;
    unsigned half = 0;
    if constexpr (KIND == COLUMNS) {
        if (threadIdx.x == 0) scratch[0] = atomicAdd(panels.tickets, 1u);
        __syncthreads();
        const unsigned ticket = scratch[0] & 0x7fffffffu;
        half = scratch[0] >> 31;
        tile_col = (int)ticket / panels.row_tiles;
        tile_row = (int)ticket - tile_col * panels.row_tiles;
        if (threadIdx.x == 0 && ticket == gridDim.x - 1) *panels.tickets = (half ^ (unsigned)panels.casts) << 31;
    }
    const int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS;
    const int row0 = tile_row * TILE_ROWS, col0 = tile_col * TILE_COLS;
    const int col = col0 + across * 8;
    const long long from = (long long)(row0 + down * 4) * cols + col;

    uint4 packs[2][4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const bool inside = row0 + (h * DOWN + down) * 4 < rows && col < cols;
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            packs[h][r] = uint4{0, 0, 0, 0};
            if (inside) packs[h][r] = *reinterpret_cast<const uint4*>(x + from + (long long)(h * DOWN * 4 + r) * cols);
        }
    }

    unsigned pairs[4] = {};
    if constexpr (KIND != CURRENT) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                pairs[0] = larger_pair(pairs[0], magnitudes(packs[h][r].x));
                pairs[1] = larger_pair(pairs[1], magnitudes(packs[h][r].y));
                pairs[2] = larger_pair(pairs[2], magnitudes(packs[h][r].z));
                pairs[3] = larger_pair(pairs[3], magnitudes(packs[h][r].w));
            }
        }
    }
    const unsigned most = larger_of_pair(larger_pair(larger_pair(pairs[0], pairs[1]), larger_pair(pairs[2], pairs[3])));

    float inverse[8];
    float one = 0.0f;
    if constexpr (KIND == GIVEN) {
        if (ROW_MAJOR || TRANSPOSED) one = 1.0f / scale[0];
    }
    if constexpr (KIND == CURRENT) {
        const float own = scale_of(amax[0], epsilon, largest, power_of_two != 0);
        if (threadIdx.x == 0 && tile_row == 0 && tile_col == 0) scale[0] = own;
        one = 1.0f / own;
    }
    if constexpr (KIND == BLOCKS) {
        const float of_block = __uint_as_float(block_reduce<Max>(most, scratch));
        const float own = scale_of(of_block, epsilon, largest, power_of_two != 0);
        const int index = tile_row * row_stride + tile_col * col_stride;
        if (threadIdx.x == 0) {
            scale[index] = own;
            if (amax) amax[index] = of_block;
        }
        one = 1.0f / own;
    }
    if constexpr (KIND == COLUMN_BLOCKS || KIND == COLUMNS) {
        const int own_col = col0 + threadIdx.x;
        const bool owns = threadIdx.x < TILE_COLS && own_col < cols;
        unsigned* cells = panels.cells + half * (panels.panels * TILE_COLS) + col0;
        if (KIND == COLUMN_BLOCKS || panels.takes_maxima) column_peaks(pairs, partial, peaks);
        if constexpr (KIND == COLUMNS) {
            unsigned* arrived = panels.arrived + half * panels.panels + tile_col;
            if (panels.takes_maxima && owns) atomicMax(&cells[threadIdx.x], peaks[threadIdx.x]);
            if (!panels.casts) return;
            if (panels.takes_maxima) {
                __syncthreads();
                if (threadIdx.x == 0) {
                    __threadfence();
                    atomicAdd(arrived, 1u);
                    while (acquire(arrived) < (unsigned)panels.row_tiles) __nanosleep(32);
                    __threadfence();
                }
                __syncthreads();
            }
            if (tile_row == 0) {
                // Nobody reads the other half before the next launch.
                if (threadIdx.x < TILE_COLS) panels.cells[(half ^ 1) * (panels.panels * TILE_COLS) + col0 + threadIdx.x] = 0;
                if (threadIdx.x == 0) panels.arrived[(half ^ 1) * panels.panels + tile_col] = 0;
            }
        }
        if (owns) {
            const unsigned bits = KIND == COLUMNS ? *(volatile unsigned*)&cells[threadIdx.x] : peaks[threadIdx.x];
            const float own = scale_of(__uint_as_float(bits), epsilon, largest, power_of_two != 0);
            inverses[threadIdx.x] = 1.0f / own;
            if (KIND == COLUMN_BLOCKS || tile_row == 0) {
                const int index = tile_row * row_stride + own_col * col_stride;
                scale[index] = own;
                if (amax) amax[index] = __uint_as_float(bits);
            }
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < 8; ++j) inverse[j] = inverses[across * 8 + j];
    } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) inverse[j] = one;
    }

    if constexpr (ROW_MAJOR || TRANSPOSED) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const bool inside = row0 + (h * DOWN + down) * 4 < rows && col < cols;
            uint2 bytes[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                bytes[r] = cast_pack<FORMAT>(packs[h][r], inverse);
                if (ROW_MAJOR && inside)
                    *reinterpret_cast<uint2*>(q + from + (long long)(h * DOWN * 4 + r) * cols) = bytes[r];
            }
            if constexpr (TRANSPOSED) {
                unsigned columns[4];
                transpose_bytes(bytes[0].x, bytes[1].x, bytes[2].x, bytes[3].x, columns);
#pragma unroll
                for (int j = 0; j < 4; ++j) tile.put(across, j, h * DOWN + down, columns[j]);
                transpose_bytes(bytes[0].y, bytes[1].y, bytes[2].y, bytes[3].y, columns);
#pragma unroll
                for (int j = 0; j < 4; ++j) tile.put(across, j + 4, h * DOWN + down, columns[j]);
            }
        }
    }
    if constexpr (TRANSPOSED) {
        __syncthreads();
        constexpr int CHUNKS = WORDS / 4;
#pragma unroll
        for (int i = 0; i < TILE_COLS * CHUNKS / 256; ++i) {
            const int column = (i * 256 + threadIdx.x) / CHUNKS, chunk = threadIdx.x % CHUNKS;
            if (col0 + column < cols && row0 + chunk * 16 < rows)
                *reinterpret_cast<uint4*>(qt + (long long)(col0 + column) * rows + row0 + chunk * 16) =
                    tile.get(column, chunk);
        }
    }
    if constexpr (KIND == GIVEN) finish(most, maximum, scratch);
}
