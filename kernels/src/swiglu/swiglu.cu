// SwiGLU on packed (rows, 2·ffn), gate first: one thread a pack of V elements, grid (rows, packs of a row).
#include "element.cuh"
#include "swiglu.cuh"

template <typename T, int V>
static __device__ __forceinline__ void forward(const T* gate_up, T* h, int ffn) {
    const int i = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (i >= ffn) return;
    const long long row = blockIdx.x;
    float gate[V], up[V];
    load<T, V>(gate_up + row * 2 * ffn + i, gate);
    load<T, V>(gate_up + row * 2 * ffn + ffn + i, up);
#pragma unroll
    for (int j = 0; j < V; ++j) gate[j] = swiglu<T>(gate[j], up[j]);
    store<T, V>(h + row * ffn + i, gate);
}

template <typename T, int V>
static __device__ __forceinline__ void backward(const T* gate_up, const T* dh, T* dgate_up, int ffn) {
    const int i = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (i >= ffn) return;
    const long long row = blockIdx.x;
    float gate[V], up[V], d[V];
    load<T, V>(gate_up + row * 2 * ffn + i, gate);
    load<T, V>(gate_up + row * 2 * ffn + ffn + i, up);
    load<T, V>(dh + row * ffn + i, d);
#pragma unroll
    for (int j = 0; j < V; ++j) swiglu_gradients<T>(gate[j], up[j], d[j]);
    store<T, V>(dgate_up + row * 2 * ffn + i, gate);
    store<T, V>(dgate_up + row * 2 * ffn + ffn + i, up);
}

#define SWIGLU(T, NAME, V) \
    extern "C" __global__ void swiglu_forward_##NAME##_v##V(const T* gate_up, T* h, int ffn) { \
        forward<T, V>(gate_up, h, ffn); \
    } \
    extern "C" __global__ void swiglu_backward_##NAME##_v##V(const T* gate_up, const T* dh, T* dgate_up, int ffn) { \
        backward<T, V>(gate_up, dh, dgate_up, ffn); \
    }

SWIGLU(bf16, bf16, 8)
SWIGLU(bf16, bf16, 1)
SWIGLU(float, fp32, 4)
SWIGLU(float, fp32, 1)
