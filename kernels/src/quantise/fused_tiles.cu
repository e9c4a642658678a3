// Casts through tiles, read once: with maxima taken for later steps, with scales made in the same launch, as stored and
// transposed.
//
// Defined when compiled: FORMAT, the FP8 type; ROW_MAJOR and TRANSPOSED, which layouts are written; KIND, one of
//   GIVEN          the tensor's scale was there before; its maximum is taken for a later step
//   CURRENT        the tensor's scale is made from its maximum, which was there before
//   BLOCKS         a scale per block of 128 × 128
//   COLUMN_BLOCKS  a scale per 128 rows of a column
#include "cast.cuh"
#include "scale.cuh"

enum Kind { GIVEN, CURRENT, BLOCKS, COLUMN_BLOCKS };

// Tiles of 128 × 128, 256 threads: ACROSS with 8 columns each, and DOWN with 4 rows each, twice.
constexpr int ACROSS = 16, DOWN = 16, WARPS = 8, WORDS = 2 * DOWN;
constexpr int TILE_ROWS = 4 * WORDS, TILE_COLS = 8 * ACROSS;

// A tile of x and this thread's part of it: 8 columns, 4 rows twice.
struct Tile {
    int rows, cols;
    int row0, col0;
    int across, down;
    uint4 packs[2][4];

    __device__ __forceinline__ Tile(int rows, int cols, int tile_row, int tile_col)
        : rows(rows), cols(cols), row0(tile_row * TILE_ROWS), col0(tile_col * TILE_COLS), across(threadIdx.x % ACROSS),
          down(threadIdx.x / ACROSS) {}

    // Rows and columns are multiples of 16: 4 rows and 8 columns are inside together.
    __device__ __forceinline__ bool inside(int h) const {
        return row0 + (h * DOWN + down) * 4 < rows && col0 + across * 8 < cols;
    }

    __device__ __forceinline__ long long offset(int h, int r) const {
        return (long long)(row0 + (h * DOWN + down) * 4 + r) * cols + col0 + across * 8;
    }

    __device__ __forceinline__ void load(const bf16* x) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                packs[h][r] = uint4{0, 0, 0, 0};
                if (inside(h)) packs[h][r] = *reinterpret_cast<const uint4*>(x + offset(h, r));
            }
        }
    }

    // The largest magnitudes of the thread's columns, two in a word.
    __device__ __forceinline__ void peaks(unsigned (&pairs)[4]) const {
#pragma unroll
        for (int word = 0; word < 4; ++word) pairs[word] = 0;
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

    __device__ __forceinline__ unsigned peak() const {
        unsigned pairs[4];
        peaks(pairs);
        return larger_of_pair(larger_pair(larger_pair(pairs[0], pairs[1]), larger_pair(pairs[2], pairs[3])));
    }

    // Casts and writes; every thread of the block calls it.
    __device__ __forceinline__ void store(FORMAT* q, FORMAT* qt, const float (&inverse)[8]) const {
        __shared__ TransposedTile<ACROSS, TRANSPOSED ? WORDS : 4> tile;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            uint2 bytes[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                bytes[r] = cast_pack<FORMAT>(packs[h][r], inverse);
                if (ROW_MAJOR && inside(h)) *reinterpret_cast<uint2*>(q + offset(h, r)) = bytes[r];
            }
            if constexpr (TRANSPOSED) tile.put(across, h * DOWN + down, bytes);
        }
        if constexpr (TRANSPOSED) {
            constexpr int CHUNKS = WORDS / 4;  // of 16 rows
            __syncthreads();
#pragma unroll
            for (int i = 0; i < TILE_COLS * CHUNKS / 256; ++i) {
                const int column = (i * 256 + threadIdx.x) / CHUNKS, chunk = threadIdx.x % CHUNKS;
                if (col0 + column < cols && row0 + chunk * 16 < rows)
                    *reinterpret_cast<uint4*>(qt + (long long)(col0 + column) * rows + row0 + chunk * 16) =
                        tile.get(column, chunk);
            }
        }
    }
};

// Factors of the thread's 8 columns, each column with its own scale, which is written once.
static __device__ __forceinline__ void column_scales(
    const Tile& tile, unsigned peak, const Rule& rule, float* scale, float* amax, int first, int stride,
    float (&inverse)[8]) {
    __shared__ float inverses[TILE_COLS];
    const int col = tile.col0 + threadIdx.x;
    if (threadIdx.x < TILE_COLS && col < tile.cols) {
        const float own = rule.scale(__uint_as_float(peak));
        inverses[threadIdx.x] = 1.0f / own;
        scale[first + col * stride] = own;
        if (amax) amax[first + col * stride] = __uint_as_float(peak);
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 8; ++j) inverse[j] = inverses[tile.across * 8 + j];
}

// x and q: rows × cols, qt: cols × rows, both multiples of 16. The scale of a block or of 128 rows of a column is number
// row block * row_stride + column (block) * col_stride. `scale` is read where it was given and written elsewhere; `amax` is read
// where it is current, and else written if it is there.
extern "C" __global__ void __launch_bounds__(256, 4) cast_tiles(
    const bf16* x, FORMAT* q, FORMAT* qt, float* scale, float* amax, int rows, int cols, int row_stride, int col_stride,
    Rule rule, Maximum maximum) {
    __shared__ unsigned scratch[32];
    const int tile_row = blockIdx.y, tile_col = blockIdx.x;
    Tile tile(rows, cols, tile_row, tile_col);
    tile.load(x);

    float inverse[8];
    const unsigned of_tile = KIND == GIVEN || KIND == BLOCKS ? tile.peak() : 0;
    if constexpr (KIND == COLUMN_BLOCKS) {
        column_scales(tile, column_peak<ACROSS, WARPS>(tile), rule, scale, amax, tile_row * row_stride, col_stride, inverse);
    } else {
        float one = 0.0f;
        if constexpr (KIND == GIVEN) {
            if (ROW_MAJOR || TRANSPOSED) one = scale[0];
        } else if constexpr (KIND == CURRENT) {
            one = rule.scale(amax[0]);
            if (threadIdx.x == 0 && tile_row == 0 && tile_col == 0) scale[0] = one;
        } else {
            const float of_block = __uint_as_float(block_reduce<Max>(of_tile, scratch));
            const int index = tile_row * row_stride + tile_col * col_stride;
            one = rule.scale(of_block);
            if (threadIdx.x == 0) {
                scale[index] = one;
                if (amax) amax[index] = of_block;
            }
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) inverse[j] = 1.0f / one;
    }
    tile.store(q, qt, inverse);
    if constexpr (KIND == GIVEN) finish(of_tile, maximum, scratch);
}
