/* The ops of the CUDA device: arguments to device pointers, then the launchers of cuda_kernels.h. */
#include "kernels/cuda/cuda_op.h"

#include <assert.h>

#include "kernels/cuda/cuda_kernels.h"

int cuda_op_rows(const struct tensor *t)
{
    int64_t rows = 1;
    for (int i = 0; i < t->ndim - 1; i++)
        rows *= t->dims[i];
    return (int)rows;
}

int cuda_op_cols(const struct tensor *t)
{
    return (int)t->dims[t->ndim - 1];
}

int64_t cuda_op_count(const struct tensor *t)
{
    return (int64_t)cuda_op_rows(t) * cuda_op_cols(t);
}

struct cuda_array cuda_op_array(const struct tensor *t)
{
    return t ? (struct cuda_array){t->data, t->type} : (struct cuda_array){0};
}

const float *cuda_op_data(const struct tensor *t)
{
    return t ? t->data : NULL;
}

void cuda_rmsnorm(struct backend *be, const struct op_rmsnorm *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const struct cuda_pre pre = {.w = p->w->data, .eps = p->eps};
    assert(p->w->dims[0] == cuda_op_cols(p->x));
    if (!cb->dead)
        cuda_norm_launch(cuda_op_array(p->out), cuda_op_array(p->x), LINEAR_RMSNORM, &pre,
                         cuda_op_rows(p->x), cuda_op_cols(p->x), cuda_stream(cb));
}

void cuda_layernorm(struct backend *be, const struct op_layernorm *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const struct cuda_pre pre = {.w = p->w->data, .bias = cuda_op_data(p->bias), .eps = p->eps};
    assert(p->w->dims[0] == cuda_op_cols(p->x));
    if (!cb->dead)
        cuda_norm_launch(cuda_op_array(p->out), cuda_op_array(p->x), LINEAR_LAYERNORM, &pre,
                         cuda_op_rows(p->x), cuda_op_cols(p->x), cuda_stream(cb));
}

void cuda_groupnorm(struct backend *be, const struct op_groupnorm *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const int n = (int)p->x->dims[0], c = cuda_op_cols(p->x);
    const struct cuda_groups g = {.pixels = cuda_op_rows(p->x) / n,
                                  .n = n,
                                  .c = c,
                                  .n_groups = p->n_groups,
                                  .eps = p->eps,
                                  .act = p->act};
    void *work = cuda_scratch(cb, cuda_groupnorm_work_bytes(n, g.pixels, c));
    if (!cb->dead)
        cuda_groupnorm_launch(cuda_op_array(p->out), cuda_op_array(p->x), p->w->data, p->bias->data,
                              &g, work, cuda_stream(cb));
}

void cuda_add(struct backend *be, const struct op_add *p)
{
    struct cuda_backend *cb = cuda_of(be);
    if (!cb->dead)
        cuda_add_launch(cuda_op_array(p->out), cuda_op_array(p->a), cuda_op_array(p->b),
                        cuda_op_count(p->out), cuda_stream(cb));
}

void cuda_glu(struct backend *be, const struct op_glu *p)
{
    struct cuda_backend *cb = cuda_of(be);
    if (!cb->dead)
        cuda_glu_launch(cuda_op_array(p->out), cuda_op_array(p->gate), cuda_op_array(p->up),
                        cuda_op_count(p->out), p->act, cuda_stream(cb));
}

void cuda_act(struct backend *be, const struct op_act *p)
{
    struct cuda_backend *cb = cuda_of(be);
    if (p->slope && !cb->dead)
        cuda_prelu_launch(cuda_op_array(p->out), cuda_op_array(p->x), p->slope->data,
                          cuda_op_rows(p->x), cuda_op_cols(p->x), cuda_stream(cb));
    else if (!cb->dead)
        cuda_act_launch(cuda_op_array(p->out), cuda_op_array(p->x), cuda_op_count(p->out), p->act,
                        cuda_stream(cb));
}

void cuda_concat(struct backend *be, const struct op_concat *p)
{
    struct cuda_backend *cb = cuda_of(be);
    if (!cb->dead)
        cuda_concat_launch(cuda_op_array(p->out), cuda_op_array(p->a), cuda_op_array(p->b),
                           cuda_op_rows(p->out), cuda_op_cols(p->a), cuda_op_cols(p->b),
                           cuda_stream(cb));
}

void cuda_cosine(struct backend *be, const struct op_cosine *p)
{
    struct cuda_backend *cb = cuda_of(be);
    assert(p->w->dims[1] == cuda_op_cols(p->x));
    if (!cb->dead)
        cuda_cosine_launch(p->out->data, p->x->data, p->w->data, cuda_op_rows(p->x),
                           (int)p->w->dims[0], cuda_op_cols(p->x), cuda_stream(cb));
}

void cuda_rope(struct backend *be, const struct op_rope *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const int rows = cuda_op_rows(p->x);
    const size_t pos_bytes = (size_t)rows * sizeof *p->pos;
    const size_t freq_bytes = (size_t)(p->n_rot / 2) * sizeof *p->freq;
    if (!cuda_param_begin(cb, pos_bytes + freq_bytes))
        return;
    const int32_t *pos = cuda_param(cb, p->pos, pos_bytes);
    const float *freq = cuda_param(cb, p->freq, freq_bytes);
    if (!cb->dead)
        cuda_rope_launch(p->x->data, pos, freq, rows, cuda_op_cols(p->x) / p->head_dim, p->head_dim,
                         p->n_rot, p->mscale, p->interleaved, cuda_stream(cb));
}
