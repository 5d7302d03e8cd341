/* cuBLASLt, found when it is asked for: libcublasLt.so is opened at run time, so the server also runs without it.
 * One algorithm for each kind of product, kept for every number of rows, so that its order of sums stays the same.
 * Thread: the backend's.
 *
 *     out [rows, n] = x [rows, k] w [n, k]^T      halves of one type, sums of f32 */
#ifndef KERNELS_CUDA_CUDA_BLAS_H
#define KERNELS_CUDA_CUDA_BLAS_H
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/tensor.h"

#define CUDA_BLAS_ALIGN     16 /* bytes: of all matrices and of each of their rows */
#define CUDA_BLAS_WORKSPACE ((size_t)8 << 20)

struct cuda_blas; /* of the device that is the thread's when it is opened */
struct cuda_blas_plan;

struct cuda_blas_shape {
    enum dtype type, out; /* F16 or BF16; F32 or type */
    int n, k, ld;         /* ld: elements of a row of w and x, k at least */
};

/* What cuda_blas_multiply computes; no padding, since it is compared by its bytes (cuda_queue.h). */
struct cuda_blas_call {
    struct cuda_blas_plan *plan;
    const void *w, *x;
    void *out;
    int64_t rows, out_ld; /* out_ld: elements of a row of out */
};

/* workspace: CUDA_BLAS_WORKSPACE bytes of the device.  ERR_UNSUPPORTED with the reason when there is no such library. */
int cuda_blas_open(struct cuda_blas **out, void *workspace, struct err *e);
void cuda_blas_close(struct cuda_blas *b); /* NULL is nothing */
/* With the first of the library's algorithms that does not cut k; NULL with the reason if there is none. */
struct cuda_blas_plan *cuda_blas_plan(struct cuda_blas *b, const struct cuda_blas_shape *s,
                                      struct err *e);
void cuda_blas_plan_close(struct cuda_blas_plan *p); /* NULL is nothing; before the library */
/* From now on by the next algorithm; false when that was the last one. */
bool cuda_blas_next(struct cuda_blas_plan *p);
/* args: a struct cuda_blas_call.  May be captured. */
cudaError_t cuda_blas_multiply(const void *args, cudaStream_t stream);
#endif
