// Hopper's own instructions: barriers in shared memory, bulk tensor copies and warpgroup products (sm_90a). Tiles lie in panels
// of 64 bf16 columns, rows of 128 bytes, swizzled by the copy engine's 128-byte pattern; a panel starts on 1024 bytes.
#pragma once
#include "element.cuh"

// A tensor map as the driver encodes it (`CUtensorMap`), by value in a kernel's parameters.
struct __align__(128) TensorMap { unsigned char bytes[128]; };

static __device__ __forceinline__ unsigned shared_of(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// Barriers, by their address in shared memory.

static __device__ __forceinline__ void barrier_init(unsigned barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers seen by the copy engine.
static __device__ __forceinline__ void barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ __forceinline__ void barrier_arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and lets the phase end only after this many bytes of bulk copies have come.
static __device__ __forceinline__ void barrier_expect(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Waits until the phase of this parity is over.
static __device__ __forceinline__ void barrier_wait(unsigned barrier, unsigned parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, 0x989680;\n"
        "@done bra over;\n"
        "bra again;\n"
        "over:\n"
        "}" ::"r"(barrier), "r"(parity) : "memory");
}

// Bulk copies of one box; coordinates are (column, row, batch).

static __device__ __forceinline__ void copy_in(unsigned to, const TensorMap* map, int column, int row, int batch, unsigned barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
        ::"r"(to), "l"((unsigned long long)map), "r"(column), "r"(row), "r"(batch), "r"(barrier) : "memory");
}

static __device__ __forceinline__ void copy_out(const TensorMap* map, unsigned from, int column, int row, int batch) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%1, %2, %3}], [%4];"
                 ::"l"((unsigned long long)map), "r"(column), "r"(row), "r"(batch), "r"(from) : "memory");
}

static __device__ __forceinline__ void copy_out_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until the copies out have read shared memory.
static __device__ __forceinline__ void copy_out_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// Waits until all but the last N of the committed copies out have been written, as this thread and whom it tells see them.
template <int N>
static __device__ __forceinline__ void copy_out_written() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"); }

// Bulk copies of contiguous bytes, a multiple of 16: in, out, and out with an fp32 addition to what is there.

static __device__ __forceinline__ void copy_bytes_in(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

static __device__ __forceinline__ void copy_bytes_out(void* to, unsigned from, unsigned bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void add_floats_out(float* to, unsigned from, unsigned bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;"
                 ::"l"(to), "r"(from), "r"(bytes) : "memory");
}

// Orders ordinary stores to shared memory before what the copy engine or the tensor cores read next.
static __device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Four 8 × 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
static __device__ __forceinline__ void store_matrices(unsigned to, const unsigned* r) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 ::"r"(to), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

// Named barriers of some warps.
static __device__ __forceinline__ void named_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

static __device__ __forceinline__ void named_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <int N>
static __device__ __forceinline__ void registers_up() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

template <int N>
static __device__ __forceinline__ void registers_down() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

// Warpgroup products. Descriptors: address, leading and stride offsets in units of 16 bytes, 128-byte swizzle (PTX ISA,
// "matrix descriptor").

// A tile whose rows run along the dimension that is summed over: groups of 8 rows are 1024 bytes apart.
static __device__ __forceinline__ unsigned long long descriptor(unsigned address) {
    return (unsigned long long)((address & 0x3ffff) >> 4) | 1ull << 16 | (unsigned long long)(1024 >> 4) << 32 | 1ull << 62;
}

// A tile whose rows are what is summed over: groups of 8 rows are 1024 bytes apart, panels of 64 columns `panel` bytes.
static __device__ __forceinline__ unsigned long long descriptor_transposed(unsigned address, unsigned panel) {
    return (unsigned long long)((address & 0x3ffff) >> 4) | (unsigned long long)(panel >> 4) << 16 |
           (unsigned long long)(1024 >> 4) << 32 | 1ull << 62;
}

static __device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
static __device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most N of the committed groups are under way.
template <int N>
static __device__ __forceinline__ void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

// Keeps the compiler from moving reads or writes of these registers across.
template <int N>
static __device__ __forceinline__ void settle(float (&r)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(r[i])::"memory");
}

#define R8(a, i) "+f"(a[i]), "+f"(a[i + 1]), "+f"(a[i + 2]), "+f"(a[i + 3]), "+f"(a[i + 4]), "+f"(a[i + 5]), "+f"(a[i + 6]), "+f"(a[i + 7])
#define R32(a) R8(a, 0), R8(a, 8), R8(a, 16), R8(a, 24)
#define R64(a) R32(a), R8(a, 32), R8(a, 40), R8(a, 48), R8(a, 56)
#define S32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define S64 S32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// out (64 × N, N/2 registers a thread) = or += a · b over 16 of the summed dimension, both in shared memory. TA, TB: whether
// the tile's rows are what is summed over.
template <bool ADD, int TA, int TB>
static __device__ __forceinline__ void multiply(float (&out)[64], unsigned long long a, unsigned long long b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" S64 "}, %64, %65, add, 1, 1, %67, %68;\n}"
                 : R64(out) : "l"(a), "l"(b), "n"((int)ADD), "n"(TA), "n"(TB));
}

template <bool ADD, int TA, int TB>
static __device__ __forceinline__ void multiply(float (&out)[32], unsigned long long a, unsigned long long b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" S32 "}, %32, %33, add, 1, 1, %35, %36;\n}"
                 : R32(out) : "l"(a), "l"(b), "n"((int)ADD), "n"(TA), "n"(TB));
}

// The same with a in registers: rows (lane / 4) and 8 more, columns 2·(lane % 4) and 8 more.
template <bool ADD, int TB>
static __device__ __forceinline__ void multiply(float (&out)[64], const unsigned* a, unsigned long long b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" S64 "}, {%64, %65, %66, %67}, %68, add, 1, 1, %70;\n}"
                 : R64(out) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)ADD), "n"(TB));
}

template <bool ADD, int TB>
static __device__ __forceinline__ void multiply(float (&out)[32], const unsigned* a, unsigned long long b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" S32 "}, {%32, %33, %34, %35}, %36, add, 1, 1, %38;\n}"
                 : R32(out) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)ADD), "n"(TB));
}
