/* What tests ask of the emulated device besides CUDA's own API: faults to inject, what went wrong, and
 * what was counted.  Environment, read once: CUEMU_SEED (order of blocks and threads), CUEMU_FAIL
 * ("launch:3": the third launch fails, "launch:3@1": the third one of device 1; several with commas; malloc, host, copy, launch,
 * sync, graph, nccl, blas), CUEMU_FAIL_AFTER (a file: calls count when it is there), CUEMU_DEVICES (how many there are, 1 to 8), CUEMU_MEMORY_MB (of each), CUEMU_COUNTS
 * (prints them at the end). */
#ifndef TESTS_CUEMU_CUEMU_H
#define TESTS_CUEMU_CUEMU_H
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum cuemu_call {
    CUEMU_MALLOC,
    CUEMU_HOST, /* cudaMallocHost */
    CUEMU_COPY,
    CUEMU_LAUNCH,
    CUEMU_SYNC,
    CUEMU_GRAPH,
    CUEMU_NCCL,
    CUEMU_BLAS, /* any call of cuBLASLt */
    CUEMU_CALLS
};

/* Call number n of the kind from now on fails (1: the next); 0: none. */
void cuemu_fail(enum cuemu_call call, int n);
int cuemu_calls(enum cuemu_call call); /* made since the last cuemu_fail of the kind */
/* Forgets sticky errors, as a new process would. */
void cuemu_reset(void);
void cuemu_seed(uint64_t seed);
/* What the checks found last ("divergent barrier ..."), "" for nothing. */
const char *cuemu_report(void);

struct cuemu_counts {
    uint64_t launches, blocks, threads, barriers, warp_ops, mma, cp_async_bytes, host_us;
};
/* Of all kernels whose name contains the text (NULL: all). */
struct cuemu_counts cuemu_counted(const char *kernel);
void cuemu_counts_print(void); /* a line a kernel, to stderr */

#ifdef __cplusplus
}
#endif
#endif
