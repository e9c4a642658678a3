// Cross-entropy, one block a row: online softmax forward, gradient in place backward, and the mean in fp64.
#include "cross_entropy.cuh"

// logits (rows, padded); columns from `vocab` on are padding.
template <typename T, int V>
static __device__ __forceinline__ void forward(
    const T* logits, const int* targets, float* loss, float* lse, int vocab, int padded) {
    __shared__ float scratch[32];
    const long long row = blockIdx.x;
    logits += row * padded;
    Running<T> running;
    for (int i = threadIdx.x * V; i < vocab; i += ROW_THREADS * V) {
        float values[V];
        load<T, V>(logits + i, values);
        running.add(values, vocab - i);
    }
    const float log_sum = running.log_sum(scratch);
    if (threadIdx.x == 0) {
        lse[row] = log_sum;
        loss[row] = __fsub_rn(log_sum, to_float(logits[targets[row]]));
    }
}

template <typename T, int V>
static __device__ __forceinline__ void backward(
    const int* targets, const float* lse, T* logits, int vocab, int padded, float share) {
    const long long row = blockIdx.x;
    logits += row * padded;
    const int target = targets[row];
    const float log_sum = lse[row];
    for (int i = threadIdx.x * V; i < padded; i += ROW_THREADS * V) {
        float values[V];
        load<T, V>(logits + i, values);
        gradient<T, V>(values, log_sum, target - i, vocab - i, share);
        *reinterpret_cast<Pack<T, V>*>(logits + i) = packed(values, T());
    }
}

#define CROSS_ENTROPY(T, NAME, V) \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS) cross_entropy_forward_##NAME##_v##V( \
        const T* logits, const int* targets, float* loss, float* lse, int vocab, int padded) { \
        forward<T, V>(logits, targets, loss, lse, vocab, padded); \
    } \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS) cross_entropy_backward_##NAME##_v##V( \
        const int* targets, const float* lse, T* logits, int vocab, int padded, float share) { \
        backward<T, V>(targets, lse, logits, vocab, padded, share); \
    }

CROSS_ENTROPY(bf16, bf16, 8)
CROSS_ENTROPY(bf16, bf16, 1)
CROSS_ENTROPY(float, fp32, 4)
CROSS_ENTROPY(float, fp32, 1)

extern "C" __global__ void __launch_bounds__(1024) mean_loss(const float* loss, float* mean, int rows) {
    __shared__ double scratch[32];
    double sum = 0.0;
    for (int i = threadIdx.x; i < rows; i += blockDim.x) sum += loss[i];
    sum = block_reduce<Sum>(sum, scratch);
    if (threadIdx.x == 0) mean[0] = (float)sum / (float)rows;
}
