/* What the ops of the device share: weights and the KV layout.
 * Thread: the backend's. */
#ifndef KERNELS_CUDA_CUDA_OP_H
#define KERNELS_CUDA_CUDA_OP_H
#include "kernels/cuda/cuda_array.h"
#include "kernels/cuda/cuda_backend.h"

/* A matrix in the device's layout. */
struct cuda_matrix {
    struct weight w; /* first */
    void *data;      /* device */
};

static inline const struct cuda_matrix *cuda_matrix(const struct weight *w)
{
    return (const struct cuda_matrix *)w;
}

/* A tensor as a matrix; its numbers; its data as an array, of f32; NULL for NULL. */
int cuda_op_rows(const struct tensor *t);
int cuda_op_cols(const struct tensor *t);
int64_t cuda_op_count(const struct tensor *t);
struct cuda_array cuda_op_array(const struct tensor *t);
const float *cuda_op_data(const struct tensor *t);

size_t cuda_op_kv_bytes(enum dtype type, int n_kv_heads, int head_dim);
int cuda_op_weight_open(struct backend *be, struct weight **out, enum dtype type, int64_t n_out,
                        int64_t n_in, const void *raw, struct err *e);
int cuda_op_weight_place(struct backend *be, struct weight **out, enum dtype type, int64_t n_out,
                         int64_t n_in, struct err *e);
int cuda_op_weight_fill(struct backend *be, struct weight *w, const void *raw, struct err *e);
size_t cuda_op_weight_bytes(enum dtype type, int64_t n_out, int64_t n_in, struct err *e);
void cuda_op_weight_close(struct backend *be, struct weight *w);
void cuda_op_weight_row(struct backend *be, const struct weight *w, int64_t row, float *dst);
void cuda_op_choose(struct backend *be, const struct op_choose *p);
int cuda_op_chosen(struct backend *be, int slot, struct err *e);
/* cuda_op_blas.c.  _open: struct backend's blas.  _close leaves the memory to the pool.  cuda_op_blas: false, and nothing
 * done, where our own kernels are to compute. */
struct cuda_linear_call;
int cuda_op_blas_open(struct backend *be, int rows, struct err *e);
void cuda_op_blas_close(struct cuda_backend *cb);
bool cuda_op_blas(struct cuda_backend *cb, const struct cuda_linear_call *l);
/* cuda_limits.c */
int cuda_op_limits(struct backend *be, size_t bytes, struct backend_limits *l, struct err *e);
#endif
