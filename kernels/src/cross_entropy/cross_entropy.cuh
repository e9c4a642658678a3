// The arithmetic of cross-entropy on packs of one row, 512 threads a row. The launches that make one pass each and the one
// that makes both share it, pack by pack in the same order: their results are equal bit by bit.
#pragma once
#include "element.cuh"
#include "reduce.cuh"

#define ROW_THREADS 512

// e^x. Where results are rounded to bf16, the hardware's power of two; results below 2^-126 become 0.
template <typename T>
static __device__ __forceinline__ float power(float x) {
    if constexpr (sizeof(T) == 4) {
        return expf(x);
    } else {
        float out;
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(__fmul_rn(x, 1.44269504f)));
        return out;
    }
}

template <typename T, int V>
static __device__ __forceinline__ void unpack(const Pack<T, V>& pack, float (&out)[V]) {
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = to_float(pack.values[j]);
}

static __device__ __forceinline__ Pack<float, 4> packed(const float (&in)[4], float) {
    return {in[0], in[1], in[2], in[3]};
}

// Two conversions an instruction; they round as one does.
static __device__ __forceinline__ Pack<bf16, 8> packed(const float (&in)[8], bf16) {
    union {
        unsigned words[4];
        Pack<bf16, 8> pack;
    } out;
#pragma unroll
    for (int j = 0; j < 4; ++j)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out.words[j]) : "f"(in[2 * j + 1]), "f"(in[2 * j]));
    return out.pack;
}

template <typename T>
static __device__ __forceinline__ Pack<T, 1> packed(const float (&in)[1], T) {
    Pack<T, 1> out;
    from_float(in[0], out.values[0]);
    return out;
}

// The largest logit that a thread has seen, and the sum of exponentials of the distances to it.
template <typename T>
struct Running {
    float largest = -INFINITY, sum = 0.0f;

    // The first `valid` logits of a pack; the others are padding.
    template <int V>
    __device__ __forceinline__ void add(const float (&values)[V], int valid) {
        float here = largest;
        if (valid >= V) {
#pragma unroll
            for (int j = 0; j < V; ++j) here = fmaxf(here, values[j]);
            rescale(here);
#pragma unroll
            for (int j = 0; j < V; ++j) sum = __fadd_rn(sum, power<T>(__fsub_rn(values[j], largest)));
        } else {
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if (j < valid) here = fmaxf(here, values[j]);
            }
            rescale(here);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if (j < valid) sum = __fadd_rn(sum, power<T>(__fsub_rn(values[j], largest)));
            }
        }
    }

    // ln of the sum of exponentials of the whole row, for all threads.
    __device__ __forceinline__ float log_sum(float* scratch) const {
        const float of_row = block_reduce<Max>(largest, scratch);
        // A thread without columns holds -inf and 0: its share is 0, not NaN.
        const float share = sum == 0.0f ? 0.0f : __fmul_rn(sum, power<T>(__fsub_rn(largest, of_row)));
        return __fadd_rn(of_row, logf(block_reduce<Sum>(share, scratch)));
    }

private:
    __device__ __forceinline__ void rescale(float here) {
        if (here > largest) {
            sum = __fmul_rn(sum, power<T>(__fsub_rn(largest, here)));
            largest = here;
        }
    }
};

// The gradient of a pack of logits. `target` counts from the pack's first column, as `valid` does.
template <typename T, int V>
static __device__ __forceinline__ void gradient(float (&values)[V], float log_sum, int target, int valid, float share) {
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] = power<T>(__fsub_rn(values[j], log_sum));
    if ((unsigned)target < (unsigned)V) {
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if (j == target) values[j] = __fsub_rn(values[j], 1.0f);
        }
    }
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] = __fmul_rn(values[j], share);
    if (valid < V) {
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if (j >= valid) values[j] = 0.0f;
        }
    }
}
