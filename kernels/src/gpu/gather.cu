// Pieces of a tensor, one behind the other: for checks that need a few rows or columns of what is too large to copy.
// out (pieces, length): element l of piece p is x[starts[p] + l * stride]. One block row for each piece.

template <typename T>
static __device__ __forceinline__ void gather(
    const T* x, const long long* starts, long long stride, int length, T* out) {
    const long long piece = blockIdx.y;
    const int l = blockIdx.x * blockDim.x + threadIdx.x;
    if (l < length) out[piece * length + l] = x[starts[piece] + l * stride];
}

#define GATHER(T, BYTES) \
    extern "C" __global__ void gather_##BYTES( \
        const T* x, const long long* starts, long long stride, int length, T* out) { \
        gather<T>(x, starts, stride, length, out); \
    }

GATHER(unsigned char, 1)
GATHER(unsigned short, 2)
GATHER(unsigned, 4)
