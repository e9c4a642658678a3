// Amax, scale and cast of what shares a scale along a row, read once.
//
// Defined when compiled: FORMAT, the FP8 type; a segment is the row, or 128 columns of it, that shares a scale: THREADS threads
// hold it, 8 columns in each of PACKS registers' packs, and go over SEGMENTS of them at once.
#include "cast.cuh"
#include "scale.cuh"

constexpr int GROUPS = 256 / THREADS;

// The largest magnitude of a segment; all its threads get it, every thread of the block calls it.
static __device__ __forceinline__ unsigned of_segment(unsigned largest, unsigned* scratch) {
#pragma unroll
    for (int step = (THREADS < 32 ? THREADS : 32) / 2; step > 0; step >>= 1)
        largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    if constexpr (THREADS > 32) {
        constexpr int WARPS = THREADS / 32;
        if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = largest;
        __syncthreads();
        const unsigned* warps = scratch + threadIdx.x / THREADS * WARPS;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) largest = max(largest, warps[warp]);
    }
    return largest;
}

// x and q: rows × cols, cols a multiple of 8; `per_row` segments of `width` columns in each row, the last one perhaps shorter.
extern "C" __global__ void __launch_bounds__(256) cast_rows(
    const bf16* x, FORMAT* q, float* scale, float* amax, int segments, int per_row, int width, int cols, Rule rule) {
    __shared__ unsigned scratch[SEGMENTS][8];
    const int group = threadIdx.x / THREADS, lane = threadIdx.x % THREADS;
    const int first = blockIdx.x * (GROUPS * SEGMENTS) + group;
    uint4 packs[SEGMENTS][PACKS];
    long long start[SEGMENTS];
    int length[SEGMENTS];  // columns; 0 past the end
#pragma unroll
    for (int s = 0; s < SEGMENTS; ++s) {
        const int segment = first + s * GROUPS, row = segment / per_row, col = (segment - row * per_row) * width;
        start[s] = (long long)row * cols + col;
        length[s] = segment < segments ? min(width, cols - col) : 0;
#pragma unroll
        for (int p = 0; p < PACKS; ++p) {
            const int at = (p * THREADS + lane) * 8;
            packs[s][p] = uint4{0, 0, 0, 0};
            if (at < length[s]) packs[s][p] = *reinterpret_cast<const uint4*>(x + start[s] + at);
        }
    }
#pragma unroll
    for (int s = 0; s < SEGMENTS; ++s) {
        unsigned pair = 0;
#pragma unroll
        for (int p = 0; p < PACKS; ++p) pair = larger_pair(pair, magnitudes(packs[s][p]));
        const float most = __uint_as_float(of_segment(larger_of_pair(pair), scratch[s]));
        const float own = rule.scale(most), inverse = 1.0f / own;
        if (lane == 0 && length[s] > 0) {
            scale[first + s * GROUPS] = own;
            if (amax) amax[first + s * GROUPS] = most;
        }
#pragma unroll
        for (int p = 0; p < PACKS; ++p) {
            const int at = (p * THREADS + lane) * 8;
            if (at < length[s])
                *reinterpret_cast<uint2*>(q + start[s] + at) = cast_pack<FORMAT>(packs[s][p], inverse);
        }
    }
}
