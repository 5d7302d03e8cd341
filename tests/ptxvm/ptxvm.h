/* A virtual machine for the PTX that nvcc makes of kernels/cuda/: it executes the compiled kernels on
 * the CPU, warp by warp, so that inline PTX and the compiler's output are tested where no GPU is.
 * Thread: one at a time.
 *
 * What it knows is what our kernels use; anything else is an error that names file, line and
 * instruction, when the kernel is first launched.  Beyond executing it reports what a GPU would let
 * pass: accesses out of bounds or misaligned, shared memory that two threads touch without a barrier
 * between, cp.async data that is read before its wait, barriers that not every thread reaches.
 *
 *     struct ptxvm *vm;
 *     ptxvm_open(&vm, &(struct ptxvm_options){.races = true}, &e);
 *     ptxvm_load(vm, "build/ptxvm/norm.ptx", &e);
 *     ptxvm_map(vm, x, n * sizeof *x, "x", &e);
 *     ptxvm_launch(vm, &(struct ptxvm_launch){.kernel = "scale", .grid = {4, 1, 1},
 *                  .block = {128, 1, 1}, .args = (void *[]){&x, &n}}, &e);
 */
#ifndef TESTS_PTXVM_PTXVM_H
#define TESTS_PTXVM_PTXVM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

struct ptxvm_options {
    uint64_t seed;             /* not 0: warps take turns in an order that depends on it */
    bool accesses;             /* count what they cost: sectors and turns of the banks */
    bool races;                /* watch shared memory for accesses without a barrier between */
    uint64_t max_instructions; /* of all threads of a launch; 0: 2^32 */
};

struct ptxvm;
int ptxvm_open(struct ptxvm **vm, const struct ptxvm_options *o, struct err *e);
void ptxvm_close(struct ptxvm *vm);
void ptxvm_set_options(struct ptxvm *vm, const struct ptxvm_options *o);

/* Kernels of all loaded modules share one space of names; a second one of the same name is an error. */
int ptxvm_load(struct ptxvm *vm, const char *path, struct err *e);
int ptxvm_load_text(struct ptxvm *vm, const char *name, const char *text, size_t len,
                    struct err *e);
/* The name as it stands in the PTX: extern "C", or mangled.  With `static`, g++ writes _ZL where nvcc
 * writes _Z; both are found. */
bool ptxvm_has(const struct ptxvm *vm, const char *kernel);
/* The i-th kernel's name, NULL behind the last. */
const char *ptxvm_kernel(const struct ptxvm *vm, int i);
/* Translates a kernel, without running it: tells whether every instruction is known. */
int ptxvm_prepare(struct ptxvm *vm, const char *kernel, struct err *e);

/* Makes host memory the device's: its addresses are the pointers.  Kernels may touch nothing else. */
int ptxvm_map(struct ptxvm *vm, const void *p, size_t bytes, const char *name, struct err *e);
int ptxvm_unmap(struct ptxvm *vm, const void *p, struct err *e);
/* A __device__ or __constant__ variable of a module, for setting and reading; NULL when there is none. */
void *ptxvm_global(struct ptxvm *vm, const char *name, size_t *bytes);

struct ptxvm_launch {
    const char *kernel;
    uint32_t grid[3], block[3]; /* x, y, z; every one at least 1 */
    uint32_t shared_bytes;      /* dynamic */
    void **args;                /* one pointer a parameter, as a launch takes them */
};
/* Runs it to the end.  ERR_INVALID: a launch that a driver would refuse, or an unknown kernel;
 * ERR_UNSUPPORTED: an instruction that is not known; ERR_DEVICE: what the kernel did wrong. */
int ptxvm_launch(struct ptxvm *vm, const struct ptxvm_launch *l, struct err *e);

struct ptxvm_stats {
    uint64_t launches, blocks;
    uint64_t warp_instructions, thread_instructions;
    uint64_t mma, ldmatrix, cp_async, barriers, atomics;
    uint64_t global_read_bytes, global_written_bytes;
    /* of warps: accesses (atomics aside), sectors of 32 bytes that they touch, and the fewest that hold these bytes */
    uint64_t global_accesses, global_sectors, global_least;
    uint64_t shared_turns, shared_least; /* turns of the banks, and without conflicts */
    uint64_t microseconds;               /* of this machine */
};
/* Of one kernel since it was loaded; zeros when it never ran. */
struct ptxvm_stats ptxvm_stats(const struct ptxvm *vm, const char *kernel);
/* A line a kernel that ran: its name, launches, the accesses and shared memory's turns, tabs between. */
void ptxvm_accesses(const struct ptxvm *vm, FILE *f);
/* One line for each kernel that ran. */
void ptxvm_report(const struct ptxvm *vm, FILE *f);
#endif
