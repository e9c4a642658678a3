// A copy in another dtype: 8 elements a thread.
#include "element.cuh"

template <typename From, typename To>
static __device__ __forceinline__ void cast(const From* x, To* y, long long n) {
    const long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i + 8 <= n) {
        float values[8];
        load<From, 8>(x + i, values);
        store<To, 8>(y + i, values);
    } else {
        for (long long j = i; j < n; ++j) from_float(to_float(x[j]), y[j]);
    }
}

#define CAST(FROM, FROM_NAME, TO, TO_NAME) \
    extern "C" __global__ void cast_##FROM_NAME##_##TO_NAME(const FROM* x, TO* y, long long n) { cast<FROM, TO>(x, y, n); }
#define CASTS(FROM, FROM_NAME) \
    CAST(FROM, FROM_NAME, float, fp32) CAST(FROM, FROM_NAME, bf16, bf16) \
    CAST(FROM, FROM_NAME, e4m3, e4m3) CAST(FROM, FROM_NAME, e5m2, e5m2)

CASTS(float, fp32)
CASTS(bf16, bf16)
CASTS(e4m3, e4m3)
CASTS(e5m2, e5m2)
