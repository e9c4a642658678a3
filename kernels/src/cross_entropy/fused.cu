// Cross-entropy forward and backward in place, logits read once and written once. A block keeps its row in shared memory;
// each thread loads, sums up and turns into gradients its own packs, so that a row needs no barrier but those of its sums.
// While a row's gradients leave, the next row comes into the places that fall free. They leave in bf16, cast to FP8 with a scale that
// is there or with their row's own, or both ways.
//
// Compiled with: CAST: 0 none, 1 with a given scale, 2 with a scale per row; FORMAT of the cast; STORED: whether they also leave in
// the logits' dtype.
#include "cast.cuh"
#include "cross_entropy.cuh"

static __device__ __forceinline__ void copy_async(unsigned to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

static __device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
static __device__ __forceinline__ void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// A row's packs as a thread meets them, in four stages: each is waited for alone, so that sums begin before the row is there.
#define STAGES 4

template <typename T, int V>
struct Row {
    Pack<T, V>* places;  // in shared memory
    int packs, steps;    // of a row; of a thread in one stage

    __device__ __forceinline__ int first(int stage) const { return stage * steps * ROW_THREADS + threadIdx.x; }
    __device__ __forceinline__ int end(int stage) const { return min((stage + 1) * steps * ROW_THREADS, packs); }

    __device__ __forceinline__ void fetch(const T* logits, int pack) const {
        copy_async((unsigned)__cvta_generic_to_shared(places + pack), logits + (long long)pack * V);
    }

    template <int STAGE>
    __device__ __forceinline__ void sum(Running<T>& running, int vocab) const {
        wait<STAGES - 1 - STAGE>();
        for (int pack = first(STAGE); pack < end(STAGE); pack += ROW_THREADS) {
            const int valid = vocab - pack * V;
            float values[V];
            unpack<T, V>(places[pack], values);
            if (valid > 0) running.add(values, valid);
        }
    }
};

// Where casts go: q (rows, padded), and the scale: one that is read, or (rows) that are written.
struct Casts {
    FORMAT* q;
    float* scale;
    Rule rule;
    int unused;
};

// A pack of 8 bf16 values as the casts take it.
template <typename T>
static __device__ __forceinline__ uint4 words_of(const T& pack) {
    static_assert(sizeof(T) == 16, "a pack is 16 bytes");
    return *reinterpret_cast<const uint4*>(&pack);
}

static __device__ __forceinline__ void cast_to(const Casts& casts, long long first, const uint4& pack, float inverse) {
    *reinterpret_cast<uint2*>(casts.q + first) = cast_pack<FORMAT>(pack, inverse);
}

// logits (rows, padded), rows a multiple of 16 bytes; `lse` may be null. Block b takes rows b, b + blocks, ….
template <typename T, int V>
static __device__ __forceinline__ void loss(
    T* logits, const int* targets, float* losses, float* lse, int rows, int vocab, int padded, float share,
    const Casts& casts) {
    extern __shared__ uint4 memory[];
    __shared__ float scratch[32];
    __shared__ unsigned peaks[CAST == 2 ? 32 : 1];
    const float given = CAST == 1 ? 1.0f / casts.scale[0] : 0.0f;
    const int packs = padded / V, of_thread = (packs + ROW_THREADS - 1) / ROW_THREADS;
    const Row<T, V> row = {reinterpret_cast<Pack<T, V>*>(memory), packs, (of_thread + STAGES - 1) / STAGES};
    T* here = logits + (long long)blockIdx.x * padded;
    for (int stage = 0; stage < STAGES; ++stage) {
        for (int pack = row.first(stage); pack < row.end(stage); pack += ROW_THREADS) row.fetch(here, pack);
        commit();
    }
    for (int at = blockIdx.x; at < rows; at += gridDim.x) {
        const int target = targets[at];
        Running<T> running;
        row.template sum<0>(running, vocab);
        row.template sum<1>(running, vocab);
        row.template sum<2>(running, vocab);
        row.template sum<3>(running, vocab);
        const float log_sum = running.log_sum(scratch);
        if (threadIdx.x == 0 && lse) lse[at] = log_sum;
        // The thread that holds the target's logit.
        if ((unsigned)target < (unsigned)padded && target / V % ROW_THREADS == threadIdx.x)
            losses[at] = __fsub_rn(log_sum, to_float(row.places[target / V].values[target % V]));

        T* next = here + (long long)gridDim.x * padded;
        const bool more = at + (int)gridDim.x < rows;
        const long long first = (long long)at * padded;
        float inverse = given;
        if constexpr (CAST == 2) {
            // Gradients take the logits' places until the largest of the row is known.
            unsigned pair = 0;
            for (int pack = threadIdx.x; pack < packs; pack += ROW_THREADS) {
                float values[V];
                unpack<T, V>(row.places[pack], values);
                gradient<T, V>(values, log_sum, target - pack * V, vocab - pack * V, share);
                const Pack<T, V> made = packed(values, T());
                pair = larger_pair(pair, magnitudes(words_of(made)));
                row.places[pack] = made;
                if (STORED) reinterpret_cast<Pack<T, V>*>(here)[pack] = made;
            }
            const float own = casts.rule.scale(__uint_as_float(block_reduce<Max>(larger_of_pair(pair), peaks)));
            if (threadIdx.x == 0) casts.scale[at] = own;
            inverse = 1.0f / own;
        }
        for (int stage = 0; stage < STAGES; ++stage) {
            for (int pack = row.first(stage); pack < row.end(stage); pack += ROW_THREADS) {
                if constexpr (CAST == 2) {
                    cast_to(casts, first + (long long)pack * V, words_of(row.places[pack]), inverse);
                } else {
                    float values[V];
                    unpack<T, V>(row.places[pack], values);
                    gradient<T, V>(values, log_sum, target - pack * V, vocab - pack * V, share);
                    const Pack<T, V> made = packed(values, T());
                    if constexpr (CAST == 1) cast_to(casts, first + (long long)pack * V, words_of(made), inverse);
                    if (STORED) reinterpret_cast<Pack<T, V>*>(here)[pack] = made;
                }
                if (more) row.fetch(next, pack);
            }
            commit();
        }
        here = next;
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS, 2) loss_bf16(
    bf16* logits, const int* targets, float* losses, float* lse, int rows, int vocab, int padded, float share, Casts casts) {
    loss<bf16, 8>(logits, targets, losses, lse, rows, vocab, padded, share, casts);
}
#if CAST == 0
// A row of fp32 takes most of a multiprocessor's shared memory.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1) loss_fp32(
    float* logits, const int* targets, float* losses, float* lse, int rows, int vocab, int padded, float share, Casts casts) {
    loss<float, 4>(logits, targets, losses, lse, rows, vocab, padded, share, casts);
}
#endif
