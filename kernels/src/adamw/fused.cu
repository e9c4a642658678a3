// All AdamW updates of a step in one launch, with what follows the weights: their largest magnitudes, the history of delayed
// scaling, casts to FP8 with one scale that was there before or with scales per row made here, and the step counter. Where
// nothing is clipped, the gradients' norm too: they are read once.
//
// Defined from outside: GRADIENT, STATE and WEIGHT, element types, WEIGHT being what products read; COPY: whether the weight is
// a copy of its own; CASTS: whether there are maxima or casts; NORM: whether the gradients' norm is taken, and the factor that
// clips is 1; FORMAT: element type of casts; BLOCKS a multiprocessor.
#include "adamw.cuh"
#include "gradient.cuh"
#include "scale.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
// Elements of a chunk: of a parameter in a line, a tile of 128 rows × 64 columns, or as many whole rows as fit.
#define CHUNK 8192

enum Chunks { LINE, TILE, ROWS };

struct Parameter {
    const GRADIENT* g;
    STATE *w, *m, *v;
    WEIGHT* copy;
    long long n;
    // A cast: of tiles with one scale, rows and columns multiples of 16; of whole rows with one scale each.
    float* scale;
    FORMAT *q, *qt;  // either may be null
    int rows, cols;
    unsigned* maxima;  // of each warp of each chunk; null: none are taken
    float* amax;       // of each row; may be null
    double* squares;   // Σ g² of each warp of each chunk; null: none are taken
    float decay;
    int kind;  // of its chunks
    int power_of_two;
    int padding;
};

struct Chunk {
    unsigned parameter, number;
};

// Eight elements from `i` on, their gradients' squares added to `squares`. Returns the weights as they are stored.
static __device__ __forceinline__ void update_pack(
    const Parameter& p, const Rates& rates, const Moment& now, long long i, float (&weights)[8], double& squares) {
    float g[8], m[8], v[8];
    load<GRADIENT, 8>(p.g + i, g);
    load<STATE, 8>(p.w + i, weights);
    load<STATE, 8>(p.m + i, m);
    load<STATE, 8>(p.v + i, v);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        if (NORM) squares = __fma_rn((double)g[j], (double)g[j], squares);
        update(rates, now, p.decay, g[j], weights[j], m[j], v[j]);
    }
    store<STATE, 8>(p.w + i, weights);
    store<STATE, 8>(p.m + i, m);
    store<STATE, 8>(p.v + i, v);
    if (COPY) store<WEIGHT, 8>(p.copy + i, weights);
#pragma unroll
    for (int j = 0; j < 8; ++j) weights[j] = rounded<WEIGHT>(weights[j]);
}

static __device__ __forceinline__ float update_one(
    const Parameter& p, const Rates& rates, const Moment& now, long long i, double& squares) {
    const float g = to_float(p.g[i]);
    float w = to_float(p.w[i]), m = to_float(p.m[i]), v = to_float(p.v[i]);
    if (NORM) squares = __fma_rn((double)g, (double)g, squares);
    update(rates, now, p.decay, g, w, m, v);
    from_float(w, p.w[i]);
    from_float(m, p.m[i]);
    from_float(v, p.v[i]);
    if (COPY) from_float(w, p.copy[i]);
    return rounded<WEIGHT>(w);
}

static __device__ __forceinline__ unsigned largest_of(unsigned largest, const float (&weights)[8]) {
#pragma unroll
    for (int j = 0; j < 8; ++j) largest = max(largest, magnitude(weights[j]));
    return largest;
}

// A chunk in a line. Returns its largest magnitude.
static __device__ __forceinline__ unsigned update_line(
    const Parameter& p, const Rates& rates, const Moment& now, unsigned number, double& squares) {
    // In registers: read from shared memory between the stores, which might have changed it, it takes a pack's store apart into
    // one of every element.
    const Parameter own = p;
    unsigned largest = 0;
    const long long first = (long long)number * CHUNK + threadIdx.x * 8;
    // One pack at a time: more under way would cost registers, and with them blocks.
#pragma unroll 1
    for (int r = 0; r < CHUNK / (THREADS * 8); ++r) {
        const long long i = first + r * THREADS * 8;
        if (i + 8 <= own.n) {
            float weights[8];
            update_pack(own, rates, now, i, weights, squares);
            if (CASTS) largest = largest_of(largest, weights);
        } else {
            for (long long j = i; j < own.n; ++j) {
                const float weight = update_one(own, rates, now, j, squares);
                if (CASTS) largest = max(largest, magnitude(weight));
            }
        }
    }
    return largest;
}

#if CASTS
// A tile: 8 threads across, each with 8 columns, and 32 down, each with 4 rows, whose bytes make one word of the transposed
// tile. Returns its largest magnitude.
static __device__ __forceinline__ unsigned update_tile(
    const Parameter& p, const Rates& rates, const Moment& now, unsigned number, double& squares) {
    __shared__ unsigned tile[64][33];
    const int across = threadIdx.x & 7, down = threadIdx.x >> 3;
    const int tiles = (p.cols + 63) / 64;
    const int row0 = (int)number / tiles * 128, col0 = (int)number % tiles * 64;
    const int row = row0 + down * 4, col = col0 + across * 8;
    unsigned largest = 0;
    if (row < p.rows && col < p.cols) {
        const float inverse = 1.0f / p.scale[0];
        unsigned words[8] = {};
#pragma unroll 1
        for (int r = 0; r < 4; ++r) {
            const long long i = (long long)(row + r) * p.cols + col;
            float weights[8];
            update_pack(p, rates, now, i, weights, squares);
            largest = largest_of(largest, weights);
            Pack<FORMAT, 8> out;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                from_float(weights[j] * inverse, out.values[j]);
                words[j] |= (unsigned)out.values[j].bits << (8 * r);
            }
            if (p.q) *reinterpret_cast<Pack<FORMAT, 8>*>(p.q + i) = out;
        }
        if (p.qt) {
#pragma unroll
            for (int j = 0; j < 8; ++j) tile[across * 8 + j][down] = words[j];
        }
    }
    if (p.qt) {
        __syncthreads();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int c = half * 32 + (threadIdx.x >> 3), words = (threadIdx.x & 7) * 4;
            if (col0 + c < p.cols && row0 + words * 4 < p.rows) {
                const uint4 bytes = {tile[c][words], tile[c][words + 1], tile[c][words + 2], tile[c][words + 3]};
                *reinterpret_cast<uint4*>(p.qt + (long long)(col0 + c) * p.rows + row0 + words * 4) = bytes;
            }
        }
    }
    return largest;
}

// Whole rows: their maxima meet in shared memory; the weights are read back from where they were just written.
static __device__ __forceinline__ void update_rows(
    const Parameter& p, const Rates& rates, const Moment& now, unsigned number, float epsilon, float most,
    double& squares) {
    __shared__ unsigned maxima[CHUNK / 8];
    const int each = CHUNK / p.cols, row0 = (int)number * each;
    const int rows = min(each, p.rows - row0), cols = p.cols, elements = rows * cols;
    const long long first = (long long)row0 * cols;
    for (int r = threadIdx.x; r < rows; r += THREADS) maxima[r] = 0;
    __syncthreads();
    const int lane = threadIdx.x & 31;
    // By whole warps: `start` is where a warp's first thread is.
#pragma unroll 1
    for (int start = (threadIdx.x - lane) * 8; start < elements; start += THREADS * 8) {
        const int e = start + lane * 8;
        unsigned largest = 0;
        if (e < elements) {
            float weights[8];
            update_pack(p, rates, now, first + e, weights, squares);
            largest = largest_of(0, weights);
        }
        if (start / cols == (start + 31 * 8) / cols) {
            largest = warp_reduce<Max>(largest);
            if (lane == 0) atomicMax(&maxima[start / cols], largest);
        } else if (e < elements) {
            atomicMax(&maxima[e / cols], largest);
        }
    }
    __syncthreads();
    const WEIGHT* stored = COPY ? p.copy : (const WEIGHT*)p.w;
    for (int e = threadIdx.x * 8; e < elements; e += THREADS * 8) {
        const int row = e / cols;
        const float amax = __uint_as_float(maxima[row]);
        const float scale = scale_of(amax, epsilon, most, p.power_of_two != 0), inverse = 1.0f / scale;
        float weights[8];
        load<WEIGHT, 8>(stored + first + e, weights);
        Pack<FORMAT, 8> out;
#pragma unroll
        for (int j = 0; j < 8; ++j) from_float(weights[j] * inverse, out.values[j]);
        *reinterpret_cast<Pack<FORMAT, 8>*>(p.q + first + e) = out;
        if (e == row * cols) {
            p.scale[row0 + row] = scale;
            if (p.amax) p.amax[row0 + row] = amax;
        }
    }
}

// The maximum of one weight, from those of its chunks' warps.
struct WeightMaximum {
    const unsigned* maxima;
    float* amax;     // may be null
    float* history;  // may be null
    int count;
    int length;  // of the history
    int late;    // how far the counter, as it stands after the updates, is ahead of the history's step
    int padding;
};

// One block a weight, after the updates, none of whose blocks waits for another.
extern "C" __global__ void __launch_bounds__(THREADS) adamw_maxima(const WeightMaximum* maxima, const int* step) {
    __shared__ unsigned scratch[32];
    const WeightMaximum m = maxima[blockIdx.x];
    unsigned largest = 0;
    for (int i = threadIdx.x; i < m.count; i += THREADS) largest = max(largest, m.maxima[i]);
    largest = block_reduce<Max>(largest, scratch);
    if (threadIdx.x != 0) return;
    const float amax = __uint_as_float(largest);
    if (m.amax) m.amax[0] = amax;
    if (m.history) m.history[max(step[0] - m.late, 0) % m.length] = amax;
}
#endif

#if NORM
// The squares of one parameter's gradient.
struct Squares {
    const double* parts;
    float* sum;  // may be null
    int count, padding;
};

// One block a parameter, after the updates: its sum of squares, and in the last block that is done the norm of all. `sums` has a
// place for each, `done` is zero before and after it. `scale` may be null.
extern "C" __global__ void __launch_bounds__(1024) adamw_norm(
    const Squares* squares, float* sums, unsigned* done, float* norm, float* scale) {
    __shared__ double scratch[32];
    const Squares own = squares[blockIdx.x];
    double sum = 0.0;
#pragma unroll 4
    for (int i = threadIdx.x; i < own.count; i += 1024) sum += own.parts[i];
    sum = block_reduce<Sum>(sum, scratch);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = (float)sum;
        if (own.sum) own.sum[0] = (float)sum;
    }
    if (!is_last(done, (int)gridDim.x)) return;
    double total = 0.0;
    for (int i = threadIdx.x; i < (int)gridDim.x; i += 1024) total += (double)__ldcg(sums + i);
    total = block_reduce<Sum>(total, scratch);
    if (threadIdx.x == 0) clip(total, 0.0, norm, scale);
}
#endif

// Blocks take chunks in turn. `epsilon` and `most`: least amax, and largest value of the format. `advance`: how far the
// counter moves when all blocks have read it; `through` counts them, zero before and after a launch.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) adamw_all(
    const Parameter* parameters, const Chunk* chunks, int count, const float* clip, int* step, int advance,
    unsigned* through, float epsilon, float most, Rates rates) {
    const int before = *(const volatile int*)step;
    const Moment now = moment(rates, before, NORM ? 1.0f : clip[0]);
#if CASTS
    // In shared memory: registers are short, and what streams through the first-level cache would push it out of there.
    __shared__ Parameter p;
#endif
    for (int at = blockIdx.x; at < count; at += gridDim.x) {
        const Chunk chunk = chunks[at];
        double squares = 0.0;
#if CASTS
        __syncthreads();  // the last chunk is done
        if (threadIdx.x < sizeof(Parameter) / 8)
            reinterpret_cast<long long*>(&p)[threadIdx.x] =
                reinterpret_cast<const long long*>(parameters + chunk.parameter)[threadIdx.x];
        __syncthreads();
        if (p.kind == ROWS) {
            update_rows(p, rates, now, chunk.number, epsilon, most, squares);
        } else {
            const unsigned largest = warp_reduce<Max>(
                p.kind == TILE ? update_tile(p, rates, now, chunk.number, squares)
                               : update_line(p, rates, now, chunk.number, squares));
            if (p.maxima && threadIdx.x % 32 == 0) p.maxima[chunk.number * WARPS + threadIdx.x / 32] = largest;
        }
#else
        const Parameter p = parameters[chunk.parameter];
        update_line(p, rates, now, chunk.number, squares);
#endif
#if NORM
        squares = warp_reduce<Sum>(squares);
        if (threadIdx.x % 32 == 0) p.squares[chunk.number * WARPS + threadIdx.x / 32] = squares;
#endif
    }
    if (advance == 0) return;
    // Every thread of this block has read the counter before the barrier in `moment`.
    if (threadIdx.x == 0) {
        __threadfence();
        if (atomicAdd(through, 1u) == gridDim.x - 1u) {
            *through = 0u;
            step[0] = before + advance;
        }
    }
}
