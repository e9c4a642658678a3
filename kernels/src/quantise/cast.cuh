// Casts of packs of 8 neighbouring bf16 values, and the tile in shared memory through which casts are written transposed.
#pragma once
#include "element.cuh"
#include "scale.cuh"

// The values of a word: the first in the lower half.
static __device__ __forceinline__ float low_float(unsigned pair) { return __uint_as_float(pair << 16); }
static __device__ __forceinline__ float high_float(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

// The largest magnitudes of a pack, two in a word.
static __device__ __forceinline__ unsigned magnitudes(const uint4& pack) {
    return larger_pair(larger_pair(magnitudes(pack.x), magnitudes(pack.y)),
                       larger_pair(magnitudes(pack.z), magnitudes(pack.w)));
}

// 8 values, each times its own factor, as 8 bytes.
template <typename Q>
static __device__ __forceinline__ uint2 cast_pack(const uint4& pack, const float (&inverse)[8]) {
    return uint2{
        word_from_floats<Q>(low_float(pack.x) * inverse[0], high_float(pack.x) * inverse[1],
                            low_float(pack.y) * inverse[2], high_float(pack.y) * inverse[3]),
        word_from_floats<Q>(low_float(pack.z) * inverse[4], high_float(pack.z) * inverse[5],
                            low_float(pack.w) * inverse[6], high_float(pack.w) * inverse[7])};
}

template <typename Q>
static __device__ __forceinline__ uint2 cast_pack(const uint4& pack, float inverse) {
    const float same[8] = {inverse, inverse, inverse, inverse, inverse, inverse, inverse, inverse};
    return cast_pack<Q>(pack, same);
}

// Four rows of four bytes become four columns, row 0 in the lowest byte.
static __device__ __forceinline__ void transpose_bytes(unsigned a, unsigned b, unsigned c, unsigned d, unsigned* out) {
    const unsigned low_ab = __byte_perm(a, b, 0x5140), low_cd = __byte_perm(c, d, 0x5140);
    const unsigned high_ab = __byte_perm(a, b, 0x7362), high_cd = __byte_perm(c, d, 0x7362);
    out[0] = __byte_perm(low_ab, low_cd, 0x5410);
    out[1] = __byte_perm(low_ab, low_cd, 0x7632);
    out[2] = __byte_perm(high_ab, high_cd, 0x5410);
    out[3] = __byte_perm(high_ab, high_cd, 0x7632);
}

// A tile of bytes, transposed: ACROSS × 8 columns, each of WORDS words of 4 rows. A warp that writes one word for each of its
// ACROSS column groups and 32 / ACROSS neighbouring words meets every bank once, and so does one that reads 16 bytes a thread.
template <int ACROSS, int WORDS>
struct TransposedTile {
    static constexpr int SPREAD = 32 / ACROSS;
    alignas(16) unsigned words[ACROSS * 8 * WORDS];

    // Rows 4·word … 4·word + 3 of column `8 * across + j`.
    __device__ __forceinline__ void put(int across, int j, int word, unsigned rows) {
        words[(across * 8 + j) * WORDS + (word ^ (SPREAD * across))] = rows;
    }

    // The same of 8 columns, given row by row.
    __device__ __forceinline__ void put(int across, int word, const uint2 (&rows)[4]) {
        unsigned columns[8];
        transpose_bytes(rows[0].x, rows[1].x, rows[2].x, rows[3].x, columns);
        transpose_bytes(rows[0].y, rows[1].y, rows[2].y, rows[3].y, columns + 4);
#pragma unroll
        for (int j = 0; j < 8; ++j) put(across, j, word, columns[j]);
    }

    // Rows 16·chunk … 16·chunk + 15 of a column.
    __device__ __forceinline__ uint4 get(int column, int chunk) const {
        const int spread = SPREAD * (column >> 3);
        const uint4 v = *reinterpret_cast<const uint4*>(&words[column * WORDS + ((chunk * 4) ^ (spread & ~3))]);
        if constexpr (SPREAD % 4 == 0) return v;
        return (spread & 2) ? uint4{v.z, v.w, v.x, v.y} : v;
    }
};

// The largest magnitude of column `threadIdx.x` of a tile, as the bits of a float, in the threads that have one. WARPS warps
// hold the tile, ACROSS threads of a warp beside each other with 8 columns each; `peaks` gives the thread's own.
template <int ACROSS, int WARPS, typename Tile>
static __device__ __forceinline__ unsigned column_peak(const Tile& tile) {
    constexpr int TILE_COLS = 8 * ACROSS;
    __shared__ unsigned partial[WARPS][TILE_COLS / 2];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    unsigned pairs[4];
    tile.peaks(pairs);
#pragma unroll
    for (int word = 0; word < 4; ++word) {
#pragma unroll
        for (int step = ACROSS; step < 32; step <<= 1)
            pairs[word] = larger_pair(pairs[word], __shfl_xor_sync(0xffffffffu, pairs[word], step));
        if (lane < ACROSS) partial[warp][lane * 4 + word] = pairs[word];
    }
    __syncthreads();
    unsigned pair = 0;
    if (threadIdx.x < TILE_COLS) {
#pragma unroll
        for (int other = 0; other < WARPS; ++other) pair = larger_pair(pair, partial[other][threadIdx.x >> 1]);
    }
    return (threadIdx.x & 1) ? pair & 0xffff0000u : pair << 16;
}
