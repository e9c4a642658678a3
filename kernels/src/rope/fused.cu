// Rotary positions turned back on (B·S, 3·H·hd), in place, with what becomes of the result: compiled for one purpose, see
// `tile.cuh`. A half-warp holds whole heads: the other half of a pair lies `pairs / 8` lanes away.
#include "rope.cuh"
#include "tile.cuh"

struct Backward {
    const float* cos;  // (seq, pairs)
    const float* sin;
    const bf16* dqkv;
    int seq, pairs, rotated, cols;  // pairs of a head; columns of queries and keys; all columns

    static constexpr int OUTPUTS = 1;
    struct Raw {
        uint4 own;
    };

    __device__ __forceinline__ Raw load(int row, int col) const { return {load_pack(dqkv + (long long)row * cols + col)}; }

    __device__ __forceinline__ void make(const Raw& raw, int row, int col, uint4 (&made)[1]) const {
        const int lanes = pairs / 8;
        const uint4 far = {
            __shfl_xor_sync(0xffffffffu, raw.own.x, lanes), __shfl_xor_sync(0xffffffffu, raw.own.y, lanes),
            __shfl_xor_sync(0xffffffffu, raw.own.z, lanes), __shfl_xor_sync(0xffffffffu, raw.own.w, lanes)};
        made[0] = raw.own;
        if (col >= rotated) return;  // values are left alone
        float own[8], other[8];
        unpacked(raw.own, own);
        unpacked(far, other);
        const int at = row % seq * pairs + (col & (pairs - 1));
        // Turned back: the first half takes the sine as it is, the second its negative.
        const float direction = col & pairs ? -1.0f : 1.0f;
#pragma unroll
        for (int quarter = 0; quarter < 2; ++quarter) {
            const float4 c = __ldg(reinterpret_cast<const float4*>(cos + at) + quarter);
            const float4 s = __ldg(reinterpret_cast<const float4*>(sin + at) + quarter);
            float* to = own + 4 * quarter;
            const float* from = other + 4 * quarter;
            to[0] = turned(to[0], from[0], c.x, direction * s.x);
            to[1] = turned(to[1], from[1], c.y, direction * s.y);
            to[2] = turned(to[2], from[2], c.z, direction * s.z);
            to[3] = turned(to[3], from[3], c.w, direction * s.w);
        }
        made[0] = packed(own);
    }
};

BEHIND(rope_backward, Backward, 4)
