// One half of a rotated pair, pinned, so that all kernels that use it round alike: `own · cos + other · sin`, where the first
// half takes the sine's negative.
#pragma once

static __device__ __forceinline__ float turned(float own, float other, float cos, float sin) {
    return __fmaf_rn(own, cos, __fmul_rn(other, sin));
}
