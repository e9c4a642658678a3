// Reductions over a warp and over a block, in a fixed order, so that results repeat bit for bit.
#pragma once

#define INFINITY __int_as_float(0x7f800000)

struct Sum {
    template <typename T>
    static __device__ __forceinline__ T of(T a, T b) { return a + b; }
};

struct Max {
    static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); }
    static __device__ __forceinline__ unsigned of(unsigned a, unsigned b) { return a > b ? a : b; }
};

template <typename Op, typename T>
static __device__ __forceinline__ T warp_reduce(T x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x = Op::of(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// All threads call it, whole warps only; `scratch` holds one T per warp, and all threads get the result.
template <typename Op, typename T>
static __device__ __forceinline__ T block_reduce(T x, T* scratch) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_reduce<Op>(x);
    __syncthreads();  // the last result was read by everybody
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = scratch[0];
    for (int other = 1; other < warps; ++other) x = Op::of(x, scratch[other]);
    return x;
}
