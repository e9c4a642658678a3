// RMSNorm with what surrounds it, rows read once and written once: the residual sum before it, or the residual gradient's
// after it; one maximum over the result; its cast to FP8 with a scale that is there or with its row's or block's own, as
// stored and transposed. With nothing around it, it is the plain norm.
//
// A block of 8 warps takes chunks of consecutive rows. A row belongs to one warp up to 1024 columns, to 2, 4 or 8 beyond.
// Each thread copies its own columns of the rows to come into shared memory, several rows ahead, and reads back what it copied
// itself: nobody waits for anybody but for a row's sum. Sums have one order whatever is fused, so that bits do not depend on
// it. The transposed cast goes through a tile in shared memory, a chunk of rows, whose columns leave in one segment each.
//
// Compiled with: DIM; BACKWARD; ADD: with a residual sum; MAXIMUM: with a maximum over the tensor; CAST: 0 none, 1 with a
// given scale, 2 with a scale per row, 3 per 128 columns of a row; FORMAT; TRANSPOSED; TILE: most rows of a chunk;
// STAGES: rows on their way; RESIDENT: blocks that share a multiprocessor.
#include "rows.cuh"

#if !BACKWARD

// x, addend, sum, y (rows, DIM), w (DIM), rstd (rows), q (rows, DIM), qt (DIM, rows).
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) norm_forward(
    const bf16* x, const bf16* addend, const bf16* w, bf16* sum, bf16* y, float* rstd, float* scale, FORMAT* q, FORMAT* qt,
    int rows, int chunk, float epsilon, Maximum maximum, float least, float largest_value, int power_of_two) {
    extern __shared__ uint4 memory[];
    __shared__ float sums[2][WARPS];
    __shared__ unsigned largest_of[2][WARPS];
    __shared__ unsigned scratch[WARPS];
    unsigned* tile = reinterpret_cast<unsigned*>(memory);
    Ring ring(memory + (TRANSPOSED ? TILE * DIM / 16 : 0));
    const Place place;
    Walk ahead(chunk);

    // Into the slots of the stage that was read last.
    const auto refill = [&] {
        const int row = ahead.base + ahead.in_chunk(place);
        if (row < rows) {
            ring.copy(0, x + (long long)row * DIM, place);
            if (ADD) ring.copy(1, addend + (long long)row * DIM, place);
        }
        Ring::commit();
        ring.advance();
        ahead.next();
    };
#pragma unroll 1
    for (int stage = 0; stage < STAGES; ++stage) refill();

    Eight weights[PACKS];
#pragma unroll
    for (int k = 0; k < PACKS; ++k) {
        weights[k] = place.holds(k) ? *reinterpret_cast<const Eight*>(w + place.column(k)) : Eight{};
    }
    const float given = CAST == 1 ? 1.0f / scale[0] : 0.0f;
    const Outputs out = {y, scale, q, qt, least, largest_value, power_of_two};
    Exchange<float> of_row = {sums, 0};
    Exchange<unsigned> maxima = {largest_of, 0};
    unsigned largest = 0;  // a pair

    const auto work = [&](int row, int in_chunk) {
        Ring::wait();
        Eight values[PACKS];
        ring.read(0, place, values);
        if (ADD) {
            Eight others[PACKS];
            ring.read(1, place, others);
#pragma unroll
            for (int k = 0; k < PACKS; ++k) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const unsigned a = values[k].words[i], b = others[k].words[i];
                    values[k].words[i] = pair_from_floats(low_float(a) + low_float(b), high_float(a) + high_float(b), bf16{});
                }
                if (sum && place.holds(k)) {
                    *reinterpret_cast<Eight*>(sum + (long long)row * DIM + place.column(k)) = values[k];
                }
            }
        }
        refill();
        float even = 0.0f, odd = 0.0f;
#pragma unroll
        for (int k = 0; k < PACKS; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float a = low_float(values[k].words[i]), b = high_float(values[k].words[i]);
                even = __fmaf_rn(a, a, even);
                odd = __fmaf_rn(b, b, odd);
            }
        }
        const float squares = of_row.reduce<Sum>(even + odd, place);
        const float r = 1.0f / sqrtf(__fadd_rn(squares / (float)DIM, epsilon));
        if (place.lane == 0 && place.member == 0) rstd[row] = r;
#pragma unroll
        for (int k = 0; k < PACKS; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const unsigned v = values[k].words[i], g = weights[k].words[i];
                values[k].words[i] = pair_from_floats(low_float(v) * r * low_float(g), high_float(v) * r * high_float(g), bf16{});
            }
        }
        put(values, row, in_chunk, place, out, given, tile, maxima, largest);
    };
    for_rows(rows, chunk, place, tile, qt, work, refill);
    if (MAXIMUM) finish(larger_of_pair(largest), maximum, scratch);
}

#else

// x, dy, addend, result (rows, DIM), w (DIM), rstd (rows), partial (blocks, DIM), q (rows, DIM), qt (DIM, rows). `result` is
// dx, or its sum with `addend`.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) norm_backward(
    const bf16* x, const bf16* w, const float* rstd, const bf16* dy, const bf16* addend, bf16* result, float* partial,
    float* scale, FORMAT* q, FORMAT* qt, int rows, int chunk, Maximum maximum, float least, float largest_value,
    int power_of_two) {
    extern __shared__ uint4 memory[];
    __shared__ float sums[2][WARPS];
    __shared__ unsigned largest_of[2][WARPS];
    __shared__ unsigned scratch[WARPS];
    unsigned* tile = reinterpret_cast<unsigned*>(memory);
    uint4* const slots = memory + (TRANSPOSED ? TILE * DIM / 16 : 0);
    Ring ring(slots);
    const Place place;
    Walk ahead(chunk);

    // Into the slots of the stage that was read last.
    const auto refill = [&] {
        const int row = ahead.base + ahead.in_chunk(place);
        if (row < rows) {
            const long long offset = (long long)row * DIM;
            ring.copy(0, x + offset, place);
            ring.copy(1, dy + offset, place);
            if (ADD) ring.copy(2, addend + offset, place);
            ring.copy_number(rstd + row);
        }
        Ring::commit();
        ring.advance();
        ahead.next();
    };
#pragma unroll 1
    for (int stage = 0; stage < STAGES; ++stage) refill();

    Eight weights[PACKS];
#pragma unroll
    for (int k = 0; k < PACKS; ++k) {
        weights[k] = place.holds(k) ? *reinterpret_cast<const Eight*>(w + place.column(k)) : Eight{};
    }
    const float given = CAST == 1 ? 1.0f / scale[0] : 0.0f;
    const Outputs out = {result, scale, q, qt, least, largest_value, power_of_two};
    Exchange<float> of_row = {sums, 0};
    Exchange<unsigned> maxima = {largest_of, 0};
    unsigned largest = 0;            // a pair
    float gradient[PACKS][8] = {};  // of the weights

    const auto work = [&](int row, int in_chunk) {
        // Opaque in every row, so that weights stay packed: unpacked once for all rows they would not fit.
#pragma unroll
        for (int k = 0; k < PACKS; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(weights[k].words[i]));
        }
        Ring::wait();
        const float r = ring.number();
        Eight values[PACKS], gradients[PACKS];
        ring.read(0, place, values);
        ring.read(1, place, gradients);
        float even = 0.0f, odd = 0.0f;
#pragma unroll
        for (int k = 0; k < PACKS; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const unsigned v = values[k].words[i], d = gradients[k].words[i], g = weights[k].words[i];
                const float a = low_float(v) * r, b = high_float(v) * r;
                even = __fmaf_rn(low_float(d) * low_float(g), a, even);
                odd = __fmaf_rn(high_float(d) * high_float(g), b, odd);
                gradient[k][2 * i] = __fmaf_rn(low_float(d), a, gradient[k][2 * i]);
                gradient[k][2 * i + 1] = __fmaf_rn(high_float(d), b, gradient[k][2 * i + 1]);
            }
        }
        // dx = r · (dy·w − x · r·mean), mean that of dy·w·x̂.
        const float pull = of_row.reduce<Sum>(even + odd, place) / (float)DIM * r;
        // Read once more instead of held over the sum: registers are scarcer than shared memory's bandwidth.
        __syncwarp();
        ring.read(0, place, values);
        ring.read(1, place, gradients);
#pragma unroll
        for (int k = 0; k < PACKS; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const unsigned v = values[k].words[i], d = gradients[k].words[i], g = weights[k].words[i];
                const float a = __fmaf_rn(-pull, low_float(v), __fmul_rn(low_float(d), low_float(g)));
                const float b = __fmaf_rn(-pull, high_float(v), __fmul_rn(high_float(d), high_float(g)));
                values[k].words[i] = pair_from_floats(r * a, r * b, bf16{});
            }
        }
        if (ADD) {
            Eight others[PACKS];
            ring.read(2, place, others);
#pragma unroll
            for (int k = 0; k < PACKS; ++k) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const unsigned a = values[k].words[i], b = others[k].words[i];
                    values[k].words[i] = pair_from_floats(low_float(a) + low_float(b), high_float(a) + high_float(b), bf16{});
                }
            }
        }
        refill();
        put(values, row, in_chunk, place, out, given, tile, maxima, largest);
    };
    for_rows(rows, chunk, place, tile, qt, work, refill);

    // The groups' sums, one after the other; the ring is done with.
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    float* all = reinterpret_cast<float*>(slots);  // (GROUPS, DIM)
#pragma unroll
    for (int k = 0; k < PACKS; ++k) {
        if (place.holds(k)) store<float, 8>(all + place.group * DIM + place.column(k), gradient[k]);
    }
    __syncthreads();
    for (int column = threadIdx.x; column < DIM; column += THREADS) {
        float total = all[column];
#pragma unroll
        for (int group = 1; group < GROUPS; ++group) total += all[group * DIM + column];
        partial[(long long)blockIdx.x * DIM + column] = total;
    }
    if (MAXIMUM) finish(larger_of_pair(largest), maximum, scratch);
}

// Adds the rows of `partial`, (count, DIM), into dw: 32 columns a block, 32 rows at a time.
extern "C" __global__ void __launch_bounds__(1024) norm_weight(const float* partial, bf16* dw, int count) {
    __shared__ float sums[32][33];
    const int lane = threadIdx.x & 31, group = threadIdx.x >> 5, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < DIM) {
#pragma unroll 8
        for (int row = group; row < count; row += 32) sum += partial[(long long)row * DIM + column];
    }
    sums[group][lane] = sum;
    __syncthreads();
    if (group == 0 && column < DIM) {
#pragma unroll
        for (int other = 1; other < 32; ++other) sum += sums[other][lane];
        from_float(sum, dw[column]);
    }
}

#endif
