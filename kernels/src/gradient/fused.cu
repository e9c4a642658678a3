// Sums of squares of all gradients, their norm and the factor that clips, in one launch: a block sums one stretch; a tensor's
// last block sums its stretches, and the last of those all tensors. Who is last is left to chance, what is summed is not.
#include "gradient.cuh"

template <typename T>
struct Gradient {
    const T* g;
    float* sum;  // may be null
    long long n;
    int first, stretches;  // its stretches among all
};

// `owners` names each stretch's tensor; `partials` has a place for each stretch, `sums` for each tensor, `done` one more.
template <typename T>
static __device__ __forceinline__ void norm_of_all(
    const Gradient<T>* gradients, const unsigned* owners, double* partials, float* sums, unsigned* done, int tensors,
    int length, double max_norm, float* norm, float* scale) {
    __shared__ double scratch[32];
    const unsigned owner = owners[blockIdx.x];
    const Gradient<T> own = gradients[owner];
    const double sum = sum_of_stretch(own.g, (long long)(blockIdx.x - own.first) * length, length, own.n, scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
    if (!is_last(done + owner, own.stretches)) return;

    const double of_tensor = sum_of_partials(partials + own.first, own.stretches, scratch);
    if (threadIdx.x == 0) {
        sums[owner] = (float)of_tensor;
        if (own.sum) own.sum[0] = (float)of_tensor;
    }
    if (!is_last(done + tensors, tensors)) return;

    double total = 0.0;
    for (int i = threadIdx.x; i < tensors; i += 256) total += (double)__ldcg(sums + i);
    total = block_reduce<Sum>(total, scratch);
    if (threadIdx.x == 0) clip(total, max_norm, norm, scale);
}

#define GRADIENT_NORM(T, NAME) \
    extern "C" __global__ void __launch_bounds__(256) gradient_norm_##NAME( \
        const Gradient<T>* gradients, const unsigned* owners, double* partials, float* sums, unsigned* done, \
        int tensors, int length, double max_norm, float* norm, float* scale) { \
        norm_of_all<T>(gradients, owners, partials, sums, done, tensors, length, max_norm, norm, scale); \
    }

GRADIENT_NORM(bf16, bf16)
GRADIENT_NORM(float, fp32)
