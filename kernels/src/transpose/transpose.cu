// A transposed copy through tiles in shared memory. Elements are moved by size alone; K elements of one word travel together
// where the shape allows it, so that rows of a tile are whole 128-byte lines on both sides.
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
