// SwiGLU forward and backward with what becomes of their results: compiled for one purpose, see `tile.cuh`.
#include "swiglu.cuh"
#include "tile.cuh"

// h from (rows, 2·ffn), gate first.
struct Forward {
    const bf16* gate_up;
    long long ffn;

    static constexpr int OUTPUTS = 1;
    struct Raw {
        uint4 gate, up;
    };

    __device__ __forceinline__ Raw load(int row, int col) const {
        const bf16* from = gate_up + row * 2 * ffn + col;
        return {load_pack(from), load_pack(from + ffn)};
    }

    __device__ __forceinline__ void make(const Raw& raw, int, int, uint4 (&made)[1]) const {
        float gate[8], up[8];
        unpacked(raw.gate, gate);
        unpacked(raw.up, up);
#pragma unroll
        for (int j = 0; j < 8; ++j) gate[j] = swiglu<bf16>(gate[j], up[j]);
        made[0] = packed(gate);
    }
};

// Gradients of gate and up, side by side as they are.
struct Backward {
    const bf16* gate_up;
    const bf16* dh;
    long long ffn;

    static constexpr int OUTPUTS = 2;
    struct Raw {
        uint4 gate, up, dh;
    };

    __device__ __forceinline__ Raw load(int row, int col) const {
        const bf16* from = gate_up + row * 2 * ffn + col;
        return {load_pack(from), load_pack(from + ffn), load_pack(dh + row * ffn + col)};
    }

    __device__ __forceinline__ void make(const Raw& raw, int, int, uint4 (&made)[2]) const {
        float gate[8], up[8], d[8];
        unpacked(raw.gate, gate);
        unpacked(raw.up, up);
        unpacked(raw.dh, d);
#pragma unroll
        for (int j = 0; j < 8; ++j) swiglu_gradients<bf16>(gate[j], up[j], d[j]);
        made[0] = packed(gate);
        made[1] = packed(up);
    }
};

BEHIND(swiglu_forward, Forward, 4)
BEHIND(swiglu_backward, Backward, 3)

// Backward with h made again from gate and up, which are here anyway, and stored.
#ifdef STORES_H
struct BackwardAndH {
    Backward backward;
    bf16* h;  // (rows, ffn)
    long long rows;

    static constexpr int OUTPUTS = Backward::OUTPUTS;
    using Raw = Backward::Raw;

    __device__ __forceinline__ Raw load(int row, int col) const { return backward.load(row, col); }

    __device__ __forceinline__ void make(const Raw& raw, int row, int col, uint4 (&made)[2]) const {
        if (row < rows && col < backward.ffn) {
            float gate[8], up[8];
            unpacked(raw.gate, gate);
            unpacked(raw.up, up);
#pragma unroll
            for (int j = 0; j < 8; ++j) gate[j] = swiglu<bf16>(gate[j], up[j]);
            *reinterpret_cast<uint4*>(h + row * backward.ffn + col) = packed(gate);
        }
        backward.make(raw, row, col, made);
    }
};

BEHIND(swiglu_backward_and_h, BackwardAndH, 2)
#endif

// The same with h only cast, transposed: AGAIN is the FP8 type it is cast to.
#ifdef AGAIN
struct HiddenAgain {
    const float* scale;
    unsigned char* qt;  // (ffn, rows)

    static constexpr bool THERE = true;
    using Format = AGAIN;

    __device__ __forceinline__ uint4 make(const Backward::Raw& raw) const {
        float gate[8], up[8];
        unpacked(raw.gate, gate);
        unpacked(raw.up, up);
#pragma unroll
        for (int j = 0; j < 8; ++j) gate[j] = swiglu<bf16>(gate[j], up[j]);
        return packed(gate);
    }
};

// Two blocks of a multiprocessor: three would spill.
extern "C" __global__ void __launch_bounds__(256, 2)
    swiglu_backward_again(Ends ends, Backward producer, HiddenAgain again) {
    behind_tiles<Asked<FORMAT, RESULT, ROW_MAJOR, TRANSPOSED, MAXIMUM, SCALES, THREADS, PACKS>>(producer, ends, again);
}
#endif
