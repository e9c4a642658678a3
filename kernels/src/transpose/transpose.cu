// A transposed copy through tiles in shared memory. Elements are moved by size alone; K elements of one word travel together
// where the shape allows it, so that rows of a tile are whole 128-byte lines on both sides.
#include "cast.cuh"

template <typename U, int K>
static __device__ __forceinline__ void transpose(const U* x, U* y, int rows, int cols) {
    constexpr int TILE = 32 * K;
    struct alignas(sizeof(U) * K) Word { U values[K]; };
    __shared__ alignas(16) U tile[TILE][TILE + K];
    const int lane = threadIdx.x & 31, group = threadIdx.x >> 5;  // 8 groups
    const long long row0 = (long long)blockIdx.x * TILE, col0 = (long long)blockIdx.y * TILE;
    const long long col = col0 + lane * K;
    for (int r = group; r < TILE; r += 8) {
        if (row0 + r < rows && col < cols)
            *reinterpret_cast<Word*>(&tile[r][lane * K]) = *reinterpret_cast<const Word*>(&x[(row0 + r) * cols + col]);
    }
    __syncthreads();
    const long long row = row0 + lane * K;
    for (int c = group; c < TILE; c += 8) {
        if (col0 + c < cols && row < rows) {
            Word word;
#pragma unroll
            for (int j = 0; j < K; ++j) word.values[j] = tile[lane * K + j][c];
            *reinterpret_cast<Word*>(&y[(col0 + c) * rows + row]) = word;
        }
    }
}

#define TRANSPOSE(U, BYTES, K) \
    extern "C" __global__ void __launch_bounds__(256) transpose_##BYTES##_v##K(const U* x, U* y, int rows, int cols) { \
        transpose<U, K>(x, y, rows, cols); \
    }

TRANSPOSE(unsigned char, 1, 4)
TRANSPOSE(unsigned char, 1, 1)
TRANSPOSE(unsigned short, 2, 2)
TRANSPOSE(unsigned short, 2, 1)
TRANSPOSE(unsigned, 4, 1)

// Bytes, rows and columns multiples of 16: tiles of 128 × 128, 256 threads: 16 across, each with 8 columns, and 16 down, each with
// 4 rows, twice.
extern "C" __global__ void __launch_bounds__(256) transpose_bytes_tiles(
    const unsigned char* x, unsigned char* y, int rows, int cols) {
    __shared__ TransposedTile<16, 32> tile;
    const int across = threadIdx.x & 15, down = threadIdx.x >> 4;
    const int row0 = blockIdx.y * 128, col0 = blockIdx.x * 128, col = col0 + across * 8;
    uint2 bytes[2][4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int row = row0 + (h * 16 + down) * 4;
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            bytes[h][r] = uint2{0, 0};
            if (row < rows && col < cols)
                bytes[h][r] = *reinterpret_cast<const uint2*>(x + (long long)(row + r) * cols + col);
        }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) tile.put(across, h * 16 + down, bytes[h]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int column = i * 32 + (threadIdx.x >> 3), chunk = threadIdx.x & 7;
        if (col0 + column < cols && row0 + chunk * 16 < rows)
            *reinterpret_cast<uint4*>(y + (long long)(col0 + column) * rows + row0 + chunk * 16) = tile.get(column, chunk);
    }
}
