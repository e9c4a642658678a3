// Cross-entropy, one block a row: online softmax forward, gradient in place backward, and the mean in fp64.
#include "element.cuh"
#include "reduce.cuh"

// logits (rows, padded); columns from `vocab` on are padding.
template <typename T, int V>
static __device__ __forceinline__ void forward(
    const T* logits, const int* targets, float* loss, float* lse, int vocab, int padded) {
    __shared__ float scratch[32];
    const long long row = blockIdx.x;
    logits += row * padded;
    float largest = -INFINITY, sum = 0.0f;
    for (int i = threadIdx.x * V; i < vocab; i += blockDim.x * V) {
        float values[V];
        load<T, V>(logits + i, values);
        float here = largest;
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if (i + j >= vocab) values[j] = -INFINITY;
            here = fmaxf(here, values[j]);
        }
        if (here > largest) {
            sum *= exponential<T>(largest - here);
            largest = here;
        }
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if (i + j < vocab) sum += exponential<T>(values[j] - largest);
        }
    }
    const float of_row = block_reduce<Max>(largest, scratch);
    // A thread without columns holds -inf and 0: its share is 0, not NaN.
    const float share = sum == 0.0f ? 0.0f : sum * exponential<T>(largest - of_row);
    const float total = block_reduce<Sum>(share, scratch);
    if (threadIdx.x == 0) {
        const float log_sum = of_row + logf(total);
        lse[row] = log_sum;
        loss[row] = log_sum - to_float(logits[targets[row]]);
    }
}

template <typename T, int V>
static __device__ __forceinline__ void backward(
    const int* targets, const float* lse, T* logits, int vocab, int padded, float share) {
    const long long row = blockIdx.x;
    logits += row * padded;
    const int target = targets[row];
    const float log_sum = lse[row];
    for (int i = threadIdx.x * V; i < padded; i += blockDim.x * V) {
        float values[V];
        load<T, V>(logits + i, values);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const float hit = i + j == target ? 1.0f : 0.0f;
            values[j] = i + j < vocab ? (exponential<T>(values[j] - log_sum) - hit) * share : 0.0f;
        }
        store<T, V>(logits + i, values);
    }
}

#define CROSS_ENTROPY(T, NAME, V) \
    extern "C" __global__ void __launch_bounds__(512) cross_entropy_forward_##NAME##_v##V( \
        const T* logits, const int* targets, float* loss, float* lse, int vocab, int padded) { \
        forward<T, V>(logits, targets, loss, lse, vocab, padded); \
    } \
    extern "C" __global__ void __launch_bounds__(512) cross_entropy_backward_##NAME##_v##V( \
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
