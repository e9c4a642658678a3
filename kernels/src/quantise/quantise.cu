// Casting to FP8: largest magnitudes by any tiling, scales, and the cast in one or both layouts.
//
// A tiling is one affine map: the scale of element (row, col) is number
// (row >> row_shift) * row_stride + (col >> col_shift) * col_stride.
#include "element.cuh"
#include "reduce.cuh"
#include "scale.cuh"

struct Tiling {
    int rows, cols;
    int row_shift, row_stride, col_shift, col_stride;

    __device__ __forceinline__ int scale(int row, int col) const {
        return (row >> row_shift) * row_stride + (col >> col_shift) * col_stride;
    }
};

// One number for the tensor; `amax` is zeroed before.
template <typename T>
static __device__ __forceinline__ void amax_tensor(const T* x, unsigned* amax, long long n) {
    __shared__ unsigned scratch[32];
    unsigned largest = 0;
    const long long stride = (long long)gridDim.x * blockDim.x * 8;
    for (long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 8; i < n; i += stride) {
        if (i + 8 <= n) {
            float values[8];
            load<T, 8>(x + i, values);
#pragma unroll
            for (int j = 0; j < 8; ++j) largest = max(largest, magnitude(values[j]));
        } else {
            for (long long j = i; j < n; ++j) largest = max(largest, magnitude(to_float(x[j])));
        }
    }
    largest = block_reduce<Max>(largest, scratch);
    if (threadIdx.x == 0) atomicMax(amax, largest);
}

// Tiles of 128 × 128, 256 threads: 16 across, each with 8 columns, and 16 down. What shares a number is, within a tile, a
// row (BY = 0), a column (1) or everything (2); `amax` is zeroed before.
template <typename T, int V, int BY>
static __device__ __forceinline__ void amax_tiles(const T* x, unsigned* amax, Tiling tiling) {
    __shared__ unsigned columns[128];
    __shared__ unsigned scratch[32];
    const int across = threadIdx.x & 15, down = threadIdx.x >> 4;
    const int row0 = blockIdx.x * 128, col0 = blockIdx.y * 128, col = col0 + across * 8;
    if (BY == 1 && threadIdx.x < 128) columns[threadIdx.x] = 0;
    unsigned largest[8] = {};
    for (int r = down; r < 128; r += 16) {
        const int row = row0 + r;
        if (BY == 0) {
#pragma unroll
            for (int j = 0; j < 8; ++j) largest[j] = 0;
        }
        if (row < tiling.rows) {
            const T* from = x + (long long)row * tiling.cols + col;
            if (V == 8 && col < tiling.cols) {
                float values[8];
                load<T, 8>(from, values);
#pragma unroll
                for (int j = 0; j < 8; ++j) largest[j] = max(largest[j], magnitude(values[j]));
            } else if (V == 1) {
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    if (col + j < tiling.cols) largest[j] = max(largest[j], magnitude(to_float(from[j])));
                }
            }
        }
        if (BY == 0) {
            unsigned of_row = largest[0];
#pragma unroll
            for (int j = 1; j < 8; ++j) of_row = max(of_row, largest[j]);
#pragma unroll
            for (int step = 8; step > 0; step >>= 1) of_row = max(of_row, __shfl_xor_sync(0xffffffffu, of_row, step));
            if (across == 0 && row < tiling.rows) atomicMax(&amax[tiling.scale(row, col0)], of_row);
        }
    }
    if (BY == 1) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < 8; ++j) atomicMax(&columns[across * 8 + j], largest[j]);
        __syncthreads();
        if (threadIdx.x < 128 && col0 + threadIdx.x < tiling.cols)
            atomicMax(&amax[tiling.scale(row0, col0 + threadIdx.x)], columns[threadIdx.x]);
    }
    if (BY == 2) {
        unsigned of_tile = largest[0];
#pragma unroll
        for (int j = 1; j < 8; ++j) of_tile = max(of_tile, largest[j]);
        of_tile = block_reduce<Max>(of_tile, scratch);
        if (threadIdx.x == 0) atomicMax(&amax[tiling.scale(row0, col0)], of_tile);
    }
}

#define AMAX_TILES(T, NAME, V) \
    extern "C" __global__ void __launch_bounds__(256) amax_rows_##NAME##_v##V(const T* x, unsigned* amax, Tiling t) { \
        amax_tiles<T, V, 0>(x, amax, t); \
    } \
    extern "C" __global__ void __launch_bounds__(256) amax_columns_##NAME##_v##V(const T* x, unsigned* amax, Tiling t) { \
        amax_tiles<T, V, 1>(x, amax, t); \
    } \
    extern "C" __global__ void __launch_bounds__(256) amax_blocks_##NAME##_v##V(const T* x, unsigned* amax, Tiling t) { \
        amax_tiles<T, V, 2>(x, amax, t); \
    }

AMAX_TILES(bf16, bf16, 8)
AMAX_TILES(bf16, bf16, 1)
AMAX_TILES(float, fp32, 8)
AMAX_TILES(float, fp32, 1)

extern "C" __global__ void __launch_bounds__(256) amax_tensor_bf16(const bf16* x, unsigned* amax, long long n) {
    amax_tensor<bf16>(x, amax, n);
}
extern "C" __global__ void __launch_bounds__(256) amax_tensor_fp32(const float* x, unsigned* amax, long long n) {
    amax_tensor<float>(x, amax, n);
}

extern "C" __global__ void scale_from_amax(
    const float* amax, float* scale, int n, float epsilon, float largest, int power_of_two) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) scale[i] = scale_of(amax[i], epsilon, largest, power_of_two != 0);
}

extern "C" __global__ void scale_from_history(
    const float* history, float* scale, int length, float epsilon, float largest) {
    unsigned amax = 0;
    for (int i = 0; i < length; ++i) amax = max(amax, magnitude(history[i]));
    scale[0] = scale_of(__uint_as_float(amax), epsilon, largest, false);
}

struct DelayedScale {
    const float* history;
    float* scale;
    float largest;
};

// One thread a scale.
extern "C" __global__ void __launch_bounds__(32) scales_from_histories(
    const DelayedScale* scales, int n, int length, float epsilon) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const DelayedScale one = scales[i];
    unsigned amax = 0;
    for (int j = 0; j < length; ++j) amax = max(amax, magnitude(one.history[j]));
    one.scale[0] = scale_of(__uint_as_float(amax), epsilon, one.largest, false);
}

extern "C" __global__ void record_amax(const float* amax, const int* step, float* history, int length) {
    history[max(step[0], 0) % length] = amax[0];
}

// Tiles of 128 rows × 64 columns, 256 threads: 8 across, each with 8 columns, and 32 down, each with 4 rows, whose bytes
// make one word of the transposed tile. Rows and columns are multiples of 16.
template <typename T, typename Q, bool ROW_MAJOR, bool TRANSPOSED>
static __device__ __forceinline__ void quantise_tiles(const T* x, const float* scale, Q* q, Q* qt, Tiling tiling) {
    __shared__ unsigned tile[64][33];
    const int across = threadIdx.x & 7, down = threadIdx.x >> 3;
    const int row0 = blockIdx.y * 128, col0 = blockIdx.x * 64;
    const int row = row0 + down * 4, col = col0 + across * 8;
    if (row < tiling.rows && col < tiling.cols) {
        float values[4][8];
#pragma unroll
        for (int r = 0; r < 4; ++r) load<T, 8>(x + (long long)(row + r) * tiling.cols + col, values[r]);
        const bool per_column = tiling.col_stride != 0 && tiling.col_shift == 0;
        float inverse[8];
        if (per_column) {
#pragma unroll
            for (int j = 0; j < 8; ++j) inverse[j] = 1.0f / scale[tiling.scale(row, col + j)];
        }
        Pack<Q, 8> out[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            if (!per_column) {
                // 8 columns from a multiple of 8 share their scale, as do 4 rows where rows share one.
                const float one = 1.0f / scale[tiling.scale(row + r, col)];
#pragma unroll
                for (int j = 0; j < 8; ++j) inverse[j] = one;
            }
#pragma unroll
            for (int j = 0; j < 8; ++j) from_float(values[r][j] * inverse[j], out[r].values[j]);
            if (ROW_MAJOR) *reinterpret_cast<Pack<Q, 8>*>(q + (long long)(row + r) * tiling.cols + col) = out[r];
        }
        if (TRANSPOSED) {
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                tile[across * 8 + j][down] = (unsigned)out[0].values[j].bits | (unsigned)out[1].values[j].bits << 8 |
                                             (unsigned)out[2].values[j].bits << 16 | (unsigned)out[3].values[j].bits << 24;
            }
        }
    }
    if (TRANSPOSED) {
        __syncthreads();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int c = half * 32 + (threadIdx.x >> 3), words = (threadIdx.x & 7) * 4;
            if (col0 + c < tiling.cols && row0 + words * 4 < tiling.rows) {
                const uint4 bytes = {tile[c][words], tile[c][words + 1], tile[c][words + 2], tile[c][words + 3]};
                *reinterpret_cast<uint4*>(qt + (long long)(col0 + c) * tiling.rows + row0 + words * 4) = bytes;
            }
        }
    }
}

// As stored only: tiles of 64 rows × 128 columns, 256 threads: 16 across, each with 8 columns, and 16 down, each with 4 rows,
// 16 apart, so that whole lines are read and written. Rows and columns are multiples of 16.
template <typename T, typename Q>
static __device__ __forceinline__ void quantise_rows(const T* x, const float* scale, Q* q, Tiling tiling) {
    const int row0 = blockIdx.y * 64 + (threadIdx.x >> 4), col = blockIdx.x * 128 + (threadIdx.x & 15) * 8;
    if (col >= tiling.cols) return;
    const bool per_column = tiling.col_stride != 0 && tiling.col_shift == 0;
    float values[4][8], scales[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        const int row = row0 + r * 16;
        if (row < tiling.rows) {
            load<T, 8>(x + (long long)row * tiling.cols + col, values[r]);
            scales[r] = scale[tiling.scale(row, col)];
        }
    }
    float inverse[8];
    if (per_column) {
#pragma unroll
        for (int j = 0; j < 8; ++j) inverse[j] = 1.0f / scale[tiling.scale(row0, col + j)];
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        const int row = row0 + r * 16;
        if (row >= tiling.rows) return;
        if (!per_column) {
            // 8 columns from a multiple of 8 share their scale.
            const float one = 1.0f / scales[r];
#pragma unroll
            for (int j = 0; j < 8; ++j) inverse[j] = one;
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) values[r][j] *= inverse[j];
        const uint2 bytes = {word_from_floats<Q>(values[r][0], values[r][1], values[r][2], values[r][3]),
                             word_from_floats<Q>(values[r][4], values[r][5], values[r][6], values[r][7])};
        *reinterpret_cast<uint2*>(q + (long long)row * tiling.cols + col) = bytes;
    }
}

// Any shape, one element a thread; either output may be null.
template <typename T, typename Q>
static __device__ __forceinline__ void quantise_any(const T* x, const float* scale, Q* q, Q* qt, Tiling tiling) {
    const int row = blockIdx.x, col = blockIdx.y * blockDim.x + threadIdx.x;
    if (col >= tiling.cols) return;
    const float value = to_float(x[(long long)row * tiling.cols + col]) * (1.0f / scale[tiling.scale(row, col)]);
    Q out;
    from_float(value, out);
    if (q) q[(long long)row * tiling.cols + col] = out;
    if (qt) qt[(long long)col * tiling.rows + row] = out;
}

#define QUANTISE(T, T_NAME, Q) \
    extern "C" __global__ void __launch_bounds__(256) quantise_##T_NAME##_##Q##_row( \
        const T* x, const float* scale, Q* q, Q* qt, Tiling t) { \
        quantise_rows<T, Q>(x, scale, q, t); \
    } \
    extern "C" __global__ void __launch_bounds__(256) quantise_##T_NAME##_##Q##_transposed( \
        const T* x, const float* scale, Q* q, Q* qt, Tiling t) { \
        quantise_tiles<T, Q, false, true>(x, scale, q, qt, t); \
    } \
    extern "C" __global__ void __launch_bounds__(256) quantise_##T_NAME##_##Q##_both( \
        const T* x, const float* scale, Q* q, Q* qt, Tiling t) { \
        quantise_tiles<T, Q, true, true>(x, scale, q, qt, t); \
    } \
    extern "C" __global__ void quantise_##T_NAME##_##Q##_any( \
        const T* x, const float* scale, Q* q, Q* qt, Tiling t) { \
        quantise_any<T, Q>(x, scale, q, qt, t); \
    }

QUANTISE(bf16, bf16, e4m3)
QUANTISE(bf16, bf16, e5m2)
QUANTISE(float, fp32, e4m3)
QUANTISE(float, fp32, e5m2)
