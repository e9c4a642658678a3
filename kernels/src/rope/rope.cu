// Rotary positions on packed (B·S, 3·H·hd), in place: one thread turns V pairs of one query or key head. Grid: (rows, …).
#include "element.cuh"
#include "rope.cuh"

template <typename T, int V>
static __device__ __forceinline__ void rope(
    const float* cos, const float* sin, T* qkv, int seq, int heads, int head_dim, float direction) {
    const int half = head_dim / 2, per_head = half / V;
    const int index = blockIdx.y * blockDim.x + threadIdx.x;
    if (index >= 2 * heads * per_head) return;  // queries and keys; values are left alone
    const int head = index / per_head, i = (index % per_head) * V;
    const long long row = blockIdx.x;
    const int position = (int)(row % seq);
    T* first = qkv + row * (3ll * heads * head_dim) + (long long)head * head_dim + i;
    T* second = first + half;
    float x[V], y[V], c[V], s[V];
    load<T, V>(first, x);
    load<T, V>(second, y);
    load<float, V>(cos + (long long)position * half + i, c);
    load<float, V>(sin + (long long)position * half + i, s);
#pragma unroll
    for (int j = 0; j < V; ++j) {
        const float sine = direction * s[j], a = x[j], b = y[j];
        x[j] = turned(a, b, c[j], -sine);
        y[j] = turned(b, a, c[j], sine);
    }
    store<T, V>(first, x);
    store<T, V>(second, y);
}

#define ROPE(T, NAME, V) \
    extern "C" __global__ void rope_##NAME##_v##V( \
        const float* cos, const float* sin, T* qkv, int seq, int heads, int head_dim, float direction) { \
        rope<T, V>(cos, sin, qkv, seq, heads, head_dim, direction); \
    }

ROPE(bf16, bf16, 8)
ROPE(bf16, bf16, 1)
ROPE(float, fp32, 4)
ROPE(float, fp32, 1)
