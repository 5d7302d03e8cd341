/* The ops of the CUDA device: arguments to device pointers, then the launchers of cuda_kernels.h. */
#include "kernels/cuda/cuda_op.h"

#include <assert.h>
#include <stdlib.h>

#include "base/arena.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/quant.h"

int cuda_op_open(struct cuda_backend *cb, struct err *e)
{
    (void)cb;
    (void)e;
    return 0;
}

void cuda_op_close(struct cuda_backend *cb)
{
    (void)cb;
}

size_t cuda_op_kv_bytes(enum dtype type, int n_kv_heads, int head_dim)
{
    if (type != DTYPE_F16 && type != DTYPE_F32)
        return 0;
    return (size_t)KV_PAGE_TOKENS * (size_t)n_kv_heads * (size_t)head_dim *
           (type == DTYPE_F16 ? 2 : 4);
}

int cuda_op_weight_open(struct backend *be, struct weight **out, enum dtype type, int64_t n_out,
                        int64_t n_in, const void *raw, struct err *e)
{
    (void)out, (void)n_out, (void)n_in, (void)raw;
    return err_set(e, ERR_UNSUPPORTED, "%s has no weights of type %s", be->name, dtype_name(type));
}

void cuda_op_weight_close(struct backend *be, struct weight *w)
{
    if (!w)
        return;
    cuda_mem_free(be, cuda_matrix(w)->data);
    free(w);
}

void cuda_op_weight_row(struct backend *be, const struct weight *w, int64_t row, float *dst)
{
    (void)be, (void)w, (void)row, (void)dst;
}

int cuda_op_limits(struct backend *be, size_t bytes, struct backend_limits *l, struct err *e)
{
    (void)bytes, (void)l;
    return err_set(e, ERR_UNSUPPORTED, "%s cannot be measured yet", be->name);
}

/* ---- ops ---- */

static int rows_of(const struct tensor *t)
{
    int64_t rows = 1;
    for (int i = 0; i < t->ndim - 1; i++)
        rows *= t->dims[i];
    return (int)rows;
}

static int cols_of(const struct tensor *t)
{
    return (int)t->dims[t->ndim - 1];
}

void cuda_rmsnorm(struct backend *be, const struct op_rmsnorm *p)
{
    struct cuda_backend *cb = cuda_of(be);
    assert(p->w->dims[0] == cols_of(p->x));
    if (!cb->dead)
        cuda_rmsnorm_launch(p->out->data, p->x->data, p->w->data, rows_of(p->x), cols_of(p->x),
                            p->eps, cuda_stream(cb));
}

/* clang-format off */
#define MISSING(op)                                                                       \
    void cuda_##op(struct backend *be, const struct op_##op *p)                           \
    {                                                                                     \
        (void)p;                                                                          \
        cuda_check(cuda_of(be), cudaErrorUnknown, "the op " #op " is not there yet");     \
    }
MISSING(embed) MISSING(linear) MISSING(rope) MISSING(kv_store) MISSING(attn_paged) MISSING(glu)
MISSING(add) MISSING(act) MISSING(concat) MISSING(layernorm) MISSING(groupnorm) MISSING(conv2d)
MISSING(lowrank) MISSING(attn)
    /* clang-format on */
