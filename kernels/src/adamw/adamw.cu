// One AdamW update, 8 elements a thread, and the step counter.
#include "adamw.cuh"

template <typename G, typename S, typename C, bool COPY>
static __device__ __forceinline__ void adamw(
    const G* g, const float* clip, const int* step, S* w, S* m, S* v, C* copy, long long n, const Rates& rates) {
    const Moment now = moment(rates, step[0], clip[0]);
    const long long stride = (long long)gridDim.x * blockDim.x * 8;
    for (long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 8; i < n; i += stride) {
        if (i + 8 <= n) {
            float gs[8], ws[8], ms[8], vs[8];
            load<G, 8>(g + i, gs);
            load<S, 8>(w + i, ws);
            load<S, 8>(m + i, ms);
            load<S, 8>(v + i, vs);
#pragma unroll
            for (int j = 0; j < 8; ++j) update(rates, now, rates.decay, gs[j], ws[j], ms[j], vs[j]);
            store<S, 8>(w + i, ws);
            store<S, 8>(m + i, ms);
            store<S, 8>(v + i, vs);
            if constexpr (COPY) store<C, 8>(copy + i, ws);
        } else {
            for (long long j = i; j < n; ++j) {
                float wi = to_float(w[j]), mi = to_float(m[j]), vi = to_float(v[j]);
                update(rates, now, rates.decay, to_float(g[j]), wi, mi, vi);
                from_float(wi, w[j]);
                from_float(mi, m[j]);
                from_float(vi, v[j]);
                if constexpr (COPY) from_float(wi, copy[j]);
            }
        }
    }
}

#define ADAMW(G, G_NAME, S, S_NAME) \
    extern "C" __global__ void __launch_bounds__(256) adamw_##G_NAME##_##S_NAME( \
        const G* g, const float* clip, const int* step, S* w, S* m, S* v, long long n, Rates rates) { \
        adamw<G, S, S, false>(g, clip, step, w, m, v, (S*)nullptr, n, rates); \
    } \
    extern "C" __global__ void __launch_bounds__(256) adamw_##G_NAME##_##S_NAME##_copy_bf16( \
        const G* g, const float* clip, const int* step, S* w, S* m, S* v, long long n, Rates rates, bf16* copy) { \
        adamw<G, S, bf16, true>(g, clip, step, w, m, v, copy, n, rates); \
    } \
    extern "C" __global__ void __launch_bounds__(256) adamw_##G_NAME##_##S_NAME##_copy_fp32( \
        const G* g, const float* clip, const int* step, S* w, S* m, S* v, long long n, Rates rates, float* copy) { \
        adamw<G, S, float, true>(g, clip, step, w, m, v, copy, n, rates); \
    }

ADAMW(bf16, bf16, bf16, bf16)
ADAMW(bf16, bf16, float, fp32)
ADAMW(float, fp32, bf16, bf16)
ADAMW(float, fp32, float, fp32)

extern "C" __global__ void advance(int* step) { step[0] += 1; }
