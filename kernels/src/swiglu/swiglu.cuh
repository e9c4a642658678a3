// SwiGLU of one element, with every product and sum pinned, so that all kernels that use it round alike.
#pragma once
#include "element.cuh"

template <typename T>
static __device__ __forceinline__ float sigmoid(float x) {
    return quotient<T>(1.0f, 1.0f + exponential<T>(-x));
}

template <typename T>
static __device__ __forceinline__ float swiglu(float gate, float up) {
    return __fmul_rn(__fmul_rn(gate, sigmoid<T>(gate)), up);
}

// `gate` and `up` become their gradients.
template <typename T>
static __device__ __forceinline__ void swiglu_gradients(float& gate, float& up, float dh) {
    const float s = sigmoid<T>(gate);
    const float slope = __fmaf_rn(gate, __fsub_rn(1.0f, s), 1.0f);
    const float dup = __fmul_rn(__fmul_rn(dh, gate), s);
    gate = __fmul_rn(__fmul_rn(__fmul_rn(dh, up), s), slope);
    up = dup;
}
