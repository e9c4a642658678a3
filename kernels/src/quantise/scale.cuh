// What every launch that takes a maximum or makes a scale shares: magnitudes, scales, and one maximum over a whole tensor
// whose parts many blocks see.
#pragma once
#include "reduce.cuh"

// |x| as bits: ordered like the values, with NaN above infinity, so that an unsigned maximum lets NaN through.
static __device__ __forceinline__ unsigned magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// The same of two bf16 values in one word, and the larger ones of two such words.
static __device__ __forceinline__ unsigned magnitudes(unsigned pair) { return pair & 0x7fff7fffu; }

static __device__ __forceinline__ unsigned larger_pair(unsigned a, unsigned b) {
#if __CUDA_ARCH__ >= 900
    unsigned out;
    asm("max.u16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
#else
    return max(a & 0xffffu, b & 0xffffu) | max(a & 0xffff0000u, b & 0xffff0000u);
#endif
}

// The larger of a word's two magnitudes, as the bits of a float.
static __device__ __forceinline__ unsigned larger_of_pair(unsigned pair) {
    return max(pair << 16, pair & 0xffff0000u);
}

static __device__ __forceinline__ float scale_of(float amax, float epsilon, float largest, bool power_of_two) {
    if (amax < epsilon) amax = epsilon;  // NaN stays
    const float scale = amax / largest;
    const unsigned bits = __float_as_uint(scale), exponent = bits & 0x7f800000u;
    const bool normal = exponent != 0 && exponent != 0x7f800000u;
    if (!power_of_two || !normal || (bits & 0x007fffffu) == 0) return scale;
    return __uint_as_float(exponent + 0x00800000u);
}

// How a launch makes scales.
struct Rule {
    float epsilon, largest;
    int power_of_two;

    __device__ __forceinline__ float scale(float amax) const { return scale_of(amax, epsilon, largest, power_of_two != 0); }
};

// One maximum over a tensor that all blocks of a launch see parts of. `cell` and `done` are the launch's own, zero before and
// after it, so that no fill comes before it. The last block leaves the maximum where it is wanted: in `amax`, or in the
// history of delayed scaling at its step; either may be null.
struct Maximum {
    unsigned* cell;
    unsigned* done;
    float* amax;
    float* history;
    const int* step;
    int length;
    int blocks;
};

// All threads of every block call it once, at the end; `scratch` holds one word per warp.
static __device__ __forceinline__ void finish(unsigned largest, const Maximum& maximum, unsigned* scratch) {
    largest = block_reduce<Max>(largest, scratch);
    if (threadIdx.x != 0) return;
    atomicMax(maximum.cell, largest);
    __threadfence();
    if (atomicAdd(maximum.done, 1u) != (unsigned)maximum.blocks - 1u) return;
    __threadfence();
    const float amax = __uint_as_float(atomicExch(maximum.cell, 0u));
    *maximum.done = 0u;
    if (maximum.amax) maximum.amax[0] = amax;
    if (maximum.history) maximum.history[max(maximum.step[0], 0) % maximum.length] = amax;
}
