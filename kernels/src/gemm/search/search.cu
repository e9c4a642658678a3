// What the search of algorithms asks of results: how far two of them are apart.

// sums[0] += elements whose bits differ, sums[1] += Σ (a − b)², sums[2] += Σ a². What is no number makes a sum none.
template <typename Bits, typename Value>
__device__ void compare(const Bits* a, const Bits* b, double* sums, long long n, Value value) {
    double different = 0, noise = 0, signal = 0;
    const long long threads = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += threads) {
        const double x = value(a[i]), y = value(b[i]);
        different += a[i] != b[i];
        noise += (x - y) * (x - y);
        signal += x * x;
    }
    for (int lane = 16; lane > 0; lane /= 2) {
        different += __shfl_down_sync(~0u, different, lane);
        noise += __shfl_down_sync(~0u, noise, lane);
        signal += __shfl_down_sync(~0u, signal, lane);
    }
    if (threadIdx.x % 32 == 0) {
        atomicAdd(sums, different);
        atomicAdd(sums + 1, noise);
        atomicAdd(sums + 2, signal);
    }
}

extern "C" __global__ void compare_bf16(const unsigned short* a, const unsigned short* b, double* sums, long long n) {
    compare(a, b, sums, n, [](unsigned short bits) { return (double)__uint_as_float((unsigned)bits << 16); });
}

extern "C" __global__ void compare_fp32(const unsigned* a, const unsigned* b, double* sums, long long n) {
    compare(a, b, sums, n, [](unsigned bits) { return (double)__uint_as_float(bits); });
}
