// The SM clock measured on the chip: cycle counter and time of every multiprocessor, one block each.
extern "C" __global__ void read_clocks(unsigned long long* out) {
    // out (multiprocessors, 2): cycles, nanoseconds. A multiprocessor that no block met keeps its 0.
    if (threadIdx.x == 0) {
        unsigned sm;
        unsigned long long cycles, nanoseconds;
        asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(nanoseconds));
        asm volatile("mov.u64 %0, %%clock64;" : "=l"(cycles));
        out[2 * sm] = cycles;
        out[2 * sm + 1] = nanoseconds;
    }
}
