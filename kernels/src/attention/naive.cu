// Causal softmax over materialised scores, (B·H·S, S), and its gradient: one block a row. Positions after the query's own are
// not read, and are written as 0.
#include "element.cuh"
#include "reduce.cuh"

template <typename T, int V>
static __device__ __forceinline__ void forward(const T* scores, T* p, int seq, float scale) {
    extern __shared__ float row_values[];  // (seq)
    __shared__ float scratch[32];
    const long long row = blockIdx.x;
    const int seen = (int)(row % seq) + 1;
    scores += row * seq;
    p += row * seq;
    float largest = -INFINITY;
    for (int i = threadIdx.x * V; i < seen; i += blockDim.x * V) {
        float values[V];
        load<T, V>(scores + i, values);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            row_values[i + j] = values[j];
            if (i + j < seen) largest = fmaxf(largest, values[j]);
        }
    }
    largest = block_reduce<Max>(largest, scratch);
    float sum = 0.0f;
    for (int i = threadIdx.x * V; i < seen; i += blockDim.x * V) {
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const float e = i + j < seen ? exponential<T>((row_values[i + j] - largest) * scale) : 0.0f;
            row_values[i + j] = e;
            sum += e;
        }
    }
    sum = block_reduce<Sum>(sum, scratch);
    for (int i = threadIdx.x * V; i < seq; i += blockDim.x * V) {
        float values[V];
#pragma unroll
        for (int j = 0; j < V; ++j) values[j] = i < seen ? row_values[i + j] / sum : 0.0f;
        store<T, V>(p + i, values);
    }
}

template <typename T, int V>
static __device__ __forceinline__ void backward(const T* p, const T* dp, T* ds, int seq, float scale) {
    __shared__ float scratch[32];
    const long long row = blockIdx.x;
    const int seen = (int)(row % seq) + 1;
    p += row * seq;
    dp += row * seq;
    ds += row * seq;
    float dot = 0.0f;
    for (int i = threadIdx.x * V; i < seen; i += blockDim.x * V) {
        float values[V], gradients[V];
        load<T, V>(p + i, values);
        load<T, V>(dp + i, gradients);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if (i + j < seen) dot += values[j] * gradients[j];
        }
    }
    dot = block_reduce<Sum>(dot, scratch);
    for (int i = threadIdx.x * V; i < seq; i += blockDim.x * V) {
        float values[V] = {};
        if (i < seen) {
            float gradients[V];
            load<T, V>(p + i, values);
            load<T, V>(dp + i, gradients);
#pragma unroll
            for (int j = 0; j < V; ++j) values[j] = i + j < seen ? values[j] * (gradients[j] - dot) * scale : 0.0f;
        }
        store<T, V>(ds + i, values);
    }
}

#define SOFTMAX(T, NAME, V) \
    extern "C" __global__ void softmax_forward_##NAME##_v##V(const T* scores, T* p, int seq, float scale) { \
        forward<T, V>(scores, p, seq, scale); \
    } \
    extern "C" __global__ void softmax_backward_##NAME##_v##V(const T* p, const T* dp, T* ds, int seq, float scale) { \
        backward<T, V>(p, dp, ds, seq, scale); \
    }

SOFTMAX(bf16, bf16, 8)
SOFTMAX(bf16, bf16, 1)
SOFTMAX(float, fp32, 4)
SOFTMAX(float, fp32, 1)
