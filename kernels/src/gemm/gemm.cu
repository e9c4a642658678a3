// Scales of 128-element blocks in the order that cuBLASLt reads: 1 × 128 with rows contiguous (k-blocks, rows), 128 × 128
// with k-blocks contiguous and padded to a multiple of 4. Ours are (rows, k-blocks), unpadded.
extern "C" __global__ void scales_by_column(const float* scales, float* out, int rows, int blocks) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x, block = blockIdx.y;
    if (row < rows) out[(long long)block * rows + row] = scales[(long long)row * blocks + block];
}

extern "C" __global__ void scales_padded(const float* scales, float* out, int rows, int blocks, int padded) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, row = i / padded, block = i % padded;
    if (row < rows) out[i] = block < blocks ? scales[(long long)row * blocks + block] : 1.0f;
}
