// The sum of two tensors: (n) + (n), 8 or 4 elements a thread.
#include "element.cuh"

template <typename T, int V>
static __device__ __forceinline__ void add(const T* a, const T* b, T* y, long long n) {
    const long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i + V <= n) {
        float x[V], z[V];
        load<T, V>(a + i, x);
        load<T, V>(b + i, z);
#pragma unroll
        for (int j = 0; j < V; ++j) x[j] += z[j];
        store<T, V>(y + i, x);
    } else {
        for (long long j = i; j < n; ++j) from_float(to_float(a[j]) + to_float(b[j]), y[j]);
    }
}

extern "C" __global__ void add_bf16(const bf16* a, const bf16* b, bf16* y, long long n) { add<bf16, 8>(a, b, y, n); }
extern "C" __global__ void add_fp32(const float* a, const float* b, float* y, long long n) { add<float, 4>(a, b, y, n); }
