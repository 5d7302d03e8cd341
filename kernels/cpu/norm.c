/* RMS norm over rows. */
#include <assert.h>

#include "kernels/cpu/cpu_backend.h"

struct norm_job {
    const struct cpu_ops *ops;
    float *out;         /* [rows, dim] */
    const float *x, *w; /* [rows, dim], [dim] */
    int dim;
    float eps;
};

static void norm_rows(void *arg, int64_t begin, int64_t end)
{
    const struct norm_job *j = arg;
    for (int64_t r = begin; r < end; r++)
        j->ops->rmsnorm_row(j->out + r * j->dim, j->x + r * j->dim, j->w, j->dim, j->eps);
}

void cpu_rmsnorm(struct backend *be, const struct op_rmsnorm *p)
{
    struct cpu_backend *cb = cpu_of(be);
    int64_t rows = p->x->dims[0], dim = p->x->dims[1];
    assert(p->x->ndim == 2 && p->out->dims[0] == rows && p->out->dims[1] == dim);
    assert(p->w->ndim == 1 && p->w->dims[0] == dim);
    struct norm_job j = {
        .ops = &cb->ops,
        .out = p->out->data,
        .x = p->x->data,
        .w = p->w->data,
        .dim = (int)dim,
        .eps = p->eps,
    };
    cpu_split(cb, rows, rows * dim, norm_rows, &j);
}
