/* Between the two halves of the emulation: runtime.cpp (API, streams, memory) and fiber.cpp (a kernel's
 * blocks and threads). */
#ifndef TESTS_CUEMU_CUEMU_INT_H
#define TESTS_CUEMU_CUEMU_INT_H
#include "tests/cuemu/cuda_runtime.h"
#include "tests/cuemu/cuemu.h"

struct cuemu_grid {
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
    std::shared_ptr<cuemu_kernel> kernel;
};

/* Runs all blocks; cudaSuccess, or what the device dies of (the report is set). */
cudaError_t cuemu_fiber_run(const struct cuemu_grid *g);
/* The same with what nvcc made of the kernels; only where tests/ptxvm is linked. */
cudaError_t cuemu_ptx_run(const struct cuemu_grid *g) __attribute__((weak));
/* Calls f for every allocation of the device's memory. */
void cuemu_each_allocation(void (*f)(void *context, const void *p, size_t bytes), void *context);
uint64_t cuemu_random(void);
void cuemu_set_report(const char *text);
struct cuemu_counts *cuemu_counter(const char *kernel); /* of this kernel; never moves */
/* True for an address in the device's range. */
bool cuemu_is_device(const void *p);
#endif
