/* Activations in device memory: numbers of f32, f16 or bf16.  Kernels compute in f32 and ask each array what
 * it is made of when they read and write it (cuda_array.cuh), so that the arrays of an op may differ.
 * Thread: any. */
#ifndef KERNELS_CUDA_CUDA_ARRAY_H
#define KERNELS_CUDA_CUDA_ARRAY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/cuda_layout.h"

/* An argument of kernels: without padding, since those are compared byte for byte (cuda_queue.h). */
struct cuda_array {
    void *data;   /* NULL: there is none */
    int64_t type; /* enum dtype: DTYPE_F32, DTYPE_F16 or DTYPE_BF16 */
};

CUDA_BOTH static inline size_t cuda_array_size(struct cuda_array a) /* of an element */
{
    return a.type == DTYPE_F32 ? 4 : 2;
}

/* May it be read and written by fours? */
static inline bool cuda_array_wide(struct cuda_array a)
{
    return (uintptr_t)a.data % (4 * cuda_array_size(a)) == 0;
}

/* From element i on. */
CUDA_BOTH static inline struct cuda_array cuda_array_at(struct cuda_array a, int64_t i)
{
    a.data = (char *)a.data + i * (int64_t)cuda_array_size(a);
    return a;
}
#endif
