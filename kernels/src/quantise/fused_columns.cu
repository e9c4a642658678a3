// A cast with a scale per column, read once: tiles are held on the chip until the maxima of their columns are known.
//
// Defined when compiled: FORMAT, the FP8 type; ROW_MAJOR and TRANSPOSED, which layouts are written; SECTIONS of 256 rows that a
// tile has: the first is held in registers, a second one in shared memory.
#include "cast.cuh"
#include "scale.cuh"

// 256 threads: ACROSS with 8 columns each, and DOWN with 4 rows each, twice in each section.
constexpr int ACROSS = 8, DOWN = 32, WARPS = 8, WORDS = 2 * DOWN * SECTIONS;
constexpr int TILE_ROWS = 4 * WORDS, TILE_COLS = 8 * ACROSS;

// The launch's own memory, zero before and after it. A panel is what a tile's columns are of the whole tensor; its tiles are
// neighbouring blocks, which start in order, so that those that wait find the others running.
struct Panels {
    unsigned* cells;    // the largest magnitude of each column, panels filled up
    unsigned* arrived;  // of each panel: tiles whose maxima are in
    unsigned* left;     // and tiles that have read the maxima
    int row_tiles;
    int takes_maxima;  // whether this launch takes maxima, and whether it casts: both, where a panel's tiles fit the chip
    int casts;
    int unused;
};

static __device__ __forceinline__ unsigned acquire(const unsigned* from) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}

// 16 bytes from global to shared memory, in the background; zeros where `inside` is false.
static __device__ __forceinline__ void copy_pack(uint4* to, const bf16* from, bool inside) {
    const unsigned address = (unsigned)__cvta_generic_to_shared(to), bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// A tile of x and this thread's part of it.
struct Tile {
    int rows, cols;
    int row0, col0;
    int across, down;
    uint4 packs[8];
    uint4* held;  // of all threads: 8 × 256

    __device__ __forceinline__ Tile(int rows, int cols, int tile_row, int tile_col, uint4* held)
        : rows(rows), cols(cols), row0(tile_row * TILE_ROWS), col0(tile_col * TILE_COLS), across(threadIdx.x % ACROSS),
          down(threadIdx.x / ACROSS), held(held) {}

    // Rows and columns are multiples of 16: 4 rows and 8 columns are inside together.
    __device__ __forceinline__ bool inside(int h) const {
        return row0 + (h * DOWN + down) * 4 < rows && col0 + across * 8 < cols;
    }

    __device__ __forceinline__ long long offset(int h, int r) const {
        return (long long)(row0 + (h * DOWN + down) * 4 + r) * cols + col0 + across * 8;
    }

    __device__ __forceinline__ void load(const bf16* x) {
        if constexpr (SECTIONS == 2) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const int h = 2 + i / 4;
                copy_pack(&held[i * 256 + threadIdx.x], inside(h) ? x + offset(h, i % 4) : x, inside(h));
            }
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            packs[i] = uint4{0, 0, 0, 0};
            if (inside(i / 4)) packs[i] = *reinterpret_cast<const uint4*>(x + offset(i / 4, i % 4));
        }
    }

    __device__ __forceinline__ uint4 pack(int i) const { return i < 8 ? packs[i] : held[(i - 8) * 256 + threadIdx.x]; }

    // The largest magnitudes of the thread's columns, two in a word.
    __device__ __forceinline__ void peaks(unsigned (&pairs)[4]) const {
#pragma unroll
        for (int word = 0; word < 4; ++word) pairs[word] = 0;
#pragma unroll
        for (int i = 0; i < 8 * SECTIONS; ++i) {
            if (i == 8) wait_for_copies();
            const uint4 own = pack(i);
            pairs[0] = larger_pair(pairs[0], magnitudes(own.x));
            pairs[1] = larger_pair(pairs[1], magnitudes(own.y));
            pairs[2] = larger_pair(pairs[2], magnitudes(own.z));
            pairs[3] = larger_pair(pairs[3], magnitudes(own.w));
        }
    }
};

// Adds a tile's maxima to its panel's and waits for the panel's other tiles.
static __device__ __forceinline__ void exchange(const Tile& tile, const Panels& panels, int panel) {
    const unsigned peak = column_peak<ACROSS, WARPS>(tile);
    if (threadIdx.x < TILE_COLS) atomicMax(&panels.cells[panel * TILE_COLS + threadIdx.x], peak);
    if (!panels.casts) return;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(&panels.arrived[panel], 1u);
        while (acquire(&panels.arrived[panel]) < (unsigned)panels.row_tiles) __nanosleep(32);
        __threadfence();
    }
    __syncthreads();
}

// Casts and writes; every thread of the block calls it.
static __device__ __forceinline__ void store(
    const Tile& tile, TransposedTile<ACROSS, WORDS>& transposed, FORMAT* q, FORMAT* qt, const float (&inverse)[8]) {
    uint2 bytes[2 * SECTIONS][4];
#pragma unroll
    for (int i = 0; i < 8 * SECTIONS; ++i) {
        bytes[i / 4][i % 4] = cast_pack<FORMAT>(tile.pack(i), inverse);
        if (ROW_MAJOR && tile.inside(i / 4))
            *reinterpret_cast<uint2*>(q + tile.offset(i / 4, i % 4)) = bytes[i / 4][i % 4];
    }
    if constexpr (TRANSPOSED) {
        constexpr int CHUNKS = WORDS / 4;  // of 16 rows
        if (SECTIONS == 2) __syncthreads();  // what was held is read
#pragma unroll
        for (int h = 0; h < 2 * SECTIONS; ++h) transposed.put(tile.across, h * DOWN + tile.down, bytes[h]);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILE_COLS * CHUNKS / 256; ++i) {
            const int column = (i * 256 + threadIdx.x) / CHUNKS, chunk = threadIdx.x % CHUNKS;
            if (tile.col0 + column < tile.cols && tile.row0 + chunk * 16 < tile.rows)
                *reinterpret_cast<uint4*>(qt + (long long)(tile.col0 + column) * tile.rows + tile.row0 + chunk * 16) =
                    transposed.get(column, chunk);
        }
    }
}

// x and q: rows × cols, qt: cols × rows, both multiples of 16; scale, and amax if it is there: cols.
extern "C" __global__ void __launch_bounds__(256, 4) cast_columns(
    const bf16* x, FORMAT* q, FORMAT* qt, float* scale, float* amax, int rows, int cols, Rule rule, Panels panels) {
    __shared__ TransposedTile<ACROSS, WORDS> transposed;
    __shared__ float inverses[TILE_COLS];
    const int panel = blockIdx.x / panels.row_tiles, tile_row = blockIdx.x - panel * panels.row_tiles;
    Tile tile(rows, cols, tile_row, panel, reinterpret_cast<uint4*>(transposed.words));
    tile.load(x);
    if (panels.takes_maxima) exchange(tile, panels, panel);
    else wait_for_copies();
    if (!panels.casts) return;

    unsigned* cells = panels.cells + panel * TILE_COLS;
    const int col = tile.col0 + threadIdx.x;
    if (threadIdx.x < TILE_COLS) {
        const float peak = __uint_as_float(*(volatile unsigned*)&cells[threadIdx.x]), own = rule.scale(peak);
        inverses[threadIdx.x] = 1.0f / own;
        if (tile_row == 0 && col < cols) {
            scale[col] = own;
            if (amax) amax[col] = peak;
        }
    }
    __syncthreads();
    // The last tile that has read them clears the panel's cells; whether it is this one is known after the tile is written.
    unsigned left = 0;
    if (threadIdx.x == 0) left = atomicAdd(&panels.left[panel], 1u);
    float inverse[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) inverse[j] = inverses[tile.across * 8 + j];
    store(tile, transposed, q, qt, inverse);
    if (threadIdx.x == 0 && left == (unsigned)panels.row_tiles - 1) {
        for (int j = 0; j < TILE_COLS; ++j) cells[j] = 0;
        panels.arrived[panel] = 0;
        panels.left[panel] = 0;
    }
}
