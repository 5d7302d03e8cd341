/* linear on the device, for C: what a call needs and how much memory it takes on the side.
 * Thread: the backend's.
 *
 * out[i] = x w[i]^T + bias[i] (+ add for i == 0).  x is first turned into records of halves
 * (cuda_fragment.cuh), once for all matrices: rows are scaled by a power of two, so nothing overflows.
 * An x of f32 is one half for block weights, 11 bits; F16 matrices take a second one, which keeps what the first
 * lost, 22 bits; BF16 matrices take two bf16, 16 bits; but one of x_type.  F32 matrices are multiplied in f32.
 * An x of f16 or bf16 needs one part, without loss; but f16 is two bf16 (cuda_linear.cu).
 *
 * The sum over k is cut into CUDA_SLICES at fixed places, which are added in ascending order: so the bits
 * of a row depend neither on the number of rows nor on which kernel computes it. */
#ifndef KERNELS_CUDA_CUDA_LINEAR_H
#define KERNELS_CUDA_CUDA_LINEAR_H
#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/cuda_kernels.h"

#define CUDA_SLICES   4
#define LINEAR_X_KEPT (40 * 1024) /* floats of a row that linear_x keeps in shared memory at most */

struct cuda_linear_matrix {
    const void *w;         /* in the layout of cuda_layout.h */
    const float *bias;     /* [n_out] or NULL */
    struct cuda_array out; /* [rows, n_out] */
    enum dtype type;
    int n_out;
};

struct cuda_linear_call {
    struct cuda_linear_matrix m[LINEAR_MAX];
    int n_matrices, rows, n_in;
    struct cuda_array x, add; /* add: like m[0].out, may be it; or no data */
    enum dtype x_type;        /* struct op_linear */
    enum linear_pre_kind kind;
    struct cuda_pre pre;
    int multiprocessors; /* of the device */
    int *finished;       /* as many zeros on the device, which are zeros again afterwards */
    void *work;          /* cuda_linear_work_bytes, 16-byte aligned */
};

#ifdef __cplusplus
extern "C" {
#endif
size_t cuda_linear_work_bytes(const struct cuda_linear_call *l);
void cuda_linear_launch(const struct cuda_linear_call *l, cudaStream_t stream);
/* pre(x) as halves: to [rows, CUDA_RECORDS * 64], zeros behind n_in; of bf16 as they stand, of f16 scaled so that
 * up[row] times a product is its value.  n_in is LINEAR_X_KEPT at most. */
void cuda_linear_rows_launch(void *to, float *up, const struct cuda_linear_call *l, bool bf16,
                             cudaStream_t stream);
/* out[r, :] = w[ids[r], :], exactly quant_unpack's values. */
void cuda_embed_launch(float *out, const void *w, enum dtype type, int n_in, const int32_t *ids,
                       int rows, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
