// The arithmetic of one AdamW update. The launch for one parameter and the one for all share it, every rounding written out:
// their results are equal bit by bit.
#pragma once
#include "element.cuh"

struct Rates {
    float beta1, rest1, beta2, rest2, epsilon, decay;
    double base1, base2, learning_rate;
    unsigned warmup;
};

// What a step's updates share: the learning rate, the two bias corrections, and the factor that clips.
struct Moment {
    float rate, correction1, correction2, factor;
};

// All threads of a block call it. Rate and bias corrections are computed in fp64 by one of them from the counter on the device:
// no host value changes from step to step.
static __device__ __forceinline__ Moment moment(const Rates& rates, int step, float factor) {
    __shared__ float shared[3];
    if (threadIdx.x == 0) {
        const int t = step + 1;
        const double warm = rates.warmup == 0 ? 1.0 : fmin((double)t / (double)rates.warmup, 1.0);
        shared[0] = (float)(rates.learning_rate * warm);
        shared[1] = (float)(1.0 - pow(rates.base1, (double)t));
        shared[2] = (float)(1.0 - pow(rates.base2, (double)t));
    }
    __syncthreads();
    return {shared[0], shared[1], shared[2], factor};
}

static __device__ __forceinline__ void update(
    const Rates& rates, const Moment& now, float decay, float g, float& w, float& m, float& v) {
    g = __fmul_rn(g, now.factor);
    m = __fmaf_rn(rates.beta1, m, __fmul_rn(rates.rest1, g));
    v = __fmaf_rn(rates.beta2, v, __fmul_rn(__fmul_rn(rates.rest2, g), g));
    const float root = __fadd_rn(__fsqrt_rn(__fdiv_rn(v, now.correction2)), rates.epsilon);
    const float direction = __fdiv_rn(__fdiv_rn(m, now.correction1), root);
    w = __fmaf_rn(-now.rate, __fmaf_rn(decay, w, direction), w);
}
