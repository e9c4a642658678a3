// Element types, their conversions and 16-byte packs. Conversions are single PTX instructions, so that the run-time
// compiler needs no toolkit headers; they round to nearest even, FP8 saturating.
#pragma once

struct bf16 { unsigned short bits; };
struct e4m3 { unsigned char bits; };
struct e5m2 { unsigned char bits; };

static __device__ __forceinline__ float to_float(float x) { return x; }
static __device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

static __device__ __forceinline__ float half_bits_to_float(unsigned short bits) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(bits));
    return out;
}

static __device__ __forceinline__ float to_float(e4m3 x) {
    unsigned pair;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"((unsigned short)x.bits));
    return half_bits_to_float((unsigned short)pair);
}

static __device__ __forceinline__ float to_float(e5m2 x) {
    unsigned pair;
    asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(pair) : "h"((unsigned short)x.bits));
    return half_bits_to_float((unsigned short)pair);
}

static __device__ __forceinline__ void from_float(float x, float& out) { out = x; }

static __device__ __forceinline__ void from_float(float x, bf16& out) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
}

static __device__ __forceinline__ void from_float(float x, e4m3& out) {
    unsigned short pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
    out.bits = (unsigned char)pair;
}

static __device__ __forceinline__ void from_float(float x, e5m2& out) {
    unsigned short pair;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
    out.bits = (unsigned char)pair;
}

// Two values as one pair, the first in the lower half: one instruction where single values take one each.
static __device__ __forceinline__ unsigned pair_from_floats(float low, float high, bf16) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

static __device__ __forceinline__ unsigned short pair_from_floats(float low, float high, e4m3) {
    unsigned short pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
}

static __device__ __forceinline__ unsigned short pair_from_floats(float low, float high, e5m2) {
    unsigned short pair;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
}

// Four values as the bytes of one word, the first in the lowest.
template <typename Q>
static __device__ __forceinline__ unsigned word_from_floats(float a, float b, float c, float d) {
    return (unsigned)pair_from_floats(a, b, Q{}) | (unsigned)pair_from_floats(c, d, Q{}) << 16;
}

// A value rounded to T and back.
template <typename T>
static __device__ __forceinline__ float rounded(float x) {
    T out;
    from_float(x, out);
    return to_float(out);
}

template <typename T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
    T values[N];
};

// N elements as floats; the address is a multiple of 16 bytes, or of the pack's size where that is less.
template <typename T, int N>
static __device__ __forceinline__ void load(const T* from, float (&out)[N]) {
    const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
    for (int j = 0; j < N; ++j) out[j] = to_float(pack.values[j]);
}

template <typename T, int N>
static __device__ __forceinline__ void store(T* to, const float (&in)[N]) {
    Pack<T, N> pack;
#pragma unroll
    for (int j = 0; j < N; ++j) from_float(in[j], pack.values[j]);
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// Where results are rounded to bf16 the hardware's exponential (relative error under 2^-20 at our arguments) is exact
// enough; fp32 results take the accurate one.
template <typename T>
static __device__ __forceinline__ float exponential(float x) {
    if constexpr (sizeof(T) == 4) return expf(x);
    else return __expf(x);
}

template <typename T>
static __device__ __forceinline__ float quotient(float a, float b) {
    if constexpr (sizeof(T) == 4) return a / b;
    else return __fdividef(a, b);
}
